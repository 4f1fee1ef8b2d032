"""BIM with a binary search on its radius: closed form, growth, failure, budget, and a literal search on LeNet-5."""

import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.attacks import BIMSearch
from tests.attacks.pinned import golden, lenet
from tests.nets import batch, linear


@pytest.mark.parametrize(("norm", "dual"), [("linf", lambda w: np.abs(w).sum()), ("l2", np.linalg.norm)])
@pytest.mark.parametrize("epsilon", [0.05, 0.001])
def test_finds_the_distance_to_the_boundary(norm, dual, epsilon):
    """Protects the search: on a linear classifier it ends within 2^-20 of its bracket of margin / dual norm, also from below."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(2, 16)).astype(np.float32)
    net, x = linear(weights), rng.uniform(0.45, 0.55, (20, 4, 4, 1)).astype(np.float32)
    w = (weights[0] - weights[1]).astype(np.float64)
    distance = np.abs(x.reshape(20, 16).astype(np.float64) @ w) / dual(w)
    result = drivers.attack(BIMSearch(epsilon, epsilon / 6, 10, 400, norm), net, batch(net, x))
    assert (distance > 0.002).any(), "the first radius is too small for some"
    assert result.success.all()
    np.testing.assert_allclose(result.distance, distance, atol=2e-6)
    assert (result.iterations >= 21).all()
    assert (result.iterations <= 400).all()
    np.testing.assert_array_equal(result.backward_queries, result.forward_queries)


def test_failure_ends_after_twenty_radii():
    """Protects failure: 20 growing radii without a success end the attack; the last point is no adversarial."""
    net = linear(np.eye(2, 16, dtype=np.float32) * 1e-3, np.array([1.0, 0.0], np.float32))
    result = drivers.attack(BIMSearch(max_steps=1000), net, batch(net, np.full((2, 4, 4, 1), 0.5, np.float32)))
    assert not result.success.any()
    np.testing.assert_array_equal(result.iterations, 200)
    np.testing.assert_array_equal(result.cost, 1001)


def test_a_search_cut_short_keeps_its_hit():
    """Protects the budget: the closest success so far is returned, and the cost is censored."""
    rng = np.random.default_rng(1)
    net = linear(rng.normal(size=(2, 16)).astype(np.float32))
    examples = batch(net, rng.uniform(0.45, 0.55, (10, 4, 4, 1)).astype(np.float32))
    full, cut = (drivers.attack(BIMSearch(max_steps=budget), net, examples) for budget in (400, 40))
    assert cut.success.all()
    assert cut.censored.all()
    np.testing.assert_array_equal(cut.iterations, 40)
    assert (cut.distance >= full.distance).all()
    np.testing.assert_array_equal(np.asarray([net(x) for x in cut.x_adv]).argmax(1) != examples.label, True)


@pytest.mark.parametrize("norm", ["linf", "rms"])
def test_against_a_literal_search(norm):
    """Protects the flattened counters on LeNet-5: distances and updates are those of nested loops in float64."""
    known, net = golden(), lenet()
    result = drivers.attack(BIMSearch(norm=norm), net, batch(net, known["x"], label=known["label"]), driver="run")
    assert result.success.all()
    np.testing.assert_allclose(result.distance, known[f"search_{norm}_distance"], rtol=5e-3)
    assert (result.iterations == known[f"search_{norm}_updates"]).mean() > 0.5  # late bisections are decided by rounding
    np.testing.assert_allclose(result.iterations, known[f"search_{norm}_updates"], rtol=0.1)


def test_refuses_bad_settings():
    """Protects early failure: what the search cannot work with is refused, with what to do about it."""
    for settings, message in [
        ({"epsilon": 0.0}, "expected epsilon > 0, got 0.0; give"),
        ({"run_steps": 0}, "expected run_steps >= 1, got 0; give"),
        ({"norm": "l0"}, "expected a norm among linf, l2, rms, got 'l0'; pass"),
    ]:
        with pytest.raises(ValueError, match=message):
            BIMSearch(**settings)
