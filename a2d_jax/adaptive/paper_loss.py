"""The loss that the paper names for an attacker who knows attack as defense, and calls infeasible (section 6.1.1):

    J(x) + beta * max( threshold - cost(x), 0 )        lowered; J: loss of a targeted attack, cost: that of attacking x

It is infeasible, the paper says, because the cost has no derivative. With a smooth cost it has one. What remains is that the two terms
pull against each other while the classifier is right: the cost is that of the class predicted, which J leaves and the second term stays in.
A large beta holds the attack at the input. `CostAscent`, which raises the cost only once the classifier is fooled, has no such trap.

Source: Zhao et al., "Attack as Defense: Characterizing Adversarial Examples using Robustness", arXiv:2103.07633, section 6.1.1. Differs:
the cost is one of `a2d_jax.adaptive.smooth_cost`. An untargeted attack raises J(x) - beta * max(threshold - cost(x), 0).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from a2d_jax.adaptive.measured import Cost, Measured, MeasuredPGD
from a2d_jax.attacks.pgd import PGDState
from a2d_jax.errors import require
from a2d_jax.losses import View, loss_function
from a2d_jax.types import Example


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PaperLoss(MeasuredPGD):
    """PGD on the paper's loss. Everything but three attributes is as for `PGD`, and queries count as for `CostAscent`.

    Attributes:
      beta: weight of the cost, at least 0; 0 is PGD. Units: loss per unit of the cost.
      threshold: the cost below which the detector flags an image.
      cost: as for `CostAscent`.
    """

    beta: float | Array = 1.0
    threshold: float | Array = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.beta, int | float):
            require(self.beta >= 0, "beta >= 0", self.beta, "give the weight of the cost")

    def raised(self, example: Example, state: PGDState, seen: View, cost: Cost) -> Measured:
        """J, less what the cost lacks times beta; with the other sign for a targeted attack, which lowers it."""
        weight = jnp.where(cost.value < self.threshold, self.beta if self.targeted else -self.beta, 0)
        return Measured(
            seen.logits,
            seen.gradient - weight * cost.gradient,
            jnp.maximum(seen.slope, cost.slope),
            loss_function(self.loss)(seen.logits, example.label) + weight * (self.threshold - cost.value),
        )
