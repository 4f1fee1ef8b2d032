"""The two passes of GradientSign: closed form, edges of the search, queries, and Foolbox's FGSM."""

import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.attacks import GradientSign
from tests.attacks.pinned import golden, lenet
from tests.nets import batch, linear


def expected(exact: float, lengths: int) -> tuple[float, int]:
    """Length in parts of the longest, and lengths tried, where a step succeeds from `exact` parts on."""
    first = int(np.floor(exact * lengths)) + 1
    if first > 20:
        return first / lengths, first
    second = int(np.floor(exact * lengths * 20 / first)) + 1
    return first / lengths * second / 20, first + second


@pytest.mark.parametrize("lengths", [1, 50, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_shortest_multiple_beyond_the_boundary(lengths, seed):
    """Protects both passes: on a linear classifier the length and the number of looks follow from margin / ||w||_1."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(2, 16)).astype(np.float32)
    net, x = linear(weights), rng.uniform(0.45, 0.55, (30, 4, 4, 1)).astype(np.float32)
    w = weights[0] - weights[1]
    exact = np.abs(x.reshape(30, 16) @ w) / np.abs(w).sum() / 0.4
    result = drivers.attack(GradientSign(0.4, lengths, lengths + 20), net, batch(net, x))
    parts, tried = np.array([expected(e, lengths) for e in exact]).T
    reach = parts < 1
    assert reach.sum() >= 10
    same = result.iterations == tried
    assert same[reach].mean() > 0.95, "a length that lies on the boundary is decided by rounding"
    np.testing.assert_allclose(result.distance[reach & same], 0.4 * parts[reach & same], rtol=1e-4)
    assert result.success[reach].all()
    np.testing.assert_array_equal(result.forward_queries, result.iterations + 1)
    np.testing.assert_array_equal(result.backward_queries, 1)


def test_failure_takes_a_second_pass():
    """Protects failure: without a hit 20 more lengths are tried, then the attack gives up with the cost of its budget."""
    net = linear(np.eye(2, 16, dtype=np.float32) * 1e-3, np.array([1.0, 0.0], np.float32))
    x = np.full((2, 4, 4, 1), 0.5, np.float32)
    result = drivers.attack(GradientSign(0.3, 30, 1000), net, batch(net, x))
    assert not result.success.any()
    np.testing.assert_array_equal(result.iterations, 50)
    np.testing.assert_array_equal(result.cost, 1001)
    np.testing.assert_allclose(result.distance, 0.3, rtol=1e-6)


def test_a_search_cut_short_keeps_its_hit():
    """Protects the budget: it ends the second pass early; the hit of the first is returned, and the cost is censored."""
    net = linear(np.array([[1.0] + [0] * 15, [0] * 16], np.float32), np.array([-0.45, 0.0], np.float32))
    x = np.full((2, 4, 4, 1), 0.5, np.float32)  # falls at 0.05: the 4th of the fifteenths, then the 18th of its 20 parts
    full = drivers.attack(GradientSign(0.18, 15, 35), net, batch(net, x))
    np.testing.assert_array_equal(full.iterations, 5 + 17)
    np.testing.assert_allclose(full.distance, 0.06 * 17 / 20, rtol=1e-5)
    cut = drivers.attack(GradientSign(0.18, 15, 12), net, batch(net, x))
    assert cut.success.all()
    assert cut.censored.all()
    np.testing.assert_array_equal(cut.cost, 13)
    np.testing.assert_allclose(cut.distance, 0.06, rtol=1e-5)


@pytest.mark.parametrize(("name", "settings"), [("", (1.0, 1000, 1020)), ("_one", (0.3, 1, 21))])
def test_against_foolbox(name, settings):
    """Protects the search on LeNet-5: lengths and looks are those that Foolbox's FGSM gives over the same two passes."""
    known, net = golden(), lenet()
    result = drivers.attack(GradientSign(*settings), net, batch(net, known["x"], label=known["label"]), driver="run")
    length, tried = known[f"gradient_sign{name}_length"], known[f"gradient_sign{name}_tried"]
    np.testing.assert_array_equal(result.success, length > 0)
    same = result.iterations == tried
    assert same.mean() > 0.95
    np.testing.assert_allclose(result.distance[same & result.success], length[same & result.success], rtol=1e-5)


def test_refuses_bad_settings():
    """Protects early failure: what the search cannot work with is refused, with what to do about it."""
    with pytest.raises(ValueError, match="expected lengths >= 1, got 0; give"):
        GradientSign(lengths=0)
    with pytest.raises(ValueError, match="expected epsilon >= 0, got -1; give"):
        GradientSign(epsilon=-1)
