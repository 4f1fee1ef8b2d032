"""Convolutions and their input gradients for CPUs: one function per kind of layer, and the rule that chooses it.

Every routine uses operations that XLA runs fast on CPU: matrix products, convolutions of 32 or more output channels, and elementwise loops.
All compute the same as `lax.conv_general_dilated`, with sums in another order.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

FEW_CHANNELS = 8
"""Up to so many input channels the input gradient is one matrix product and shifted sums (docs/performance_notebook.md)."""
WIDE, WIDE_OF_FEW = 32, 64
"""Output channels from which XLA's fast convolution takes a layer; of few input channels it wants more."""


class Settings(NamedTuple):
    """The static settings of a convolution: hashable, one entry per spatial axis."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    precision: Any

    @property
    def ordinary(self) -> bool:
        """One group, no dilation."""
        return self.groups == 1 and all(n == 1 for n in self.dilation)


def convolve(x: Array, kernel: Array, settings: Settings) -> Array:
    """Convolve `n *window in` with `*window in/groups out`."""
    *window, _, outputs = kernel.shape
    if _pointwise(kernel, settings):
        return multiply(x[_every(settings.strides)], kernel.reshape(-1, outputs), settings.precision)
    if _depthwise(x.shape, kernel, settings):
        return _weighted_shifts(pad(x, settings.padding), kernel, settings.strides)
    columns = WIDE_OF_FEW if x.shape[-1] <= FEW_CHANNELS else WIDE
    fold = min(columns // outputs, x.shape[-2] // 4)  # a window nearly as wide as the image: XLA would take it for the image
    if settings.ordinary and len(window) == 2 and fold > 1:
        return _neighbours_as_channels(x, kernel, settings, fold, columns)
    return lax_convolve(x, kernel, settings)


def input_gradient(grad: Array, kernel: Array, shape: tuple[int, ...], settings: Settings) -> Array:
    """Gradient to the input, of shape `shape`, from that of the output."""
    unit = all(n == 1 for n in settings.strides)
    if _pointwise(kernel, settings):
        return _spread(multiply(grad, kernel.reshape(kernel.shape[-2:]).T, settings.precision), shape, settings.strides)
    if settings.ordinary and unit and shape[-1] <= FEW_CHANNELS:
        return _by_shifts(grad, kernel, shape, settings)
    if (settings.ordinary and not unit) or _depthwise(shape, kernel, settings):
        return _by_phases(grad, kernel, shape, settings)
    return _by_convolution(grad, kernel, shape, settings)


def _pointwise(kernel: Array, settings: Settings) -> bool:
    return settings.groups == 1 and all(n == 1 for n in kernel.shape[:-2]) and all(pad == (0, 0) for pad in settings.padding)


def _depthwise(shape: tuple[int, ...], kernel: Array, settings: Settings) -> bool:
    """One output channel for each input channel."""
    return settings.groups == shape[-1] == kernel.shape[-1] > 1 and all(n == 1 for n in settings.dilation)


def _weighted_shifts(x: Array, kernel: Array, strides: Sequence[int]) -> Array:
    """Depthwise convolution of a padded image: each pixel under the window times its weight, added up in one elementwise loop."""
    window = kernel.shape[:-2]
    sizes = [(size - k) // stride + 1 for size, k, stride in zip(x.shape[1:-1], window, strides, strict=True)]
    exact = jnp.float32 if x.dtype.itemsize < 4 else x.dtype  # short floats are added up in long ones
    total = jnp.zeros((len(x), *sizes, x.shape[-1]), exact)
    for offset in np.ndindex(*window):
        place = (slice(None), *(slice(k, k + (n - 1) * s + 1, s) for k, n, s in zip(offset, sizes, strides, strict=True)))
        total += x[place].astype(exact) * kernel[(*offset, 0)].astype(exact).reshape((1,) * (x.ndim - 1) + (-1,))
    return total.astype(x.dtype)


def _neighbours_as_channels(x: Array, kernel: Array, settings: Settings, fold: int, columns: int) -> Array:
    """Convolution of few output channels: `fold` neighbouring pixels of a row become output channels of one wider window.

    The kernel stands in the window once for each of these pixels, shifted; the window then moves on by all of them.
    """
    kh, kw, inputs, outputs = kernel.shape
    (down, across), (vertical, (low, high)) = settings.strides, settings.padding
    width = (x.shape[2] + low + high - kw) // across + 1
    steps, reach = -(-width // fold), (fold - 1) * across
    shifted = [jnp.pad(kernel, ((0, 0), (j * across, reach - j * across), (0, 0), (0, 0))) for j in range(fold)]
    wide = jnp.stack(shifted, axis=3).reshape(kh, kw + reach, inputs, fold * outputs)
    # Filled up to all columns; the barrier keeps all this before the loop.
    wide = lax.optimization_barrier(jnp.pad(wide, ((0, 0), (0, 0), (0, 0), (0, columns - fold * outputs))))
    end = ((steps - 1) * fold) * across + kw + reach - x.shape[2] - low
    y = lax_convolve(x, wide, settings._replace(strides=(down, fold * across), padding=(vertical, (low, end))))
    return y[..., : fold * outputs].reshape(len(y), y.shape[1], steps * fold, outputs)[:, :, :width]


def _by_convolution(grad: Array, kernel: Array, shape: tuple[int, ...], settings: Settings) -> Array:
    """Convolve `grad`, spread out by the strides, with the flipped kernel whose inputs and outputs have changed places."""
    *window, inputs, outputs = kernel.shape
    grouped = jnp.flip(kernel, axis=tuple(range(len(window)))).reshape(*window, inputs, settings.groups, -1)
    swapped = jnp.swapaxes(grouped, -1, -3).reshape(*window, outputs // settings.groups, settings.groups * inputs)
    # The barrier keeps XLA from folding flip and swap back into the convolution, which would restore the slow layout.
    swapped = lax.optimization_barrier(swapped)
    spread = [(n - 1) * stride + 1 for n, stride in zip(grad.shape[1:-1], settings.strides, strict=True)]
    padding = tuple(
        (span - 1 - low, size + low - n)
        for span, size, n, (low, _) in zip(spans(window, settings.dilation), shape[1:-1], spread, settings.padding, strict=True)
    )
    unit = settings._replace(strides=(1,) * len(window), padding=padding)
    if settings.strides == unit.strides:
        return convolve(grad, swapped, unit)
    return lax_convolve(grad, swapped, unit, spread=settings.strides)


def _by_shifts(grad: Array, kernel: Array, shape: tuple[int, ...], settings: Settings) -> Array:
    """One matrix product to every tap of the window, then each tap's image moved to its place and added up.

    For an input of few channels a convolution has as few output channels. The barrier keeps the sum one vectorised loop: fused into
    a reduction, such as the gradient's norm, it would be computed there, entry by entry.
    """
    *window, inputs, outputs = kernel.shape
    taps = multiply(grad, kernel.reshape(-1, outputs).T, settings.precision).reshape(*grad.shape[:-1], -1, inputs)
    zero, total = jnp.zeros((), grad.dtype), jnp.zeros(shape, grad.dtype)
    for tap, offset in enumerate(np.ndindex(*window)):
        place = [
            (k - low, size + low - out - k, 0)
            for k, size, out, (low, _) in zip(offset, shape[1:-1], grad.shape[1:-1], settings.padding, strict=True)
        ]
        total += lax.pad(taps[..., tap, :], zero, [(0, 0, 0), *place, (0, 0, 0)])
    return lax.optimization_barrier(total)


def _by_phases(grad: Array, kernel: Array, shape: tuple[int, ...], settings: Settings) -> Array:
    """Input gradient under strides: pixels at the same distance from a window's steps (a phase) are an ordinary convolution of `grad`.

    The kernel falls apart into one sub-kernel for each phase, of every `stride`-th weight. All phases are computed on the grid of `grad`,
    as output channels of one convolution (or one sum of shifts each, where channels are apart), and then put between one another.
    """
    *window, inputs, outputs = kernel.shape
    strides, axes = settings.strides, range(len(window))
    taps = [-(-k // stride) for k, stride in zip(window, strides, strict=True)]
    steps = [(size - 1 + low) // stride + 1 for size, stride, (low, _) in zip(shape[1:-1], strides, settings.padding, strict=True)]
    padding = tuple((t - 1, q - n) for t, q, n in zip(taps, steps, grad.shape[1:-1], strict=True))
    full = jnp.pad(kernel, [*((0, t * stride - k) for t, k, stride in zip(taps, window, strides, strict=True)), (0, 0), (0, 0)])
    parts = full.reshape(*(n for pair in zip(taps, strides, strict=True) for n in pair), inputs, outputs)
    order = [*(2 * axis for axis in axes), *(2 * axis + 1 for axis in axes), parts.ndim - 2, parts.ndim - 1]
    parts = jnp.flip(parts.transpose(order), axis=tuple(axes))  # *taps *phases in out
    if settings.groups == 1:
        swapped = jnp.moveaxis(parts, -1, len(window)).reshape(*taps, outputs, -1)
        unit = settings._replace(strides=(1,) * len(window), padding=padding)
        phases = convolve(grad, lax.optimization_barrier(swapped), unit).reshape(len(grad), *steps, *strides, inputs)
    else:
        padded = pad(grad, padding)
        each = [
            _weighted_shifts(padded, parts[(..., *phase, slice(None), slice(None))], (1,) * len(window)) for phase in np.ndindex(*strides)
        ]
        phases = jnp.stack(each, axis=-2).reshape(len(grad), *steps, *strides, outputs)
    between = [0, *(1 + axis + side * len(window) for axis in axes for side in (0, 1)), phases.ndim - 1]
    image = phases.transpose(between).reshape(len(grad), *(q * stride for q, stride in zip(steps, strides, strict=True)), -1)
    crop = [(-low, size + low - have) for size, have, (low, _) in zip(shape[1:-1], image.shape[1:-1], settings.padding, strict=True)]
    return pad(image, crop)


def _spread(x: Array, shape: tuple[int, ...], strides: Sequence[int]) -> Array:
    """Entries put `strides` apart, zeros between them and after them up to `shape`."""
    places = [(0, size - (n - 1) * stride - 1, stride - 1) for size, n, stride in zip(shape[1:-1], x.shape[1:-1], strides, strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *places, (0, 0, 0)])


def _every(strides: Sequence[int]) -> tuple[slice, ...]:
    return (slice(None), *(slice(None, None, stride) for stride in strides))


def pad(x: Array, padding: Sequence[tuple[int, int]]) -> Array:
    """Zeros around the image; negative numbers cut."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)])


def multiply(x: Array, matrix: Array, precision: lax.PrecisionLike = None) -> Array:
    """Matrix product over the last axis of `x`."""
    return lax.dot_general(x, matrix, (((x.ndim - 1,), (0,)), ((), ())), precision=precision)


def lax_convolve(x: Array, kernel: Array, settings: Settings, spread: tuple[int, ...] | None = None) -> Array:
    """lax's own convolution, of an input spread out by `spread`."""
    return lax.conv_general_dilated(
        x,
        kernel,
        settings.strides,
        settings.padding,
        lhs_dilation=spread,
        rhs_dilation=settings.dilation,
        dimension_numbers=channels_last(x.ndim),
        feature_group_count=settings.groups,
        precision=settings.precision,
    )


def channels_last(ndim: int) -> lax.ConvDimensionNumbers:
    """Images `n *window c`, kernels `*window in out`."""
    x = (0, ndim - 1, *range(1, ndim - 1))
    return lax.ConvDimensionNumbers(x, (ndim - 1, ndim - 2, *range(ndim - 2)), x)


def spans(window: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Pixels from the first to the last of a window."""
    return [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
