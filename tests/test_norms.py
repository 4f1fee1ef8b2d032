"""Geometry of one image-shaped array, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from a2d_jax import norms

NUMPY = {
    "l0": lambda v: (v != 0).sum(),
    "l1": lambda v: np.abs(v).sum(),
    "l2": lambda v: np.sqrt((v.astype(np.float64) ** 2).sum()),
    "linf": lambda v: np.abs(v).max(),
    "rms": lambda v: np.sqrt((v.astype(np.float64) ** 2).mean()),
}
DUAL = {"linf": "l1", "l2": "l2", "rms": "l2"}
IMAGES = arrays(np.float32, (3, 2, 2), elements=st.floats(-1, 1, width=32, allow_subnormal=False))


@pytest.mark.parametrize("kind", norms.NORMS)
@settings(max_examples=40, deadline=None)
@given(v=IMAGES)
@example(v=np.eye(3, 4, dtype=np.float32).reshape(3, 2, 2) * np.float32(2e-38))  # no pixel is subnormal, their root mean square is
def test_length_is_numpys(kind, v):
    """Protects distances: every norm equals NumPy's in float64, zero arrays included; XLA gives 0 for what is no normal float32."""
    np.testing.assert_allclose(norms.norm(jnp.asarray(v), kind), NUMPY[kind](v), rtol=1e-5, atol=np.finfo(np.float32).tiny)


@pytest.mark.parametrize("kind", ["l2", "rms"])
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1.0, 1e18])
def test_no_underflow_or_overflow(kind, size):
    """Protects tiny gradients: squares that leave float32 do not spoil length or direction."""
    v = np.array([3, 4, 0, 0], np.float32).reshape(2, 2, 1) * np.float32(size)
    np.testing.assert_allclose(norms.norm(jnp.asarray(v), kind), NUMPY[kind](v), rtol=1e-5)
    direction = norms.steepest(jnp.asarray(v), kind)
    np.testing.assert_allclose(direction, np.array([0.6, 0.8, 0, 0]).reshape(2, 2, 1) * (1 if kind == "l2" else 2), rtol=1e-5)


@pytest.mark.parametrize("kind", ["linf", "l2", "rms"])
@settings(max_examples=40, deadline=None)
@given(x=IMAGES, centre=IMAGES)
def test_ball(kind, x, centre):
    """Protects the threat model: inside nothing moves, outside lands on the sphere, twice is once."""
    epsilon = 0.3
    once = norms.clip_to_ball(jnp.asarray(x), jnp.asarray(centre), epsilon, kind)
    length = NUMPY[kind](x - centre)
    np.testing.assert_allclose(NUMPY[kind](np.asarray(once) - centre), min(length, epsilon), atol=1e-6)
    if length <= epsilon:
        np.testing.assert_allclose(once, x, atol=1e-7)
    np.testing.assert_allclose(norms.clip_to_ball(once, jnp.asarray(centre), epsilon, kind), once, atol=1e-6)


@pytest.mark.parametrize("kind", ["linf", "l2", "rms"])
@settings(max_examples=40, deadline=None)
@given(gradient=IMAGES)
def test_steepest_is_unit_and_best(kind, gradient):
    """Protects the step: unit length, and an inner product with the gradient that equals its dual norm."""
    direction = np.asarray(norms.steepest(jnp.asarray(gradient), kind), np.float64)
    if not gradient.any():
        np.testing.assert_array_equal(direction, 0)
        return
    np.testing.assert_allclose(NUMPY[kind](direction), 1, rtol=1e-5)
    scale = np.sqrt(gradient.size) if kind == "rms" else 1
    np.testing.assert_allclose((direction * gradient).sum(), NUMPY[DUAL[kind]](gradient) * scale, rtol=1e-4)


@pytest.mark.parametrize("kind", ["l1", "l2", "linf", "rms"])
def test_gradient_at_zero_is_finite(kind):
    """Protects differentiation: the distance of an unmoved image has a finite gradient."""
    gradient = jax.grad(lambda v: norms.norm(v, kind))(jnp.zeros((2, 2, 1)))
    assert np.isfinite(gradient).all()


def test_unknown_norms_are_refused():
    """Protects early failure: the valid names are listed."""
    for call in (lambda: norms.norm(jnp.ones((1, 1, 1)), "l3"), lambda: norms.steepest(jnp.ones((1, 1, 1)), "l0")):
        with pytest.raises(ValueError, match=r"expected a norm among .*l2.*, got 'l[03]'; pass one of them"):
            call()


@pytest.mark.parametrize("kind", ["l1", "l2", "linf", "rms"])
def test_nan_is_not_hidden(kind):
    """Protects against broken gradients that look like none: the length of an array with a NaN is NaN."""
    v = jnp.ones((3, 3, 1)).at[1, 1, 0].set(jnp.nan)
    assert np.isnan(norms.norm(v, kind))
