"""Detectors that guard a network against attacks with confidence: each says which images of a set it flags."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from a2d_jax.detectors import Conformal, ZScore
from a2d_jax.io.convert import convert
from a2d_jax.io.source import content_digest
from experiments.baselines.magnet import MagNet
from experiments.paper.networks import Subject
from experiments.paper.sets import BENIGN, FIT
from experiments.paper.study import Study
from models.magnet import autoencoder1, autoencoder2

LEVEL = 0.1
"""False alarms of the conformal detectors: those that the Z-score of the paper nominally has."""
AUTOENCODERS = {"MNIST_I.h5": autoencoder1, "MNIST_II.h5": autoencoder2}
VALIDATION = 5000
"""Training images that MagNet's autoencoders were not trained on; its thresholds come from them."""

Guard = Callable[[Study, Subject, str], Bool[np.ndarray, " n"]]


def a2d(study: Study, subject: Subject, name: str) -> Bool[np.ndarray, " n"]:
    """The paper's detector: the Z-score of BIM's cost."""
    return ZScore().fit(study.costs(subject, BENIGN, "bim", FIT).cost).predict(study.costs(subject, name, "bim").cost)


def newton(study: Study, subject: Subject, name: str) -> Bool[np.ndarray, " n"]:
    """A low crossing of Newton."""
    return _conformal(study, subject, name, two_sided=False)


def newton_both(study: Study, subject: Subject, name: str) -> Bool[np.ndarray, " n"]:
    """A low or a high crossing of Newton."""
    return _conformal(study, subject, name, two_sided=True)


def magnet(study: Study, subject: Subject, name: str) -> Bool[np.ndarray, " n"]:
    """MagNet's autoencoders for MNIST, as their authors published them."""
    for file in AUTOENCODERS:
        study.same(f"file of {file}", file, "sha256", content_digest(_weights(study, file)))

    def work() -> Mapping[str, np.ndarray]:
        modules = [convert(_weights(study, file), make()).module for file, make in AUTOENCODERS.items()]
        benign = study.training(subject, VALIDATION)[0]
        return {"flagged": MagNet(modules).fit(benign).predict(study.pictures(subject, name).x)}

    return study.arrays(subject, f"{study.file(subject, name).stem}.magnet", work)["flagged"]


def lacks_magnet(study: Study, subject: Subject) -> str:
    """Why MagNet cannot guard this network; empty if it can."""
    if subject.facts.data != "mnist":
        return f"MagNet's autoencoders are for MNIST, not for {subject.facts.data}"
    missing = [name for name in AUTOENCODERS if not (study.places.checkpoints and _weights(study, name).exists())]
    if not missing:
        return ""
    return f"MagNet's autoencoders: {', '.join(missing)} not in the folder of checkpoints; a fork of Trevillie/MagNet on GitHub has them"


def lacks(study: Study) -> Sequence[str]:
    """Why MagNet's autoencoders are missing, if they are."""
    subject = study.subjects.get("magnet-mnist")
    why = "" if subject is None else lacks_magnet(study, subject)
    return [why] if why else []


def _weights(study: Study, name: str):
    assert study.places.checkpoints is not None
    return study.places.checkpoints / "magnet" / name


def _conformal(study: Study, subject: Subject, name: str, *, two_sided: bool) -> Bool[np.ndarray, " n"]:
    fitted = Conformal(LEVEL, two_sided).fit(study.costs(subject, BENIGN, "newton", FIT).cost)
    return fitted.predict(study.costs(subject, name, "newton").cost)
