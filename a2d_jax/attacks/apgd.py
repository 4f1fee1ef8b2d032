"""APGD, projected gradient ascent that sets its own step size: the basis of most published robustness numbers.

The step size starts at twice the radius. Each step adds a quarter of the last movement (P projects onto the ball and [0, 1]):

    z <- P(x + step_size * steepest(grad loss));   x <- P(x + 0.75 (z - x) + 0.25 (x - x_previous))

Checkpoints follow at shorter and shorter intervals. At a checkpoint the step size is halved and the walk continues from the best point so
far if one of two conditions holds: the loss rose in at most three quarters of the updates since the last checkpoint, or neither the step
size nor the best loss changed at the last checkpoint. The loss is the cross entropy, or the difference of logits ratio, which does not
change with the scale of the logits (`a2d_jax.losses.dlr`), or another one of `a2d_jax.losses`.

Source: Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
arXiv:2003.01690; reference code fra31/auto-attack `autopgd_base.py`, as packed in torchattacks 3.5.1. Differs: the first success
ends the attack; the clean input is judged first and the jump to the random start counts as the first update; the first window
compares with the loss of the start (the reference compares with zero).
"""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from a2d_jax import norms
from a2d_jax.errors import require
from a2d_jax.losses import Loss, loss_function, misclassifies, view
from a2d_jax.types import STATIC, Classifier, Example, Norm, Progress

FORWARD = 0.75  # share of the new step in an update; the rest is the last movement
RISING = 0.75  # share of updates that must raise the loss


class APGDState(NamedTuple):
    """State of one example."""

    x_adv: Float[Array, "h w c"]  # the point the next step will judge
    previous: Float[Array, "h w c"]  # the point before it
    best: Float[Array, "h w c"]  # the point of the largest loss, its gradient and loss
    best_gradient: Float[Array, "h w c"]
    best_loss: Float[Array, ""]
    loss: Float[Array, ""]  # of the point judged last
    step_size: Float[Array, ""]
    window: Int[Array, ""]  # updates between the last checkpoint and the next
    since: Int[Array, ""]  # updates since the last checkpoint
    rises: Int[Array, ""]  # how many of them raised the loss
    checked: Float[Array, ""]  # best loss at the last checkpoint
    halved: Bool[Array, ""]  # the step size was halved there
    progress: Progress


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class APGD:
    """Auto-PGD, untargeted, from a random start or from `Example.start`; the input is judged first, and the jump to the start is an update.

    Attributes:
      epsilon: radius of the ball, in the units of `norm`.
      max_steps: largest number of updates, the jump to the start included. It sets the checkpoints: another budget takes another path.
      norm: `linf` or `l2`.
      loss: `ce`, `margin`, `dlr` (at least three classes), or a function `(logits, label) -> scalar`.
    """

    scheduled: ClassVar[bool] = True  # checkpoints hang on the budget
    takes_start: ClassVar[bool] = True

    epsilon: float | Array = 8 / 255
    max_steps: int | Array = 101
    norm: Norm = field(default="linf", metadata=STATIC)
    loss: Loss = field(default="ce", metadata=STATIC)

    def __post_init__(self) -> None:
        if isinstance(self.epsilon, int | float):
            require(self.epsilon >= 0, "epsilon >= 0", self.epsilon, "give it in pixel units, such as 8/255")
        if isinstance(self.max_steps, int):
            require(self.max_steps >= 0, "max_steps >= 0", self.max_steps, "give the number of updates")
        require(self.norm in ("linf", "l2"), "a norm among linf, l2", self.norm, "pass one of them")
        loss_function(self.loss)

    def init(self, example: Example) -> APGDState:
        x, count, zero = example.x, jnp.zeros((), jnp.int32), jnp.zeros((), example.x.dtype)
        return APGDState(
            x_adv=x,
            previous=x,
            best=x,
            best_gradient=jnp.zeros_like(x),
            best_loss=zero - jnp.inf,
            loss=zero,
            step_size=zero + 2 * self.epsilon,
            window=self._updates(22),
            since=count,
            rises=count,
            checked=zero - jnp.inf,
            halved=jnp.ones((), bool),
            progress=Progress.start(example),
        )

    def step(self, classifier: Classifier, example: Example, state: APGDState) -> APGDState:
        loss_of = loss_function(self.loss)
        logits, gradient, slope = view(classifier, lambda z: loss_of(z, example.label), state.x_adv)
        clean, starting = state.progress.iterations == 0, state.progress.iterations == 1
        success = misclassifies(logits, example.label)
        progress = state.progress.judge(success, self.max_steps, forward=1, backward=1, slope=slope)

        x, gradient, state = self._checked(state, loss_of(logits, example.label), gradient, starting)
        share = jnp.where(starting, 1, FORWARD).astype(x.dtype)
        stepped = self._project(x + state.step_size * norms.steepest(gradient, self.norm), example.x)
        moved = self._project(x + share * (stepped - x) + (1 - share) * (x - state.previous), example.x)

        begins = self._start(example)
        following = state._replace(x_adv=jnp.where(progress.done, state.x_adv, moved), previous=x, progress=progress)
        jumped = self.init(example)._replace(x_adv=jnp.where(progress.done, example.x, begins), previous=begins, progress=progress)
        return jax.tree.map(lambda one, other: jnp.where(clean, one, other), jumped, following)

    def length(self) -> int:
        return int(self.max_steps) + 1

    def _checked(self, state: APGDState, loss: Array, gradient: Array, starting: Array) -> tuple[Array, Array, APGDState]:
        """Enter a loss; at a checkpoint perhaps halve the step size. Returns where to go on from, its gradient, and the state."""
        better = loss > state.best_loss
        state = state._replace(
            best=jnp.where(better, state.x_adv, state.best),
            best_gradient=jnp.where(better, gradient, state.best_gradient),
            best_loss=jnp.where(better, loss, state.best_loss),
            rises=jnp.where(starting, 0, state.rises + jnp.where(loss > state.loss, 1, 0)),
            since=jnp.where(starting, 0, state.since + 1),
            checked=jnp.where(starting, loss, state.checked),
            loss=loss,
        )
        checks = ~starting & (state.since >= state.window)
        seldom = state.rises.astype(loss.dtype) <= RISING * state.window.astype(loss.dtype)
        halves = checks & (seldom | (~state.halved & (state.checked >= state.best_loss)))
        x, gradient = jnp.where(halves, state.best, state.x_adv), jnp.where(halves, state.best_gradient, gradient)
        shorter = jnp.maximum(state.window - self._updates(3), self._updates(6))
        return (
            x,
            gradient,
            state._replace(
                step_size=jnp.where(halves, state.step_size / 2, state.step_size),
                halved=jnp.where(checks, halves, state.halved),
                checked=jnp.where(checks, state.best_loss, state.checked),
                window=jnp.where(checks, shorter, state.window),
                since=jnp.where(checks, 0, state.since),
                rises=jnp.where(checks, 0, state.rises),
            ),
        )

    def _updates(self, percent: int) -> Int[Array, ""]:
        """A share of the updates after the jump, at least one."""
        return jnp.maximum(percent * (jnp.asarray(self.max_steps, jnp.int32) - 1) // 100, 1)

    def _start(self, example: Example) -> Float[Array, "h w c"]:
        """The given start, or a point on the sphere in a random direction (Linf: with one scalar at least at the full radius), clipped."""
        if example.start is not None:
            return self._project(example.start, example.x)
        if self.norm == "linf":
            direction = jax.random.uniform(example.key, example.x.shape, example.x.dtype, -1, 1)
        else:
            direction = jax.random.normal(example.key, example.x.shape, example.x.dtype)
        length = norms.norm(direction, self.norm)
        return jnp.clip(example.x + self.epsilon * direction / jnp.where(length > 0, length, 1), 0, 1)

    def _project(self, x: Float[Array, "h w c"], centre: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        return jnp.clip(norms.clip_to_ball(x, centre, self.epsilon, self.norm), 0, 1)
