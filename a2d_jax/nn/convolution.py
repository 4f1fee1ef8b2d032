"""Convolution whose input gradient stays fast inside compiled loops.

An attack is a `while_loop` around one gradient to the *input*. XLA on CPU brings convolutions into its fast layout only outside
of loops, so the transposed kernel that autodiff leaves in a loop body runs on a path several times slower. Here the input
gradient is written out as an ordinary convolution. Values and gradients are those of lax and of PyTorch; Flax takes it as

    nnx.Conv(..., conv_general_dilated=conv_general_dilated)

What it gains is measured in docs/performance.md.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

FEW_CHANNELS = 8
"""Up to so many input channels the input gradient is one matrix product and shifted sums (docs/performance.md)."""


class _Settings(NamedTuple):
    """What of a convolution is not data: hashable, one entry per spatial axis."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    precision: Any


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: Any = None,
) -> Array:
    """Convolve like `jax.lax.conv_general_dilated`, with an input gradient that is an ordinary convolution.

    Covers channels last (`n *window in`) with kernels `*window in out`, as Flax calls it, with any stride, padding, kernel
    dilation and feature groups. Everything else (other layouts, dilated inputs, batch groups, another output type, explicit
    sharding) is lax's own function. The covered case has no `jvp` of its own (it is a `custom_vjp`); `jvp` of a gradient works.
    """
    covered = (
        lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers) == _channels_last(lhs.ndim)
        and all(d == 1 for d in lhs_dilation or ())
        and batch_group_count == 1
        and lhs.dtype == rhs.dtype
        and (preferred_element_type is None or jnp.dtype(preferred_element_type) == lhs.dtype)
        and out_sharding is None
    )
    if not covered:
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            batch_group_count=batch_group_count,
            precision=precision,
            preferred_element_type=preferred_element_type,
            out_sharding=out_sharding,
        )
    window = rhs.shape[:-2]
    dilation = tuple(rhs_dilation or (1,) * len(window))
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:-1], _spans(window, dilation), window_strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    return _convolve(lhs, rhs, _Settings(tuple(window_strides), pads, dilation, feature_group_count, precision))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: Array, kernel: Array, settings: _Settings) -> Array:
    return _lax_convolve(x, kernel, settings)


def _forward(x: Array, kernel: Array, settings: _Settings) -> tuple[Array, tuple[Array, Array]]:
    return _lax_convolve(x, kernel, settings), (x, kernel)


def _backward(settings: _Settings, residuals: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    _, to_kernel = jax.vjp(partial(_lax_convolve, x, settings=settings), kernel)
    simple = settings.groups == 1 and all(n == 1 for n in settings.strides + settings.dilation)
    input_gradient = _by_shifts if simple and x.shape[-1] <= FEW_CHANNELS else _by_convolution
    return input_gradient(grad, kernel, x.shape, settings), *to_kernel(grad)


_convolve.defvjp(_forward, _backward)


def _by_convolution(grad: Array, kernel: Array, shape: tuple[int, ...], settings: _Settings) -> Array:
    """Convolve `grad`, spread out by the strides, with the flipped kernel whose inputs and outputs have changed places."""
    *window, inputs, outputs = kernel.shape
    grouped = jnp.flip(kernel, axis=tuple(range(len(window)))).reshape(*window, inputs, settings.groups, -1)
    swapped = jnp.swapaxes(grouped, -1, -3).reshape(*window, outputs // settings.groups, settings.groups * inputs)
    # The barrier keeps XLA from folding flip and swap back into the convolution, which would restore the slow layout.
    swapped = lax.optimization_barrier(swapped)
    spread = [(n - 1) * stride + 1 for n, stride in zip(grad.shape[1:-1], settings.strides, strict=True)]
    padding = tuple(
        (span - 1 - low, size + low - n)
        for span, size, n, (low, _) in zip(_spans(window, settings.dilation), shape[1:-1], spread, settings.padding, strict=True)
    )
    unit_strides = settings._replace(strides=(1,) * len(window), padding=padding)
    return _lax_convolve(grad, swapped, unit_strides, spread=settings.strides)


def _by_shifts(grad: Array, kernel: Array, shape: tuple[int, ...], settings: _Settings) -> Array:
    """One matrix product to every tap of the window, then each tap's image moved to its place and added up.

    For an input of few channels the convolution above has as few output channels, which convolution routines do badly. The barrier
    keeps the sum one vectorised loop: fused into a reduction, such as the gradient's norm, it would be computed there, entry by entry.
    """
    *window, inputs, outputs = kernel.shape
    taps = lax.dot_general(grad, kernel.reshape(-1, outputs), (((grad.ndim - 1,), (1,)), ((), ())), precision=settings.precision)
    taps = taps.reshape(*grad.shape[:-1], -1, inputs)
    zero, total = jnp.zeros((), grad.dtype), jnp.zeros(shape, grad.dtype)
    for tap, offset in enumerate(np.ndindex(*window)):
        place = [
            (k - low, size + low - out - k, 0)
            for k, size, out, (low, _) in zip(offset, shape[1:-1], grad.shape[1:-1], settings.padding, strict=True)
        ]
        total += lax.pad(taps[..., tap, :], zero, [(0, 0, 0), *place, (0, 0, 0)])
    return lax.optimization_barrier(total)


def _lax_convolve(x: Array, kernel: Array, settings: _Settings, spread: tuple[int, ...] | None = None) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        settings.strides,
        settings.padding,
        lhs_dilation=spread,
        rhs_dilation=settings.dilation,
        dimension_numbers=_channels_last(x.ndim),
        feature_group_count=settings.groups,
        precision=settings.precision,
    )


def _channels_last(ndim: int) -> lax.ConvDimensionNumbers:
    x = (0, ndim - 1, *range(1, ndim - 1))
    return lax.ConvDimensionNumbers(x, (ndim - 1, ndim - 2, *range(ndim - 2)), x)


def _spans(window: Sequence[int], dilation: Sequence[int]) -> list[int]:
    return [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
