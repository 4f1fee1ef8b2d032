"""An attacker who sees verdicts alone: the boundary attack on the network, and on the network with its detector of Newton's crossing."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from a2d_jax.adaptive import Evade, guarded
from a2d_jax.adaptive.audit import within
from a2d_jax.attacks import Boundary
from a2d_jax.types import Classifier
from experiments.adaptive.attackers import Radius, Try
from experiments.adaptive.detectors import LEVEL, NEWTON, TITLES
from experiments.adaptive.study import Study, won
from experiments.adaptive.tables import UNITS, interval, title
from experiments.pages.blocks import Block, Row, Table

UPDATES = 50
"""Of the boundary attack, for each update of the other attacks: each tries 25 points."""
ACCEPTED, FLAGGED = 2.0, 0.0


@dataclass(frozen=True)
class Verdict:
    """What the detector answers: one of two numbers, without a slope."""

    low: float

    def __call__(self, classifier: Classifier, x: Array) -> Array:
        """The answer for one image."""
        return jnp.where(Radius(self.low)(classifier, x) >= self.low, ACCEPTED, FLAGGED)


def blocks(study: Study) -> Sequence[Block]:
    """A table in the last norm of the network, for networks on which some thousand updates of 25 points each take seconds."""
    few, norm = study.subject.hard_label, list(study.subject.budgets)[-1]
    if not few:
        return []
    boundary = Boundary(0, UPDATES * study.size.steps)
    both = guarded(study.opened.classifier, Verdict(study.known.low), (ACCEPTED + FLAGGED) / 2)
    alone = study.ran(norm, Try("boundary attack", f"{few} images", boundary, study.opened.classifier), few)
    pair = Try("boundary attack on the pair", f"{few} images", Evade(boundary), both)
    against = study.ran(norm, pair, few)
    led = study.ran(norm, pair._replace(setting=f"{few} images rank 0", rank=0), few)
    detector = next(one for one in study.detectors if one.name == NEWTON)
    wins = {
        "the network: misclassified": (alone, alone["fooled"]),
        "the pair, from noise: misclassified and accepted": (against, won(study, detector, against, LEVEL)),
        "the pair, from a benign image of another class": (led, won(study, detector, led, LEVEL)),
    }
    budgets = study.subject.budgets[norm]
    rows = [
        Row((name,), [interval(won_there) for won_there in within(np.where(hits, run["distance"], np.inf), tuple(budgets)).T])
        for name, (run, hits) in wins.items()
    ]
    note = (
        f"Detector: {TITLES[NEWTON]}, at 5 % false positives. The boundary attack makes {UPDATES * study.size.steps:,} updates of 25 "
        "points each and sees one answer for each point: the class, and whether it is flagged."
    )
    names = [title(norm, epsilon, study.name) for epsilon in budgets]
    return [Table(f"{study.name}, {UNITS[norm]}: an attacker who sees verdicts alone", ("attacked",), names, rows, 3, note)]
