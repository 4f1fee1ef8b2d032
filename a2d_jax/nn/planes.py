"""Convolution, max pool and ReLU, layer after layer, on planes of pixels: for small networks, on which convolution routines are slow.

A layer is one matrix product. A column is the image patch under a whole tile of the pool. A row is an output channel at one position in the
tile, so that pooling is a maximum over rows. The zeros in the kernel's matrix cost (1 + (window - 1) / kernel)^2 times the multiplications;
for small layers the gain is larger. The rest of the work is moving pixels. On a CPU this is fast only if long runs of memory move
unchanged:

- The batch is the last axis, so that the images of a batch are side by side.
- Pixels that a stride visits together are stored together. An image is kept as planes of every `stride`-th row and column; `stride` is the
  product of the windows of the layers that follow. A layer reads planes of one stride and writes planes of the next. No slice has a step.
- The patches of tiles overlap. So rows of pixels are moved once for all tiles, then columns, whole planes at a time: a few loops that
  compile quickly. The backward pass adds up columns, then rows.
- Between two products XLA fuses as much as it can into one loop and runs it slowly, in the shape of the product. A concatenation of many
  pieces stops this fusion. Therefore rows are added up in pieces.

A batch is treated as a whole, under `vmap` too (`custom_vmap`). The input gradient computes the value again; XLA finds that both are the
same. Equal pixels must give equal entries, because the pool's gradient depends on ties wherever an image is flat. They do: each row adds
the same terms in the same order, and zeros change no sum (`_product_with_ties` describes the conditions). Accelerators run the layers one
after the other. docs/performance_notebook.md has the gain.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_batching import custom_vmap
from jaxtyping import Float

from a2d_jax.nn.pooling import sliding_max_pool

PIECES = 16
"""Into so many at least a gradient is cut: fewer would be joined with what reads them into one loop."""
ALONE, SHARED = 1 << 19, 1 << 23
"""Multiplications of a product that one thread does, and of one whose columns are shared out; between these the terms may be."""
FEW_TERMS = 64
"""Terms of a sum that are never shared out among threads."""


class Weights(NamedTuple):
    """Of one layer."""

    kernel: Array  # `kh kw c o`
    bias: Array  # `o`
    matrix: Array  # the kernel's, see `_matrix`: value and gradient share it, for XLA to see that they compute the same


Layers = tuple[Weights, ...]


def conv_pool_relu(
    x: Float[Array, "n h w c"], layers: Sequence[tuple[Array, Array]], *, window: int, paddings: Sequence[int]
) -> Float[Array, "n th tw o"]:
    """For each layer a convolution with unit stride, bias, max pooling of `window` x `window` tiles, and ReLU.

    The first maximum of a tile gets the gradient, as in PyTorch. Rows and columns that do not fill a tile at the end are not pooled.
    First derivatives need reverse mode; derivatives of the input gradient work in both modes.

    Args:
      x: images.
      layers: kernel `kh kw c o`, as `flax.nnx.Conv` has it, and bias `o` of each.
      window: height and width of a tile in every layer.
      paddings: rows and columns of zeros around the image, for each layer.
    """
    if len(layers) != len(paddings):
        raise ValueError(f"expected a padding for each of {len(layers)} layers, got {len(paddings)}; give 0 where there is none")
    weights = tuple(Weights(kernel, bias, lax.stop_gradient(_matrix(kernel, window))) for kernel, bias in layers)
    return _stack(x, weights, window, tuple(paddings))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _stack(x: Array, weights: Layers, window: int, paddings: tuple[int, ...]) -> Array:
    return _output(x, weights, window, paddings)


def _stack_forward(x: Array, weights: Layers, window: int, paddings: tuple[int, ...]) -> tuple[Array, tuple[Array, Layers]]:
    return _output(x, weights, window, paddings), (x, weights)


def _stack_backward(window: int, paddings: tuple[int, ...], residuals: tuple[Array, Layers], grad: Array) -> tuple[Array, Layers]:
    x, weights = residuals
    (to_weights,) = jax.vjp(lambda weights: one_by_one(x, weights, window, paddings), weights)[1](grad)
    return _input_gradients(x, weights, grad[None], window, paddings)[0], to_weights


_stack.defvjp(_stack_forward, _stack_backward)


def one_by_one(x: Array, weights: Layers, window: int, paddings: Sequence[int]) -> Array:
    """The same layers one after the other, for accelerators and for all derivatives except the first one to the input."""
    for (kernel, bias, _), padding in zip(weights, paddings, strict=True):
        y = lax.conv_general_dilated(x, kernel, (1, 1), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(sliding_max_pool(y + bias[None, None, None], window, stride=window, padding=0))
    return x


def _gradients_one_by_one(x: Array, weights: Layers, grads: Array, window: int, paddings: tuple[int, ...]) -> Array:
    _, back = jax.vjp(lambda x: one_by_one(x, weights, window, paddings), x)
    return jax.vmap(lambda grad: back(grad)[0])(grads)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _output(x: Array, weights: Layers, window: int, paddings: tuple[int, ...]) -> Array:
    """The value, with derivatives for whoever differentiates the rules above."""
    return _batched_value(window, paddings)(x, weights)


@_output.defjvp
def _output_jvp(window: int, paddings: tuple[int, ...], primals: Any, tangents: Any) -> tuple[Array, Array]:
    value = _output(*primals, window, paddings)
    return value, jax.jvp(partial(one_by_one, window=window, paddings=paddings), primals, tangents)[1]


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _input_gradients(x: Array, weights: Layers, grads: Float[Array, "k n th tw o"], window: int, paddings: tuple[int, ...]) -> Array:
    """Gradients `k n h w c` to the input, from several to the output."""
    return _batched_gradients(window, paddings)(x, weights, grads)


@_input_gradients.defjvp
def _input_gradients_jvp(window: int, paddings: tuple[int, ...], primals: Any, tangents: Any) -> tuple[Array, Array]:
    value = _input_gradients(*primals, window, paddings)
    return value, jax.jvp(partial(_gradients_one_by_one, window=window, paddings=paddings), primals, tangents)[1]


def _batched_value(window: int, paddings: tuple[int, ...]) -> Any:
    settings: dict[str, Any] = {"window": window, "paddings": paddings}

    @custom_vmap
    def value(x: Array, weights: Layers) -> Array:
        return lax.platform_dependent(x, weights, cpu=partial(_value, **settings), default=partial(one_by_one, **settings))

    @value.def_vmap
    def _(size: int, batched: Any, x: Array, weights: Layers) -> tuple[Array, bool]:
        if not batched[0] or any(jax.tree.leaves(batched[1])):
            return jax.vmap(partial(one_by_one, **settings), _axes(batched))(x, weights), True
        y = value(x.reshape(-1, *x.shape[2:]), weights)
        return y.reshape(size, -1, *y.shape[1:]), True

    return value


def _batched_gradients(window: int, paddings: tuple[int, ...]) -> Any:
    settings: dict[str, Any] = {"window": window, "paddings": paddings}

    @custom_vmap
    def gradients(x: Array, weights: Layers, grads: Array) -> Array:
        ours, theirs = partial(_gradients, **settings), partial(_gradients_one_by_one, **settings)
        return lax.platform_dependent(x, weights, grads, cpu=ours, default=theirs)

    @gradients.def_vmap
    def _(size: int, batched: Any, x: Array, weights: Layers, grads: Array) -> tuple[Array, bool]:
        if any(jax.tree.leaves(batched[1])) or not batched[2]:
            return jax.vmap(partial(_gradients_one_by_one, **settings), _axes(batched))(x, weights, grads), True
        if not batched[0]:  # more gradients of the same images
            out = gradients(x, weights, grads.reshape(-1, *grads.shape[2:]))
            return out.reshape(size, -1, *out.shape[1:]), True
        count = grads.shape[1]
        together = jnp.swapaxes(grads, 0, 1).reshape(count, -1, *grads.shape[3:])
        out = gradients(x.reshape(-1, *x.shape[2:]), weights, together)
        return jnp.swapaxes(out.reshape(count, size, -1, *out.shape[2:]), 0, 1), True

    return gradients


def _axes(batched: Any) -> Any:
    return jax.tree.map(lambda flag: 0 if flag else None, tuple(batched))


class _Layer(NamedTuple):
    """How the tiles of a layer lie over the planes that it reads and writes: what of it is not data."""

    window: int
    reads: int  # stride of the planes that it reads; those that it writes have a `window`-th of that
    padding: int
    patch: tuple[int, int]  # rows and columns of pixels under a tile
    size: tuple[int, int]  # rows and columns of the planes that it reads
    tiles: tuple[int, int]  # rows and columns of tiles
    channels: int

    @property
    def writes(self) -> int:
        """Stride of the planes that it writes."""
        return self.reads // self.window

    @property
    def tiles_of_plane(self) -> tuple[int, int]:
        """Rows and columns of tiles of a plane that it writes; some planes have one row or column less, and hold rubbish there."""
        return -(-self.tiles[0] // self.writes), -(-self.tiles[1] // self.writes)

    def runs(self, axis: int) -> list[tuple[int, slice]]:
        """Along rows (axis 0) or columns (1), where the pixels are that all tiles see at one place of their planes, in order.

        Runs of neighbouring planes, each with the row or column of the first tile's pixel there.
        """
        begin = -self.padding
        end = begin + self.window * (self.writes - 1) + self.patch[axis]
        firsts = range(begin // self.reads, -(-end // self.reads))
        return [(first, slice(max(begin - first * self.reads, 0), min(end - first * self.reads, self.reads))) for first in firsts]


def _layers(shape: Sequence[int], weights: Layers, window: int, paddings: Sequence[int]) -> list[_Layer]:
    _, h, w, c = shape
    found, stride = [], window ** len(weights)
    for (kernel, bias, _), padding in zip(weights, paddings, strict=True):
        kh, kw = kernel.shape[:2]
        tiles = (h + 2 * padding - kh + 1) // window, (w + 2 * padding - kw + 1) // window
        found.append(_Layer(window, stride, padding, (kh + window - 1, kw + window - 1), (-(-h // stride), -(-w // stride)), tiles, c))
        (h, w), c, stride = tiles, len(bias), stride // window
    return found


class _Seen(NamedTuple):
    """What the gradient of a layer needs of its value."""

    winner: Array  # `o *columns`: the place of the tile's first maximum
    positive: Array  # `o *columns`: whether it passes the ReLU


@partial(jax.jit, static_argnames=("window", "paddings"))
def _value(x: Array, weights: Layers, window: int, paddings: Sequence[int]) -> Array:
    return _run(x, weights, _layers(x.shape, weights, window, paddings))[0]


def _run(x: Array, weights: Layers, layers: Sequence[_Layer]) -> tuple[Array, list[_Seen]]:
    planes, seen = _split(x, layers[0]), []
    for (_, bias, matrix), layer in zip(weights, layers, strict=True):
        places = layer.window**2
        y = _product_with_ties(matrix, _patches(planes, layer)).reshape(places, len(bias), -1)
        best = y[0]
        for place in range(1, places):
            best = jnp.maximum(best, y[place])
        winner = jnp.full(best.shape, places - 1, jnp.int32)
        for place in reversed(range(places - 1)):
            winner = jnp.where(y[place] == best, place, winner)
        out = best + bias[:, None]
        seen.append(_Seen(winner, out > 0))
        planes = _without_rubbish(jax.nn.relu(out).reshape(len(bias), layer.writes, layer.writes, *layer.tiles_of_plane, len(x)), layer)
    return planes[:, 0, 0].transpose(3, 1, 2, 0), seen


@partial(jax.jit, static_argnames=("window", "paddings"))
def _gradients(x: Array, weights: Layers, grads: Array, window: int, paddings: Sequence[int]) -> Array:
    layers = _layers(x.shape, weights, window, paddings)
    _, seen = _run(x, weights, layers)

    def back(grad: Array) -> Array:
        grad = grad.transpose(3, 1, 2, 0)[:, None, None]
        for (_, bias, matrix), layer, (winner, positive) in reversed(list(zip(weights, layers, seen, strict=True))):
            places = layer.window**2
            grad = jnp.where(positive, _without_rubbish(grad, layer).reshape(len(bias), -1), 0)
            # Spread over the places by a product with zeros and ones, which XLA computes once: a broadcast would be joined with all
            # that made the gradient, and that computed anew for each place.
            spread = _product(jnp.tile(jnp.eye(len(bias), dtype=grad.dtype), (1, places)), grad).reshape(places, len(bias), -1)
            wins = winner[None] == jnp.arange(places, dtype=jnp.int32)[:, None, None]
            columns = jnp.where(wins, spread, 0).reshape(places * len(bias), -1)
            grad = _put_back(_product(matrix.T, columns), layer, len(x))
        return _join(grad, layers[0], x.shape)

    return back(grads[0])[None] if len(grads) == 1 else jax.vmap(back)(grads)


def _product(matrix: Array, columns: Array) -> Array:
    """`matrix.T @ columns`. A matrix that lies transposed makes routines add up a product's terms one after the other."""
    return lax.dot_general(matrix, columns, (((0,), (0,)), ((), ())), precision=lax.Precision.HIGHEST)


def _product_with_ties(matrix: Array, columns: Array) -> Array:
    """The same, its terms always added up one after the other.

    On four threads or more a product of middling size is not shared out by its columns but by its terms: each thread adds up some, and
    equal pixels give equal entries no longer. Smaller products, one after the other, are left to one thread each.
    """
    multiplications = matrix.size * columns.shape[1]
    if matrix.shape[0] <= FEW_TERMS or not ALONE < multiplications < SHARED:
        return _product(matrix, columns)
    step = max(ALONE // matrix.size // 16, 1) * 16  # whole registers, so that only the last piece has leftovers, as the whole has
    pieces = [_product(matrix, columns[:, begin : begin + step]) for begin in range(0, columns.shape[1], step)]
    return jnp.concatenate(pieces, axis=1)


def _matrix(kernel: Array, window: int) -> Array:
    """The kernel at each place of a tile: rows are the channels and pixels of a patch, columns the places and output channels."""
    last = window - 1
    places = [jnp.pad(kernel, ((i, last - i), (j, last - j), (0, 0), (0, 0))) for i, j in np.ndindex(window, window)]
    return jnp.stack(places, axis=3).transpose(2, 0, 1, 3, 4).reshape(-1, len(places) * kernel.shape[-1])


def _split(x: Array, layer: _Layer) -> Array:
    """Images `n h w c` as planes `c stride stride rows columns n`, with zeros at the end."""
    n, h, w, c = x.shape
    (rows, columns), stride = layer.size, layer.reads
    x = jnp.pad(x, ((0, 0), (0, rows * stride - h), (0, columns * stride - w), (0, 0)))
    return x.reshape(n, rows, stride, columns, stride, c).transpose(5, 2, 4, 1, 3, 0)


def _join(planes: Array, layer: _Layer, shape: Sequence[int]) -> Array:
    """Inverse of `_split`."""
    n, h, w, c = shape
    (rows, columns), stride = layer.size, layer.reads
    x = planes.transpose(5, 3, 1, 4, 2, 0)
    return x.reshape(n, rows * stride, columns * stride, c)[:, :h, :w]


def _without_rubbish(planes: Array, layer: _Layer) -> Array:
    """Zeros where a plane that the layer writes has no tile."""
    rows, columns = (
        np.arange(layer.writes)[:, None] + layer.writes * np.arange(count) < tiles
        for count, tiles in zip(layer.tiles_of_plane, layer.tiles, strict=True)
    )
    real = (rows[:, None, :, None] & columns[None, :, None, :])[None, ..., None]
    return planes if real.all() else jnp.where(real, planes, 0)


def _patches(planes: Array, layer: _Layer) -> Array:
    """The pixels under each tile: `c*rows*columns` of a patch, by all tiles of all planes and images."""
    for axis in (0, 1):
        before = (slice(None),) * (1 + axis)
        parts = [_move(planes[(*before, run)], -first, layer.tiles_of_plane[axis], axis) for first, run in layer.runs(axis)]
        planes = jnp.concatenate(parts, axis=1 + axis)
    (height, width), step = layer.patch, layer.window
    under = [planes[:, step * i : step * i + height, step * j : step * j + width] for i, j in np.ndindex(layer.writes, layer.writes)]
    return jnp.stack(under, axis=3).reshape(layer.channels * height * width, -1)


def _put_back(patches: Array, layer: _Layer, n: int) -> Array:
    """Transpose of `_patches`: patches are added up where they overlap, columns first, then rows, in pieces."""
    (rows, columns), (down, _), c, reads = layer.size, layer.tiles_of_plane, layer.channels, layer.reads
    under = patches.reshape(c, *layer.patch, layer.writes, layer.writes, *layer.tiles_of_plane, n)
    starts = range(0, layer.window * layer.writes, layer.window)
    grads = [_add_up([(start, under[:, :, :, i, j]) for i, start in enumerate(starts)], 1) for j in range(layer.writes)]
    grad = _add_up(list(zip(starts, grads, strict=True)), 2)
    grad = _add_up([(run.start, _move(part, first, columns, 1)) for first, run, part in _runs(grad, layer, 1)], 2)

    def row_of(plane: int, beside: int, row: int) -> Array:
        total = jnp.zeros((c, together, columns, n), grad.dtype)
        for first, run, part in runs:
            if run.start <= plane < run.stop and 0 <= row - first < down:
                total += part[:, plane - run.start, beside : beside + together, row - first]
        return total

    runs = list(_runs(grad, layer, 0))
    together = reads if reads * rows >= PIECES else 1  # planes beside one another in a piece
    pieces = [row_of(*piece) for piece in itertools.product(range(reads), range(0, reads, together), range(rows))]
    grad = jnp.stack(pieces, axis=1).reshape(c, reads, -1, rows, together, columns, n)
    return grad.swapaxes(3, 4).reshape(c, reads, reads, rows, columns, n)


def _runs(grad: Array, layer: _Layer, axis: int) -> Iterator[tuple[int, slice, Array]]:
    """The runs of a layer, each with its part of what `_patches` makes of them."""
    begin = 0
    for first, run in layer.runs(axis):
        end = begin + run.stop - run.start
        yield first, run, lax.slice_in_dim(grad, begin, end, axis=1 + axis)
        begin = end


def _move(planes: Array, by: int, size: int, axis: int) -> Array:
    """All planes moved down (axis 0) or to the right (1), cut to a size, with zeros where nothing comes from."""
    around = [(0, 0, 0)] * planes.ndim
    around[3 + axis] = (by, size - planes.shape[3 + axis] - by, 0)
    return lax.pad(planes, jnp.zeros((), planes.dtype), around)


def _add_up(parts: Sequence[tuple[int, Array]], axis: int) -> Array:
    """The sum of parts that begin at different places of an axis: one piece for each stretch that the same parts cover."""
    ends = [start + part.shape[axis] for start, part in parts]
    cuts = sorted({start for start, _ in parts} | set(ends))
    pieces = []
    for begin, end in itertools.pairwise(cuts):
        cover = [(start, part) for (start, part), stop in zip(parts, ends, strict=True) if start <= begin and end <= stop]
        pieces.append(sum(lax.slice_in_dim(part, begin - start, end - start, axis=axis) for start, part in cover))
    return jnp.concatenate(pieces, axis=axis)
