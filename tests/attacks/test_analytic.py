"""Closed forms: on a linear classifier the number of updates follows from the margin and the weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.attacks import JSMA, PGD, bim2
from tests.nets import batch, linear

SHAPE = (4, 4, 1)


def two_class(seed: int):
    """A random two-class linear classifier and images in the middle of the box, whose margin is known."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(2, 16)).astype(np.float32)
    x = rng.uniform(0.4, 0.6, size=(20, *SHAPE)).astype(np.float32)
    logits = x.reshape(20, -1) @ weights.T
    return linear(weights), x, np.abs(logits[:, 0] - logits[:, 1]), weights[0] - weights[1]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("norm", "dual"), [("linf", lambda w: np.abs(w).sum()), ("l2", np.linalg.norm), ("rms", lambda w: 4 * np.linalg.norm(w))]
)
def test_pgd_needs_margin_over_step_times_dual_norm(norm, dual, seed):
    """Protects the count of BIM and BIM2: floor(margin / (step * dual norm of the weights)) + 1 updates."""
    net, x, margin, w = two_class(seed)
    step = 0.0011
    exact = margin / (step * dual(w))
    clear = np.abs(exact - np.round(exact)) > 1e-3  # a boundary hit exactly is decided by rounding
    result = drivers.attack(PGD(10.0, step, 1000, norm=norm), net, batch(net, x))
    reachable = clear & (np.abs(result.x_adv - 0.5).reshape(20, -1).max(1) < 0.49)
    assert reachable.sum() >= 15
    np.testing.assert_array_equal(result.iterations[reachable], np.floor(exact[reachable]) + 1)


@pytest.mark.parametrize("seed", range(3))
def test_linf_succeeds_iff_epsilon_exceeds_the_distance(seed):
    """Protects the ball: with many steps, Linf PGD succeeds exactly where epsilon exceeds margin / ||w||_1."""
    net, x, margin, w = two_class(seed)
    distance = margin / np.abs(w).sum()
    epsilon = float(np.median(distance)) * 1.01
    result = drivers.attack(PGD(epsilon, epsilon / 50, 200, norm="linf"), net, batch(net, x))
    np.testing.assert_array_equal(result.success, distance < epsilon)


def test_bim2_keeps_direction_of_tiny_gradients():
    """Protects confident networks: a gradient of 1e-30 still moves by a full step."""
    net = linear(np.array([[1, 0, 0, 0], [0, 0, 0, 0]], np.float32) * 1e-30)
    x = np.full((2, 2, 2, 1), 0.5, np.float32)
    result = drivers.attack(bim2(0.5, 0.01, 3), net, batch(net, x, label=np.zeros(2)))
    np.testing.assert_allclose(np.abs(result.x_adv - x)[:, 0, 0, 0], 0.02 * 3, rtol=1e-5)


def jsma_reference(weights, x, theta=0.1, budget=2000, most=7):
    """The rules of the specification (B5), in float64 NumPy, for a linear classifier: an independent rewriting."""
    x = x.astype(np.float64).ravel()
    weights = weights.astype(np.float64)
    mask, changes = np.ones_like(x), np.zeros_like(x)
    order = weights @ x
    target = int(np.argsort(order)[-2])
    for step in range(budget):
        logits = weights @ x
        if logits.argmax() == target:
            return step
        p = np.exp(logits - logits.max())
        p /= p.sum()
        p[target] -= 1
        a = mask * (p @ weights)
        j = int(np.argmax(a))
        x[j] -= np.sign(a[j]) * theta
        changes[j] += 1
        if x[j] <= 0 or x[j] >= 1 or changes[j] >= most:
            mask[j] = 0
        x = x.clip(0, 1)
    return budget


@pytest.mark.parametrize("seed", range(4))
def test_jsma_follows_the_rules(seed):
    """Protects JSMA: counts, retirement, no-op moves of black pixels and dead ends, against a float64 rewriting of the rules."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(4, 16)).astype(np.float32)
    tenths = np.array([0, 1, 2, 3, 4, 6, 7, 8, 9, 10])  # retirement is a matter of 1e-9; 0.5 needs 1e-17, see the module
    x = (rng.choice(tenths, size=(12, *SHAPE)) / np.float32(10)).astype(np.float32)
    net = linear(weights)
    result = drivers.attack(JSMA(), net, batch(net, x))
    np.testing.assert_array_equal(result.cost, [jsma_reference(weights, image) for image in x])


def test_jsma_memory_grows_with_the_image():
    """Protects large images: the state of JSMA holds a fixed number of image-sized arrays."""
    state = JSMA().init(batch(linear(np.zeros((2, 48), np.float32)), np.zeros((1, 4, 4, 3), np.float32))._replace(x=jnp.zeros((32, 32, 3))))
    assert sum(leaf.size for leaf in (state.x_adv, state.moves, state.changes)) == 3 * 32 * 32 * 3
