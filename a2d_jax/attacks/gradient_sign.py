"""FGSM of Foolbox 1 ("GradientSign"): a search along the sign of the gradient for the shortest step that succeeds.

The direction is computed once, at the input; lengths grow until the image is misclassified:

    x_i = clip_[0,1](x + max * i / n * sign(grad CE(x, label))),   i = 1 ... n

If one of the first 20 lengths succeeds, or none at all, a second pass follows over the 20 equal parts of the last length tried. The result
is the shortest success. With a single length (`lengths=1`) the result is the shortest multiple of a 20th of this length, not FGSM at this
length. The A2D code makes the training data of its detectors in this way.

Source: Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", arXiv:1412.6572; reference behaviour
Foolbox 1.8 `gradientsign.py`. Differs: every evaluation also computes a gradient, but only the first gradient is used and counted.
FGSM of one given length is `pgd.fgsm`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from a2d_jax.errors import require
from a2d_jax.losses import cross_entropy, misclassifies, view
from a2d_jax.types import Classifier, Example, Norm, Progress

REFINEMENT = 20  # lengths of the second pass; a hit after so many lengths of the first one is fine enough


class LineSearch(NamedTuple):
    """Which length is tried, in two passes over equal parts of the longest one; at first the input itself, of length 0."""

    tried: Int[Array, ""]  # lengths of this pass up to and with the present one
    longest: Float[Array, ""]  # last length of this pass
    refining: Bool[Array, ""]  # this is the second pass

    @classmethod
    def start(cls, longest: Float[Array, ""]) -> "LineSearch":
        return cls(jnp.zeros((), jnp.int32), longest, jnp.zeros((), bool))

    def length(self, lengths: int | Array) -> Float[Array, ""]:
        """The present one; exactly `longest` for the last of a pass of `lengths` (of `REFINEMENT` in the second pass)."""
        return self.longest * (self.tried.astype(self.longest.dtype) / self._count(lengths).astype(self.longest.dtype))

    def advance(self, success: Bool[Array, ""], lengths: int | Array) -> tuple["LineSearch", Bool[Array, ""]]:
        """The search after the present length succeeded or not, and whether it ends with it."""
        at_input = (self.tried == 0) & ~self.refining
        pass_ends = (success & ~at_input) | (self.tried >= self._count(lengths))
        ends = (success & (at_input | self.refining | (self.tried > REFINEMENT))) | (pass_ends & self.refining)
        following = LineSearch(
            tried=jnp.where(pass_ends, 0, self.tried) + 1,
            longest=jnp.where(pass_ends, self.length(lengths), self.longest),
            refining=self.refining | pass_ends,
        )
        return following, ends

    def _count(self, lengths: int | Array) -> Int[Array, ""]:
        return jnp.where(self.refining, REFINEMENT, lengths)


class GradientSignState(NamedTuple):
    """State of one example."""

    x_adv: Float[Array, "h w c"]  # the point the next step will judge; in the end the result
    direction: Float[Array, "h w c"]  # sign of the gradient at the input
    search: LineSearch
    hit: Float[Array, ""]  # shortest length known to succeed, 0 for none
    progress: Progress


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GradientSign:
    """Line search along the gradient's sign for the shortest untargeted success.

    Attributes:
      epsilon: longest step tried, pixel units.
      lengths: lengths of the first pass, equal parts of `epsilon`.
      max_steps: largest number of lengths in both passes. `lengths + 20` suffice; with fewer, an example whose search is cut is censored.
    """

    epsilon: float | Array = 1.0
    lengths: int | Array = 1000
    max_steps: int | Array = 1020

    def __post_init__(self) -> None:
        if isinstance(self.epsilon, int | float):
            require(self.epsilon >= 0, "epsilon >= 0", self.epsilon, "give it in pixel units, such as 0.3")
        if isinstance(self.lengths, int):
            require(self.lengths >= 1, "lengths >= 1", self.lengths, "give the number of lengths of the first pass")
        if isinstance(self.max_steps, int):
            require(self.max_steps >= 0, "max_steps >= 0", self.max_steps, "give the number of lengths to try")

    @property
    def norm(self) -> Norm:
        """The step's length is the largest change of a pixel."""
        return "linf"

    def init(self, example: Example) -> GradientSignState:
        search = LineSearch.start(jnp.asarray(self.epsilon, example.x.dtype))
        return GradientSignState(example.x, jnp.zeros_like(example.x), search, jnp.zeros((), example.x.dtype), Progress.start(example))

    def step(self, classifier: Classifier, example: Example, state: GradientSignState) -> GradientSignState:
        logits, gradient, slope = view(classifier, lambda z: cross_entropy(z, example.label), state.x_adv)
        success = state.progress.admit(misclassifies(logits, example.label))
        at_input = state.progress.iterations == 0
        direction = jnp.where(at_input, jnp.sign(gradient), state.direction)

        length = state.search.length(self.lengths)
        hit = jnp.where(success, length, state.hit)
        search, ends = state.search.advance(success, self.lengths)
        found = success | (state.hit > 0)
        # A search cut short keeps its hit, but its cost is censored.
        progress = state.progress.judge(
            found,
            self.max_steps,
            reached=ends & found,
            forward=1,
            backward=at_input.astype(jnp.int32),
            give_up=ends,
            goes_on=True,
            slope=jnp.where(at_input, slope, 0),
        )

        following = jnp.where(progress.done, jnp.where(found, hit, length), search.length(self.lengths))
        return GradientSignState(jnp.clip(example.x + following * direction, 0, 1), direction, search, hit, progress)

    def length(self) -> int:
        return int(self.max_steps) + 1
