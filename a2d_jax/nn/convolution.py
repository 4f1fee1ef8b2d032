"""Convolution that is fast on CPUs, forward and backward, with an input gradient that stays fast inside compiled loops.

An attack is a `while_loop` around one gradient to the *input*. XLA on CPU is fast for ordinary convolutions of many channels only. Few
channels, one channel at a time (depthwise), and the transposed or dilated convolutions that autodiff leaves in a loop body run 2 to 15
times slower. On a CPU, the routines of `routines.py` therefore compute the value and the input gradient. On other devices lax's own code
runs. Values and gradients are those of lax and of PyTorch. Flax takes the function as

    nnx.Conv(..., conv_general_dilated=conv_general_dilated)

docs/performance_notebook.md has the measured gain.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike

from a2d_jax.nn import routines
from a2d_jax.nn.routines import Settings, channels_last, spans


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
    """Convolve like `jax.lax.conv_general_dilated`. On a CPU, the value and the input gradient use the routine that suits the layer.

    It covers channels last (`n *window in`) with kernels `*window in out`, as Flax calls it, with any stride, padding, kernel
    dilation and feature groups. All other cases (other layouts, dilated inputs, batch groups, another output type, explicit
    sharding) use lax's own function. The covered case has no `jvp` of its own (it is a `custom_vjp`); `jvp` of a gradient works.
    """
    covered = (
        lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers) == channels_last(lhs.ndim)
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
        padding = lax.padtype_to_pads(lhs.shape[1:-1], spans(window, dilation), window_strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    return _convolve(lhs, rhs, Settings(tuple(window_strides), pads, dilation, feature_group_count, precision))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: Array, kernel: Array, settings: Settings) -> Array:
    return _value(x, kernel, settings)


def _value(x: Array, kernel: Array, settings: Settings) -> Array:
    ours, theirs = (partial(routine, settings=settings) for routine in (routines.convolve, routines.lax_convolve))
    return lax.platform_dependent(x, kernel, cpu=ours, default=theirs)


def _forward(x: Any, kernel: Any, settings: Settings) -> tuple[Array, tuple[Array, Array, Array | None]]:
    """Kept for the kernel's gradient is x only where that gradient is wanted: several gradients of one image ask for the input's alone."""
    return _value(x.value, kernel.value, settings), (x.value, kernel.value, x.value if kernel.perturbed else None)


def _backward(settings: Settings, residuals: tuple[Array, Array, Array | None], grad: Any) -> tuple[Array, Array | None]:
    x, kernel, inputs = residuals
    if isinstance(grad, SymbolicZero):
        grad = jnp.zeros_like(kernel, shape=grad.shape)

    def lax_gradient(grad: Array, kernel: Array) -> Array:
        return jax.linear_transpose(partial(routines.lax_convolve, kernel=kernel, settings=settings), x)(grad)[0]

    to_input = partial(routines.input_gradient, shape=x.shape, settings=settings)
    to_x = lax.platform_dependent(grad, kernel, cpu=to_input, default=lax_gradient)
    if inputs is None:  # in shard_map lax cannot batch the kernel's gradient of a grouped convolution, even one that nobody reads
        return to_x, None
    return to_x, jax.vjp(partial(routines.lax_convolve, inputs, settings=settings), kernel)[1](grad)[0]


_convolve.defvjp(_forward, _backward, symbolic_zeros=True)
