"""The attackers who know a detector of attack costs, by name, each made for one ball:

    attack = ATTACKERS["selective"]("linf", 8 / 255, 40, "survival")
    result = drivers.attack(attack, classifier, examples)

Each result is one try of one attacker: judge it with the real detector and hand it to `audit`. Epsilon, steps and kappa are
data, so that a sweep compiles nothing. Where an attack starts is a matter of the examples (`starts.transplanted`), and `Evade` on a guarded
classifier makes an attacker of any other attack of the library.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from a2d_jax.adaptive.ascent import CostAscent
from a2d_jax.adaptive.measured import SURVIVAL
from a2d_jax.attacks import PGD, CarliniWagner
from a2d_jax.errors import require
from a2d_jax.types import Attack, Norm

FIRST, LAST = 1 / 4, 1 / 100
"""Lengths of the first and the last update, as shares of epsilon."""
KAPPAS = (0, 5, 10, 20)
"""Confidences of Carlini and Wagner's attack, in logits; the paper's Section 6.2 goes from 0 to 20."""
RESTARTS = 5


def margin_ascent(epsilon: float = 8 / 255, max_steps: int = 40, norm: Norm = "linf", restarts: int = 1, targeted: bool = False) -> PGD:
    """Fool, then go on into the wrong class: PGD on the margin that makes every update and keeps the point of the largest lead.

    It knows nothing of the detector but that costs rise with the distance from the boundary.

    Args:
      epsilon: radius of the ball, in the units of `norm`.
      max_steps: updates of one run.
      norm: `linf`, `l2` or `rms`.
      restarts: runs; with more than one, each begins at a random point of the ball.
      targeted: the label of an example is the class to reach.
    """
    require(restarts >= 1, "restarts >= 1", restarts, "give the number of runs")
    attack = PGD(epsilon, FIRST * epsilon, max_steps, norm, targeted, None, False, "margin", LAST * epsilon, True)
    return attack if restarts == 1 else _restarted(attack, restarts)


def cost_ascent(
    epsilon: float = 8 / 255,
    max_steps: int = 40,
    norm: Norm = "linf",
    cost: Any = SURVIVAL,
    fool_steps: int = 0,
    orthogonal: str = "no",
    restarts: int = 1,
    targeted: bool = False,
) -> CostAscent:
    """Fool, then raise the cost, see `CostAscent`, with lengths that fall from a quarter to a hundredth of epsilon.

    Args:
      epsilon: radius of the ball, in the units of `norm`.
      max_steps: updates of one run.
      norm: `linf`, `l2` or `rms`.
      cost: `margin`, `linearised`, `survival`, `implicit`, or a function `(classifier, x, label) -> scalar`.
      fool_steps: updates at the beginning of a run that raise the margin in any case.
      orthogonal: `no`, `cost` or `both`.
      restarts: runs; with more than one, each begins at a random point of the ball.
      targeted: the label of an example is the class to reach.
    """
    require(restarts >= 1, "restarts >= 1", restarts, "give the number of runs")
    own: Any = {"cost": cost, "fool_steps": fool_steps, "orthogonal": orthogonal, "targeted": targeted}
    attack = CostAscent(epsilon, FIRST * epsilon, max_steps, norm, last_step=LAST * epsilon, **own)
    return attack if restarts == 1 else _restarted(attack, restarts)


def confident(kappa: float = 10.0, max_steps: int = 1000) -> CarliniWagner:
    """Carlini and Wagner's attack, which must lead by `kappa` logits, in L2: it has no ball and looks for the nearest such image.

    Args:
      kappa: confidence, in logits.
      max_steps: updates, a fifth of them for each of five constants.
    """
    require(max_steps >= 5, "max_steps >= 5", max_steps, "give at least one update for each of the five constants")
    return CarliniWagner(max_steps, max_steps // 5, first_constant=1.0, step_size=0.02, confidence=float(kappa), form="carlini")


@dataclass(frozen=True)
class Attacker:
    """One row of `ATTACKERS`.

    Attributes:
      says: what it does, in a sentence.
      make: function of (norm, epsilon, steps, cost).
      norms: those that it has.
      measures: it differentiates the cost; the others are the same for every cost.
    """

    says: str
    make: Callable[[Norm, float, int, Any], Attack]
    norms: tuple[Norm, ...] = ("linf", "l2", "rms")
    measures: bool = False

    def __call__(self, norm: Norm, epsilon: float, steps: int, cost: Any = SURVIVAL) -> Attack:
        """The attack for one ball.

        Args:
          norm: one of `norms`.
          epsilon: radius of the ball, in its units. An attack without a ball ignores it.
          steps: updates of one run.
          cost: for those that measure, see `CostAscent`.

        Raises:
          BadInput: a norm that it does not have, or a value that the attack refuses.
        """
        require(norm in self.norms, f"a norm among {', '.join(self.norms)} for this attacker", norm, "leave it out")
        return self.make(norm, epsilon, steps, cost)


ATTACKERS: Mapping[str, Attacker] = {
    "pgd": Attacker(
        "Stops at the first misclassified point; it does not know the detector.",
        lambda norm, epsilon, steps, _: PGD(epsilon, epsilon / 10, steps, norm),
    ),
    "margin": Attacker(
        "Fools, then raises the lead of the wrong class.", lambda norm, epsilon, steps, _: margin_ascent(epsilon, steps, norm)
    ),
    "restarts": Attacker(
        f"The same from {RESTARTS} random points, the best of them.",
        lambda norm, epsilon, steps, _: margin_ascent(epsilon, steps, norm, RESTARTS),
    ),
    "cost": Attacker(
        "Raises the lead for two thirds of the updates, then the cost.",
        lambda norm, epsilon, steps, cost: cost_ascent(epsilon, steps, norm, cost, fool_steps=steps * 2 // 3),
        measures=True,
    ),
    "selective": Attacker(
        "Raises the cost as soon as the classifier is fooled (selective PGD).",
        lambda norm, epsilon, steps, cost: cost_ascent(epsilon, steps, norm, cost),
        measures=True,
    ),
    "orthogonal": Attacker(
        "Raises the cost without its part along the loss (orthogonal PGD).",
        lambda norm, epsilon, steps, cost: cost_ascent(epsilon, steps, norm, cost, orthogonal="cost"),
        measures=True,
    ),
    **{
        f"cw_{kappa}": Attacker(
            f"The nearest image with a lead of {kappa} logits.",
            lambda norm, epsilon, steps, cost, kappa=kappa: confident(kappa, 25 * steps),
            norms=("l2",),
        )
        for kappa in KAPPAS
    },
}
"""name -> attacker; each is a function (norm, epsilon, steps, cost) -> attack."""


def _restarted(attack: Any, restarts: int) -> Any:
    """The same attack in several runs, each a jump and its updates."""
    run = attack.max_steps + 1
    return dataclasses.replace(attack, max_steps=restarts * run, restart_every=run)
