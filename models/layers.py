"""Layers that several network families share."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax import Array

from a2d_jax.nn import conv_general_dilated

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SD = (0.229, 0.224, 0.225)


def normalise(x: Array, mean: Sequence[float], sd: Sequence[float]) -> Array:
    """Images `n h w c` less the mean of each channel, over its standard deviation."""
    return (x - jnp.asarray(mean, x.dtype)[None, None, None]) / jnp.asarray(sd, x.dtype)[None, None, None]


def convolution(inputs: int, outputs: int, size: int, *, stride: int = 1, bias: bool = False, rngs: nnx.Rngs) -> nnx.Conv:
    """A `size` x `size` convolution padded by `size // 2` on every side, as PyTorch networks are."""
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=bias,
        conv_general_dilated=conv_general_dilated,
        rngs=rngs,
    )
