"""L-BFGS: find the closest image of a target class by smooth optimisation in a box, for one constant after another.

For a constant c the attack starts at the input x and minimises over [0, 1]^n the objective

    f(z) = mean (z - x)^2 + c CE_target(z).

c is doubled from 2e-5 until the end point is classified as the target (30 times at most), then bisected between 0 and this value down to a
width of 1e-5. The target is the second best class at the input. Every evaluation of f is one forward and one backward query and one
`step`. The attack keeps the closest image of the target class among all evaluations.

The cost is the number of evaluations, without the first: of the whole search, in proportion to the running time of the original, or until
the first image of the target class (`minimise=False`).

Source: Szegedy et al., "Intriguing properties of neural networks", arXiv:1312.6199; reference behaviour Foolbox 1.8
`lbfgs.py` on SciPy's `fmin_l_bfgs_b` with memory 15 and 150 iterations per constant. Differs: the minimiser is a projected
L-BFGS (Bertsekas' two-metric projection with the two-loop recursion restricted to the scalars that are free to move, and
backtracking along the projected arc), a state machine with one evaluation per step (SciPy's minimiser searches for a Cauchy point); f is
scaled by n / 2, so that its distance term has unit curvature and the first step its natural length (the original scales by 1e10, with the
same minima); a run ends at a relative decrease below ten units of rounding of float32 (the original: 2e-9 in float64). Sums over pixels
decide the path, so counts may differ by a few between batch sizes or devices.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from a2d_jax import norms
from a2d_jax.errors import require
from a2d_jax.losses import cross_entropy, prediction, predicts, second_best, view
from a2d_jax.types import STATIC, Classifier, Example, Norm, Progress

MEMORY = 15  # pairs of moves and changes of the gradient
ITERATIONS = 150  # of one minimisation
TRIES = 20  # evaluations of one line search
SUFFICIENT = 1e-4  # share of the linear prediction that a step must gain
DOUBLINGS = 30


class Minimiser(NamedTuple):
    """Projected L-BFGS in a box, between two evaluations of its objective: evaluate at `point`, then `advance`."""

    point: Float[Array, "h w c"]  # where the objective is to be evaluated next
    x: Float[Array, "h w c"]  # the last accepted point, its value and gradient
    value: Float[Array, ""]
    gradient: Float[Array, "h w c"]
    direction: Float[Array, "h w c"]
    stride: Float[Array, ""]  # `point` is x + stride * direction, clipped to the box
    tries: Int[Array, ""]  # points rejected along this direction
    iterations: Int[Array, ""]  # points accepted after the first; -1 before
    moves: Float[Array, "m h w c"]  # differences of accepted points, newest last; zero where there is none
    changes: Float[Array, "m h w c"]  # differences of their gradients
    converged: Bool[Array, ""]

    @classmethod
    def start(cls, x: Float[Array, "h w c"]) -> "Minimiser":
        none, zero = jnp.zeros((MEMORY, *x.shape), x.dtype), jnp.zeros((), x.dtype)
        count = jnp.zeros((), jnp.int32)
        return cls(x, x, zero, jnp.zeros_like(x), jnp.zeros_like(x), zero, count, count - 1, none, none, jnp.zeros((), bool))


def advance(search: Minimiser, value: Float[Array, ""], gradient: Float[Array, "h w c"], lower: float = 0, upper: float = 1) -> Minimiser:
    """Take the value and gradient at `search.point` and choose the next point."""
    first = search.iterations < 0
    move, change = search.point - search.x, gradient - search.gradient
    predicted = jnp.sum(search.gradient * move)
    accepted = first | (value <= search.value + SUFFICIENT * predicted)

    curved = accepted & ~first & (jnp.sum(move * change) > _rounding(value) * jnp.sum(change**2))
    moves = jnp.where(curved, jnp.concatenate([search.moves[1:], move[None]]), search.moves)
    changes = jnp.where(curved, jnp.concatenate([search.changes[1:], change[None]]), search.changes)

    exhausted = ~accepted & (search.tries + 1 >= TRIES)
    forgets = exhausted & jnp.any(moves != 0)  # a direction that leads nowhere: try once more along the gradient
    moves, changes = jnp.where(forgets, 0, moves), jnp.where(forgets, 0, changes)

    x = jnp.where(accepted, search.point, search.x)
    slope = jnp.where(accepted, gradient, search.gradient)
    turns = accepted | forgets
    direction = jnp.where(turns, _direction(x, slope, moves, changes, lower, upper), search.direction)
    stride = jnp.where(turns, 1, search.stride * _shorter(search, value))

    gained = search.value - value
    magnitude = jnp.maximum(jnp.abs(search.value), jnp.abs(value))
    tolerance = max(10 * float(jnp.finfo(value.dtype).eps), 2.2e-9)
    iterations = jnp.where(accepted, search.iterations + 1, search.iterations)
    return Minimiser(
        point=jnp.clip(x + stride * direction, lower, upper),
        x=x,
        value=jnp.where(accepted, value, search.value),
        gradient=slope,
        direction=direction,
        stride=stride,
        tries=jnp.where(turns, 0, search.tries + 1),
        iterations=iterations,
        moves=moves,
        changes=changes,
        converged=(
            (accepted & ~first & (gained <= tolerance * magnitude))
            | (exhausted & ~forgets)
            | (turns & jnp.all(direction == 0))
            | (iterations >= ITERATIONS)
        ),
    )


def _direction(x: Array, gradient: Array, moves: Array, changes: Array, lower: float, upper: float) -> Float[Array, "h w c"]:
    """Minus the inverse Hessian, as far as the memory knows it, times the gradient; zero where a bound holds a scalar."""
    free = ~((x <= lower) & (gradient > 0) | (x >= upper) & (gradient < 0))
    steepest = jnp.where(free, -gradient, 0)
    moves, changes = jnp.where(free[None], moves, 0), jnp.where(free[None], changes, 0)
    curvature, square = _dots(moves, changes), _dots(changes, changes)
    usable = curvature > _rounding(square) * square  # the free scalars alone may see none of a pair's curvature
    inverse = jnp.where(usable, 1 / jnp.where(usable, curvature, 1), 0)

    pairs = (moves, changes, inverse)
    q, shares = jax.lax.scan(_newest_first, steepest, pairs, reverse=True)
    last = jnp.max(jnp.where(usable, jnp.arange(MEMORY, dtype=jnp.int32), -1))
    scale = jnp.where(last >= 0, curvature[last] / jnp.where(last >= 0, square[last], 1), 1)
    r, _ = jax.lax.scan(_oldest_first, scale * q, (*pairs, shares))
    downhill = jnp.sum(r * gradient) < 0
    return jnp.where(free, jnp.where(downhill, r, steepest), 0)


def _newest_first(q: Array, pair: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    move, change, inverse = pair
    share = inverse * jnp.sum(move * q)
    return q - share * change, share


def _oldest_first(r: Array, pair: tuple[Array, Array, Array, Array]) -> tuple[Array, None]:
    move, change, inverse, share = pair
    return r + (share - inverse * jnp.sum(change * r)) * move, None


def _shorter(search: Minimiser, value: Array) -> Float[Array, ""]:
    """Factor on a rejected stride: to the minimum of the parabola through what is known, within [0.1, 0.5]."""
    slope = jnp.sum(search.gradient * search.direction) * search.stride
    excess = value - search.value - slope
    factor = -slope / (2 * jnp.where(excess > 0, excess, 1))
    return jnp.where(jnp.isfinite(value) & (excess > 0), jnp.clip(factor, 0.1, 0.5), 0.1)


def _dots(a: Float[Array, "m h w c"], b: Float[Array, "m h w c"]) -> Float[Array, " m"]:
    return jnp.sum(a * b, axis=(1, 2, 3))


def _rounding(value: Array) -> float:
    return float(jnp.finfo(value.dtype).eps)


class LBFGSState(NamedTuple):
    """State of one example."""

    x_adv: Float[Array, "h w c"]  # the closest image of the target class; until there is one, the point the next step will judge
    nearest: Float[Array, ""]  # its L2 distance; infinite until there is one
    search: Minimiser  # the minimisation for the present constant
    hit: Bool[Array, ""]  # `search.x` is classified as the target
    constant: Float[Array, ""]  # c
    low: Float[Array, ""]  # largest constant known to be too small
    high: Float[Array, ""]  # smallest constant known to suffice; infinite until there is one
    doublings: Int[Array, ""]
    target: Int[Array, ""]  # class to reach; -1 until the first look
    progress: Progress


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LBFGS:
    """Box-constrained L-BFGS towards the second best class.

    Attributes:
      tolerance: width of the interval of c at which the bisection ends; the first c is twice this.
      max_steps: evaluations of the objective after the first.
      minimise: search on after the first success and keep the nearest point. Use False as defence: the first success then ends the attack.
    """

    tolerance: float | Array = 1e-5
    max_steps: int | Array = 9999
    minimise: bool = field(default=True, metadata=STATIC)

    def __post_init__(self) -> None:
        if isinstance(self.tolerance, int | float):
            require(self.tolerance > 0, "tolerance > 0", self.tolerance, "give a width of the constant, such as 1e-5")
        if isinstance(self.max_steps, int):
            require(self.max_steps >= 0, "max_steps >= 0", self.max_steps, "give the number of evaluations")

    @property
    def norm(self) -> Norm:
        """The Euclidean distance."""
        return "l2"

    @property
    def scheduled(self) -> bool:
        """A search for the nearest counts every evaluation that it makes."""
        return self.minimise

    def init(self, example: Example) -> LBFGSState:
        zero, infinite = jnp.zeros((), example.x.dtype), jnp.full((), jnp.inf, example.x.dtype)
        return LBFGSState(
            x_adv=example.x,
            nearest=infinite,
            search=Minimiser.start(example.x),
            hit=jnp.zeros((), bool),
            constant=zero + 2 * self.tolerance,
            low=zero,
            high=infinite,
            doublings=jnp.zeros((), jnp.int32),
            target=jnp.full((), -1, jnp.int32),
            progress=Progress.start(example),
        )

    def step(self, classifier: Classifier, example: Example, state: LBFGSState) -> LBFGSState:
        def target(logits: Array) -> Array:
            best = jnp.where(state.progress.fresh, example.label, prediction(logits))
            return jnp.where(state.target < 0, second_best(logits, best), state.target)

        point = state.search.point
        logits, gradient, slope = view(classifier, lambda z: cross_entropy(z, target(z)), point)
        delta, weight = point - example.x, state.constant * (example.x.size / 2)
        value = jnp.sum(delta**2) / 2 + weight * cross_entropy(logits, target(logits))
        search = advance(state.search, value, delta + weight * gradient)

        hit, before = state.progress.admit(predicts(logits, target(logits))), state.progress.success
        accepted = search.iterations > state.search.iterations
        constant = self._next_constant(example, state, search, jnp.where(accepted, hit, state.hit))
        finished = jnp.where(jnp.isfinite(constant.high), constant.high - constant.low < self.tolerance, constant.doublings >= DOUBLINGS)

        distance = norms.norm(delta, self.norm)
        nearer = hit & (distance < state.nearest)
        found = before | hit
        reached = found & finished if self.minimise else found  # a search cut short is censored
        progress = state.progress.judge(
            found, self.max_steps, reached=reached, forward=1, backward=1, give_up=finished, goes_on=self.minimise, slope=slope
        )
        kept = jnp.where(before, state.x_adv, jnp.where(progress.done, point, constant.search.point))
        return constant._replace(
            x_adv=jnp.where(nearer, point, kept),
            nearest=jnp.where(nearer, distance, state.nearest),
            target=target(logits),
            progress=progress,
        )

    def _next_constant(self, example: Example, state: LBFGSState, search: Minimiser, hit: Bool[Array, ""]) -> LBFGSState:
        """Once the minimisation has ended: judge its end point, choose the next constant and start again from the input."""
        ends = search.converged
        bracketed = jnp.isfinite(state.high)
        high = jnp.where(ends & hit, state.constant, state.high)
        low = jnp.where(ends & ~hit & bracketed, state.constant, state.low)
        following = jnp.where(jnp.isfinite(high), (low + jnp.where(jnp.isfinite(high), high, 0)) / 2, 2 * state.constant)
        restart = Minimiser.start(example.x)
        return state._replace(
            search=jax.tree.map(lambda new, going: jnp.where(ends, new, going), restart, search),
            hit=hit & ~ends,
            constant=jnp.where(ends, following, state.constant),
            low=low,
            high=high,
            doublings=jnp.where(ends & ~hit & ~bracketed, state.doublings + 1, state.doublings),
        )

    def length(self) -> int:
        return int(self.max_steps) + 1
