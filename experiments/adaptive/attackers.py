"""The attackers: what each of them runs against a network and its detectors, for one norm and one radius."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jax import Array

from a2d_jax import attacks
from a2d_jax.adaptive import Evade, Linearised, Survival, guarded
from a2d_jax.adaptive.attackers import ATTACKERS, FIRST, KAPPAS, LAST
from a2d_jax.adaptive.paper_loss import PaperLoss
from a2d_jax.losses import prediction
from a2d_jax.types import Attack, Classifier
from experiments.adaptive.detectors import Detector, radius_of
from experiments.adaptive.subjects import Ball, Opened

NEAREST, MARGIN, SURVIVAL, IMPLICIT = "FMN (no detector)", "margin ascent", "survival ascent", "implicit ascent"
SELECTIVE, ORTHOGONAL, TRANSPLANT, GUARDED = "selective PGD", "orthogonal PGD", "transplant, then ascent", "guarded PGD"
SHORTER = "PGD at the radius less the toll"
CONFIDENCE, LITERAL, MIXED = "C&W with confidence", "the paper's loss", "against its own rule"
GAINS = (0.05, 0.2, 1.0)
"""Of the guarded classifier, in median margins for each threshold's worth of the measurement."""
BETAS = (0.1, 1.0, 10.0)
"""Of the paper's loss, in median margins for each threshold's worth of the cost."""


class Try(NamedTuple):
    """One run of an attacker.

    Attributes:
      attacker: its name.
      setting: what differs from its other runs; part of the name of a file.
      attack: the attack.
      classifier: what it attacks.
      epsilon: radius of its ball; infinite if it has none.
      rank: begin at the image of another class with this rank of distance; None begins at the image itself.
      judged: detectors judge what it made. Where only being fooled matters, they need not.
    """

    attacker: str
    setting: str
    attack: Attack
    classifier: Classifier
    epsilon: float = float("inf")
    rank: int | None = None
    judged: bool = True


class Known(NamedTuple):
    """What an attacker knows of the detectors.

    Attributes:
      low: radius below which the one-sided ones flag, Linf.
      lead: median margin of benign images.
      rules: the detectors by name.
      ranks: images of other classes from which an attack starts, one try each.
      tolls: radii that the thresholds ask for. Whoever is fooled at a radius less the toll bounds what can be won: the ceiling needs these.
    """

    low: float
    lead: float
    rules: Mapping[str, Detector]
    ranks: int = 1
    tolls: Sequence[float] = ()

    @property
    def measurement(self) -> "Radius":
        """What the guarded classifier measures: the smooth cost of the class predicted."""
        return Radius(self.low)


@dataclass(frozen=True)
class Radius:
    """The smooth cost of an image; equal for equal thresholds, so that one program serves all gains."""

    low: float

    def __call__(self, classifier: Classifier, x: Array) -> Array:
        """The cost of one image."""
        return radius_of(self.low)(classifier, x, prediction(classifier(x)))


def tries(opened: Opened, known: Known, norm: Ball, budgets: Sequence[float], steps: int, most: float | None) -> Iterator[Try]:
    """All runs against one network in one norm.

    Args:
      opened: the network.
      known: its detectors.
      norm: of the radii.
      budgets: radii.
      steps: updates.
      most: the radius at which the attackers run that take hundreds of gradients for nothing more than a comparison; None for none.
    """
    classifier, implicit, survival = opened.classifier, radius_of(known.low), Survival(epsilon=3 * known.low, straight=True)
    first = 1.0 if norm == "l2" or opened.x[0].size < 5000 else 5.0
    yield Try(NEAREST, "", attacks.FMN(first, norm=norm, max_steps=100), classifier)
    if norm == "l2":
        for kappa in KAPPAS:
            yield Try(CONFIDENCE, f"kappa {kappa}", ATTACKERS[f"cw_{kappa}"](norm, 1.0, steps), classifier)
    for epsilon in budgets:

        def made(attacker: str, name: str, setting: str = "", cost: object = implicit, epsilon: float = epsilon) -> Try:
            return Try(attacker, at(epsilon, setting), ATTACKERS[name](norm, epsilon, steps, cost), classifier, epsilon)

        yield made(MARGIN, "margin")
        yield made(IMPLICIT, "cost")
        for rank in range(known.ranks):
            yield made(TRANSPLANT, "cost", f"rank {rank}")._replace(rank=rank)
        for gain in GAINS:
            guard = guarded(classifier, known.measurement, known.low, gain * known.lead / known.low)
            falling = attacks.PGD(epsilon, FIRST * epsilon, steps, norm, loss="margin", last_step=LAST * epsilon)
            pgd = Try(GUARDED, at(epsilon, f"gain {gain:g}"), Evade(falling), guard, epsilon)
            yield pgd
            for rank in range(known.ranks if known.ranks > 1 else 0):  # where gradients lead nowhere from the image itself
                yield pgd._replace(setting=f"{pgd.setting} rank {rank}", rank=rank)
        for toll in known.tolls:
            if (less := epsilon - toll) > 0:
                plain = attacks.PGD(less, less / 10, steps, norm, loss="margin")
                near = Try(SHORTER, at(less), plain, classifier, less, judged=False)
                yield near
                yield near._replace(setting=f"{near.setting} rank 0", rank=0)
        for name, detector in known.rules.items():
            if detector.accepts is not None and detector.own:
                own = raising(f"{MIXED}: {name}", detector, classifier, norm, epsilon, steps)
                yield own
                yield own._replace(setting=f"{own.setting} rank 0", rank=0)  # a benign image of another class is accepted from the start
        if epsilon == most:
            yield made(SELECTIVE, "selective", cost=Linearised())
            yield made(ORTHOGONAL, "orthogonal", cost=Linearised())
            yield made(SURVIVAL, "cost", cost=survival)
            for beta in BETAS:
                ball = (epsilon, FIRST * epsilon, steps, norm)
                weight = beta * known.lead / known.low
                paper = PaperLoss(
                    *ball, loss="margin", early_stop=False, keep_best=True, last_step=LAST * epsilon,
                    cost=implicit, beta=weight, threshold=known.low,
                )  # fmt: skip
                yield Try(LITERAL, at(epsilon, f"beta {beta:g}"), paper, classifier, epsilon)


def raising(attacker: str, detector: Detector, classifier: Classifier, norm: Ball, epsilon: float, steps: int) -> Try:
    """Raise the rule of a detector, with as many updates as that takes."""
    updates = steps * detector.effort
    attack = ATTACKERS["cost"](norm, epsilon, updates, detector.accepts)
    return Try(attacker, at(epsilon, f"{updates} updates" if updates > steps else ""), attack, classifier, epsilon)


def at(epsilon: float, setting: str = "") -> str:
    """The setting of a run as its file is named."""
    return f"{epsilon:.4f} {setting}".strip()
