"""BIM with a search for the smallest radius, as Foolbox 1 runs it by default.

The search makes short runs of BIM with a fixed ratio of step to radius. Each run starts at the input and stops at its first success:

    radius <- 1.5 radius   until a run succeeds (20 runs at most),  good = radius, bad = 0
    radius <- (good + bad) / 2,  which becomes good or bad   20 times

The closest success of all runs is returned. Its distance may be smaller than the last good radius, because a run that succeeds early ends
inside its ball. Runs, updates and radii are counters in the state, so that every example searches at its own pace. The cost counts the
updates of all runs: it is the length of the search, not the distance of the boundary (for this use the distance, or `pgd.bim` with small
steps).

Source: Kurakin, Goodfellow, Bengio, arXiv:1607.02533; reference behaviour Foolbox 1.8 `iterative_projected_gradient.py`.
Differs: the gradient at the input is computed once, not once per run; "closest" refers to the attack's own norm.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from a2d_jax import norms
from a2d_jax.errors import require
from a2d_jax.losses import cross_entropy, misclassifies, view
from a2d_jax.types import STATIC, Classifier, Example, Norm, Progress

RUNS = 20  # runs with growing radii at most, and bisections after the first success
GROWTH = 1.5


class BIMSearchState(NamedTuple):
    """State of one example."""

    x_adv: Float[Array, "h w c"]  # the point the next step will judge; in the end the closest success
    direction: Float[Array, "h w c"]  # steepest ascent at the input, with which every run begins
    updates: Int[Array, ""]  # of this run
    runs: Int[Array, ""]  # finished while the radius grows, then while it is bisected
    radius: Float[Array, ""]  # of this run
    good: Float[Array, ""]  # smallest radius with a success, 0 for none
    bad: Float[Array, ""]  # largest radius without one, while bisecting
    closest: Float[Array, "h w c"]
    distance: Float[Array, ""]  # of the closest success, infinite for none
    progress: Progress


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BIMSearch:
    """Untargeted BIM in balls of the smallest radius that a binary search finds.

    Attributes:
      epsilon: first radius, in the units of `norm`.
      step_size: length of an update at the first radius; it scales with the radius.
      run_steps: largest number of updates in one run.
      max_steps: largest number of updates in all runs. `40 * run_steps` suffice; with fewer, an example whose search is cut is censored.
      norm: `linf`, `l2` or `rms`.
    """

    epsilon: float | Array = 0.3
    step_size: float | Array = 0.05
    run_steps: int | Array = 10
    max_steps: int | Array = 400
    norm: Norm = field(default="linf", metadata=STATIC)

    def __post_init__(self) -> None:
        for name, value in (("epsilon", self.epsilon), ("step_size", self.step_size)):
            if isinstance(value, int | float):
                require(value > 0, f"{name} > 0", value, "give it in pixel units, such as 0.05")
        if isinstance(self.run_steps, int):
            require(self.run_steps >= 1, "run_steps >= 1", self.run_steps, "give the updates of one run")
        if isinstance(self.max_steps, int):
            require(self.max_steps >= 0, "max_steps >= 0", self.max_steps, "give the updates of all runs")
        require(self.norm in ("linf", "l2", "rms"), "a norm among linf, l2, rms", self.norm, "pass one of them")

    def init(self, example: Example) -> BIMSearchState:
        none, zero = jnp.zeros((), jnp.int32), jnp.zeros((), example.x.dtype)
        return BIMSearchState(
            x_adv=example.x,
            direction=jnp.zeros_like(example.x),
            updates=none,
            runs=none,
            radius=jnp.asarray(self.epsilon, example.x.dtype),
            good=zero,
            bad=zero,
            closest=example.x,
            distance=jnp.full((), jnp.inf, example.x.dtype),
            progress=Progress.start(example),
        )

    def step(self, classifier: Classifier, example: Example, state: BIMSearchState) -> BIMSearchState:
        logits, gradient, slope = view(classifier, lambda z: cross_entropy(z, example.label), state.x_adv)
        success = state.progress.admit(misclassifies(logits, example.label))
        at_input = state.progress.iterations == 0
        ascent = norms.steepest(gradient, self.norm)
        direction = jnp.where(at_input, ascent, state.direction)
        distance = norms.norm(state.x_adv - example.x, self.norm)
        closer = success & (distance < state.distance)
        state = state._replace(
            direction=direction,
            closest=jnp.where(closer, state.x_adv, state.closest),
            distance=jnp.where(closer, distance, state.distance),
        )

        run_ends = ~at_input & (success | (state.updates >= self.run_steps))
        state, search_ends = _next_radius(state, success, run_ends)
        found = jnp.isfinite(state.distance)
        ends = search_ends | (at_input & success)
        # A search cut short keeps its success, but its cost is censored.
        progress = state.progress.judge(
            found, self.max_steps, reached=ends & found, forward=1, backward=1, give_up=ends, goes_on=True, slope=slope
        )

        starts = at_input | run_ends
        moved = jnp.where(starts, example.x, state.x_adv) + self.step_size / self.epsilon * state.radius * jnp.where(
            starts, direction, ascent
        )
        moved = jnp.clip(norms.clip_to_ball(moved, example.x, state.radius, self.norm), 0, 1)
        result = jnp.where(found, state.closest, state.x_adv)
        return state._replace(
            x_adv=jnp.where(progress.done, result, moved),
            updates=jnp.where(starts, 1, state.updates + 1),
            progress=progress,
        )

    def length(self) -> int:
        return int(self.max_steps) + 1


def _next_radius(state: BIMSearchState, success: Bool[Array, ""], run_ends: Bool[Array, ""]) -> tuple[BIMSearchState, Bool[Array, ""]]:
    """The radius that follows if a run has ended, and whether that was the last run of the search."""
    bisecting = state.good > 0
    good = jnp.where(success, state.radius, state.good)
    bad = jnp.where(~success & bisecting, state.radius, state.bad)
    runs = jnp.where(success & ~bisecting, 0, state.runs + 1)
    radius = jnp.where(good > 0, (good + bad) / 2, GROWTH * state.radius)
    following = state._replace(runs=runs, radius=radius, good=good, bad=bad)
    return jax.tree.map(lambda new, old: jnp.where(run_ends, new, old), following, state), run_ends & (runs >= RUNS)
