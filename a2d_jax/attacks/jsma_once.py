"""JSMA that raises scalars, each at most once: the pair rule of CleverHans and the single-scalar rule of mutation testing.

Unlike `jsma.JSMA`, the attack only makes scalars (channels of pixels) brighter, by `theta`, and never changes one twice. With
target t, alpha_i = d f_t / dx_i and beta_i = sum_{k != t} d f_k / dx_i over the unchanged scalars that are below 1:

    pair     f = softmax probabilities; the two scalars with the largest -(alpha_p + alpha_q)(beta_p + beta_q)
             among pairs with alpha_p + alpha_q > 0 > beta_p + beta_q; scalar 0 alone if there is no such pair
    single   f = logits; the scalar with the largest max(alpha, 0) |min(beta, 0)|; scalar 0 if all are 0

Probabilities sum to 1, so beta = -alpha, and the best pair is the two largest alpha. The attack need not search over pairs or over all
classes, and memory grows in proportion to the image.

Source: Papernot et al., "The limitations of deep learning in adversarial settings", arXiv:1511.07528; reference behaviour
CleverHans 2 `attacks_tf.py` (pair) and the `jsma.py` of Wang et al., arXiv:1812.05793 (single). Differs: beta = -alpha is
exact (CleverHans sums float32 derivatives of all classes, which for confident networks is rounding noise); an evaluation needs one
backward pass (two for `single`) instead of one per class; targets are drawn from the example's key; `single` stays in
[0, 1], so that scalars at 1 are no candidates; an attack that cannot change its point any more gives up with the cost of a failure.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from a2d_jax.errors import require
from a2d_jax.losses import predicts, slope_of
from a2d_jax.types import STATIC, Classifier, Example, Norm, Progress

Rule = Literal["pair", "single"]


class JSMAOnceState(NamedTuple):
    """State of one example."""

    x_adv: Float[Array, "h w c"]  # the point the next step will judge
    touched: Bool[Array, "h w c"]  # scalars that were chosen
    target: Int[Array, ""]  # class to reach; -1 until the first look, which tells how many classes there are
    progress: Progress


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class JSMAOnce:
    """Saliency map attack that raises each scalar at most once, towards a class drawn from all but the label.

    Attributes:
      theta: change of a scalar, pixel units; a tuple gives it per channel (a network's own normalised units).
      max_steps: largest number of updates; the references take 0.1 n / 2 for pairs and 0.12 n for singles, with n scalars in the image.
      rule: `pair` or `single`.
      targeted: `label` is the class to reach rather than the class to leave.
    """

    theta: float | tuple[float, ...] | Array = 1.0
    max_steps: int | Array = 39
    rule: Rule = field(default="pair", metadata=STATIC)
    targeted: bool = field(default=False, metadata=STATIC)

    def __post_init__(self) -> None:
        if isinstance(self.theta, int | float):
            require(self.theta > 0, "theta > 0", self.theta, "give the change of a scalar in pixel units, such as 1.0")
        if isinstance(self.max_steps, int):
            require(self.max_steps >= 0, "max_steps >= 0", self.max_steps, "give a number of updates")
        require(self.rule in ("pair", "single"), "a rule among pair, single", self.rule, "pass one of them")

    @property
    def norm(self) -> Norm:
        """The number of scalars that differ."""
        return "l0"

    def init(self, example: Example) -> JSMAOnceState:
        return JSMAOnceState(example.x, jnp.zeros(example.x.shape, bool), jnp.full((), -1, jnp.int32), Progress.start(example))

    def step(self, classifier: Classifier, example: Example, state: JSMAOnceState) -> JSMAOnceState:
        logits, pull_back = jax.vjp(classifier.__call__, state.x_adv)
        target = jnp.where(state.target < 0, self._target(example, logits.shape[0]), state.target)
        seeds = self._seeds(logits, target)
        gradients = jax.vmap(lambda seed: pull_back(seed)[0])(seeds)
        theta = jnp.broadcast_to(jnp.asarray(self.theta, example.x.dtype), example.x.shape)
        effects = jnp.where(jnp.isfinite(gradients), gradients, 0) * theta[None]
        saliency = effects[0] if self.rule == "pair" else jnp.maximum(effects[0], 0) * jnp.abs(jnp.minimum(effects[1], 0))

        free = ~state.touched & (state.x_adv < 1)
        chosen, stuck = self._choose(jnp.ravel(jnp.where(free, saliency, -jnp.inf)))
        chosen = chosen.reshape(free.shape)
        raised = jnp.where(chosen, jnp.minimum(state.x_adv + theta, 1), state.x_adv)
        give_up = stuck & jnp.all(raised == state.x_adv)
        if self.rule == "pair":
            give_up |= jnp.sum(free, dtype=jnp.int32) < 2

        success, slope = predicts(logits, target), slope_of(logits, gradients)
        progress = state.progress.judge(success, self.max_steps, forward=1, backward=len(seeds), give_up=give_up, slope=slope)
        return JSMAOnceState(jnp.where(progress.done, state.x_adv, raised), state.touched | chosen, target, progress)

    def length(self) -> int:
        return int(self.max_steps) + 1

    def _target(self, example: Example, classes: int) -> Int[Array, ""]:
        if self.targeted:
            return example.label
        other = jax.random.randint(example.key, (), 0, classes - 1, jnp.int32)
        return jnp.where(other >= example.label, other + 1, other)

    def _seeds(self, logits: Float[Array, " k"], target: Int[Array, ""]) -> Float[Array, "r k"]:
        """What to pull back from the logits: up to a positive factor d p_t for pairs, d z_t and d sum_{k != t} z_k for singles.

        The factor p_t is left out: it changes no choice, and it is 0 in float32 where the network is confident.
        """
        mine = (jnp.arange(logits.shape[0], dtype=jnp.int32) == target).astype(logits.dtype)
        if self.rule == "pair":
            return (mine - jax.nn.softmax(logits))[None]
        return jnp.stack([mine, 1 - mine])

    def _choose(self, saliency: Float[Array, " n"]) -> tuple[Bool[Array, " n"], Bool[Array, ""]]:
        """The scalars to raise (ties: the first ones), and whether none was worth it, so that scalar 0 is raised instead."""
        index = jnp.arange(saliency.shape[0], dtype=jnp.int32)
        first = index == jnp.argmax(saliency)
        second = index == jnp.argmax(jnp.where(first, -jnp.inf, saliency)) if self.rule == "pair" else first
        best = jnp.sum(jnp.where(first, saliency, 0)) + jnp.sum(jnp.where(second, saliency, 0))
        stuck = ~(best > 0)
        return jnp.where(stuck, index == 0, first | second), stuck


def jsma_pairs(theta: float = 1.0, max_steps: int = 39, *, targeted: bool = False) -> JSMAOnce:
    """The pair rule, by default with the settings for 28 x 28 images (theta 1, gamma 0.1)."""
    return JSMAOnce(theta, max_steps, "pair", targeted)


def jsma_single(theta: float | tuple[float, ...] = 0.3081, max_steps: int = 94, *, targeted: bool = False) -> JSMAOnce:
    """The single-scalar rule, by default with the settings for MNIST (one normalised unit is 0.3081; gamma 0.12)."""
    return JSMAOnce(theta, max_steps, "single", targeted)
