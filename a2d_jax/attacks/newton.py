"""Newton: walk to the decision boundary in steps of the estimated distance, and return the radius at which the boundary is crossed.

m is the margin of the label (its logit minus the largest other) at the current point. g is the gradient of m; entries that push a
scalar out of [0, 1] are set to 0. ||g|| is the dual norm: m falls by ||g|| per unit length along the steepest direction d.

    length <- clip( overshoot * m / ||g||, shortest * epsilon, max(longest * epsilon, radius walked) )
    x_adv  <- clip_[0,1]( x_adv - length * d )         d = sign g in Linf, g / ||g|| in L2 and root mean square

until the class changes; then the `crossing` is the radius at which m is 0 (`a2d_jax.attacks.path`). Where m is linear, one step ends
`overshoot` beyond the boundary and the crossing is its exact distance. As defence this radius is the score. It takes two to four gradients
and ranks images as the updates of BIM do; BIM takes the same path in hundreds of small steps (docs/newton.md).

Source: Newton's method on the margin; its step is that of DeepFool (Moosavi-Dezfooli et al., arXiv:1511.04599) with two classes, the
label and the best other class, chosen anew at every point: one gradient instead of one per class. In Linf it follows the sign
path of BIM (Kurakin et al., arXiv:1607.02533). FMN (Pintor et al., arXiv:2102.12827) takes the same estimate as the radius of a ball,
but steps in L2 in every norm, projects, and goes on to find a nearer point. Differs from all three: the result is the interpolated radius,
not the point; steps have a shortest and a longest length, so that neither a flat nor a steep gradient decides alone.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from a2d_jax import norms
from a2d_jax.attacks.path import Path
from a2d_jax.errors import require
from a2d_jax.losses import View, margin, misclassifies, view
from a2d_jax.types import STATIC, Classifier, Example, Norm, Progress


class NewtonState(NamedTuple):
    """State of one example."""

    x_adv: Float[Array, "h w c"]  # the point the next step will judge
    path: Path
    progress: Progress


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Newton:
    """Newton's method on the margin, untargeted; its result is the `crossing`.

    Attributes:
      epsilon: the radius of interest, in the units of `norm`. Step lengths are shares of it. The walk itself may go beyond.
      overshoot: length of a step, as a share of the linear estimate of the boundary's distance.
      shortest: shortest step, as a share of epsilon.
      longest: longest step at first, as a share of epsilon; later a step may double the radius walked. Long steps cut the bends of the
        path, short steps cost more gradients.
      max_steps: largest number of updates, each with one gradient; the point after the last update is still judged.
      norm: `linf`, `l2` or `rms`.
      max_radius: end as a failure at the first point that is this far from the input, for callers to whom a farther crossing makes no
        difference; None sets no limit.
    """

    epsilon: float | Array = 8 / 255
    overshoot: float | Array = 1.05
    shortest: float | Array = 0.002
    longest: float | Array = 1 / 6
    max_steps: int | Array = 8
    norm: Norm = field(default="linf", metadata=STATIC)
    max_radius: float | Array | None = None

    def __post_init__(self) -> None:
        for name, value in (("epsilon", self.epsilon), ("shortest", self.shortest), ("longest", self.longest)):
            if isinstance(value, int | float):
                require(value > 0, f"{name} > 0", value, "give a positive number: an input on the boundary must still move")
        if isinstance(self.overshoot, int | float):
            require(self.overshoot > 0, "overshoot > 0", self.overshoot, "give a share of the estimate, such as 1.05")
        if isinstance(self.max_steps, int):
            require(self.max_steps >= 0, "max_steps >= 0", self.max_steps, "give the number of updates")
        if isinstance(self.max_radius, int | float):
            require(self.max_radius >= 0, "max_radius >= 0", self.max_radius, "give it in the units of the norm, or None")
        require(self.norm in ("linf", "l2", "rms"), "a norm among linf, l2, rms", self.norm, "pass one of them")

    def init(self, example: Example) -> NewtonState:
        return NewtonState(example.x, Path.start(example), Progress.start(example))

    def step(self, classifier: Classifier, example: Example, state: NewtonState) -> NewtonState:
        return self.move(example, state, self.look(classifier, example, state))

    def look(self, classifier: Classifier, example: Example, state: NewtonState) -> View:
        """Evaluate the current point."""
        return view(classifier, lambda z: margin(z, example.label), state.x_adv)

    def move(self, example: Example, state: NewtonState, seen: View) -> NewtonState:
        """Judge the current point, and move unless that ends the attack."""
        logits, gradient, slope = seen
        across = state.progress.admit(misclassifies(logits, example.label))
        path = state.path.reach(norms.norm(state.x_adv - example.x, self.norm), margin(logits, example.label), across)

        blocked = (state.x_adv <= 0) & (gradient > 0) | (state.x_adv >= 1) & (gradient < 0)
        gradient = jnp.where(blocked, 0, gradient)
        direction = norms.steepest(gradient, self.norm)
        steepness = jnp.sum(gradient * direction)
        stuck = ~jnp.any(direction)
        far = False if self.max_radius is None else path.radius >= self.max_radius
        progress = state.progress.judge(
            across, self.max_steps, forward=1, backward=1, give_up=stuck | far, crossing=path.crossing, slope=slope
        )
        estimate = self.overshoot * path.margin / jnp.where(steepness > 0, steepness, 1)
        length = jnp.clip(estimate, self.shortest * self.epsilon, jnp.maximum(self.longest * self.epsilon, path.radius))
        moved = jnp.clip(state.x_adv - length * direction, 0, 1)
        return NewtonState(jnp.where(progress.done, state.x_adv, moved), path, progress)

    def length(self) -> int:
        return int(self.max_steps) + 1
