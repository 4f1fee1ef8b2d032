"""The cost of an attack without gradients (JSMA, DBA), smoothed by Gaussian noise and differentiated by an evolution strategy.

A count that comes from sorted pixels or from random directions has no derivative to follow. Its mean under noise has one, which differences
of costs estimate without looking into the attack. With u_i standard normal and pairs of opposite signs,

    value     = mean of cost(x + sigma u_i) and cost(x - sigma u_i)
    gradient  = mean of (cost(x + sigma u_i) - cost(x - sigma u_i)) / (2 sigma) u_i

Each point is clipped to [0, 1]. The noise derives from the seed alone: value and gradient are the same at every call.

The estimate is noisy. With n scalars and p pairs, the square of its error is about n / p times the square of a directional derivative; a
direction that is better than chance takes far fewer pairs than a precise gradient. `Evolution.estimate` reports the error.

Source: Salimans et al., "Evolution strategies as a scalable alternative to reinforcement learning", arXiv:1703.03864; for attacks Ilyas et
al., arXiv:1804.08598. Differs: a cost is differentiated, not a loss; both points of a pair use the same random numbers in the attack.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from a2d_jax import drivers
from a2d_jax.errors import BadInput, require
from a2d_jax.types import STATIC, Attack, Classifier, Example


class Estimate(NamedTuple):
    """A value and its gradient, estimated from some pairs."""

    value: Float[Array, ""]
    gradient: Float[Array, "h w c"]
    error: Float[Array, "h w c"]  # standard error of each entry of the gradient

    @property
    def signal(self) -> Float[Array, ""]:
        """Share of the gradient's squared length that is no noise, at least 0: near 0 the direction says nothing."""
        square = jnp.sum(self.gradient**2)
        return jnp.where(square > 0, jnp.maximum(1 - jnp.sum(self.error**2) / jnp.where(square > 0, square, 1), 0), 0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Evolution:
    """A smooth cost of any attack, with a gradient in x alone: in the weights it is refused.

    Attributes:
      attack: any attack.
      sigma: standard deviation of the noise, pixel units.
      number: the number that is smoothed: `cost` (updates, `max_steps + 1` for a failure), or `distance` in the attack's norm.
      pairs: pairs of points. All `2 * pairs` attacks of an image run in lock-step.
      seed: of the noise and of random attacks.
    """

    attack: Attack
    sigma: float | Array = 0.05
    number: Literal["cost", "distance"] = field(default="cost", metadata=STATIC)
    pairs: int = field(default=32, metadata=STATIC)
    seed: int | Array = 0

    def __post_init__(self) -> None:
        require(self.number in ("cost", "distance"), "a number among cost, distance", self.number, "pass one of them")
        require(self.pairs >= 2, "pairs >= 2", self.pairs, "give the number of pairs; one pair has no error")
        if isinstance(self.sigma, int | float):
            require(self.sigma > 0, "sigma > 0", self.sigma, "give the standard deviation of the noise in pixel units")

    def __call__(self, classifier: Classifier, x: Float[Array, "h w c"], label: Int[Array, ""]) -> Float[Array, ""]:
        """As `SmoothCost`.

        Raises:
          BadInput: a derivative in the weights is asked for.
        """
        return _smoothed(self, classifier, x, label)

    def estimate(self, classifier: Classifier, x: Float[Array, "h w c"], label: Int[Array, ""]) -> Estimate:
        """The value and its gradient, with their noise."""
        key = jax.random.key(self.seed)
        noise = jax.random.normal(key, (self.pairs, *x.shape), x.dtype)
        keys = jax.vmap(lambda pair: jax.random.fold_in(key, pair))(jnp.arange(self.pairs, dtype=jnp.uint32))

        def cost(noise: Array, key: Array, sign: int) -> Array:
            point = jnp.clip(x + sign * self.sigma * noise, 0, 1)
            result = drivers.run(self.attack, classifier, Example(point, label, key))
            return getattr(result, self.number).astype(x.dtype)

        above, below = (jax.vmap(lambda noise, key, sign=sign: cost(noise, key, sign))(noise, keys) for sign in (1, -1))
        single = ((above - below) / (2 * self.sigma)).reshape(-1, 1, 1, 1) * noise
        error = jnp.std(single, axis=0, ddof=1) / jnp.sqrt(jnp.asarray(self.pairs, x.dtype))
        return Estimate((jnp.mean(above) + jnp.mean(below)) / 2, jnp.mean(single, axis=0), error)


@jax.custom_vjp
def _smoothed(evolution: Evolution, classifier: Classifier, x: Array, label: Array) -> Array:
    return evolution.estimate(classifier, x, label).value


def _forward(evolution: Any, classifier: Any, x: Any, label: Any) -> tuple[Array, Array]:
    def is_one(leaf: Any) -> bool:
        return hasattr(leaf, "perturbed")

    if any(leaf.perturbed for leaf in jax.tree.leaves((evolution, classifier), is_leaf=is_one)):
        raise BadInput(
            "expected a gradient in the image alone, since Evolution knows no other, got one in the weights or in a setting; "
            "take Survival, Linearised or Implicit"
        )
    values = jax.tree.map(lambda leaf: leaf.value, (evolution, classifier, x, label), is_leaf=is_one)
    estimate = Evolution.estimate(values[0], *values[1:])
    return estimate.value, estimate.gradient


def _backward(gradient: Array, cotangent: Array) -> tuple[None, None, Array, None]:
    return None, None, cotangent * gradient, None


_smoothed.defvjp(_forward, _backward, symbolic_zeros=True)
