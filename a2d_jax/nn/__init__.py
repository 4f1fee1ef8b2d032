"""Layers with the values and gradients of PyTorch, and with input gradients that stay fast inside compiled loops."""

from a2d_jax.nn.convolution import conv_general_dilated
from a2d_jax.nn.planes import conv_pool_relu
from a2d_jax.nn.pooling import max_pool, sliding_max_pool
from a2d_jax.nn.routines import FEW_CHANNELS

__all__ = ["FEW_CHANNELS", "conv_general_dilated", "conv_pool_relu", "max_pool", "sliding_max_pool"]
