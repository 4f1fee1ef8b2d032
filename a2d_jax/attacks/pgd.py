"""Projected gradient attacks: FGSM, L2-FGSM, BIM, BIM2 and PGD are settings of one state machine.

Steps of fixed length in the norm's own steepest direction increase the loss, inside a ball around the input:

    x <- clip_[0,1]( project_epsilon( x + step_size * steepest(grad loss(x, label)) ) )

Every point is judged before the next update, so that the number of updates at success is the cost of the attack. With random
starts, the first update of each run is a jump to a random point of the ball around the input. With `Example.start` the first run begins at
this point, projected onto the ball and [0, 1]: the way there is no update, a start that is a success costs 0, and there is no crossing.

Source: Kurakin, Goodfellow, Bengio, "Adversarial examples in the physical world", arXiv:1607.02533 (BIM); Madry et al.,
arXiv:1706.06083 (PGD); reference behaviour Foolbox 1.8 `iterative_projected_gradient.py`. Differs: the start is judged too
(0 updates), the count is one larger than the released A2D code's 0-based index, a zero gradient ends in failure instead of
an assertion error, the iterate is float32, and there is a `crossing`, a cost without ties (`a2d_jax.attacks.path`; none with
random starts). The BIM of Feinman et al., arXiv:1703.00410, clips to the box before the ball, which gives the same point. Its "BIM-a"
is `bim`, except that `bim` leaves inputs that are already misclassified unchanged.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from a2d_jax import norms
from a2d_jax.attacks.path import Path
from a2d_jax.errors import require
from a2d_jax.losses import Loss, View, loss_function, margin, misclassifies, predicts, view
from a2d_jax.types import LATER, STATIC, Classifier, Example, Norm, Progress


class Best(NamedTuple):
    """The best point so far: a success before any failure, then the one that the loss puts farther on."""

    x: Float[Array, "h w c"]
    success: Bool[Array, ""]
    gain: Float[Array, ""]  # the loss, with the other sign for a targeted attack

    def better(self, other: "Best") -> "Best":
        """`other` where it is better, else this one."""
        wins = (other.success & ~self.success) | ((other.success == self.success) & (other.gain > self.gain))
        return jax.tree.map(lambda old, new: jnp.where(wins, new, old), self, other)


class PGDState(NamedTuple):
    """State of one example."""

    x_adv: Float[Array, "h w c"]  # the point the next step will judge; in the end the last one, or the best
    path: Path
    progress: Progress
    best: Best | None = None  # only with `keep_best`


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on a loss, by default the cross entropy, from the input and stopped at the first success.

    Attributes:
      epsilon: radius of the ball, in the units of `norm` (for `linf` and `rms`: pixel units, 8/255 = 0.031).
      step_size: length of one update, same units.
      max_steps: largest number of updates; `max_steps + 1` points are judged.
      norm: `linf`, `l2` or `rms` (root mean square, the L2 norm of Foolbox 1 and of the paper's BIM2).
      targeted: `label` is the class to reach rather than the class to leave.
      restart_every: updates of one run from a random start, the jump included; the next run follows while `max_steps` lasts.
        None starts once, from the input.
      early_stop: stop at the first success. False makes every update and judges the last point; its cost has no meaning. `drivers.unroll`
        then observes the path beyond the first success too.
      loss: `ce`, `margin`, `dlr`, or a function `(logits, label) -> scalar`, see `a2d_jax.losses`. A targeted attack lowers it.
      last_step: length of the last update of a run, to which lengths go from `step_size` along half a cosine; None keeps `step_size`.
      keep_best: return the best point instead of the last one: the success of the largest loss, without a success the point of the largest
        loss (of a targeted attack the smallest).
    """

    takes_start: ClassVar[bool] = True

    epsilon: float | Array = 8 / 255
    step_size: float | Array = 2 / 255
    max_steps: int | Array = 40
    norm: Norm = field(default="linf", metadata=STATIC)
    targeted: bool = field(default=False, metadata=STATIC)
    restart_every: int | Array | None = None
    early_stop: bool = field(default=True, metadata=STATIC)
    loss: Loss = field(default="ce", metadata=STATIC | LATER)
    last_step: float | Array | None = field(default=None, metadata=LATER)
    keep_best: bool = field(default=False, metadata=STATIC | LATER)

    def __post_init__(self) -> None:
        for name, value in (("epsilon", self.epsilon), ("step_size", self.step_size), ("last_step", self.last_step)):
            if isinstance(value, int | float):
                require(value >= 0, f"{name} >= 0", value, "give it in pixel units, such as 8/255")
        if isinstance(self.max_steps, int):
            require(self.max_steps >= 0, "max_steps >= 0", self.max_steps, "give the number of updates")
        require(self.norm in ("linf", "l2", "rms"), "a norm among linf, l2, rms", self.norm, "pass one of them")
        if isinstance(self.restart_every, int):
            require(self.restart_every >= 1, "restart_every >= 1", self.restart_every, "give the updates of one run, or None")
        loss_function(self.loss)

    @property
    def scheduled(self) -> bool:
        """Without an early stop every update is made and counted; with a last step, lengths hang on the number of updates."""
        return not self.early_stop or self.last_step is not None

    def init(self, example: Example) -> PGDState:
        start = None if example.start is None else self._project(example.start, example.x)
        x = example.x if start is None else start
        best = Best(x, jnp.zeros((), bool), jnp.full((), -jnp.inf, x.dtype)) if self.keep_best else None
        return PGDState(x, Path.start(example), Progress.start(example, start), best)

    def step(self, classifier: Classifier, example: Example, state: PGDState) -> PGDState:
        return self.move(example, state, self.look(classifier, example, state))

    def look(self, classifier: Classifier, example: Example, state: PGDState) -> View:
        """Evaluate the current point."""
        return view(classifier, lambda z: loss_function(self.loss)(z, example.label), state.x_adv)

    def move(self, example: Example, state: PGDState, seen: View, value: Float[Array, ""] | None = None) -> PGDState:
        """Judge the current point, and move unless that ends the attack. A `value` ranks points for `keep_best` in place of the loss."""
        logits, gradient, slope = seen
        success = (predicts if self.targeted else misclassifies)(logits, example.label)
        sign = -1 if self.targeted else 1
        path = state.path.reach(self._walked(state), margin(logits, example.label) * sign, state.progress.admit(success))
        crossing = path.crossing if self.restart_every is None and example.start is None else None
        best, judged = state.best, success
        if best is not None:
            gain = (loss_function(self.loss)(logits, example.label) if value is None else value) * sign
            best = best.better(Best(state.x_adv, state.progress.admit(success), gain.astype(best.gain.dtype)))
            judged = best.success
        progress = state.progress.judge(
            judged, self.max_steps, forward=1, backward=1, goes_on=not self.early_stop, crossing=crossing, slope=slope
        )
        ascent = norms.steepest(-gradient if self.targeted else gradient, self.norm)
        moved = self._project(state.x_adv + self._length(state, state.progress.iterations) * ascent, example.x)
        if self.restart_every is not None:
            start = example.x + self.epsilon * _in_unit_ball(example, state.progress.iterations, self.norm)
            begins = state.progress.iterations % self.restart_every == 0
            if example.start is not None:  # where the first run is already
                begins = begins & (state.progress.iterations > 0)
            moved = jnp.where(begins, jnp.clip(start, 0, 1), moved)
        return PGDState(jnp.where(progress.done, state.x_adv if best is None else best.x, moved), path, progress, best)

    def length(self) -> int:
        return int(self.max_steps) + 1

    def _walked(self, state: PGDState) -> Float[Array, ""]:
        """Radius of a ball around the input that holds the path so far."""
        made, dtype = state.progress.iterations, state.path.radius.dtype
        if self.last_step is None:
            return jnp.minimum(made.astype(dtype) * self.step_size, self.epsilon)
        last = jnp.where(made > 0, self._length(state, made - 1), 0)
        return jnp.minimum(state.path.radius + last, self.epsilon)

    def _length(self, state: PGDState, made: Int[Array, ""]) -> float | Array:
        """Length of the update that follows `made` others."""
        if self.last_step is None:
            return self.step_size
        dtype = state.path.radius.dtype
        run = jnp.maximum(jnp.asarray(self.max_steps if self.restart_every is None else self.restart_every, jnp.int32), 2)
        share = (made % run).astype(dtype) / (run - 1).astype(dtype)
        return self.last_step + (self.step_size - self.last_step) * (1 + jnp.cos(jnp.pi * share)) / 2

    def _project(self, x: Float[Array, "h w c"], centre: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        return jnp.clip(norms.clip_to_ball(x, centre, self.epsilon, self.norm), 0, 1)


def _in_unit_ball(example: Example, iterations: Int[Array, ""], kind: Norm) -> Float[Array, "h w c"]:
    """A point drawn uniformly from the unit ball of the norm, the same for the same example and number of updates."""
    key, x = jax.random.fold_in(example.key, iterations), example.x
    if kind == "linf":
        return jax.random.uniform(key, x.shape, x.dtype, -1, 1)
    direction, length = jax.random.split(key)
    sphere = norms.steepest(jax.random.normal(direction, x.shape, x.dtype), kind)
    return sphere * jax.random.uniform(length, (), x.dtype) ** (1 / x.size)


def fgsm(epsilon: float = 8 / 255, *, targeted: bool = False, loss: Loss = "ce") -> PGD:
    """Fast gradient sign method: one update of length `epsilon`. Goodfellow et al., arXiv:1412.6572."""
    return PGD(epsilon=epsilon, step_size=epsilon, max_steps=1, norm="linf", targeted=targeted, loss=loss)


def l2_fgsm(epsilon: float = 0.016, *, norm: Norm = "rms", targeted: bool = False, loss: Loss = "ce") -> PGD:
    """One update of length `epsilon` along the gradient itself; `norm="l2"` reads epsilon as a true L2 length."""
    return PGD(epsilon=epsilon, step_size=epsilon, max_steps=1, norm=norm, targeted=targeted, loss=loss)


def bim(epsilon: float = 0.3, step_size: float = 6e-4, max_steps: int = 500, *, targeted: bool = False, loss: Loss = "ce") -> PGD:
    """Basic iterative method (Linf), by default with the settings of the MNIST defence."""
    return PGD(epsilon, step_size, max_steps, norm="linf", targeted=targeted, loss=loss)


def bim2(epsilon: float = 0.1, step_size: float = 2e-4, max_steps: int = 500, *, targeted: bool = False, loss: Loss = "ce") -> PGD:
    """Basic iterative method in L2, radius and step as root mean squares, by default as in the MNIST defence."""
    return PGD(epsilon, step_size, max_steps, norm="rms", targeted=targeted, loss=loss)


def bim_b(
    epsilon: float = 0.3,
    step_size: float = 0.01,
    max_steps: int = 50,
    *,
    targeted: bool = False,
    loss: Loss = "ce",
    last_step: float | None = None,
    keep_best: bool = False,
) -> PGD:
    """BIM that makes every update, so that it ends deep inside the wrong class ("BIM-b"); by default the settings of MNIST."""
    own: Any = {"targeted": targeted, "loss": loss, "last_step": last_step, "keep_best": keep_best}
    return PGD(epsilon, step_size, max_steps, norm="linf", early_stop=False, **own)


def pgd(
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    max_steps: int = 40,
    restarts: int = 1,
    *,
    norm: Norm = "linf",
    targeted: bool = False,
    loss: Loss = "ce",
    last_step: float | None = None,
    early_stop: bool = True,
    keep_best: bool = False,
) -> PGD:
    """PGD from random starts: up to `restarts` runs of a jump and `max_steps` gradient steps, until one succeeds.

    Jumps count as updates too, so that the budget of the attack is `restarts * (max_steps + 1)`.
    """
    require(max_steps >= 0, "max_steps >= 0", max_steps, "give the gradient steps of one run")
    require(restarts >= 1, "restarts >= 1", restarts, "give the number of runs from a random start")
    own: Any = {"early_stop": early_stop, "loss": loss, "last_step": last_step, "keep_best": keep_best}
    return PGD(epsilon, step_size, restarts * (max_steps + 1), norm, targeted, restart_every=max_steps + 1, **own)
