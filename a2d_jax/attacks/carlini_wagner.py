"""The L2 attack of Carlini and Wagner: Adam in tanh space, and a search for the smallest constant that still succeeds.

Let w = artanh(0.999999 (2x - 1)) and T(w) = (tanh w + 1) / 2. T keeps every pixel in bounds. Adam changes a perturbation p to minimise

    ||T(w + p) - T(w)||_2^2 + c max(0, margin + confidence),    margin = z_label - max of the other logits (targeted: its negative)

for one constant c after another. c becomes ten times larger after each failure until one succeeds; then the interval is halved. The loss is
checked after every tenth of a constant's updates, and the constant is left early if the loss has not fallen by 0.01 %. The nearest
adversarial point of all is kept.

Two forms differ in two rules only:

    form        a point is accepted if          Adam divides by
    `foolbox`   its class is right              sqrt(v_hat) + 1e-7
    `carlini`   and the confidence is reached   sqrt(v_hat) + 1e-8 / sqrt(1 - 0.999^t)

Source: Carlini, Wagner, "Towards evaluating the robustness of neural networks", arXiv:1608.04644; reference behaviour Foolbox
1.8 `carlini_wagner.py` and the authors' `l2_attack.py`. Differs: the first point judged is the input itself, bit for bit
(the references: its reconstruction, 1e-6 away), and an input that is adversarial ends the attack; the loss is checked for each example
(the authors: the sum over the batch, so that results depend on neighbours) and the point at which a constant is left is
judged too; arithmetic has the type of the input.

The state machine: every `step` judges one point; then it makes an update of Adam, or starts the next constant at p = 0. Both count as one
iteration, so that the iterations of a first success are the number of points judged before it.
"""

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from a2d_jax.errors import require
from a2d_jax.losses import margin, misclassifies, predicts, view
from a2d_jax.types import STATIC, Classifier, Example, Norm, Progress

SHRINK = 0.999999  # keeps artanh finite at pixels 0 and 1
BETA1, BETA2 = 0.9, 0.999
CHECKS = 10  # of the loss, per constant
LEAST_PROGRESS = 0.9999  # a check passes if the loss is at most this share of that at the check before
LARGEST = 1e10  # constant of a last repetition where none succeeded


class CarliniWagnerState(NamedTuple):
    """State of one example."""

    x_adv: Float[Array, "h w c"]  # the nearest adversarial point so far; without one, the last point judged
    nearest: Float[Array, ""]  # its squared distance from the input; infinite without an adversarial point
    shift: Float[Array, "h w c"]  # p, in tanh space: the next step judges T(w + p)
    first_moment: Float[Array, "h w c"]  # Adam's running mean of the gradient
    second_moment: Float[Array, "h w c"]  # and of its square
    updates: Int[Array, ""]  # of Adam with this constant
    checked: Float[Array, ""]  # loss at the last check
    hit: Bool[Array, ""]  # this constant has led to an adversarial point
    constant: Float[Array, ""]  # c
    lower: Float[Array, ""]  # the largest constant known to fail
    upper: Float[Array, ""]  # the smallest constant known to succeed
    tried: Int[Array, ""]  # constants left behind
    progress: Progress


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CarliniWagner:
    """Minimum-norm attack in L2; the defaults are those of Foolbox 1.8.

    The setting of the paper's Table 4 and Figures 7 to 13 is `form="carlini"`, `targeted=True`, `constants=4`,
    `steps_per_constant=10000`, `max_steps=40000`, `step_size=0.01`, `first_constant=1.0` and a `confidence` from 0 to 20.

    Attributes:
      max_steps: largest number of points judged after the first, over all constants.
      steps_per_constant: largest number of points judged before the next constant is tried.
      constants: number of constants tried; from 10 on, the last one repeats the smallest that succeeded.
      first_constant: first weight of the margin against the squared distance.
      step_size: learning rate of Adam, in tanh space.
      confidence: how far the wrong class should lead, in logits; `form` decides whether it must.
      form: `foolbox` or `carlini`, see the module. Studies of `confidence` need `carlini`.
      targeted: `label` is the class to reach rather than the class to leave.
      minimise: go on after the first success and keep the nearest point. Use False as defence: the first success then ends the attack.
    """

    max_steps: int | Array = 5000
    steps_per_constant: int | Array = 1000
    constants: int | Array = 5
    first_constant: float | Array = 0.01
    step_size: float | Array = 0.005
    confidence: float | Array = 0.0
    form: Literal["foolbox", "carlini"] = field(default="foolbox", metadata=STATIC)
    targeted: bool = field(default=False, metadata=STATIC)
    minimise: bool = field(default=True, metadata=STATIC)

    def __post_init__(self) -> None:
        if isinstance(self.max_steps, int):
            require(self.max_steps >= 0, "max_steps >= 0", self.max_steps, "give the number of updates over all constants")
        for name, value in (("steps_per_constant", self.steps_per_constant), ("constants", self.constants)):
            if isinstance(value, int):
                require(value >= 1, f"{name} >= 1", value, "give a positive number")
        for name, value in (("first_constant", self.first_constant), ("step_size", self.step_size)):
            if isinstance(value, int | float):
                require(value > 0, f"{name} > 0", value, "give a positive number, such as 0.01")
        if isinstance(self.confidence, int | float):
            require(self.confidence >= 0, "confidence >= 0", self.confidence, "give a lead in logits, 0 for none")
        require(self.form in ("foolbox", "carlini"), "a form among foolbox, carlini", self.form, "pass one of them")

    @property
    def norm(self) -> Norm:
        return "l2"

    @property
    def scheduled(self) -> bool:
        """A search for the nearest counts every update that it makes."""
        return self.minimise

    def init(self, example: Example) -> CarliniWagnerState:
        none, zero, infinite = jnp.zeros_like(example.x), jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, example.x.dtype)
        return CarliniWagnerState(
            x_adv=example.x,
            nearest=infinite,
            shift=none,
            first_moment=none,
            second_moment=none,
            updates=zero,
            checked=infinite,
            hit=jnp.zeros((), bool),
            constant=jnp.asarray(self.first_constant, example.x.dtype),
            lower=jnp.zeros((), example.x.dtype),
            upper=infinite,
            tried=zero,
            progress=Progress.start(example),
        )

    def step(self, classifier: Classifier, example: Example, state: CarliniWagnerState) -> CarliniWagnerState:
        first = state.progress.iterations == 0
        tanh = jnp.arctanh(SHRINK * (2 * example.x - 1))
        shifted = _pixels(tanh + state.shift)
        delta = shifted - _pixels(tanh)
        point = jnp.where(first, example.x, shifted)
        logits, gradient, slope = view(classifier, lambda z: self._shortfall(z, example.label), point)

        accepted = state.progress.admit(self._accepts(logits, example.label))
        square = jnp.sum((point - example.x) ** 2)
        nearer = accepted & (square < state.nearest)
        success = state.progress.success | accepted

        loss = jnp.sum(delta**2) + state.constant * self._shortfall(logits, example.label)
        by_w = 2 * shifted * (1 - shifted)  # dT/dw
        state = self._update(state, (2 * delta + state.constant * gradient) * by_w)
        left, state = self._leave(state, loss, accepted)

        exhausted = left & (state.tried >= self.constants)
        goes_on = ~first & self.minimise
        return state._replace(
            x_adv=jnp.where(nearer | ~success, point, state.x_adv),
            nearest=jnp.where(nearer, square, state.nearest),
            progress=state.progress.judge(success, self.max_steps, forward=1, backward=1, give_up=exhausted, goes_on=goes_on, slope=slope),
        )

    def length(self) -> int:
        return min(int(self.max_steps) + 1, int(self.constants) * int(self.steps_per_constant))

    def _shortfall(self, logits: Float[Array, " k"], label: Int[Array, ""]) -> Float[Array, ""]:
        """How much the margin lacks, with the confidence: 0 once nothing is left to be gained."""
        lead = margin(logits, label)
        lack = (-lead if self.targeted else lead) + self.confidence
        return jnp.where(lack > 0, lack, 0)

    def _accepts(self, logits: Float[Array, " k"], label: Int[Array, ""]) -> Bool[Array, ""]:
        if self.form == "carlini":
            handicap = -self.confidence if self.targeted else self.confidence
            logits = logits + jnp.where(jnp.arange(logits.shape[-1], dtype=jnp.int32) == label, handicap, 0)
        return (predicts if self.targeted else misclassifies)(logits, label)

    def _update(self, state: CarliniWagnerState, gradient: Float[Array, "h w c"]) -> CarliniWagnerState:
        """One update of Adam."""
        t = state.updates + 1
        epsilon = 1e-7 if self.form == "foolbox" else 1e-8 / jnp.sqrt(_unbias(BETA2, t, gradient.dtype))
        move, first_moment, second_moment = adam(gradient, state.first_moment, state.second_moment, t, self.step_size, epsilon)
        return state._replace(shift=state.shift - move, first_moment=first_moment, second_moment=second_moment, updates=t)

    def _leave(self, state: CarliniWagnerState, loss: Array, accepted: Array) -> tuple[Bool[Array, ""], CarliniWagnerState]:
        """Whether this constant is left after the point just judged, and the state with the next one if so."""
        hit = state.hit | accepted
        checks = (state.updates - 1) % (-(-self.steps_per_constant // CHECKS)) == 0
        stalled = checks & ~(loss <= LEAST_PROGRESS * state.checked)
        left = stalled | (state.updates >= self.steps_per_constant)

        lower, upper = jnp.where(hit, state.lower, state.constant), jnp.where(hit, state.constant, state.upper)
        searched = jnp.where(jnp.isinf(upper), 10 * state.constant, (lower + upper) / 2)
        tried = state.tried + 1
        repeats = (tried + 1 == self.constants) & (tried + 1 >= 10)
        following = state._replace(
            shift=jnp.zeros_like(state.shift),
            first_moment=jnp.zeros_like(state.shift),
            second_moment=jnp.zeros_like(state.shift),
            updates=jnp.zeros_like(tried),
            checked=jnp.full_like(loss, jnp.inf),
            hit=jnp.zeros_like(hit),
            constant=jnp.where(repeats, jnp.minimum(upper, LARGEST), searched),
            lower=lower,
            upper=upper,
            tried=tried,
        )
        staying = state._replace(hit=hit, checked=jnp.where(checks, loss, state.checked))
        return left, jax.tree.map(lambda new, old: jnp.where(left, new, old), following, staying)


def adam(
    gradient: Float[Array, "h w c"],
    first_moment: Float[Array, "h w c"],
    second_moment: Float[Array, "h w c"],
    t: Int[Array, ""],
    step_size: float | Array,
    epsilon: float | Array,
) -> tuple[Float[Array, "h w c"], Float[Array, "h w c"], Float[Array, "h w c"]]:
    """What Adam's update `t` (from 1) subtracts, and its two moments after it; derivatives are finite everywhere."""
    first_moment = BETA1 * first_moment + (1 - BETA1) * gradient
    second_moment = BETA2 * second_moment + (1 - BETA2) * gradient**2
    moves = second_moment > 0  # a root of zero has no derivative
    deviation = jnp.where(moves, jnp.sqrt(jnp.where(moves, second_moment, 1) / _unbias(BETA2, t, gradient.dtype)), 0)
    return step_size * (first_moment / _unbias(BETA1, t, gradient.dtype)) / (deviation + epsilon), first_moment, second_moment


def _unbias(beta: float, t: Int[Array, ""], dtype: jnp.dtype) -> Array:
    """1 - beta^t, exact also where it is small."""
    return -jnp.expm1(t.astype(dtype) * math.log(beta))


def _pixels(w: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """T: from tanh space to [0, 1]."""
    return (jnp.tanh(w) + 1) / 2
