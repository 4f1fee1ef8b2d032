"""Cost ascent: fool the classifier first, then raise the cost that the detector measures.

A detector of attack costs accepts an image that is as hard to attack as benign ones. An attacker who knows it raises that cost M, a
differentiable function of the image (`a2d_jax.adaptive.smooth_cost`), for the class that is predicted at the moment:

    x <- clip_[0,1]( project_epsilon( x + step_size * steepest(gradient) ) )
    gradient = grad loss(x, label)            while the classifier is right, and in the first `fool_steps` updates of a run
             = grad M(x, class predicted)     once it is wrong

The best point is kept: of the misclassified points the one of the highest cost. No threshold is needed for this, so that one result serves
every false-positive rate. All the rest is PGD: starts, restarts, schedules and norms. With no `fool_steps` this is selective PGD.
Orthogonal PGD takes out of each gradient what lies along the other, so that a step for one aim leaves the other as it is, to first order.

Source: Bryniarski et al., "Evading Adversarial Example Detection Defenses with Orthogonal Projected Gradient Descent", arXiv:2106.15023;
reference code https://github.com/v-wangg/OrthogonalPGD. Differs: the detector's score is the cost of an attack on the class predicted. The
classifier counts as fooled as soon as it is wrong; the reference waits until it is wrong by 0.05 in the logits. Where the projection leaves
nothing of a gradient, because both are parallel, the gradient itself is taken, not the rounding errors. Lengths can fall along a run.
"""

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from a2d_jax import norms
from a2d_jax.adaptive.measured import Cost, Measured, MeasuredPGD
from a2d_jax.attacks.pgd import PGDState
from a2d_jax.errors import require
from a2d_jax.losses import Loss, View, loss_function, misclassifies, predicts
from a2d_jax.types import STATIC, Example

NOTHING_LEFT = 1e-3
"""Share of a gradient below which what an orthogonal projection leaves of it is taken for rounding."""

Orthogonal = Literal["no", "cost", "both"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CostAscent(MeasuredPGD):
    """PGD that fools first and then raises the cost; its result is the misclassified point of the highest cost.

    Success means that the classifier is fooled. Whether the detector accepts the image is for the detector to say. At a misclassified
    point, a cost or a gradient that is not finite ends the attack as `broken`. Attributes that are missing here are those of PGD.

    Attributes:
      early_stop: true would stop as soon as the classifier is fooled, which is PGD.
      loss: what fools: `ce`, `margin`, `dlr`, or a function `(logits, label) -> scalar`.
      keep_best: return the best point, not the last one.
      cost: what is raised then: `margin`, `linearised`, `survival` or `implicit` for this ball, or a function, see `MeasuredPGD`.
      fool_steps: updates at the beginning of each run that raise the loss although the classifier is wrong already.
      orthogonal: `no`; `cost`: the cost's gradient without its part along the loss's; `both`: each without its part along the other.
    """

    early_stop: bool = field(default=False, metadata=STATIC)
    loss: Loss = field(default="margin", metadata=STATIC)
    keep_best: bool = field(default=True, metadata=STATIC)
    fool_steps: int | Array = 0
    orthogonal: Orthogonal = field(default="no", metadata=STATIC)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.fool_steps, int):
            require(self.fool_steps >= 0, "fool_steps >= 0", self.fool_steps, "give a number of updates")
        require(self.orthogonal in ("no", "cost", "both"), "orthogonal among no, cost, both", self.orthogonal, "pass one of them")

    def raised(self, example: Example, state: PGDState, seen: View, cost: Cost) -> Measured:
        """The loss until the classifier is fooled, then the cost."""
        fooled = state.progress.admit((predicts if self.targeted else misclassifies)(seen.logits, example.label))
        run = self.max_steps + 1 if self.restart_every is None else self.restart_every
        raises = fooled & (state.progress.iterations % run >= self.fool_steps)
        sign = -1 if self.targeted else 1  # PGD lowers what a targeted attack looks at
        to_fool = _without(seen.gradient, cost.gradient) if self.orthogonal == "both" else seen.gradient
        to_raise = cost.gradient if self.orthogonal == "no" else _without(cost.gradient, seen.gradient)
        return Measured(
            seen.logits,
            jnp.where(raises, sign * to_raise, to_fool),
            jnp.where(fooled, jnp.maximum(seen.slope, cost.slope), seen.slope),
            jnp.where(fooled, sign * cost.value, loss_function(self.loss)(seen.logits, example.label)),
        )


def _without(v: Float[Array, "h w c"], other: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """The direction of `v` without its part along `other`; where nothing is left, `v`."""
    whole, along = norms.steepest(v, "l2"), norms.steepest(other, "l2")
    rest = whole - jnp.sum(whole * along) * along
    return jnp.where(norms.norm(rest, "l2") > NOTHING_LEFT, rest, v)
