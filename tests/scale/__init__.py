"""Tests of `a2d_jax.scale`."""
