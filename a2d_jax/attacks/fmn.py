"""FMN, the fast minimum-norm attack: walk to the decision boundary, then along it towards the input.

Gradient steps lower the margin of the label (logit of the label minus the largest other logit, m); between steps the iterate is
projected onto a ball around the input whose radius adapts. Until a point is misclassified the radius is a linear estimate of
the boundary's distance; afterwards it grows by gamma after a point that is not misclassified and shrinks by gamma after one
that is:

    epsilon <- (||delta|| + m / ||grad m||_dual) (1 + gamma)      nothing found yet
    epsilon <- epsilon (1 + gamma)                                found before, not at this point
    epsilon <- min(epsilon (1 - gamma), smallest ||delta||)       misclassified at this point
    delta   <- clip_[0,1]( project_epsilon( delta - step_size * grad m / ||grad m||_2 ) )

step_size decays to a hundredth and gamma to 0.001 along half a cosine. The attack uses its whole budget and returns the closest
misclassified point. As defence (`minimise=False`) the first misclassified point ends the attack: after a few updates, at a distance that
estimates the distance of the boundary.

Source: Pintor, Roli, Brendel, Biggio, "Fast minimum-norm adversarial attacks through adaptive norm constraints",
arXiv:2102.12827; reference behaviour Foolbox 3.3.4 `fast_minimum_norm.py`. Differs: the point after the last update is judged
too; a zero gradient moves nothing; the projection onto the L2 ball is that of the paper (the reference's L2 projection is the
identity); the radius exceeds the linear estimate by gamma, so that the walk crosses the boundary instead of slowly approaching it; entries
of the gradient that push a scalar out of [0, 1] are set to zero. With these entries the estimate is too small and the walk can stall inside
the right class, as it does for a third of the MNIST digits on LeNet-5 in L2 (docs/decisions/0037).
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from a2d_jax import norms
from a2d_jax.errors import require
from a2d_jax.losses import margin, misclassifies, view
from a2d_jax.types import STATIC, Classifier, Example, Norm, Progress

LAST_STEP = 0.01  # of the first step size
LAST_GAMMA = 0.001
LEAST = 1e-4  # radius at least, while nothing is found: an input that lies on the boundary must move at all
DUAL: dict[Norm, Norm] = {"l2": "l2", "linf": "l1"}


class FMNState(NamedTuple):
    """State of one example."""

    x_adv: Float[Array, "h w c"]  # the closest misclassified point; until there is one, the point the next step will judge
    point: Float[Array, "h w c"]  # the point the next step will judge
    nearest: Float[Array, ""]  # distance of the closest misclassified point; infinite until there is one
    epsilon: Float[Array, ""]  # radius of the ball
    progress: Progress


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FMN:
    """Fast minimum-norm attack, untargeted.

    Attributes:
      step_size: L2 length of the first update, pixel units (in either norm).
      gamma: relative change of the radius at the start.
      decay_steps: updates over which both decay. A setting of its own, so that a smaller budget walks the same path.
      max_steps: largest number of updates; `max_steps + 1` points are judged.
      norm: norm of the distance to minimise, `l2` or `linf`.
      minimise: go on after the first success and keep the nearest point. Use False as defence: the first success then ends the attack.
    """

    step_size: float | Array = 1.0
    gamma: float | Array = 0.05
    decay_steps: int | Array = 100
    max_steps: int | Array = 100
    norm: Norm = field(default="l2", metadata=STATIC)
    minimise: bool = field(default=True, metadata=STATIC)

    def __post_init__(self) -> None:
        if isinstance(self.step_size, int | float):
            require(self.step_size > 0, "step_size > 0", self.step_size, "give the L2 length of the first update, such as 1.0")
        if isinstance(self.gamma, int | float):
            require(0 < self.gamma < 1, "gamma between 0 and 1", self.gamma, "give a relative change, such as 0.05")
        if isinstance(self.decay_steps, int):
            require(self.decay_steps > 0, "decay_steps > 0", self.decay_steps, "give a number of updates, such as max_steps")
        if isinstance(self.max_steps, int):
            require(self.max_steps >= 0, "max_steps >= 0", self.max_steps, "give the number of updates")
        require(self.norm in DUAL, f"a norm among {', '.join(DUAL)}", self.norm, "pass one of them")

    @property
    def scheduled(self) -> bool:
        """A search for the nearest counts every update that it makes."""
        return self.minimise

    def init(self, example: Example) -> FMNState:
        infinite = jnp.full((), jnp.inf, example.x.dtype)
        return FMNState(example.x, example.x, infinite, infinite, Progress.start(example))

    def step(self, classifier: Classifier, example: Example, state: FMNState) -> FMNState:
        logits, gradient, slope = view(classifier, lambda z: margin(z, example.label), state.point)
        blocked = (state.point <= 0) & (gradient > 0) | (state.point >= 1) & (gradient < 0)
        gradient = jnp.where(blocked, 0, gradient)

        hit, before = state.progress.admit(misclassifies(logits, example.label)), state.progress.success
        found, distance = before | hit, norms.norm(state.point - example.x, self.norm)
        nearer = hit & (distance < state.nearest)
        nearest = jnp.where(nearer, distance, state.nearest)
        goes_on = (nearest > 0) & self.minimise
        progress = state.progress.judge(found, self.max_steps, forward=1, backward=1, goes_on=goes_on, slope=slope)

        step_size, gamma = self._decayed(state.progress.iterations, example.x.dtype)
        steepness = norms.norm(gradient, DUAL[self.norm])
        estimate = distance + jnp.abs(margin(logits, example.label)) / jnp.where(steepness > 0, steepness, 1)
        estimate = jnp.fmax(estimate * (1 + gamma), LEAST)  # fmax: an estimate that is NaN gives way
        adapted = jnp.where(hit, jnp.minimum(state.epsilon * (1 - gamma), nearest), state.epsilon * (1 + gamma))
        farthest = norms.norm(jnp.maximum(example.x, 1 - example.x), self.norm)
        epsilon = jnp.minimum(jnp.where(found, adapted, estimate), farthest)

        moved = norms.clip_to_ball(state.point - step_size * norms.steepest(gradient, "l2"), example.x, epsilon, self.norm)
        moved = jnp.where(progress.done, state.point, jnp.clip(moved, 0, 1))
        kept = jnp.where(before, state.x_adv, moved)
        return FMNState(jnp.where(nearer, state.point, kept), moved, nearest, epsilon, progress)

    def length(self) -> int:
        return int(self.max_steps) + 1

    def _decayed(self, updates: Array, dtype: jnp.dtype) -> tuple[Array, Array]:
        share = jnp.minimum(updates, self.decay_steps).astype(dtype) / jnp.asarray(self.decay_steps, dtype)
        left = (1 + jnp.cos(jnp.pi * share)) / 2  # from 1 to 0
        step_size = self.step_size * (LAST_STEP + (1 - LAST_STEP) * left)
        return step_size, LAST_GAMMA + (self.gamma - LAST_GAMMA) * left
