"""The cost of attacking an image as a differentiable function of the image and of the weights.

A detector reads the number of updates, or the radius r, at which an attack from x leaves the class. As the attack computes it, it has no
useful gradient. Here are three functions that have one. All are radii in the units of their norm; a radius over the step size of BIM is a
number of updates, with fractions. m is the margin of the label (its logit minus the largest other):

    Linearised   r = m(x) / ||grad m(x)||_dual                                the distance of the boundary if m were linear
    Survival     r = integral from 0 to epsilon of sigmoid( least m so far / (temperature m(x)) ) along a walk down the margin
    Implicit     m(x + walk of length r) = 0                                  the crossing of the attack itself

All have one signature, and their settings are fields, as for attacks:

    cost = Survival(epsilon=0.3)
    r, gradient = jax.value_and_grad(cost, argnums=1)(classifier, x, label)

An image that is not of the class `label` costs 0, and its gradient is 0. If m has no gradient, `Linearised` and `Implicit` give the
diameter of the pixel box, which detectors read for a failure, and `Survival` gives nearly epsilon; the gradient is 0. Logits that are not
finite give NaN.

What the derivatives are:
  - In Linf a walk follows the sign of a gradient, which is piecewise constant. `Survival`, and `Implicit` of BIM, have the exact derivative
    almost everywhere; no derivative sees the jumps.
  - In L2 and root mean square the direction turns with x. `Survival` differentiates this too, unless `straight` takes directions for
    constant. `Implicit` always takes the path before the crossing for constant, in every norm the lengths of Newton's steps as well. Such a
    straight-through gradient is exact on a linear classifier.
  - m has a kink where the second best class changes. Where a walk clips a scalar to 0 or 1, the scalar has derivative 0.
  - `Implicit` differentiates one Newton step at the crossing and nothing before it, so memory does not grow with the number of steps. Its
    second derivatives have no meaning.

Source: the derivative at a root is that of the implicit function theorem, taken by one step of the solver as in Bolte, Pauwels, Vaiter,
"One-step differentiation of iterative algorithms", arXiv:2305.13768; the linearised distance is the step of DeepFool, arXiv:1511.04599.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from a2d_jax import drivers, norms
from a2d_jax.attacks import PGD, Newton
from a2d_jax.drivers.loops import last_state
from a2d_jax.errors import require
from a2d_jax.losses import View, margin, view
from a2d_jax.measurements import farthest
from a2d_jax.types import STATIC, Classifier, Example, Norm, Progress

LEAST = 1e-12  # a smaller margin is 0 to `Survival`, which divides by it
SHARE = 1e-9  # and so is a margin at x of this share of the largest one on the walk
NARROW = 1e-2  # two arguments of a sigmoid this near have its middle value as their mean, to the sixth digit


class SmoothCost(Protocol):
    """The cost of attacking one image, differentiable in x and, where a class says nothing else, in the classifier's weights."""

    def __call__(self, classifier: Classifier, x: Float[Array, "h w c"], label: Int[Array, ""]) -> Float[Array, ""]:
        """The cost of one image; for a batch, `jax.vmap(cost, (None, 0, 0))`.

        Args:
          classifier: one image to logits.
          x: one image in [0, 1].
          label: the class to leave.
        """
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Linearised:
    """The distance of the boundary if the margin were linear; the gradient of the cost takes second derivatives of the network.

    Scalars on the bounds that cannot move down the margin do not count, as for Newton.

    Attributes:
      norm: `linf`, `l2` or `rms`; the cost is in its units.
    """

    norm: Norm = field(default="linf", metadata=STATIC)

    def __post_init__(self) -> None:
        _known(self.norm)

    def __call__(self, classifier: Classifier, x: Float[Array, "h w c"], label: Int[Array, ""]) -> Float[Array, ""]:
        here, gradient = jax.value_and_grad(lambda x: _margin(classifier, x, label))(x)
        down = _free(gradient, x)
        return _distance(here, jnp.sum(down * norms.steepest(down, self.norm)), farthest(self.norm, x.shape))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Survival:
    """The radius that the class survives on a walk down the margin, softly: each radius counts as far as the class is alive there.

    The walk goes against the gradient of the margin, as Newton does, through `points` geometric radii from `first * epsilon` to `epsilon`;
    between them the margin is taken to be linear in the radius. Margins count as shares of that at x. So the cost does not change with the
    scale of the logits, and on a linear classifier it is a function of the distance alone. It lies between 0 and epsilon.

    Attributes:
      epsilon: the largest radius, in the units of `norm`.
      first: the smallest radius, as a share of epsilon.
      temperature: the share of the margin at x by which the class must lead to count as nearly alive. As it goes to 0, the cost becomes the
        radius at which the margin, linear between the radii, crosses 0.
      points: number of radii. Each takes one gradient, and memory grows with them.
      norm: `linf`, `l2` or `rms`.
      straight: take the directions of the walk for constant; in `linf` they are. This spares the second derivatives of the network.
    """

    epsilon: float | Array = 8 / 255
    first: float | Array = 1 / 64
    temperature: float | Array = 0.1
    points: int = field(default=12, metadata=STATIC)
    norm: Norm = field(default="linf", metadata=STATIC)
    straight: bool = field(default=False, metadata=STATIC)

    def __post_init__(self) -> None:
        _known(self.norm)
        for name, value in (("epsilon", self.epsilon), ("temperature", self.temperature)):
            if isinstance(value, int | float):
                require(value > 0, f"{name} > 0", value, "give a positive number")
        if isinstance(self.first, int | float):
            require(0 < self.first < 1, "first between 0 and 1", self.first, "give the smallest radius as a share of epsilon, such as 1/64")
        require(self.points >= 2, "points >= 2", self.points, "give the number of radii, such as 12")

    def __call__(self, classifier: Classifier, x: Float[Array, "h w c"], label: Int[Array, ""]) -> Float[Array, ""]:
        radii = self.radii(x.dtype)
        walk = _Walk(jnp.diff(radii), self.norm, self.straight)
        _, margins = drivers.unroll(walk, classifier, Example(x, label, _NO_KEY), observe=lambda _, state, seen: _margin_of(seen, x, label))
        here = margins[0]
        alive = here > jnp.maximum(LEAST, SHARE * jnp.max(jnp.abs(margins)))
        shares = jax.lax.cummin(margins / (self.temperature * jnp.where(alive, here, 1)))
        survives = jnp.where(alive, _mean_sigmoid(shares[:-1], shares[1:]), 0)
        return jnp.where(jnp.isfinite(margins).all(), jnp.sum(jnp.diff(radii) * survives), jnp.nan)

    def radii(self, dtype: Any = jnp.float32) -> Float[Array, " points+1"]:
        """0, and the radii."""
        left = 1 - jnp.arange(self.points, dtype=dtype) / (self.points - 1)  # from 1 to 0
        return jnp.concatenate([jnp.zeros(1, dtype), self.epsilon * jnp.asarray(self.first, dtype) ** left])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Implicit:
    """The crossing of an attack's path, and its derivative by the implicit function theorem.

    The attack runs until the class changes and keeps nothing of its path but the last segment. `refinements` evaluations find the crossing
    on it. There one Newton step on the margin is differentiated. An attack that fails ends inside the class; from its last point the
    Newton step leads on to the boundary. So the cost does not stand still where the budget or the ball ends: it is the distance of that
    point plus the linearised distance from there. A refined crossing is nearer to the boundary than `AttackResult.crossing`, which is
    interpolated.

    BIM reaches the edge of its ball after `epsilon / step_size` updates. Updates that follow add no radius: a crossing there costs epsilon,
    and its gradient is 0. On the cross entropy BIM stands still where probabilities are rounded to 1; take `loss="margin"` there.

    Attributes:
      attack: `Newton`, or `PGD` from the input with an early stop, which is BIM; targeted or not. The cost is in the units of its norm.
      refinements: evaluations to find the crossing on the last segment; with 0 it is interpolated.
    """

    attack: Newton | PGD = field(default_factory=Newton)
    refinements: int = field(default=4, metadata=STATIC)

    def __post_init__(self) -> None:
        require(self.refinements >= 0, "refinements >= 0", self.refinements, "give a number of evaluations")
        attack: Any = self.attack
        if hasattr(attack, "init"):  # what JAX puts in its place while it rebuilds trees has none
            walks = isinstance(attack, Newton) or (isinstance(attack, PGD) and attack.restart_every is None and attack.early_stop)
            require(walks, "Newton, or PGD without restarts and with an early stop", attack, "pass one that walks from the input")

    def __call__(self, classifier: Classifier, x: Float[Array, "h w c"], label: Int[Array, ""]) -> Float[Array, ""]:
        sign = -1 if getattr(self.attack, "targeted", False) else 1
        attack, still, at = jax.lax.stop_gradient((self.attack, classifier, x))

        def lead(x: Array) -> Array:
            return sign * _margin(still, x, label)

        end: _Ending = last_state(_Remembering(attack), still, Example(at, label, _NO_KEY))
        last, left, path = end.x_adv, end.inside, end.inner.path
        found = path.crossed
        share = jnp.where(found, _root(lambda share: lead(left + share * (last - left)), self.refinements, x.dtype), 1)
        point = left + share * (last - left)
        walked = jnp.where(found, end.radius + share * (path.radius - end.radius), norms.norm(last - at, attack.norm))

        here, slope = jax.value_and_grad(lead)(point)
        fall = -jnp.sum(slope * (last - left))  # of the margin, along the last segment
        fall = jnp.where(fall > 0, fall, lead(left) - lead(last))
        down = _free(slope, point)
        steepness = jnp.sum(down * norms.steepest(down, attack.norm))

        moves = (1 - share) * end.inside_moves.astype(x.dtype) + share * end.moves.astype(x.dtype)  # how far the point moves with x
        now = sign * _margin(classifier, point + moves * (x - at), label)
        most = farthest(attack.norm, x.shape)
        onward = now * (path.radius - end.radius) / jnp.where(fall > 0, fall, 1)
        cost = jnp.clip(walked + jnp.where(found, onward, _distance(now, steepness, most)), 0, most)
        return jnp.where(end.progress.broken | ~jnp.isfinite(here), jnp.nan, cost)


class _WalkState(NamedTuple):
    x_adv: Float[Array, "h w c"]
    progress: Progress


class _Walk(NamedTuple):
    """A walk down the margin in steps of given lengths, whatever the class; for `unroll`, which observes its points."""

    lengths: Float[Array, " steps"]
    norm: Norm
    straight: bool

    @property
    def max_steps(self) -> int:
        return self.lengths.shape[0]

    def init(self, example: Example) -> _WalkState:
        return _WalkState(example.x, Progress.start(example))

    def look(self, classifier: Classifier, example: Example, state: _WalkState) -> View:
        return view(classifier, lambda z: margin(z, example.label), state.x_adv)

    def move(self, example: Example, state: _WalkState, seen: View) -> _WalkState:
        del example
        gradient = jax.lax.stop_gradient(seen.gradient) if self.straight else seen.gradient
        made = state.progress.iterations
        progress = state.progress.judge(jnp.zeros((), bool), self.max_steps, forward=1, backward=1)
        length = self.lengths[jnp.minimum(made, self.max_steps - 1)]
        moved = jnp.clip(state.x_adv - length * norms.steepest(_free(gradient, state.x_adv), self.norm), 0, 1)
        return _WalkState(jnp.where(progress.done, state.x_adv, moved), progress)

    def step(self, classifier: Classifier, example: Example, state: _WalkState) -> _WalkState:
        return self.move(example, state, self.look(classifier, example, state))

    def length(self) -> int:
        return self.max_steps + 1


class _Ending(NamedTuple):
    """The state of an attack, and the last point judged that keeps the class."""

    inner: Any
    moves: Bool[Array, "h w c"]  # scalars of the point judged last that move with the input: the path never clipped them to 0 or 1
    inside: Float[Array, "h w c"]
    inside_moves: Bool[Array, "h w c"]  # the same, there
    radius: Float[Array, ""]  # of the path there

    @property
    def x_adv(self) -> Array:
        return self.inner.x_adv

    @property
    def progress(self) -> Progress:
        return self.inner.progress


class _Remembering(NamedTuple):
    """An attack that remembers the last point of its path inside the class."""

    attack: Any

    @property
    def norm(self) -> Norm:
        return self.attack.norm

    @property
    def max_steps(self) -> int | Array:
        return self.attack.max_steps

    def init(self, example: Example) -> _Ending:
        every = jnp.ones(example.x.shape, bool)
        return _Ending(self.attack.init(example), every, example.x, every, jnp.zeros((), example.x.dtype))

    def step(self, classifier: Classifier, example: Example, state: _Ending) -> _Ending:
        inner, judged = self.attack.step(classifier, example, state.inner), state.x_adv
        moves = state.moves & ((judged > 0) & (judged < 1) | (state.progress.iterations == 0))
        here = (judged, moves, inner.path.radius)
        kept = jax.tree.map(lambda new, old: jnp.where(inner.path.crossed, old, new), here, state[2:])
        return _Ending(inner, moves, *kept)

    def length(self) -> int:
        return self.attack.length()


def _margin(classifier: Classifier, x: Float[Array, "h w c"], label: Int[Array, ""]) -> Float[Array, ""]:
    return margin(classifier(x).astype(x.dtype), label)


def _margin_of(seen: View, x: Float[Array, "h w c"], label: Int[Array, ""]) -> Float[Array, ""]:
    return margin(seen.logits.astype(x.dtype), label)


def _free(gradient: Float[Array, "h w c"], x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """The gradient where a scalar can move against it without leaving [0, 1]; elsewhere 0."""
    return jnp.where((x <= 0) & (gradient > 0) | (x >= 1) & (gradient < 0), 0, gradient)


def _distance(value: Float[Array, ""], steepness: Float[Array, ""], most: float) -> Float[Array, ""]:
    """value / steepness, within 0 and `most`; 0 and `most` have derivative 0, as has a steepness of 0."""
    near = (value > 0) & (value < most * steepness)
    ratio = jnp.where(near, value, 0) / jnp.where(near, steepness, 1)
    return jnp.where(jnp.isfinite(value), jnp.where(near | (value <= 0), ratio, most), jnp.nan)


def _mean_sigmoid(high: Float[Array, " n"], low: Float[Array, " n"]) -> Float[Array, " n"]:
    """Mean of the sigmoid between two numbers, low <= high: the difference of softplus over that of the numbers, without cancellation."""
    apart = high - low > NARROW
    width = jnp.where(apart, high - low, 1)
    above = 1 + (jax.nn.softplus(-high) - jax.nn.softplus(-low)) / width
    across = (jax.nn.softplus(high) - jax.nn.softplus(low)) / width
    return jnp.where(apart, jnp.where(low > 0, above, across), jax.nn.sigmoid((high + low) / 2))


def _root(function: Callable[[Array], Array], evaluations: int, dtype: Any) -> Float[Array, ""]:
    """Where a function that is positive at 0 and not at 1 changes its sign: regula falsi, in the form of Illinois.

    An end that stays a second time counts with half its value, so that both ends move.
    """

    def split(low: Array, high: Array, at_low: Array, at_high: Array) -> Array:
        whole = at_low - at_high
        return low + (high - low) * jnp.where(whole > 0, at_low / jnp.where(whole > 0, whole, 1), 0)

    def narrow(_: Any, bracket: tuple[Array, ...]) -> tuple[Array, ...]:
        low, high, at_low, at_high, stayed = bracket
        middle = split(low, high, at_low, at_high)
        value = function(middle)
        above = value > 0
        side = above.astype(jnp.int32)
        again = jnp.where(stayed == side, 0.5, 1).astype(dtype)
        return (
            jnp.where(above, middle, low),
            jnp.where(above, high, middle),
            jnp.where(above, value, at_low * again),
            jnp.where(above, at_high * again, value),
            side,
        )

    low, high = jnp.zeros((), dtype), jnp.ones((), dtype)
    bracket = (low, high, function(low), function(high), jnp.full((), 2, jnp.int32))  # 2: neither end has stayed yet
    return split(*jax.lax.fori_loop(0, evaluations, narrow, bracket)[:4])


def _known(norm: Norm) -> None:
    require(norm in ("linf", "l2", "rms"), "a norm among linf, l2, rms", norm, "pass one of them")


_NO_KEY: Any = None  # none of these walks draws anything
