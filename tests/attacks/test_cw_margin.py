"""C&W of the second environment: closed form on linear logits, its end, and points compared with a literal loop in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.attacks import CWMargin
from tests.attacks.pinned import GOLDEN, golden, lenet
from tests.nets import batch, linear

MEAN, STD = 0.4, 0.2


def images(seed=0, count=12):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.3, 0.5, (count, 4, 4, 1)).astype(np.float32), rng.normal(size=(2, 16)).astype(np.float32)


def test_first_updates_go_along_the_signs_of_the_rivals_weights():
    """Protects the direction: with linear logits Adam moves w by its rate along the signs of the rival's weights, whatever their size."""
    x, weights = images()
    net = linear(weights, np.array([40, 0], np.float32))  # the label leads all the way
    result = drivers.attack(CWMargin(MEAN, STD, 0.01, max_steps=9), net, batch(net, x))
    assert not result.success.any()
    np.testing.assert_array_equal(result.cost, 10)
    w = 8 * 0.01 * np.sign(weights[1]).reshape(4, 4, 1)  # the first of the nine points is T(0)
    np.testing.assert_allclose(result.x_adv, MEAN + STD * np.tanh((x - MEAN) / STD + w) / 2, atol=1e-4)
    np.testing.assert_array_equal(result.forward_queries, 10)


def test_ends_where_momentum_has_died_away():
    """Protects the early end: a larger budget changes neither point nor counts, and what is returned is misclassified."""
    x, weights = images(1)
    start = MEAN + STD * np.tanh((x - MEAN) / STD).reshape(-1, 16) / 2
    lead = (start @ (weights[0] - weights[1])).max()
    net = linear(weights, np.array([0.05 - lead, 0], np.float32))
    label = (x.reshape(-1, 16) @ (weights[0] - weights[1]) + 0.05 - lead > 0).argmin(0)
    examples = batch(net, x, label=np.full(len(x), label))
    short, long = (drivers.attack(CWMargin(MEAN, STD, 0.01, max_steps=n), net, examples) for n in (2000, 4000))
    assert short.success.all()
    assert short.iterations.max() < 1000
    for name in ("x_adv", "iterations", "forward_queries"):
        np.testing.assert_array_equal(getattr(short, name), getattr(long, name))


def test_flat_logits_end_at_once():
    """Protects the dead end: without a gradient w rests at 0, and the attack gives up at the image of less contrast."""
    x, weights = images(2)
    net = linear(0 * weights, np.array([1, 0], np.float32))
    result = drivers.attack(CWMargin(MEAN, STD, max_steps=500), net, batch(net, x))
    assert result.censored.all()
    np.testing.assert_array_equal(result.iterations, 1)
    np.testing.assert_allclose(result.x_adv, MEAN + STD * np.tanh((x - MEAN) / STD) / 2, atol=1e-6)


@pytest.fixture(scope="module")
def pinned():
    with np.load(GOLDEN / "cw_margin.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.mark.slow
def test_points_are_those_of_a_literal_loop(pinned):
    """Protects the update: the twentieth point on LeNet-5 is PyTorch's, in float64; successes in float32 come within 10 of it.

    Points in float64, for Adam divides by the size of a gradient, and so makes much of the rounding of small ones.
    """
    first = pinned["first"]
    with jax.enable_x64(True):
        network = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), lenet())
        exact = batch(network, golden()["digits"][: len(first)].astype(np.float64) / 255)
        early = drivers.attack(CWMargin(max_steps=20), network, exact, driver="run")
    apart = np.abs(early.x_adv - pinned["early"]).max((1, 2, 3))
    assert apart.max() < 1e-12
    examples = batch(lenet(), golden()["x"][: len(first)])
    for budget in (250, 400):
        clear = (first < 0) | (abs(first - budget) > 10)
        found = drivers.attack(CWMargin(max_steps=budget), lenet(), examples, driver="run").success
        np.testing.assert_array_equal(found[clear], ((first >= 0) & (first < budget))[clear])


@pytest.mark.parametrize("change", [{"std": 0.0}, {"step_size": -1.0}])
def test_refuses_bad_settings(change):
    """Protects early failure: scales that are not positive are refused when the attack is built."""
    with pytest.raises(ValueError, match=r"expected .* > 0"):
        CWMargin(**change)
