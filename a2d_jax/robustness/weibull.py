"""Maximum likelihood fit of the reverse Weibull distribution. Its location estimates the end point of the distribution of the maxima.

    P(maximum <= m) = exp(-((location - m) / scale)^shape),   m < location

Textbook optimisers fail on it in two ways. Below shape 1 the likelihood grows without bound as the location approaches the largest
maximum. And maxima with the skewness of Gumbel's distribution or more, as those of real gradients, push location and shape to infinity
together, to an end point of 10^7 where all maxima are below 10. Here the shape is at least 1 and costs `penalty * shape^2`, the
remedy of the authors of CLEVER: then a maximum always exists.

The three parameters reduce to one: for a given distance `gap` of the location from the largest maximum, the best shape is the root of
an increasing function, and the best scale follows from it. The profile over the gap is searched on a logarithmic grid that narrows around
its best point. Maxima are measured downwards from the largest in units of their range, so that one grid serves all.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

PENALTY = 0.01
"""Of the squared shape, in units of the log likelihood of all maxima (IBM/CLEVER-Robustness-Score)."""
REJECTED = 1e-3
"""A fit whose Kolmogorov-Smirnov p-value is lower is not believed (the same source)."""

_GAPS = 1e-4, 1e3  # from "at the largest maximum" to "as good as Gumbel's distribution", in ranges of the maxima
_GRID, _ROUNDS = 29, 7


class ReverseWeibull(NamedTuple):
    """Fitted distributions; NumPy, float64."""

    location: Float[np.ndarray, "*n"]  # the end point; the largest maximum where `fitted` is False
    scale: Float[np.ndarray, "*n"]
    shape: Float[np.ndarray, "*n"]
    p_value: Float[np.ndarray, "*n"]  # Kolmogorov-Smirnov, against the fitted distribution
    fitted: Bool[np.ndarray, "*n"]  # False: equal maxima, no maximum of the likelihood (without penalty only), or p below REJECTED


def fit(maxima: Float[np.ndarray, "*n maxima"], penalty: float = PENALTY) -> ReverseWeibull:
    """Fit every row of maxima, all at once and in float64.

    Args:
      maxima: one sample per row. A row with NaN or infinity gives NaN.
      penalty: of the squared shape; 0 is plain maximum likelihood with the shape at least 1.
    """
    shape = np.shape(maxima)[:-1]
    rows = np.asarray(maxima, np.float64).reshape(-1, np.shape(maxima)[-1])
    filled = np.zeros(((1 << max(len(rows) - 1, 0).bit_length()) - len(rows), rows.shape[1]))  # few sizes, so that few are compiled
    with jax.enable_x64(True):
        fitted = _fit_rows(np.concatenate([rows, filled]), np.float64(penalty))
        return ReverseWeibull(*(np.asarray(leaf)[: len(rows)].reshape(shape) for leaf in fitted))


@jax.jit
def _fit_rows(rows: Array, penalty: Array) -> tuple[Array, ...]:
    """One row after the other: in one row alone the grid keeps the cores busy."""
    return jax.lax.map(lambda row: _fit(row, penalty), rows)


def _fit(maxima: Float[Array, " n"], penalty: Array) -> tuple[Array, ...]:
    largest, spread = jnp.max(maxima), jnp.max(maxima) - jnp.min(maxima)
    usable = spread > 0
    depth = jnp.where(usable, jnp.sort(largest - maxima) / jnp.where(usable, spread, 1), 0)

    def value(log_gap: Array) -> Array:
        shape, log_mean, log_y = _best_shape(depth, jnp.exp(log_gap), penalty)
        likelihood = jnp.log(shape) - jnp.log1p(jnp.exp(log_gap)) - log_mean + (shape - 1) * jnp.mean(log_y) - 1
        return likelihood - penalty * shape**2 / len(depth)

    def close_in(_: int | Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        grid = jnp.linspace(*ends, _GRID)
        best = jnp.argmax(jax.vmap(value)(grid))
        return grid[jnp.maximum(best - 1, 0)], grid[jnp.minimum(best + 1, _GRID - 1)]

    first, last = (jnp.asarray(np.log(end), depth.dtype) for end in _GAPS)
    low, high = jax.lax.fori_loop(0, _ROUNDS, close_in, (first, last))
    inside, gap = high < last, jnp.exp((low + high) / 2)
    shape, log_mean, _ = _best_shape(depth, gap, penalty)
    log_scale = jnp.log1p(gap) + log_mean / shape
    p_value = _kolmogorov_smirnov(-jnp.expm1(-jnp.exp(shape * (jnp.log(depth + gap) - log_scale))))
    fitted = usable & inside & (p_value >= REJECTED)
    broken = ~jnp.isfinite(maxima).all()
    location = jnp.where(fitted, largest + gap * spread, largest)
    numbers = [
        jnp.where(broken, jnp.nan, one) for one in (location, jnp.exp(log_scale) * spread, shape, jnp.where(usable, p_value, jnp.nan))
    ]
    return (*numbers, fitted)


def _best_shape(depth: Float[Array, " n"], gap: Array, penalty: Array) -> tuple[Array, Array, Array]:
    """Best shape for a gap, log mean of y^shape, and log y, where y = (depth + gap) / (1 + gap).

    The slope of the log likelihood per maximum is 1/shape + mean(log y) - mean(y^shape log y) / mean(y^shape), which falls. Newton's
    steps start from the left of its root and stay there, nearly doubling the shape until they are close.
    """
    log_y = jnp.log1p((depth - 1) / (1 + gap))  # depth is at most 1: exact for large gaps, where all y are close to 1
    mean = jnp.mean(log_y)

    def tilted(shape: Array) -> tuple[Array, Array, Array]:
        weights = jnp.exp(shape * log_y)
        total = jnp.mean(weights)
        first = jnp.mean(weights * log_y) / total
        return total, first, jnp.mean(weights * log_y**2) / total - first**2

    def newton(_: int | Array, shape: Array) -> Array:
        _, first, variance = tilted(shape)
        slope = 1 / shape + mean - first - 2 * penalty * shape / len(depth)
        curvature = 1 / shape**2 + variance + 2 * penalty / len(depth)
        return jnp.maximum(shape + slope / curvature, 1)

    shape: Array = jax.lax.fori_loop(0, 24, newton, jnp.ones_like(gap))
    return shape, jnp.log(tilted(shape)[0]), log_y


def _kolmogorov_smirnov(cdf: Float[Array, " n"]) -> Array:
    """P-value of the largest gap between a sorted sample's distribution and the uniform one (Stephens' correction of the limit)."""
    n = len(cdf)
    steps = jnp.arange(n + 1, dtype=cdf.dtype) / n
    distance = jnp.maximum(jnp.max(steps[1:] - cdf), jnp.max(cdf - steps[:-1]))
    t = distance * (np.sqrt(n) + 0.12 + 0.11 / np.sqrt(n))
    j = jnp.arange(1, 101, dtype=cdf.dtype)
    series = 2 * jnp.sum(jnp.where(j % 2 == 1, 1.0, -1.0) * jnp.exp(-2 * (j * t) ** 2))
    return jnp.where(t < 0.2, 1, jnp.clip(series, 0, 1))  # below 0.2 the series converges slowly to 1
