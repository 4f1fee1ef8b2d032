"""Norms of one image-shaped array: length, projection onto a ball, direction of steepest ascent.

`rms` is the root mean square, ||v||_2 / sqrt(n): the L2 norm as Foolbox 1 scales it, and the unit of radius and step in the paper's BIM2.
Lengths are computed after division by the largest entry, so that gradients as small as 1e-30 (a confident network) keep their direction in
float32 instead of underflowing to zero.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from a2d_jax.types import Norm

NORMS: tuple[Norm, ...] = ("l0", "l1", "l2", "linf", "rms")


def norm(v: Float[Array, "h w c"], kind: Norm) -> Float[Array, ""]:
    """Length of `v`; 0 for the zero array, with a finite (zero) gradient there; NaN if `v` contains NaN."""
    if kind == "l0":
        return jnp.sum(v != 0).astype(v.dtype)
    if kind == "l1":
        return jnp.sum(jnp.abs(v))
    if kind == "linf":
        return jnp.max(jnp.abs(v))
    if kind in ("l2", "rms"):
        scale = jnp.max(jnp.abs(v))
        unit = v / jnp.where(scale != 0, scale, 1)
        square = jnp.sum(unit**2) if kind == "l2" else jnp.mean(unit**2)
        return jnp.where(scale != 0, scale * jnp.sqrt(jnp.where(scale != 0, square, 1)), 0)
    raise _unknown(kind)


def clip_to_ball(x: Float[Array, "h w c"], centre: Float[Array, "h w c"], epsilon: float | Array, kind: Norm) -> Float[Array, "h w c"]:
    """The point of the ball of radius `epsilon` around `centre` nearest to `x` (`l2`, `rms`: scaled back to the sphere)."""
    delta = x - centre
    if kind == "linf":
        return centre + jnp.clip(delta, -epsilon, epsilon)
    if kind in ("l2", "rms"):
        length = norm(delta, kind)
        outside = length > epsilon
        return centre + delta * jnp.where(outside, epsilon / jnp.where(outside, length, 1), 1)
    raise _unknown(kind, "linf", "l2", "rms")


def steepest(gradient: Float[Array, "h w c"], kind: Norm) -> Float[Array, "h w c"]:
    """The direction of unit length in norm `kind` along which a linear function grows fastest; zero for a zero gradient."""
    if kind == "linf":
        return jnp.sign(gradient)
    if kind in ("l2", "rms"):
        scale = jnp.max(jnp.abs(gradient))
        unit = gradient / jnp.where(scale > 0, scale, 1)  # first, so that squares do not underflow
        length = norm(unit, kind)
        return unit / jnp.where(length > 0, length, 1)
    raise _unknown(kind, "linf", "l2", "rms")


def _unknown(kind: str, *valid: str) -> ValueError:
    return ValueError(f"expected a norm among {', '.join(valid or NORMS)}, got {kind!r}; pass one of them")
