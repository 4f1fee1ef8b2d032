"""The boundary attack (DBA): a walk along the decision boundary towards the input that uses decisions only.

The walk starts at an adversarial point. A step tries at most 25 candidates: a random move on the sphere around the input (relative length
`spherical_step`), followed by a move towards the input (`source_step`). It takes the first candidate that is still adversarial. Both
lengths adapt to how often such candidates succeed. The cost is the number of steps until the mean squared distance from the input falls
below `mse_threshold`.

Source: Brendel, Rauber, Bethge, "Decision-based adversarial attacks", arXiv:1712.04248; reference behaviour Foolbox 1.8
`boundary_attack.py` with batch size 1, which is not tuned. Differs: randomness is keyed per example and step, so that a run can be repeated
(the reference draws from four free-running threads); arithmetic has the type of the input, float32 (the reference: float64); the 25 trials
of a step are evaluated as one batch, and trials after the taken one count neither as queries nor in the statistics.

The state machine: every `step` evaluates 25 points in one model call, in every phase of the example.

    DRAW   the input itself, then the start of the example if it has one, then uniform noise images, until one is misclassified
    BLEND  (1 - e) x + e drawn for e = 0.001, 0.002, ..., 1 until one is misclassified
    WALK   25 candidates of a step that gathers no statistics
    PROBE  25 points on the sphere, first half of a step that gathers statistics
    MOVE   the 25 candidates that belong to them, second half
"""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from a2d_jax.errors import require
from a2d_jax.losses import misclassifies
from a2d_jax.types import Classifier, Example, Norm, Progress

DRAW, BLEND, WALK, PROBE, MOVE = range(5)
TRIALS = 25  # directions per step; start points are tested in the same batches
DRAWS = 1000  # noise images tried for a start
BLENDS = 1000  # blends of input and noise tried for a start
INITIAL_STEP = 0.01  # of both step lengths, also after a reset
ADAPTATION = 1.5
PATIENCE = 100  # converged steps in a row before the attack ends
INCONSISTENCIES = 1000  # candidates that did not come closer before the attack ends
SPHERICAL_WINDOW, SOURCE_WINDOW = 100, 30


class Window(NamedTuple):
    """The last outcomes of a test, newest at the end; only the last `filled` entries are filled."""

    outcomes: Bool[Array, " w"]
    filled: Int[Array, ""]

    @classmethod
    def empty(cls, length: int) -> "Window":
        return cls(jnp.zeros(length, bool), jnp.zeros((), jnp.int32))

    def push(self, outcomes: Bool[Array, " n"], keep: Bool[Array, " n"]) -> "Window":
        """Append those `outcomes` that are kept, in order; the oldest fall out."""
        length, pushed = self.outcomes.shape[0], jnp.sum(keep, dtype=jnp.int32)
        order = jnp.argsort(~keep)  # stable: kept ones first, in order
        line = jnp.concatenate([self.outcomes, outcomes[order]])
        return Window(jax.lax.dynamic_slice(line, (pushed,), (length,)), jnp.minimum(self.filled + pushed, length))

    def verdict(self) -> tuple[Bool[Array, ""], Bool[Array, ""], "Window"]:
        """Whether the full window succeeds often (> 0.5), seldom (< 0.2), and the window cleared if either holds."""
        length, hits = self.outcomes.shape[0], jnp.sum(self.outcomes, dtype=jnp.int32)
        full = self.filled == length
        often, seldom = full & (2 * hits > length), full & (5 * hits < length)  # integers: a rate of exactly 0.2 is not seldom
        return often, seldom, self._replace(filled=jnp.where(often | seldom, 0, self.filled))


class BoundaryState(NamedTuple):
    """State of one example."""

    x_adv: Float[Array, "h w c"]  # the closest adversarial point; the input until there is one
    mse: Float[Array, ""]  # mean squared distance of x_adv from the input
    phase: Int[Array, ""]
    tried: Int[Array, ""]  # start points tried in this phase
    noise: Float[Array, "h w c"]  # the noise image to blend with
    on_sphere: Bool[Array, " trials"]  # outcomes of PROBE, for the MOVE that follows
    spherical_step: Float[Array, ""]
    source_step: Float[Array, ""]
    spherical_window: Window
    source_window: Window
    reset: Bool[Array, ""]  # step lengths were set back to find out whether convergence is real
    patience: Int[Array, ""]
    inconsistent: Int[Array, ""]
    progress: Progress


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Boundary:
    """Untargeted boundary attack, stopped when an improving step ends closer than a threshold.

    Attributes:
      mse_threshold: mean squared distance from the input, pixel units squared; 0 walks on to the end of the budget.
      max_steps: largest number of steps (a step tests up to 25 candidates, one step in ten up to 50 points).
    """

    mse_threshold: float | Array = 0.02
    max_steps: int | Array = 5000
    takes_start: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.mse_threshold, int | float):
            require(self.mse_threshold >= 0, "mse_threshold >= 0", self.mse_threshold, "give a mean squared distance, such as 0.02")
        if isinstance(self.max_steps, int):
            require(self.max_steps >= 0, "max_steps >= 0", self.max_steps, "give the number of steps")

    @property
    def norm(self) -> Norm:
        """The root of the mean squared distance."""
        return "rms"

    def init(self, example: Example) -> BoundaryState:
        zero, length = jnp.zeros((), jnp.int32), jnp.full((), INITIAL_STEP, example.x.dtype)
        return BoundaryState(
            x_adv=example.x,
            mse=jnp.zeros((), example.x.dtype),
            phase=jnp.full((), DRAW, jnp.int32),
            tried=zero,
            noise=jnp.zeros_like(example.x),
            on_sphere=jnp.zeros(TRIALS, bool),
            spherical_step=length,
            source_step=length,
            spherical_window=Window.empty(SPHERICAL_WINDOW),
            source_window=Window.empty(SOURCE_WINDOW),
            reset=jnp.zeros((), bool),
            patience=jnp.full((), PATIENCE, jnp.int32),
            inconsistent=zero,
            progress=Progress.start(example),
        )

    def step(self, classifier: Classifier, example: Example, state: BoundaryState) -> BoundaryState:
        points = _points(example, state)
        adversarial = jax.vmap(lambda x: misclassifies(classifier(x), example.label))(points)
        drawn = _draw(example, state, points, adversarial)
        blended = _blend(example, state, points, adversarial)
        probed = state._replace(on_sphere=adversarial, phase=jnp.full_like(state.phase, MOVE))
        walked = self._walk(example, state, points, adversarial)
        judged = jax.tree.map(
            lambda *of: jnp.select([state.phase == p for p in (DRAW, BLEND, PROBE)], of[:3], of[3]), drawn, blended, probed, walked
        )
        probes = state.phase == PROBE  # in the middle of a step: none opens
        return jax.tree.map(lambda *of: jnp.where(probes, *of), judged, self._enter(judged))

    def length(self) -> int:
        return math.ceil((1 + DRAWS) / TRIALS) + math.ceil(BLENDS / TRIALS) + 2 * int(self.max_steps)

    def _walk(self, example: Example, state: BoundaryState, points: Array, adversarial: Array) -> BoundaryState:
        """Take the first adversarial candidate of a step, keep its statistics, adapt the step lengths."""
        gathers = state.phase == MOVE
        hits = adversarial & (state.on_sphere | ~gathers)
        found, first = jnp.any(hits), jnp.argmax(hits).astype(jnp.int32)
        asked = (jnp.arange(TRIALS, dtype=jnp.int32) <= first) | ~found  # trials that the sequential algorithm would have made
        candidate = points[first]
        mse = jnp.mean((candidate - example.x) ** 2)
        closer = found & (mse < state.mse)
        reached = closer & (mse < self.mse_threshold)

        spherical_window = state.spherical_window.push(state.on_sphere, asked & gathers)
        source_window = state.source_window.push(adversarial, asked & gathers & state.on_sphere)
        often, seldom, spherical_window = spherical_window.verdict()
        scale = _factor(often, seldom, state.mse.dtype)
        source_often, source_seldom, source_window = source_window.verdict()
        source_scale = scale * _factor(source_often, source_seldom, state.mse.dtype)

        spheres = jnp.where(gathers, jnp.sum(asked, dtype=jnp.int32), 0)
        candidates = jnp.sum(asked & (state.on_sphere | ~gathers), dtype=jnp.int32)
        inconsistent = jnp.where(found & ~closer, state.inconsistent + 1, state.inconsistent)
        progress = state.progress.query(forward=spheres + candidates)
        progress = progress._replace(
            iterations=progress.iterations + 1,
            reached=reached,
            done=reached | (inconsistent >= INCONSISTENCIES),
        )
        return state._replace(
            x_adv=jnp.where(closer, candidate, state.x_adv),
            mse=jnp.where(closer, mse, state.mse),
            spherical_step=state.spherical_step * scale,
            source_step=state.source_step * source_scale,
            spherical_window=spherical_window,
            source_window=source_window,
            inconsistent=inconsistent,
            progress=progress,
        )

    def _enter(self, state: BoundaryState) -> BoundaryState:
        """Open the next step: end at the budget or at convergence, else choose the phase. Leaves DRAW and BLEND alone."""
        progress = state.progress
        opens = (state.phase >= WALK) & ~progress.done & (progress.iterations < self.max_steps)

        falling = state.patience < PATIENCE
        converged = opens & (state.source_step < jnp.where(falling, 2e-7, 1e-7))
        first_time = converged & ~state.reset
        recovered = opens & ~converged & falling
        patience = jnp.where(recovered, PATIENCE, jnp.where(converged & state.reset, state.patience - 1, state.patience))
        reset = (state.reset | first_time) & ~recovered

        gathers = reset | ((progress.iterations + 1) % 10 == 0)
        spent = (state.phase >= WALK) & (progress.iterations >= self.max_steps)
        return state._replace(
            phase=jnp.where(state.phase >= WALK, jnp.where(gathers, PROBE, WALK), state.phase).astype(jnp.int32),
            spherical_step=jnp.where(first_time, INITIAL_STEP, state.spherical_step),
            source_step=jnp.where(first_time, INITIAL_STEP, state.source_step),
            patience=patience,
            reset=reset,
            progress=progress._replace(done=progress.done | spent | (patience <= 0)),
        )


def _points(example: Example, state: BoundaryState) -> Float[Array, "trials h w c"]:
    """The 25 points that the example's phase asks about."""
    trial = jnp.arange(TRIALS, dtype=jnp.int32)
    starting, walking = jax.random.split(example.key)
    # One uniform draw on (-1, 1) serves the noise images of DRAW and, through the inverse error function, the normal directions.
    nth = jnp.where(state.phase == DRAW, state.tried, 0) + trial
    key = jnp.where(state.phase == DRAW, starting, jax.random.fold_in(walking, state.progress.iterations))
    keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(nth)
    symmetric = jax.vmap(lambda key: jax.random.uniform(key, example.x.shape, example.x.dtype, -1, 1))(keys)

    place = (state.tried + trial)[:, None, None, None]
    draws = jnp.where(place == 0, example.x[None], _noise(symmetric))
    if example.start is not None:
        draws = jnp.where(place == 1, example.start[None], draws)
    share = (place + 1).astype(example.x.dtype) / BLENDS
    blends = (1 - share) * example.x[None] + share * state.noise[None]
    spheres, candidates = jax.vmap(lambda s: _propose(example.x, state, _normal(s)))(symmetric)
    return jnp.select([state.phase == p for p in (DRAW, BLEND, PROBE)], [draws, blends, spheres], candidates)


def _propose(x: Float[Array, "h w c"], state: BoundaryState, direction: Float[Array, "h w c"]) -> tuple[Array, Array]:
    """A point on the sphere around `x` through x_adv in a random direction, and the candidate a step closer to `x`."""
    towards = x - state.x_adv
    radius = _length(towards)
    unit = towards / _nonzero(radius)
    sideways = direction - jnp.sum(direction * unit) * unit
    sideways = sideways * (state.spherical_step * radius / _nonzero(_length(sideways)))
    sphere = jnp.clip(x + (sideways - towards) / jnp.sqrt(1 + state.spherical_step**2), 0, 1)
    back = x - sphere
    distance = _length(back)
    stride = jnp.maximum(0, state.source_step * radius + distance - radius) / _nonzero(distance)
    return sphere, jnp.clip(sphere + stride * back, 0, 1)


def _draw(example: Example, state: BoundaryState, points: Array, adversarial: Array) -> BoundaryState:
    """DRAW: the input itself ends the attack at no cost; else the first misclassified noise image, or the last one, is blended."""
    input_itself = state.tried + jnp.arange(TRIALS, dtype=jnp.int32) == 0
    adversarial = jnp.where(input_itself, state.progress.admit(adversarial), adversarial)
    found, first, asked, last = _search(adversarial, state.tried, 1 + DRAWS)  # number 0 is the input
    already = found & (state.tried + first == 0)
    progress = state.progress.query(forward=asked)
    return state._replace(
        phase=jnp.where(found | last, BLEND, DRAW).astype(jnp.int32),
        tried=jnp.where(found | last, 0, state.tried + TRIALS),
        noise=points[jnp.where(found, first, asked - 1)],
        progress=progress._replace(success=already, reached=already, done=already),
    )


def _blend(example: Example, state: BoundaryState, points: Array, adversarial: Array) -> BoundaryState:
    """BLEND: walk from the first misclassified blend; without one the attack has no start and fails."""
    found, first, asked, last = _search(adversarial, state.tried, BLENDS)
    start = points[first]
    progress = state.progress.query(forward=asked)
    return state._replace(
        x_adv=jnp.where(found, start, state.x_adv),
        mse=jnp.where(found, jnp.mean((start - example.x) ** 2), state.mse),
        phase=jnp.where(found, WALK, BLEND).astype(jnp.int32),
        tried=state.tried + TRIALS,
        progress=progress._replace(success=found, done=last & ~found),
    )


def _search(adversarial: Bool[Array, " n"], tried: Int[Array, ""], limit: int) -> tuple[Array, Array, Array, Array]:
    """Sequential search in a batch: found, index of the first hit, points asked about, whether these were the last ones."""
    valid = tried + jnp.arange(TRIALS, dtype=jnp.int32) < limit
    hits = adversarial & valid
    found, first = jnp.any(hits), jnp.argmax(hits).astype(jnp.int32)
    asked = jnp.where(found, first + 1, jnp.sum(valid, dtype=jnp.int32))
    return found, first, asked, tried + TRIALS >= limit


def _noise(symmetric: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return (symmetric + 1) / 2


def _normal(symmetric: Float[Array, "*n"]) -> Float[Array, "*n"]:
    bound = 1 - jnp.finfo(symmetric.dtype).epsneg  # -1 itself would give an infinite direction
    return jax.scipy.special.erfinv(jnp.clip(symmetric, -bound, bound))  # of standard deviation 1/sqrt(2); only its direction counts


def _factor(often: Array, seldom: Array, dtype: jnp.dtype) -> Array:
    return jnp.where(often, ADAPTATION, jnp.where(seldom, 1 / ADAPTATION, 1)).astype(dtype)


def _length(v: Float[Array, "h w c"]) -> Float[Array, ""]:
    square = jnp.sum(v**2)
    return jnp.where(square > 0, jnp.sqrt(_nonzero(square)), 0)  # a finite gradient at zero


def _nonzero(length: Array) -> Array:
    return jnp.where(length > 0, length, 1)
