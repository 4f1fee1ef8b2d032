"""Convolution and the max pooling that follows it, as one matrix product: for the small layers that convolution routines do badly.

One row of the product is the patch of image under a whole tile of the pool, one column an output channel at one place of the
tile. Pooling is then a maximum over columns: nothing is strided, and a tile's patch is read once for its `window` x `window`
convolutions. The zeros in the kernel's matrix cost (1 + (window - 1) / kernel)^2 times the multiplications, which such layers
win back (docs/performance.md).

Equal pixels give equal entries, on which the pool's gradient depends wherever an image is flat: each column adds the same terms in
the same order, as zeros change no sum. Matrix routines do so as long as all columns go through the same of their kernels, which is why
there are always a multiple of `COLUMNS`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from a2d_jax.nn.routines import multiply, pad

COLUMNS = 32
"""The product's columns are filled up to a multiple of this; the kernel for what is left over may add in another order."""


class _Tiling(NamedTuple):
    """How the tiles of the pool lie over the image: hashable, what of the layer is not data."""

    window: int  # height and width of a tile, in places of the convolution
    tiles: tuple[int, int]  # rows and columns of tiles
    patch: tuple[int, int]  # rows and columns of pixels under a tile

    def steps(self) -> tuple[int, int]:
        """Whole tiles that cover a patch, along either axis."""
        return -(-self.patch[0] // self.window), -(-self.patch[1] // self.window)


def conv_max_pool(
    x: Float[Array, "n h w c"], kernel: Float[Array, "kh kw c o"], bias: Float[Array, " o"], *, window: int, padding: int
) -> Float[Array, "n th tw o"]:
    """Convolution with unit stride, bias, and max pooling of `window` x `window` tiles, where a tile's first maximum takes the gradient.

    The same as `max_pool(conv(x) + bias, window)`; rows and columns of the convolution that are left over at the end are not pooled.

    Args:
      x: images.
      kernel: of the convolution, as `flax.nnx.Conv` has it.
      bias: one for each output channel.
      window: height and width of a tile; `th` and `tw` are how often it fits in the convolution's height and width.
      padding: rows and columns of zeros around the image.
    """
    kh, kw, _, out = kernel.shape
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    n, h, w, _ = x.shape
    tiling = _Tiling(window, ((h - kh + 1) // window, (w - kw + 1) // window), (kh + window - 1, kw + window - 1))
    y: Array = _product(x, lax.optimization_barrier(_matrix(kernel, window)), tiling)
    return _tile_max(y.reshape(n, *tiling.tiles, window * window, out)) + bias[None, None, None]


def _matrix(kernel: Array, window: int) -> Array:
    """The kernel at each place of a tile: rows are the pixels and channels of a patch, columns the places and output channels."""
    last = window - 1
    places = [jnp.pad(kernel, ((i, last - i), (j, last - j), (0, 0), (0, 0))) for i, j in np.ndindex(window, window)]
    return jnp.stack(places, axis=3).reshape(-1, len(places) * kernel.shape[-1])


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: Array, matrix: Array, tiling: _Tiling) -> Array:
    return _filled_product(x, matrix, tiling)


def _product_forward(x: Array, matrix: Array, tiling: _Tiling) -> tuple[Array, tuple[Array, Array]]:
    return _filled_product(x, matrix, tiling), (x, matrix)


def _filled_product(x: Array, matrix: Array, tiling: _Tiling) -> Array:
    """With the columns filled up; the backward product does without those, for its entries decide no tie."""
    columns = matrix.shape[1]
    filled = lax.optimization_barrier(jnp.pad(matrix, ((0, 0), (0, -columns % COLUMNS))))
    return multiply(_patches(x, tiling), filled)[..., :columns]


def _product_backward(tiling: _Tiling, residuals: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    """One product with the transpose, laid out as such before the loop: autodiff would leave the transposing to each step."""
    x, matrix = residuals
    _, to_matrix = jax.vjp(partial(multiply, _patches(x, tiling)), matrix)
    return _put_back(multiply(grad, lax.optimization_barrier(matrix.T)), x.shape, tiling), *to_matrix(grad)


_product.defvjp(_product_forward, _product_backward)


def _patches(x: Array, tiling: _Tiling) -> Array:
    """The pixels under each tile, `n th tw rows*columns*c` in row-major order: columns are put side by side first, then rows."""
    n, h, w, c = x.shape
    (rows, columns), (down, across), window = tiling.patch, tiling.tiles, tiling.window
    _, steps = tiling.steps()
    reach = across + steps - 1
    x = pad(x, ((0, 0), (0, reach * window - w)))
    x = x.reshape(n, h, reach, window * c)
    x = jnp.concatenate([x[:, :, j : j + across] for j in range(steps)], axis=-1)[..., : columns * c]
    return jnp.concatenate([x[:, i : i + window * (down - 1) + 1 : window] for i in range(rows)], axis=-1)


def _put_back(patches: Array, shape: tuple[int, ...], tiling: _Tiling) -> Array:
    """Transpose of `_patches`: patches are added up where they overlap, in pieces of a tile's size."""
    n, h, w, c = shape
    (rows, columns), (down, across), window = tiling.patch, tiling.tiles, tiling.window
    below, beside = tiling.steps()
    patches = patches.reshape(n, down, across, rows, columns, c)
    patches = jnp.pad(patches, ((0, 0), (0, 0), (0, 0), (0, below * window - rows), (0, beside * window - columns), (0, 0)))
    patches = patches.reshape(n, down, across, below, window, beside, window * c)
    zero = jnp.zeros((), patches.dtype)
    total = jnp.zeros((n, down + below - 1, across + beside - 1, window, window * c), patches.dtype)
    for i, j in np.ndindex(below, beside):
        total += lax.pad(patches[:, :, :, i, :, j], zero, ((0, 0, 0), (i, below - 1 - i, 0), (j, beside - 1 - j, 0), (0, 0, 0), (0, 0, 0)))
    x = jnp.swapaxes(total, 2, 3).reshape(n, (down + below - 1) * window, (across + beside - 1) * window, c)
    return pad(x, ((0, h - x.shape[1]), (0, w - x.shape[2])))


@jax.custom_jvp
def _tile_max(y: Float[Array, "n th tw places o"]) -> Float[Array, "n th tw o"]:
    return jnp.max(y, axis=-2)


@_tile_max.defjvp
def _tile_max_derivative(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """The change of a maximum is that of the first place that holds it.

    It is picked by a product with zeros and ones, so that the gradient is spread over the places by its transpose, which XLA computes
    once: a broadcast would be fused with what made the gradient, and all of that computed anew for each place.
    """
    (y,), (change,) = primals, tangents
    best: Array = _tile_max(y)
    *tiles, places, out = y.shape
    winner = jnp.full(best.shape, places - 1, jnp.int32)
    for place in reversed(range(places - 1)):
        winner = jnp.where(y[..., place, :] == best, place, winner)
    wins = jnp.expand_dims(winner, -2) == jnp.arange(places, dtype=jnp.int32).reshape(1, 1, 1, places, 1)
    pick = jnp.asarray(np.tile(np.eye(out), (places, 1)), y.dtype)
    return best, multiply(jnp.where(wins, change, 0).reshape(*tiles, places * out), pick, lax.Precision.HIGHEST)
