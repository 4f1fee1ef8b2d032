"""What attacks that differentiate a detector's cost have in common: the costs by name, and PGD on more than a loss of the logits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from a2d_jax.adaptive.smooth_cost import Implicit, Linearised, SmoothCost, Survival
from a2d_jax.attacks import PGD, Newton
from a2d_jax.attacks.pgd import PGDState
from a2d_jax.errors import require
from a2d_jax.losses import View, margin, prediction, slope_of
from a2d_jax.types import Classifier, Example, Norm


@jax.tree_util.register_static
class Named(str):
    """The name of a cost in `COSTS`. JAX takes it for a part of the program, and files hold it as text."""


SURVIVAL = Named("survival")


def _margin(classifier: Classifier, x: Float[Array, "h w c"], label: Array) -> Float[Array, ""]:
    return margin(classifier(x), label)


COSTS: Mapping[str, Callable[[float | Array, Norm], SmoothCost]] = {
    "margin": lambda epsilon, norm: _margin,
    "linearised": lambda epsilon, norm: Linearised(norm),
    "survival": lambda epsilon, norm: Survival(epsilon=epsilon, norm=norm),
    "implicit": lambda epsilon, norm: Implicit(Newton(epsilon=epsilon, norm=norm)),
}
"""Costs that an attack can name, made for its ball: name -> function of (epsilon, norm)."""


class Measured(NamedTuple):
    """A `View` of what an attack raises at one point, and its value."""

    logits: Float[Array, " k"]
    gradient: Float[Array, "h w c"]
    slope: Float[Array, ""]
    value: Float[Array, ""]


class Cost(NamedTuple):
    """The cost of one point, for the class predicted there."""

    value: Float[Array, ""]
    gradient: Float[Array, "h w c"]  # entries that are not finite are 0
    slope: Float[Array, ""]  # see `losses.slope_of`: not finite if the value or an entry is not


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MeasuredPGD(PGD):
    """PGD with a cost. A class that inherits says in `raised` what is raised.

    One look counts as one forward and one backward query, with whatever the cost evaluates inside it.

    Attributes:
      cost: a name of `COSTS`, or a function `(classifier, x, label) -> scalar`, differentiable in x. If it is a pytree, such as
        `smooth_cost.Survival`, its numbers are data; a plain function is a part of the program: define it once.
    """

    cost: Any = SURVIVAL

    def __post_init__(self) -> None:
        super().__post_init__()
        cost = self.cost
        known = f"a cost among {', '.join(COSTS)}, or a function (classifier, x, label) -> scalar"
        require(not isinstance(cost, str) or cost in COSTS, known, cost, "pass one of them")
        require(not isinstance(cost, bool | int | float | Mapping | None), known, cost, "pass one of them")
        if isinstance(cost, str):
            object.__setattr__(self, "cost", Named(cost))
        elif callable(cost) and jax.tree.leaves(cost) == [cost]:
            object.__setattr__(self, "cost", jax.tree_util.Partial(cost))

    def raised(self, example: Example, state: PGDState, seen: View, cost: Cost) -> Measured:
        """What a targeted attack lowers and any other raises, from the view of the loss and the cost at the current point."""
        raise NotImplementedError

    def look(self, classifier: Classifier, example: Example, state: PGDState) -> Measured:  # pyright: ignore[reportIncompatibleMethodOverride] (a View with its value)
        """Evaluate the current point and its cost."""
        seen = super().look(classifier, example, state)
        return self.raised(example, state, seen, self._measure(classifier, state.x_adv, seen.logits))

    def move(self, example: Example, state: PGDState, seen: View | Measured, value: Array | None = None) -> PGDState:
        if isinstance(seen, Measured):
            seen, value = View(*seen[:3]), seen.value
        return super().move(example, state, seen, value)

    def _measure(self, classifier: Classifier, x: Float[Array, "h w c"], logits: Float[Array, " k"]) -> Cost:
        """The cost at `x`, whose logits are known."""
        function: SmoothCost = COSTS[self.cost](self.epsilon, self.norm) if isinstance(self.cost, Named) else self.cost
        value, gradient = jax.value_and_grad(lambda x: function(classifier, x, prediction(logits)).astype(x.dtype))(x)
        return Cost(value, jnp.where(jnp.isfinite(gradient), gradient, 0), slope_of(value[None], gradient))
