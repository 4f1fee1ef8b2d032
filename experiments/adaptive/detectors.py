"""Detectors that the attacker knows: a score of the numbers of an image, and for an attacker a function that is positive where it accepts.

A detector of one cost gives the same verdicts whatever its statistics are: at a fixed rate of false positives the Z-score, the one-sided
conformal detector and a bare threshold cut the same order at the same place. So one row stands for them. AT is the network itself, and
"A2D + AT" is any detector here on an adversarially trained network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from a2d_jax.adaptive import Implicit, Linearised, operating_point
from a2d_jax.attacks import Newton
from a2d_jax.detectors import KNN
from a2d_jax.types import Classifier, Norm
from experiments.adaptive.measured import POWERS, Numbers, column, mark, sensitivity
from experiments.adaptive.subjects import Opened

LEVEL = 0.05
"""False positives of the detector that attackers are made against."""
COST, NEWTON, TWO_SIDED, NEIGHBOURS, MAGNET = "BIM cost", "Newton", "Newton, two-sided", "K-NN", "Newton and MagNet"
TITLES = {
    COST: "cost of BIM: Z-score, one-sided conformal",
    NEWTON: "Newton's crossing: one-sided conformal",
    TWO_SIDED: "Newton's crossing: two-sided conformal",
    NEIGHBOURS: "K-NN of four costs: BIM, Newton in Linf and L2, margin",
    MAGNET: "Newton's crossing and MagNet's marks: flagged by any",
}
MARKS, AGREES = "magnet", "agrees"
"""MagNet's marks, and a number of two values, which has no gradient."""
PATIENCE = 5
"""Effort that MagNet's marks take: with 20 updates .35 of MagNet's digits are won in L2 4, with 100 updates .975."""
FEATURES = ("curvature", "noise", "newton_l2", AGREES, MARKS)
"""Numbers beyond the cost, see `measured`."""

Accepts = Callable[[Classifier, Array, Array], Array]
"""`(classifier, x, label) -> number` of one image, positive where the detector accepts; differentiable."""


@dataclass(frozen=True)
class Detector:
    """A detector that was fitted on benign images.

    Attributes:
      name: its name.
      score: numbers of images to scores `n`, high where it is suspicious.
      radius: threshold of the score to the radius (Linf) that an accepted image needs; None if there is none.
      accepts: for attackers, at `LEVEL`; None if it has no gradient.
      own: its rule is not just the cost, so that an attacker raises the rule itself.
      effort: times the updates of other attackers that raising the rule takes.
    """

    name: str
    score: Callable[[Numbers], np.ndarray]
    radius: Callable[[float], float] | None = None
    accepts: Accepts | None = None
    own: bool = False
    effort: int = 1


def detectors(opened: Opened, benign: Numbers, crafted: Numbers, step: float) -> Sequence[Detector]:
    """All detectors of a network.

    Args:
      opened: the network.
      benign: numbers of benign images.
      crafted: numbers of crafted images, from which K-NN learns.
      step: length of an update of BIM.
    """
    low = threshold(-benign["newton"])
    found = [
        Detector(COST, lambda numbers: -numbers["bim"], lambda cut: (-cut - 1) * step, reach(low)),
        Detector(NEWTON, lambda numbers: -numbers["newton"], lambda cut: -cut, reach(low)),
        _two_sided(benign["newton"]),
        _neighbours(benign, crafted),
    ]
    if opened.autoencoders:
        found.append(_with_magnet(opened, benign))
    return found


def threshold(scores: np.ndarray) -> float:
    """The least accepted number, where a score is minus a number."""
    cut = operating_point(scores, LEVEL).threshold
    return -np.inf if cut is None else -cut


def radius_of(low: float, norm: Norm = "linf") -> Implicit:
    """The smooth cost that attackers raise: the crossing of Newton, by the implicit function theorem. It takes some ten gradients."""
    return Implicit(Newton(epsilon=3 * low, norm=norm))


def reach(low: float, norm: Norm = "linf") -> Accepts:
    """The smooth cost above a threshold, as a share of it."""
    cost = radius_of(low, norm)
    return lambda classifier, x, label: cost(classifier, x, label) / low - 1


def _two_sided(benign: np.ndarray) -> Detector:
    """Flags the lowest and the highest crossings alike."""
    half = len(benign) // 2
    ordered, left = np.sort(benign[:half]), benign[half:]

    def score(numbers: Numbers) -> np.ndarray:
        rank = (np.searchsorted(ordered, numbers["newton"], "left") + np.searchsorted(ordered, numbers["newton"], "right")) / 2
        return np.abs(rank / len(ordered) - 0.5)

    cut = operating_point(score({"newton": left}), LEVEL).threshold
    share = 0.5 if cut is None else cut
    low, high = (float(np.quantile(ordered, 0.5 + sign * share)) for sign in (-1, 1))
    cost = radius_of(high)

    def accepts(classifier: Classifier, x: Array, label: Array) -> Array:
        radius = cost(classifier, x, label)
        return jnp.minimum(radius - low, high - radius) / max(high - low, 1e-9)

    return Detector(TWO_SIDED, score, None, accepts, own=True)


def _neighbours(benign: Numbers, crafted: Numbers) -> Detector:
    names = ("bim", "newton", "newton_l2", "margin")

    def table(numbers: Numbers) -> np.ndarray:
        return np.stack([numbers[name] for name in names], axis=1) / scale

    scale = np.stack([benign[name] for name in names], axis=1).std(0) + 1e-9
    rows = len(benign["bim"]) + len(crafted["bim"])
    fitted = KNN(max(rows // 20, 1) | 1).fit(table(benign), table(crafted))
    return Detector(NEIGHBOURS, lambda numbers: fitted.score(table(numbers)))


def _with_magnet(opened: Opened, benign: Numbers) -> Detector:
    """The most suspicious of Newton and MagNet, each as a share of its own threshold at half the rate."""
    low = -float(np.sort(-benign["newton"])[int(len(benign["newton"]) * (1 - LEVEL / 2))])
    highs = np.sort(benign["magnet"], axis=0)[int(len(benign["magnet"]) * (1 - LEVEL / 4))]

    def score(numbers: Numbers) -> np.ndarray:
        return np.maximum(1 - numbers["newton"] / low, (numbers["magnet"] / highs).max(1) - 1)

    near = reach(low)

    def accepts(classifier: Classifier, x: Array, label: Array) -> Array:
        moved = [mark(one, power, x) / high for one, power, high in zip(opened.autoencoders, POWERS, highs, strict=True)]
        return jnp.minimum(near(classifier, x, label), 1 - jnp.max(jnp.stack(moved)))

    return Detector(MAGNET, score, None, accepts, own=True, effort=PATIENCE)


def joined(opened: Opened, benign: Numbers, name: str, sign: float) -> Detector:
    """BIM's cost and a further number: flagged by either, each at half the rate.

    Args:
      opened: the network.
      benign: numbers of benign images.
      name: of the number.
      sign: 1 if a high number is suspicious, -1 if a low one is.
    """
    extra = column(benign, name)
    low = -float(np.sort(-benign["bim"])[int(len(benign["bim"]) * (1 - LEVEL / 2))])
    cut = float(np.sort(sign * extra)[int(len(extra) * (1 - LEVEL / 2))])
    spread = float(extra.std()) + 1e-9

    def score(numbers: Numbers) -> np.ndarray:
        return np.maximum(1 - numbers["bim"] / max(low, 1), (sign * column(numbers, name) - cut) / spread)

    radius = threshold(-benign["newton"])
    near, linear = reach(radius), Linearised()

    def smooth(classifier: Classifier, x: Array, label: Array, cost: Array) -> Array:
        """The number as the attacker differentiates it."""
        match name:
            case "curvature":
                return linear(classifier, x, label) / (jnp.maximum(cost + 1, 1e-3) * radius)
            case "newton_l2":
                return radius_of(abs(cut), "l2")(classifier, x, label)
            case "noise":
                return sensitivity(classifier, x, label)
            case _:
                return jnp.max(jnp.stack([mark(one, power, x) for one, power in zip(opened.autoencoders, POWERS, strict=True)]))

    def accepts(classifier: Classifier, x: Array, label: Array) -> Array:
        cost = near(classifier, x, label)
        return jnp.minimum(cost, (cut - sign * smooth(classifier, x, label, cost)) / spread)

    effort = PATIENCE if name == MARKS else 1
    return Detector(f"{COST} and {name}", score, None, None if name == AGREES else accepts, own=True, effort=effort)
