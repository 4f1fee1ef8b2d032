"""LSA, the local search attack: find the few pixels that matter by crude probes, and change them. It uses output probabilities only.

A round probes at most 128 candidate pixels, each with an extreme value (all channels to 10 sign(x - 1/2) around mid-grey, out of bounds on
purpose). It moves the five pixels whose probes give the label the lowest probability: the distance from mid-grey is multiplied by 1.5 and
wrapped around at the bounds (black becomes 0.75, white 0.25). The candidates of the next round are the 11 x 11 windows around these pixels.
The cost is the number of rounds until the moved image is misclassified.

Source: Narodytska, Kasiviswanathan, "Simple black-box adversarial perturbations for deep networks", arXiv:1612.06299; reference
behaviour Foolbox 1.8 `localsearch.py`. Differs: randomness is keyed per example and round; wrapping is per channel and
deterministic as described above; an image of fewer than ten pixels starts from one candidate instead of none. One batch holds the probes
of a round and the test of the image that the round starts from; probes count as queries only if their round takes place.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Key

from a2d_jax.errors import require
from a2d_jax.losses import misclassifies
from a2d_jax.types import Classifier, Example, Norm, Progress

PROBES = 128  # candidates probed per round at most
START = 0.1  # share of all pixels that are candidates in the first round
PROBE = 10.0  # distance from mid-grey of a probed pixel
GROWTH = 1.5  # factor on the distance from mid-grey of a moved pixel
MOVED = 5  # pixels moved per round
REACH = 5  # of the windows around them


class LocalSearchState(NamedTuple):
    """State of one example."""

    x_adv: Float[Array, "h w c"]  # the point the next step will judge
    candidates: Bool[Array, "h w"]  # pixels from which the next round probes
    progress: Progress


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LocalSearch:
    """Untargeted local search, forward queries only.

    Attributes:
      max_steps: largest number of rounds; each needs up to 129 forward queries.
    """

    max_steps: int | Array = 150

    def __post_init__(self) -> None:
        if isinstance(self.max_steps, int):
            require(self.max_steps >= 0, "max_steps >= 0", self.max_steps, "give the number of rounds")

    @property
    def norm(self) -> Norm:
        """The number of scalars that differ."""
        return "l0"

    def init(self, example: Example) -> LocalSearchState:
        height, width, _ = example.x.shape
        some = max(1, min(int(START * height * width), PROBES))
        start, _ = jax.random.split(example.key)
        candidates = jax.random.permutation(start, height * width) < some
        return LocalSearchState(example.x, candidates.reshape(height, width), Progress.start(example))

    def step(self, classifier: Classifier, example: Example, state: LocalSearchState) -> LocalSearchState:
        _, rounds = jax.random.split(example.key)
        pixels, valid = _draw(jax.random.fold_in(rounds, state.progress.iterations), state.candidates)
        points = jnp.concatenate([state.x_adv[None], _probes(state.x_adv, pixels)])
        logits = jax.vmap(classifier)(points)

        progress = state.progress.judge(misclassifies(logits[0], example.label), self.max_steps, forward=1)
        probed = jnp.where(progress.done, 0, jnp.sum(valid, dtype=jnp.int32))
        progress = progress.query(forward=probed)

        mine = jnp.arange(logits.shape[1], dtype=jnp.int32) == example.label
        left = jnp.sum(jnp.where(mine, jax.nn.softmax(logits[1:]), 0), axis=1)  # probability of the label under each probe
        left = jnp.where(valid & jnp.isfinite(left), left, jnp.inf)
        best = jnp.argsort(left)[:MOVED]  # stable: ties go to the pixel drawn first
        chosen = _at(pixels[best], valid[best], state.candidates.shape)
        return LocalSearchState(
            x_adv=jnp.where(jnp.any(chosen, axis=0)[:, :, None] & ~progress.done, _pushed(state.x_adv), state.x_adv),
            candidates=jnp.where(progress.done, state.candidates, jnp.any(_windows(chosen), axis=0)),
            progress=progress,
        )

    def length(self) -> int:
        return int(self.max_steps) + 1


def _draw(key: Key[Array, ""], candidates: Bool[Array, "h w"]) -> tuple[Int[Array, " p"], Bool[Array, " p"]]:
    """At most 128 of the candidates in random order, as flat positions; false where there were fewer."""
    order = jax.random.permutation(key, candidates.size).astype(jnp.int32)
    among = jnp.ravel(candidates)[order]
    pixels = order[jnp.argsort(~among)[:PROBES]]  # stable: candidates first, in random order
    return pixels, jnp.ravel(candidates)[pixels]


def _probes(x: Float[Array, "h w c"], pixels: Int[Array, " p"]) -> Float[Array, "p h w c"]:
    here = _at(pixels, jnp.ones(pixels.shape, bool), x.shape[:2])
    return jnp.where(here[:, :, :, None], (PROBE * jnp.sign(x - 0.5) + 0.5)[None], x[None])


def _at(pixels: Int[Array, " p"], valid: Bool[Array, " p"], shape: tuple[int, ...]) -> Bool[Array, "p h w"]:
    """One map per pixel, true at that pixel if it is valid."""
    positions = jnp.arange(shape[0] * shape[1], dtype=jnp.int32)
    return (valid[:, None] & (pixels[:, None] == positions[None])).reshape(-1, *shape)


def _windows(chosen: Bool[Array, "p h w"]) -> Bool[Array, "p h w"]:
    """The square of side 11 around each pixel, inside the image."""

    def near(line: Bool[Array, "p n"]) -> Bool[Array, "p n"]:
        positions = jnp.arange(line.shape[1], dtype=jnp.int32)
        return jnp.any(line[:, :, None] & (jnp.abs(positions[:, None] - positions[None]) <= REACH)[None], axis=1)

    return near(jnp.any(chosen, axis=2))[:, :, None] & near(jnp.any(chosen, axis=1))[:, None, :]


def _pushed(x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Every scalar moved away from mid-grey, wrapped around at the bounds."""
    centred = GROWTH * (x - 0.5)
    return jnp.where(centred < -0.5, centred + 1, jnp.where(centred > 0.5, centred - 1, centred)) + 0.5
