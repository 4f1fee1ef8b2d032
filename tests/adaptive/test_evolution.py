"""The evolution strategy: its mean and error in closed form, costs of JSMA and DBA, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from a2d_jax.adaptive import Evolution
from a2d_jax.attacks import JSMA, Boundary, bim
from a2d_jax.errors import BadInput
from a2d_jax.types import Classifier
from tests.nets import convnet, linear


def grey(size: int = 4):
    return jnp.full((size, size, 1), 0.5, jnp.float32)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_mean_of_a_count_in_closed_form(seed):
    """Protects value and gradient: on a linear classifier BIM's count is a rounded distance, whose mean under noise is known."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((2, 16), np.float32)
    weights[0] = rng.choice([-1, 1], 16)
    net = Classifier((jnp.asarray(weights), jnp.asarray([-0.5 * weights[0].sum() + 3.0, 0], jnp.float32)), linear(weights).apply)
    step, sigma = 0.01, 0.02
    evolution = Evolution(bim(0.5, step, 60), sigma, pairs=2000, seed=seed)
    found = jax.jit(evolution.estimate)(net, grey(), jnp.int32(0))
    # distance = (3 + sigma sum(w u)) / 16, and the count is the next whole number of steps
    mean, spread = 3 / 16 / step, sigma * 4 / 16 / step
    counts = np.arange(61)
    expected = np.sum(1 - norm.cdf(counts, mean, spread))
    slope = norm.pdf(counts, mean, spread).sum() / 16 / step * weights[0]
    assert float(found.value) == pytest.approx(expected, abs=5 * spread / np.sqrt(4000))
    z = (np.asarray(found.gradient).ravel() - slope) / np.asarray(found.error).ravel()
    assert np.abs(z).max() < 4.5
    assert 0.4 < np.std(z) < 1.7, "the error that is reported is the error"
    assert float(found.signal) > 0.9


def test_the_error_falls_with_the_pairs_and_tells_noise():
    """Protects honesty: four times the pairs halve the error; a constant cost has a gradient of 0 and no signal."""
    net = convnet()
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(8, 8, 1)), jnp.float32)
    label = jnp.argmax(net(x)).astype(jnp.int32)
    few, many = (jax.jit(Evolution(bim(0.3, 0.0005, 300), 0.01, pairs=pairs).estimate)(net, x, label) for pairs in (50, 200))
    ratio = float(jnp.sqrt(jnp.sum(few.error**2) / jnp.sum(many.error**2)))
    assert 1.5 < ratio < 2.7
    constant = Classifier((jnp.zeros((2, 64)), jnp.array([1.0, 0.0])), linear(np.zeros((2, 64), np.float32)).apply)
    none = jax.jit(Evolution(bim(0.3, 0.1, 3), 0.01, pairs=4).estimate)(constant, x, jnp.int32(0))
    assert float(none.value) == 4
    assert not np.any(none.gradient)
    assert float(none.signal) == 0


ATTACKS = {
    "jsma": Evolution(JSMA(max_steps=60), 0.05, pairs=24),
    "dba": Evolution(Boundary(mse_threshold=0.02, max_steps=20), 0.05, pairs=16),
    "bim_distance": Evolution(bim(0.3, 0.002, 100), 0.05, "distance", pairs=24),
}


@pytest.mark.parametrize("evolution", ATTACKS.values(), ids=ATTACKS)
def test_costs_without_gradients(evolution):
    """Protects JSMA and DBA: `jax.grad` gives the estimate, the same at every call and under `vmap`; a walk along it raises the value."""
    net = convnet()
    x = jnp.asarray(np.random.default_rng(5).uniform(0.2, 0.8, size=(2, 8, 8, 1)), jnp.float32)
    label = jnp.argmax(jax.vmap(net)(x), axis=1).astype(jnp.int32)
    both = jax.jit(jax.vmap(jax.value_and_grad(evolution, argnums=1), (None, 0, 0)))
    value, gradient = both(net, x, label)
    again = jax.jit(jax.vmap(evolution.estimate, (None, 0, 0)))(net, x, label)
    np.testing.assert_allclose(value, again.value, rtol=1e-5)
    np.testing.assert_allclose(gradient, again.gradient, rtol=1e-3, atol=1e-3 * np.abs(again.gradient).max())
    assert np.isfinite(gradient).all()
    assert np.any(gradient)
    length = jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2, 3), keepdims=True))
    higher, lower = (both(net, jnp.clip(x + sign * 0.15 * gradient / length, 0, 1), label)[0] for sign in (1, -1))
    assert (np.asarray(higher) > np.asarray(lower)).all()


def test_refuses_what_it_cannot_do():
    """Protects training: a gradient in the weights is refused instead of being 0, and so are bad settings."""
    net, x = convnet(), grey(8)
    evolution = Evolution(bim(0.3, 0.1, 3), pairs=2)
    with pytest.raises(BadInput, match="expected a gradient in the image alone, since Evolution knows no other, got one in the weights"):
        jax.grad(lambda variables: evolution(Classifier(variables, net.apply), x, jnp.int32(0)))(net.variables)
    for settings, text in (
        ({"sigma": 0.0}, "expected sigma > 0, got 0.0"),
        ({"pairs": 1}, "expected pairs >= 2, got 1"),
        ({"number": "crossing"}, "expected a number among cost, distance, got 'crossing'"),
    ):
        with pytest.raises(BadInput, match=text):
            Evolution(bim(), **settings)
