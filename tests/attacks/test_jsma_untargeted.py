"""JSMA without a given target: a literal NumPy loop on linear logits, edges, and counts compared with Foolbox 1.8."""

import dataclasses

import jax
import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.attacks import JSMAUntargeted
from tests.attacks.pinned import GOLDEN, lenet
from tests.nets import batch, linear


def literal(weights, x, lengths):
    """The rules, step by step in float64: result, points judged, and how many of them before the first move."""
    label, judged, number = int((weights @ x).argmax()), 1, 0

    def gradient(point, k):
        odds = np.exp(weights @ point - (weights @ point).max())
        return weights.T @ (odds / odds.sum() - np.eye(len(weights))[k])

    direction = gradient(x, label) / np.sqrt(np.mean(gradient(x, label) ** 2))
    tries, target = np.linspace(0, 1, lengths + 1)[1:], None
    for _ in range(2):
        for i, length in enumerate(tries):
            judged += 1
            found = int((weights @ np.clip(x + length * direction, 0, 1)).argmax())
            if found != label:
                target, number = found, i
                break
        if number >= 20:
            break
        tries = np.linspace(0, length, 21)[1:]
    searched, point, mask, changes = judged, x.copy(), np.ones_like(x), np.zeros_like(x)
    while True:
        judged += 1
        if (weights @ point).argmax() != label:
            return point, judged, searched
        slope = mask * gradient(point, target)
        j = slope.argmax()
        point[j] -= np.sign(slope[j]) * 0.1
        changes[j] += 1
        if point[j] <= 0 or point[j] >= 1 or changes[j] >= 7:
            mask[j] = 0
        point = np.clip(point, 0, 1)


def test_follows_the_rules_on_linear_logits():
    """Protects both parts: class aimed at, result and counts are those of the rules written out in NumPy."""
    rng = np.random.default_rng(0)
    weights, x = rng.normal(size=(5, 16)), rng.uniform(0.2, 0.8, (20, 4, 4, 1)).astype(np.float32)
    net = linear(weights.astype(np.float32))
    result = drivers.attack(JSMAUntargeted(lengths=300), net, batch(net, x), driver="run")
    assert result.success.all()
    searches = set()
    for image, x_adv, forward, backward in zip(x, result.x_adv, result.forward_queries, result.backward_queries, strict=True):
        expected, judged, searched = literal(weights, image.ravel().astype(np.float64), 300)
        np.testing.assert_allclose(x_adv.ravel(), expected, atol=1e-6)
        assert forward == judged
        assert backward == 1 + judged - searched
        searches.add(searched > 1 + 20 + 20)
    assert searches == {True, False}, "some searches take both passes, some one"


def test_draws_a_class_where_the_search_finds_none():
    """Protects the fallback: every class but the label is drawn by some key, and the label by none."""
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(4, 16)).astype(np.float32)
    net = linear(weights, np.array([99, 0, 0, 0], np.float32))  # no step of length 1 leaves the label
    attack = JSMAUntargeted(lengths=1, max_steps=24)
    examples = batch(net, np.full((40, 4, 4, 1), 0.5, np.float32))

    def drawn(example):
        state = attack.init(example)
        return jax.lax.fori_loop(0, 24, lambda _, state: attack.step(net, example, state), state).target

    targets = jax.jit(jax.vmap(drawn))(examples)
    assert set(np.asarray(targets).tolist()) == {1, 2, 3}


def test_moves_end_with_their_budget():
    """Protects the budget of moves: as many are made as allowed, whatever the search took, and the last point is judged."""
    rng = np.random.default_rng(2)
    net = linear(rng.normal(size=(5, 16)).astype(np.float32))
    examples = batch(net, rng.uniform(0.3, 0.7, (20, 4, 4, 1)).astype(np.float32))
    full = drivers.attack(JSMAUntargeted(lengths=60), net, examples, driver="run")
    moves = full.backward_queries - 2
    budget = int(np.median(moves))
    short = drivers.attack(JSMAUntargeted(lengths=60, max_updates=budget), net, examples, driver="run")
    np.testing.assert_array_equal(short.success, moves <= budget)
    np.testing.assert_array_equal(short.backward_queries - 2, np.minimum(moves, budget))
    assert 0 < short.success.sum() < 20


def test_counts_are_those_of_foolbox():
    """Protects the reference behaviour on LeNet-5: Foolbox's success, class reached, scalars moved, and questions asked."""
    with np.load(GOLDEN / "jsma_untargeted.npz", allow_pickle=False) as file:
        golden = dict(file)
    with np.load(GOLDEN / "lenet5_mnist.npz", allow_pickle=False) as file:
        x = file["digits"].reshape(-1, 28, 28, 1).astype(np.float32) / 255
    net = lenet()
    result = drivers.attack(JSMAUntargeted(), net, batch(net, x), driver="run")
    np.testing.assert_array_equal(result.success, golden["success"])
    reached = np.asarray(jax.vmap(net)(result.x_adv)).argmax(1)
    np.testing.assert_array_equal(reached, golden["reached"])
    np.testing.assert_array_equal(result.distance, golden["differing"])
    # Foolbox judges the input and the end of its search a second time, and asks for no gradient where it has succeeded.
    np.testing.assert_array_equal(result.backward_queries, golden["gradients"] + 1)
    apart = golden["predictions"] - 2 - result.forward_queries
    assert np.mean(apart == 0) > 0.8
    assert apart.max() <= 2, "gradients of a millionth are longer than Foolbox makes them, which adds 1e-8 to their size"
    assert apart.min() >= 0


@pytest.mark.parametrize("name", ["max_updates", "max_changes", "lengths"])
def test_refuses_bad_settings(name):
    """Protects early failure: counts below zero are refused when the attack is built."""
    with pytest.raises(ValueError, match=f"expected {name} >= [01], got -1"):
        dataclasses.replace(JSMAUntargeted(), **{name: -1})
