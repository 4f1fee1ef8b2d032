"""FMN: closed forms, edges, the schedule, and distances compared with Foolbox and with a literal loop."""

import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.attacks import FMN
from tests.attacks.pinned import GOLDEN, golden, lenet
from tests.nets import batch, convnet, linear

DUAL = {"l2": np.linalg.norm, "linf": lambda w: np.abs(w).sum()}


def two_class(seed):
    rng = np.random.default_rng(seed)
    weights, x = rng.normal(size=(2, 16)).astype(np.float32), rng.uniform(0.45, 0.55, (20, 4, 4, 1)).astype(np.float32)
    return linear(weights), x, weights[0] - weights[1]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_distance_is_that_of_a_flat_boundary(norm):
    """Protects the minimum: on a two-class linear classifier the distance is margin / ||w||_dual, to 2 %."""
    net, x, w = two_class(0)
    exact = np.abs(x.reshape(20, 16) @ w) / DUAL[norm](w)
    result = drivers.attack(FMN(norm=norm), net, batch(net, x))
    assert result.success.all()
    assert (result.distance > exact * (1 - 1e-4)).all()
    near = exact > 0.01  # the last updates are 0.01 long
    assert near.sum() >= 10
    assert (result.distance < exact * 1.02)[near].all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_defence_ends_at_the_first_success(norm):
    """Protects the cost: with one straight boundary a few updates suffice, no later ones are made, and the distance is close."""
    net, x, w = two_class(1)
    exact = np.abs(x.reshape(20, 16) @ w) / DUAL[norm](w)
    result = drivers.attack(FMN(10.0, norm=norm, minimise=False), net, batch(net, x))
    assert result.success.all()
    assert result.cost.max() <= 2
    np.testing.assert_array_equal(result.forward_queries, result.cost + 1)
    np.testing.assert_allclose(result.distance, np.maximum(exact, 1e-4), rtol=0.11, atol=1e-4)


@pytest.mark.parametrize("minimise", [False, True])
def test_smaller_budget_walks_the_same_path(minimise):
    """Protects iteration bounds: a success within a smaller budget comes at the same update, one beyond it is censored."""
    net, x = convnet(), np.random.default_rng(2).uniform(size=(16, 8, 8, 1)).astype(np.float32)
    full = drivers.attack(FMN(0.1, minimise=False), net, batch(net, x))
    bound = int(np.median(full.cost))
    short = drivers.attack(FMN(0.1, max_steps=bound, minimise=minimise), net, batch(net, x))
    np.testing.assert_array_equal(short.censored, full.cost > bound)
    if not minimise:
        np.testing.assert_array_equal(short.cost, np.minimum(full.cost, bound + 1))


def test_minimising_never_lengthens():
    """Protects the kept point: going on after the first success gives a point as near or nearer, at all updates of the budget."""
    net, x = convnet(), np.random.default_rng(2).uniform(size=(16, 8, 8, 1)).astype(np.float32)
    first, best = (drivers.attack(FMN(minimise=minimise), net, batch(net, x)) for minimise in (False, True))
    assert (best.distance <= first.distance * (1 + 1e-6)).all()
    np.testing.assert_array_equal(best.iterations, 100)
    np.testing.assert_array_equal(best.forward_queries, 101)


def test_saturated_images_do_not_stall():
    """Protects black and white images: scalars at a bound that the gradient pushes outwards take no part in the estimate."""
    weights = np.zeros((2, 16), np.float32)
    weights[0] = np.where(np.arange(16) < 15, 5.0, 0.1)  # only the last scalar can lower the label's logit: the others are 0
    net = linear(weights, np.array([0.05, 0.0], np.float32))
    x = np.zeros((2, 4, 4, 1), np.float32)
    x[:, 3, 3] = 1.0
    blocked = linear(weights, np.array([-0.05, 0.0], np.float32))
    result = drivers.attack(FMN(max_steps=20), blocked, batch(blocked, x))
    assert result.success.all()
    np.testing.assert_allclose(result.distance, 0.5, rtol=0.05)  # 0.1 z - 0.05 < 0
    assert not drivers.attack(FMN(max_steps=20), net, batch(net, x)).success.any(), "0.1 z + 0.05 is positive throughout the box"


def test_input_on_the_boundary_moves():
    """Protects minimal examples: an input with a margin of 1e-8 is left, at a distance of about 1e-4."""
    net = linear(np.array([[1, 0, 0, 0], [0, 0, 0, 0]], np.float32), np.array([-0.5 + 3e-8, 0], np.float32))
    x = np.full((2, 2, 2, 1), 0.5, np.float32)
    result = drivers.attack(FMN(minimise=False), net, batch(net, x, label=np.zeros(2)))
    assert result.success.all()
    assert result.distance.max() < 2e-4


@pytest.mark.slow
def test_distances_beside_foolbox_and_the_paper():
    """Protects the yardstick: on LeNet-5 every digit succeeds, no farther in the median than Foolbox (Linf) or the paper's loop (L2)."""
    found = np.load(GOLDEN / "yardsticks.npz", allow_pickle=False)
    net, x = lenet(), golden()["x"]
    for attack, name in (
        (FMN(1.0, norm="linf"), "linf_1"),
        (FMN(10.0, norm="linf"), "linf_10"),
        (FMN(), "l2_paper"),
        (FMN(), "l2_foolbox"),
    ):
        result = drivers.attack(attack, net, batch(net, x))
        assert result.success.all()
        assert np.median(result.distance / found[f"fmn_{name}"]) < 1.005
