"""Projected gradient attacks: FGSM, L2-FGSM, BIM, BIM2 and PGD are settings of one state machine.

Steps of fixed length in the norm's own steepest direction increase the loss, inside a ball around the input:

    x <- clip_[0,1]( project_epsilon( x + step_size * steepest(grad CE(x, label)) ) )

Every point is judged before the next update, so that the number of updates at success is the cost of the attack. With random
starts, the first update of each run is a jump to a random point of the ball around the input.

Source: Kurakin, Goodfellow, Bengio, "Adversarial examples in the physical world", arXiv:1607.02533 (BIM); Madry et al.,
arXiv:1706.06083 (PGD); reference behaviour Foolbox 1.8 `iterative_projected_gradient.py`. Differs: the start is judged too
(0 updates), the count is one larger than the released A2D code's 0-based index, a zero gradient ends in failure instead of
an assertion error, the iterate is float32, and there is a `crossing`, a cost without ties (`a2d_jax.attacks.path`; none with
random starts). The BIM of Feinman et al., arXiv:1703.00410, clips to the box before the ball, which gives the same point. Its "BIM-a"
is `bim`, except that `bim` leaves inputs that are already misclassified unchanged.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from a2d_jax import norms
from a2d_jax.attacks.path import Path
from a2d_jax.errors import require
from a2d_jax.losses import cross_entropy, margin, misclassifies, predicts, view
from a2d_jax.types import STATIC, Classifier, Example, Norm, Progress


class PGDState(NamedTuple):
    """State of one example."""

    x_adv: Float[Array, "h w c"]  # the point the next step will judge
    path: Path
    progress: Progress


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on the cross entropy, by default from the input and stopped at the first success.

    Attributes:
      epsilon: radius of the ball, in the units of `norm` (for `linf` and `rms`: pixel units, 8/255 = 0.031).
      step_size: length of one update, same units.
      max_steps: largest number of updates; `max_steps + 1` points are judged.
      norm: `linf`, `l2` or `rms` (root mean square, the L2 norm of Foolbox 1 and of the paper's BIM2).
      targeted: `label` is the class to reach rather than the class to leave.
      restart_every: updates of one run from a random start, the jump included; the next run follows while `max_steps` lasts.
        None starts once, from the input.
      early_stop: stop at the first success. False makes every update and judges the last point; its cost has no meaning.
    """

    epsilon: float | Array = 8 / 255
    step_size: float | Array = 2 / 255
    max_steps: int | Array = 40
    norm: Norm = field(default="linf", metadata=STATIC)
    targeted: bool = field(default=False, metadata=STATIC)
    restart_every: int | Array | None = None
    early_stop: bool = field(default=True, metadata=STATIC)

    def __post_init__(self) -> None:
        for name, value in (("epsilon", self.epsilon), ("step_size", self.step_size)):
            if isinstance(value, int | float):
                require(value >= 0, f"{name} >= 0", value, "give it in pixel units, such as 8/255")
        if isinstance(self.max_steps, int):
            require(self.max_steps >= 0, "max_steps >= 0", self.max_steps, "give the number of updates")
        require(self.norm in ("linf", "l2", "rms"), "a norm among linf, l2, rms", self.norm, "pass one of them")
        if isinstance(self.restart_every, int):
            require(self.restart_every >= 1, "restart_every >= 1", self.restart_every, "give the updates of one run, or None")

    @property
    def scheduled(self) -> bool:
        """Without an early stop every update is made and counted."""
        return not self.early_stop

    def init(self, example: Example) -> PGDState:
        return PGDState(example.x, Path.start(example), Progress.start(example))

    def step(self, classifier: Classifier, example: Example, state: PGDState) -> PGDState:
        logits, gradient, slope = view(classifier, lambda z: cross_entropy(z, example.label), state.x_adv)
        success = (predicts if self.targeted else misclassifies)(logits, example.label)
        towards = margin(logits, example.label) * (-1 if self.targeted else 1)
        walked = jnp.minimum(state.progress.iterations.astype(logits.dtype) * self.step_size, self.epsilon)
        path = state.path.reach(walked, towards, state.progress.admit(success))
        crossing = path.crossing if self.restart_every is None else None
        progress = state.progress.judge(
            success, self.max_steps, forward=1, backward=1, goes_on=not self.early_stop, crossing=crossing, slope=slope
        )
        ascent = norms.steepest(-gradient if self.targeted else gradient, self.norm)
        moved = norms.clip_to_ball(state.x_adv + self.step_size * ascent, example.x, self.epsilon, self.norm)
        if self.restart_every is not None:
            start = example.x + self.epsilon * _in_unit_ball(example, state.progress.iterations, self.norm)
            moved = jnp.where(state.progress.iterations % self.restart_every == 0, start, moved)
        moved = jnp.clip(moved, 0, 1)
        return PGDState(jnp.where(progress.done, state.x_adv, moved), path, progress)

    def length(self) -> int:
        return int(self.max_steps) + 1


def _in_unit_ball(example: Example, iterations: Int[Array, ""], kind: Norm) -> Float[Array, "h w c"]:
    """A point drawn uniformly from the unit ball of the norm, the same for the same example and number of updates."""
    key, x = jax.random.fold_in(example.key, iterations), example.x
    if kind == "linf":
        return jax.random.uniform(key, x.shape, x.dtype, -1, 1)
    direction, length = jax.random.split(key)
    sphere = norms.steepest(jax.random.normal(direction, x.shape, x.dtype), kind)
    return sphere * jax.random.uniform(length, (), x.dtype) ** (1 / x.size)


def fgsm(epsilon: float = 8 / 255, *, targeted: bool = False) -> PGD:
    """Fast gradient sign method: one update of length `epsilon`. Goodfellow et al., arXiv:1412.6572."""
    return PGD(epsilon=epsilon, step_size=epsilon, max_steps=1, norm="linf", targeted=targeted)


def l2_fgsm(epsilon: float = 0.016, *, norm: Norm = "rms", targeted: bool = False) -> PGD:
    """One update of length `epsilon` along the gradient itself; `norm="l2"` reads epsilon as a true L2 length."""
    return PGD(epsilon=epsilon, step_size=epsilon, max_steps=1, norm=norm, targeted=targeted)


def bim(epsilon: float = 0.3, step_size: float = 6e-4, max_steps: int = 500, *, targeted: bool = False) -> PGD:
    """Basic iterative method (Linf), by default with the settings of the MNIST defence."""
    return PGD(epsilon, step_size, max_steps, norm="linf", targeted=targeted)


def bim2(epsilon: float = 0.1, step_size: float = 2e-4, max_steps: int = 500, *, targeted: bool = False) -> PGD:
    """Basic iterative method in L2, radius and step as root mean squares, by default as in the MNIST defence."""
    return PGD(epsilon, step_size, max_steps, norm="rms", targeted=targeted)


def bim_b(epsilon: float = 0.3, step_size: float = 0.01, max_steps: int = 50, *, targeted: bool = False) -> PGD:
    """BIM that makes every update, so that it ends deep inside the wrong class ("BIM-b"); by default the settings of MNIST."""
    return PGD(epsilon, step_size, max_steps, norm="linf", targeted=targeted, early_stop=False)


def pgd(
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    max_steps: int = 40,
    restarts: int = 1,
    *,
    norm: Norm = "linf",
    targeted: bool = False,
) -> PGD:
    """PGD from random starts: up to `restarts` runs of a jump and `max_steps` gradient steps, until one succeeds.

    Jumps count as updates too, so that the budget of the attack is `restarts * (max_steps + 1)`.
    """
    require(max_steps >= 0, "max_steps >= 0", max_steps, "give the gradient steps of one run")
    require(restarts >= 1, "restarts >= 1", restarts, "give the number of runs from a random start")
    return PGD(epsilon, step_size, restarts * (max_steps + 1), norm, targeted, restart_every=max_steps + 1)
