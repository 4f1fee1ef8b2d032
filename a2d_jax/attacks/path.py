"""The path of an attack that walks away from the input, and the radius at which it leaves the class.

The radius of a path is the radius of a ball around the input that contains it: the length walked so far, or the distance of the farthest
point. The class changes between the last two points; there the margin is assumed to be linear in the radius:

    crossing = r_before + (r_now - r_before) * m_before / (m_before - m_now)

The number of updates times the step is such a radius too, rounded to whole steps. So the crossing is a cost without ties.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from a2d_jax.types import Example


class Path(NamedTuple):
    """The part of an attack's state that describes its path."""

    radius: Float[Array, ""]  # of a ball around the input that holds the points so far
    margin: Float[Array, ""]  # at the last of them that keeps the class, at least 0
    crossing: Float[Array, ""]  # where the class changed; until it has, the radius
    crossed: Bool[Array, ""]

    @classmethod
    def start(cls, example: Example) -> "Path":
        """At the input, before it is looked at: should it be across already, the crossing is 0."""
        zero = jnp.zeros((), example.x.dtype)
        return cls(zero, zero, zero, jnp.zeros((), bool))

    def reach(self, radius: Float[Array, ""], margin: Float[Array, ""], across: Bool[Array, ""]) -> "Path":
        """The path with one more point.

        Args:
          radius: of a ball that holds the point, in the norm of the attack; the path keeps the largest.
          margin: positive on this side of the boundary; a sign that rounding has turned round, or no number, counts as 0.
          across: the class has changed; the first change since the path was last on this side counts.
        """
        radius, margin = jnp.maximum(self.radius, radius), margin.astype(self.margin.dtype)  # logits may be of a shorter type
        gone, left = self.margin, jnp.where(across & jnp.isfinite(margin), jnp.maximum(-margin, 0), 0)
        whole = gone + left
        between = self.radius + (radius - self.radius) * gone / jnp.where(whole > 0, whole, 1)
        crossing = jnp.where(across, jnp.where(self.crossed, self.crossing, between), radius)
        return Path(radius, jnp.where(jnp.isfinite(margin), jnp.maximum(margin, 0), 0), crossing, across)
