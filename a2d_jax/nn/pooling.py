"""Max pooling with PyTorch's gradient, ties included, without the operations of lax that are slow on CPU (docs/performance_notebook.md)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: Float[Array, "n h w c"], window: int) -> Float[Array, "n h//window w//window c"]:
    """Largest entry of each `window` x `window` tile; rows and columns left over at the end are dropped.

    Among equal entries the first one in row-major order gets the gradient, and NaN wins, both as in PyTorch. (The gradient of lax's
    `reduce_window` is slow on CPU, and the gradient of a `maximum` splits ties.)
    """
    best, *others = _entries(x, window)
    for entry in others:
        best = jnp.maximum(best, entry)
    return best


def _pool_forward(x: Array, window: int) -> tuple[Array, tuple[Array, Array]]:
    y: Array = max_pool(x, window)
    return y, (x, y)


def _pool_backward(window: int, residuals: tuple[Array, Array], grad: Array) -> tuple[Array]:
    x, y = residuals
    entries = _entries(x, window)
    winner = jnp.full(y.shape, len(entries) - 1, jnp.int32)
    for number, entry in reversed(list(enumerate(entries[:-1]))):
        winner = jnp.where(entry == y, number, winner)
    n, rows, columns, c = y.shape

    def spread(v: Array) -> Array:
        tiles = jnp.broadcast_to(v[:, :, None, :, None], (n, rows, window, columns, window, c))
        return tiles.reshape(n, rows * window, columns * window, c)

    number = np.add.outer(np.arange(rows * window) % window * window, np.arange(columns * window) % window).astype(np.int32)
    inside = jnp.where(spread(winner) == number[None, :, :, None], spread(grad), 0)
    return (jnp.pad(inside, [(0, 0), *((0, have - used) for have, used in zip(x.shape[1:3], inside.shape[1:3], strict=True)), (0, 0)]),)


max_pool.defvjp(_pool_forward, _pool_backward)


def sliding_max_pool(x: Float[Array, "n h w c"], window: int, *, stride: int, padding: int) -> Float[Array, "n oh ow c"]:
    """Largest entry of every `window` x `window` square in a grid of squares that may overlap, like PyTorch's `max_pool2d`.

    Among equal entries the first one in row-major order gets the gradient, and NaN wins: pooling columns and then rows finds the first
    row with the maximum and the first column in this row. This takes fewer selections than the square has entries. It avoids the
    `select_and_scatter` of lax's `reduce_window`, which is ten times slower on CPU (docs/performance_notebook.md).

    Args:
      window: height and width of a square.
      stride: from one square to the next.
      padding: rows and columns around the image that never win; at most half a window, because a square must not consist of padding alone.
    """
    for axis in (2, 1):
        border = [(padding, padding, 0) if a == axis else (0, 0, 0) for a in range(4)]
        padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), border)
        reach = (padded.shape[axis] - window) // stride * stride + 1
        x, *others = (lax.slice_in_dim(padded, start, start + reach, stride, axis) for start in range(window))
        for entry in others:
            x = jnp.where((entry > x) | jnp.isnan(entry), entry, x)
    return x


def _entries(x: Array, window: int) -> list[Array]:
    """The first entries of all tiles, the second, and so on, in row-major order."""
    h, w = (size // window * window for size in x.shape[1:3])
    return [x[:, i:h:window, j:w:window] for i, j in np.ndindex(window, window)]
