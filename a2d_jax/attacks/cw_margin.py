"""The attack that the paper's second environment calls "C&W": Adam on the rival's logit alone, in tanh space of the normalised image.

Let u = (x - mean) / std be the normalised image that the network computes with. The attack judges the points

    T(w) = mean + std * tanh(u + w) / 2

starting at w = 0. While the label leads, Adam changes w to increase the largest logit except the label's. The last point is the result,
success or not. T(0) is already another image, with little contrast: results are meant to be stored stretched to the range of 8-bit images
(`a2d attack --stretch`), as their authors did.

Source: Wang et al., arXiv:1812.05793. Their code rebuilds the terms of Carlini and Wagner's loss (`carlini_wagner.py`) from plain numbers:
the squared distance and the label's own logit have no gradient, and the constant c is only a scale, which Adam ignores except for its
epsilon. So the attack minimises no distance, and neither c nor kappa is a setting here. Differs: the input itself is judged first, and ends
the attack if it is misclassified; points stay in [0, 1]; an attack ends when Adam's momentum has decayed and nothing would move any more,
at the same point as after all updates of the budget. The number of updates has no meaning, because the attack goes on after the success.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from a2d_jax.attacks.carlini_wagner import adam
from a2d_jax.errors import require
from a2d_jax.losses import margin, misclassifies, view
from a2d_jax.types import Classifier, Example, Norm, Progress

CONSTANT = 0.6  # c of the original


class CWMarginState(NamedTuple):
    """State of one example."""

    x_adv: Float[Array, "h w c"]  # the point the next step will judge
    shift: Float[Array, "h w c"]  # w
    first_moment: Float[Array, "h w c"]  # Adam's running mean of the gradient
    second_moment: Float[Array, "h w c"]  # and of its square
    progress: Progress


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CWMargin:
    """Untargeted ascent of the rival's logit.

    Attributes:
      mean: number that the network subtracts from pixels; a tuple has one number for each channel.
      std: number that it divides them by.
      step_size: learning rate of Adam, in tanh space.
      max_steps: largest number of points judged after the input.
    """

    mean: float | tuple[float, ...] | Array = 0.1307
    std: float | tuple[float, ...] | Array = 0.3081
    step_size: float | Array = 1e-3
    max_steps: int | Array = 10000

    def __post_init__(self) -> None:
        for name, value in (("std", self.std), ("step_size", self.step_size)):
            if isinstance(value, int | float):
                require(value > 0, f"{name} > 0", value, "give a positive number")
        if isinstance(self.max_steps, int):
            require(self.max_steps >= 0, "max_steps >= 0", self.max_steps, "give the number of updates")

    @property
    def norm(self) -> Norm:
        """The Euclidean distance, although nothing makes it small."""
        return "l2"

    @property
    def scheduled(self) -> bool:
        """Every update is made and counted."""
        return True

    def init(self, example: Example) -> CWMarginState:
        none = jnp.zeros_like(example.x)
        return CWMarginState(example.x, none, none, none, Progress.start(example))

    def step(self, classifier: Classifier, example: Example, state: CWMarginState) -> CWMarginState:
        mean, std = (jnp.broadcast_to(jnp.asarray(value, example.x.dtype), example.x.shape) for value in (self.mean, self.std))
        normalised = (example.x - mean) / std
        logits, gradient, slope = view(classifier, lambda z: _rival(z, example.label), state.x_adv)
        at_input = state.progress.iterations == 0

        by_w = std * (1 - jnp.tanh(normalised + state.shift) ** 2) / 2  # dT/dw
        descent = jnp.where(at_input | (margin(logits, example.label) < 0), 0, -CONSTANT * gradient * by_w)
        t = jnp.maximum(state.progress.iterations, 1)
        move, first_moment, second_moment = adam(descent, state.first_moment, state.second_moment, t, self.step_size, 1e-8)
        shift = state.shift - move

        success = misclassifies(logits, example.label)
        rests = jnp.all(descent == 0) & jnp.all(shift == state.shift)
        goes_on = ~at_input
        progress = state.progress.judge(
            success, self.max_steps, forward=1, backward=1, give_up=rests & goes_on, goes_on=goes_on, slope=slope
        )
        point = jnp.clip(mean + std * jnp.tanh(normalised + shift) / 2, 0, 1)
        return CWMarginState(jnp.where(progress.done, state.x_adv, point), shift, first_moment, second_moment, progress)

    def length(self) -> int:
        return int(self.max_steps) + 1


def _rival(logits: Float[Array, " k"], label: Array) -> Float[Array, ""]:
    """The largest logit but that of `label`."""
    return jnp.max(jnp.where(jnp.arange(logits.shape[-1], dtype=jnp.int32) == label, -jnp.inf, logits))
