"""Tests of `a2d_jax.io`."""
