"""JSMA, the Jacobian saliency map attack, in the one-scalar "fast" form of Foolbox 1 that the A2D defence uses.

Each update moves one scalar (a channel of a pixel) by `theta`: the scalar that lowers the cross entropy of the target class most. A scalar
is retired when it reaches a bound or was moved `max_changes` times:

    a = mask * grad CE_target(x);  j = argmax a (first in h, w, c order);  x_j <- x_j - theta * sign(a_j)

The target is the second best class at the clean input ("target-2"), so the first evaluation decides it.

Source: Papernot et al., "The limitations of deep learning in adversarial settings", arXiv:1511.07528; reference behaviour Foolbox 1.8
`saliency.py` (`fast=True`). Kept: a scalar that is already 0 is "lowered" once and retired at the cost of one update. Differs: if the best
masked gradient is exactly 0, the attack gives up at once with the cost of a failure (the reference idles to the end of its budget); memory
grows in proportion to the image.

The reference keeps iterates in float64. There float32(0.2) - 0.1 - 0.1 is 3e-9, not 0, and the scalar is not retired. To decide in the same
way in float32, an iterate is not accumulated but rebuilt as `x + moves * theta`. theta is split into a coarse part, exact under small
multiples, and a remainder; therefore it is a Python number (static), not a float32 argument. Only an exact 0.5 is decided differently:
rounding leaves the reference 3e-17 above 0 after five updates; here it is 0 and retired.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from a2d_jax.errors import require
from a2d_jax.losses import cross_entropy, prediction, predicts, second_best, view
from a2d_jax.types import STATIC, Classifier, Example, Norm, Progress


class JSMAState(NamedTuple):
    """State of one example."""

    x_adv: Float[Array, "h w c"]  # the point the next step will judge
    moves: Int[Array, "h w c"]  # signed number of moves of each scalar, in steps of theta
    changes: Int[Array, "h w c"]  # how often each scalar was moved, either way
    target: Int[Array, ""]  # class to reach; -1 until the first look
    progress: Progress


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class JSMA:
    """Saliency map attack towards the second best class, one scalar per update.

    Attributes:
      theta: change of a scalar per update, pixel units.
      max_steps: largest number of updates. Counts of the released A2D code correspond to 1999 (a failure costs 2000).
      max_changes: largest number of updates of one scalar.
    """

    theta: float = field(default=0.1, metadata=STATIC)
    max_steps: int | Array = 1999
    max_changes: int | Array = 7

    def __post_init__(self) -> None:
        require(self.theta > 0, "theta > 0", self.theta, "give the change per update in pixel units, such as 0.1")
        for name, value in (("max_steps", self.max_steps), ("max_changes", self.max_changes)):
            if isinstance(value, int):
                require(value >= 0, f"{name} >= 0", value, "give a number of updates")

    @property
    def norm(self) -> Norm:
        """The number of scalars that differ."""
        return "l0"

    def init(self, example: Example) -> JSMAState:
        none = jnp.zeros(example.x.shape, jnp.int32)
        return JSMAState(example.x, none, none, jnp.full((), -1, jnp.int32), Progress.start(example))

    def step(self, classifier: Classifier, example: Example, state: JSMAState) -> JSMAState:
        def target(logits: Array) -> Array:
            best = jnp.where(state.progress.fresh, example.label, prediction(logits))
            return jnp.where(state.target < 0, second_best(logits, best), state.target)

        logits, gradient, slope = view(classifier, lambda z: cross_entropy(z, target(z)), state.x_adv)
        change = choose(state.x_adv, state.changes, gradient, self.max_changes)
        success = predicts(logits, target(logits))
        stuck = ~jnp.any(change != 0)
        progress = state.progress.judge(success, self.max_steps, forward=1, backward=1, give_up=stuck, slope=slope)

        change = jnp.where(progress.done, 0, change)
        moves = state.moves + change
        return JSMAState(
            x_adv=jnp.where(change != 0, moved(example.x, moves, self.theta), state.x_adv),
            moves=moves,
            changes=state.changes + jnp.abs(change),
            target=target(logits),
            progress=progress,
        )

    def length(self) -> int:
        return int(self.max_steps) + 1


def choose(
    x_adv: Float[Array, "h w c"], changes: Int[Array, "h w c"], gradient: Float[Array, "h w c"], max_changes: int | Array
) -> Int[Array, "h w c"]:
    """The next move, in steps of theta: 1 or -1 at one scalar, 0 at all others; 0 everywhere at the dead end."""
    unretired = (changes == 0) | (changes < max_changes) & (x_adv > 0) & (x_adv < 1)
    saliency = jnp.where(unretired, gradient, 0)
    best = jnp.argmax(saliency)  # ties: the first in h, w, c order
    downhill = jnp.sign(jnp.ravel(saliency)[best]).astype(jnp.int32)
    return jnp.where((jnp.arange(x_adv.size) == best).reshape(x_adv.shape), -downhill, 0)


def moved(x: Float[Array, "h w c"], moves: Int[Array, "h w c"], theta: float) -> Float[Array, "h w c"]:
    """`clip(x + moves * theta)` to about twice the precision of `x`: near 0 the first sum is exact.

    A scalar that clipping returns to a bound stays there for good, because it is retired at that bound.
    """
    coarse = round(theta * 1024) / 1024  # a multiple of 2^-10: its small multiples are exact in float32
    count = moves.astype(x.dtype)
    return jnp.clip((x + count * coarse) + count * (theta - coarse), 0, 1)
