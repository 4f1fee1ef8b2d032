"""Images with their CLEVER score and what JSMA_d needs for them (Figures 2 and 10)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.paper.networks import Subject
from experiments.paper.sets import BENIGN
from experiments.paper.study import Study

ROLES = {"env1-mnist": "MNIST", "env1-cifar10": "CIFAR10"}


class Efforts(NamedTuple):
    """Numbers of the first images of a set.

    Attributes:
      clever: untargeted score.
      iterations: of JSMA_d.
      seconds: of JSMA_d on this image alone.
    """

    clever: Float[np.ndarray, " n"]
    iterations: Float[np.ndarray, " n"]
    seconds: Float[np.ndarray, " n"]


def efforts(study: Study, subject: Subject) -> dict[str, Efforts]:
    """The images with CLEVER scores, by set."""
    return {name: _of(study, subject, name) for name in (BENIGN, *study.sets(subject))}


def _of(study: Study, subject: Subject, name: str) -> Efforts:
    scores = study.clever(subject, name)
    seconds = study.alone(subject, name, "JSMA_d", study.defence(subject, "jsma"), study.size.clever)[scores.index]
    iterations = study.costs(subject, name, "jsma").numbers["iterations"][scores.index]
    return Efforts(scores.numbers["clever:untargeted"]["score"].astype(np.float64), iterations.astype(np.float64), seconds)
