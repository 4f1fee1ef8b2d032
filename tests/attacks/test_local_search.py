"""Local search: the rules replayed in NumPy on the same draws, geometry, queries, and rounds compared with a literal loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.attacks import LocalSearch, local_search
from tests.attacks.pinned import GOLDEN, lenet
from tests.nets import batch, convnet, linear


def replay(logits, x, label, key, rounds):
    """The rules of the specification (B10) in NumPy, on the permutations that the attack draws: rounds, queries, image."""
    height, width, _ = x.shape
    start, later = jax.random.split(key)
    some = max(1, min(height * width // 10, 128))
    pixels = np.flatnonzero(np.asarray(jax.random.permutation(start, height * width)) < some)
    grey, queries = x - np.float32(0.5), 0
    for nth in range(rounds + 1):
        queries += 1
        if logits(grey[None] + 0.5)[0].argmax() != label:
            return nth, queries, grey + 0.5
        if nth == rounds:
            return rounds + 1, queries, grey + 0.5
        order = np.asarray(jax.random.permutation(jax.random.fold_in(later, nth), height * width))
        asked = [p for p in order if p in set(pixels)][:128]
        probes = np.repeat(grey[None], len(asked), axis=0)
        for probe, p in zip(probes, asked, strict=True):
            probe[p // width, p % width] = 10 * np.sign(probe[p // width, p % width])
        z = logits(probes + 0.5)
        e = np.exp(z - z.max(1, keepdims=True))
        queries += len(asked)
        best = np.array(asked)[np.argsort((e / e.sum(1, keepdims=True))[:, label], kind="stable")[:5]]
        near = np.zeros((height, width), bool)
        for row, column in zip(best // width, best % width, strict=True):
            value = np.float32(1.5) * grey[row, column]
            grey[row, column] = np.where(value < -0.5, value + 1, np.where(value > 0.5, value - 1, value))
            near[max(row - 5, 0) : row + 6, max(column - 5, 0) : column + 6] = True
        pixels = np.flatnonzero(near)
    raise AssertionError


@pytest.mark.parametrize("shape", [(8, 8, 1), (6, 14, 3)])
def test_follows_the_rules(shape):
    """Protects LSA: rounds, queries and images of a NumPy loop on the same draws, also for oblong images in colour."""
    rng = np.random.default_rng(3)
    net = convnet() if shape == (8, 8, 1) else linear(rng.normal(size=(4, 252)).astype(np.float32))
    x = rng.uniform(size=(100, *shape)).astype(np.float32)
    x[:50] = np.round(x[:50])  # black and white
    best = np.sort(np.asarray(jax.vmap(net)(jnp.asarray(x))), axis=1)
    order = np.argsort(best[:, -1] - best[:, -2])
    x = x[np.concatenate([order[:8], order[-4:]])]  # some near the boundary
    examples, rounds = batch(net, x), 12
    result = drivers.attack(LocalSearch(rounds), net, examples)
    logits = jax.jit(jax.vmap(net))
    expected = [
        replay(lambda z: np.asarray(logits(jnp.asarray(z))), image, label, key, rounds)
        for image, label, key in zip(x, examples.label, examples.key, strict=True)
    ]
    np.testing.assert_array_equal(result.cost, [e[0] for e in expected])
    np.testing.assert_array_equal(result.forward_queries, [e[1] for e in expected])
    np.testing.assert_array_equal(result.backward_queries, 0)
    np.testing.assert_allclose(result.x_adv, np.stack([e[2] for e in expected]), atol=1e-5)
    assert 0 < result.success.mean() < 1, "both outcomes occur"


def test_moved_pixels_wrap_around():
    """Protects the move: black becomes 0.75, white 0.25, grey stays, everything else is pushed out by half."""
    x = jnp.array([0, 1, 0.5, 0.4, 0.6, 0.1, 0.9], jnp.float32).reshape(1, 7, 1)
    np.testing.assert_allclose(np.ravel(local_search._pushed(x)), [0.75, 0.25, 0.5, 0.35, 0.65, 0.9, 0.1], atol=1e-6)


def test_windows_end_at_the_border():
    """Protects the candidates: squares of side 11, cut off at the image's border."""
    chosen = np.zeros((2, 20, 16), bool)
    chosen[0, 3, 4] = chosen[1, 19, 8] = True
    expected = np.zeros_like(chosen)
    expected[0, :9, :10] = expected[1, 14:, 3:14] = True
    np.testing.assert_array_equal(local_search._windows(jnp.asarray(chosen)), expected)


def test_no_round_does_more_than_move_five_pixels():
    """Protects the count: black pixels of equal weight rise by 0.75 at most, five a round, so a margin of 10 takes 3 rounds or more."""
    net = linear(np.array([np.zeros(400), np.ones(400)], np.float32), np.array([10.0, 0.0], np.float32))
    result = drivers.attack(LocalSearch(), net, batch(net, np.zeros((3, 20, 20, 1), np.float32)))
    assert result.success.all()
    assert (result.cost >= 3).all()
    assert (result.distance <= 5 * result.cost).all()


def test_rounds_of_the_literal_loop():
    """Protects the distribution: success rate and median rounds on digits near the boundary lie within the loop's spread over seeds."""
    golden = np.load(GOLDEN / "local_search.npz", allow_pickle=False)
    net, x = lenet(), golden["digits"].astype(np.float32) / 255
    result = drivers.attack(LocalSearch(40), net, batch(net, x), lanes=2)
    rates, medians = (golden["rounds"] <= 40).mean(1), np.median(golden["rounds"], axis=1)
    spread = max(np.ptp(rates), 1 / len(x))
    assert rates.min() - spread <= result.success.mean() <= rates.max() + spread
    assert medians.min() - 3 <= np.median(result.cost) <= medians.max() + 3
