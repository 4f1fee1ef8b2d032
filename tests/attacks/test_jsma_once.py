"""JSMA that raises scalars once: the pair rule compared with a search over all pairs, the single rule, dead ends, targets, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.attacks import JSMA, JSMAOnce, jsma_pairs, jsma_single
from a2d_jax.types import Classifier
from tests.attacks.pinned import golden, lenet
from tests.nets import batch, linear

SHAPE = (4, 4, 1)


def all_pairs(weights, bias, x, target, theta, budget):
    """The pair rule by a search over all pairs of a linear classifier, in float64: updates, and the image in the end."""
    x, free = x.astype(np.float64).ravel(), x.ravel() < 1
    for step in range(budget + 1):
        logits = weights @ x + bias
        if logits.argmax() == target or step == budget or free.sum() < 2:
            return step, x, logits.argmax() == target
        p = np.exp(logits - logits.max())
        p /= p.sum()
        slopes = p[:, None] * (weights - p @ weights)
        alpha, beta = slopes[target], slopes.sum(0) - slopes[target]
        a, b = alpha[:, None] + alpha, beta[:, None] + beta
        score = np.where((a > 0) & (b < 0) & free[:, None] & free & ~np.eye(len(x), dtype=bool), -a * b, 0)
        pair = list({int(i) for i in np.unravel_index(score.argmax(), score.shape)})
        x[pair] = np.minimum(1, x[pair] + theta)
        free[pair] = False
    raise AssertionError


@pytest.mark.parametrize("theta", [1.0, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_two_largest_slopes_are_the_best_pair(seed, theta):
    """Protects the pair rule: images and counts equal those of a literal search over all pairs, dead ends included."""
    rng = np.random.default_rng(seed)
    weights, bias = rng.normal(size=(4, 16)).astype(np.float32), np.float32([0, 0.5, 1, 1.5])
    x = rng.choice(np.float32([0, 0.2, 0.6, 1]), size=(16, *SHAPE)).astype(np.float32)
    net = linear(weights, bias)
    target = rng.integers(0, 4, 16)
    result = drivers.attack(jsma_pairs(theta, 6, targeted=True), net, batch(net, x, label=target))
    expected = [all_pairs(weights.astype(np.float64), bias, image, t, theta, 6) for image, t in zip(x, target, strict=True)]
    np.testing.assert_array_equal(result.success, [success for _, _, success in expected])
    assert 3 < result.success.sum() < 16
    reached = result.success
    np.testing.assert_array_equal(result.cost, [step if success else 7 for step, _, success in expected])
    ends = np.stack([image.reshape(SHAPE) for _, image, _ in expected])
    np.testing.assert_allclose(result.x_adv[reached], ends[reached], atol=1e-6)


def test_single_rule_on_two_classes():
    """Protects the single rule: of two logits, the scalars fall in the order of the product of the wanted slopes."""
    weights = np.zeros((2, 16), np.float32)
    weights[1] = np.linspace(-0.3, 1.2, 16)  # helps the target
    weights[0] = np.linspace(0.2, -2.8, 16)  # and hurts the other class
    product = np.maximum(weights[1], 0) * np.maximum(-weights[0], 0)
    net = linear(weights, np.array([2.0, 0.0], np.float32))
    result = drivers.attack(jsma_single(0.25, 16, targeted=True), net, batch(net, np.full((2, *SHAPE), 0.5, np.float32), label=np.ones(2)))
    gain = 0.25 * (weights[1] - weights[0])[np.argsort(-product)]
    margin = 2.0 + 0.5 * (weights[0] - weights[1]).sum()
    assert result.success.all()
    needed = int(np.searchsorted(np.cumsum(gain), margin)) + 1 if margin > 0 else 0
    np.testing.assert_array_equal(result.cost, needed)
    raised = np.flatnonzero((result.x_adv[0] > 0.5).ravel())
    np.testing.assert_array_equal(np.sort(np.argsort(-product)[:needed]), raised)


def test_theta_per_channel_weighs_the_slopes():
    """Protects networks with one scale per channel: the slope in the network's own units decides, not that in pixel units."""
    weights = np.zeros((2, 12), np.float32)
    weights[1, [3, 4]] = 1.0, 0.9  # first and second channel of the second pixel
    weights[0, [3, 4]] = -1.0, -0.9
    net = linear(weights, np.array([5.0, 0.0], np.float32))
    examples = batch(net, np.full((2, 2, 2, 3), 0.2, np.float32), label=np.ones(2))
    first = drivers.attack(jsma_single((0.2, 0.2, 0.2), 1, targeted=True), net, examples).x_adv - examples.x
    other = drivers.attack(jsma_single((0.2, 0.3, 0.2), 1, targeted=True), net, examples).x_adv - examples.x
    np.testing.assert_allclose(first.reshape(2, 12)[:, [3, 4]], [[0.2, 0]] * 2, atol=1e-6)
    np.testing.assert_allclose(other.reshape(2, 12)[:, [3, 4]], [[0, 0.3]] * 2, atol=1e-6)


@pytest.mark.parametrize("rule", ["pair", "single"])
def test_nothing_to_gain_raises_scalar_zero_then_gives_up(rule):
    """Protects the dead end of the references: with no useful scalar, scalar 0 becomes white once, and the attack fails."""
    net = linear(np.zeros((3, 16), np.float32), np.array([1.0, 0.5, 0.0], np.float32))
    result = drivers.attack(JSMAOnce(1.0, 20, rule), net, batch(net, np.full((2, *SHAPE), 0.5, np.float32)))
    assert not result.success.any()
    np.testing.assert_array_equal(result.cost, 21)
    np.testing.assert_array_equal(result.iterations, 1)
    np.testing.assert_array_equal(result.x_adv.reshape(2, 16), [[1.0] + [0.5] * 15] * 2)


def test_white_images_leave_no_pair():
    """Protects the search domain: scalars that are 1 are never chosen, and without two others the attack gives up at once."""
    net = linear(np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32))
    x = np.ones((3, *SHAPE), np.float32)
    x[1, 0, 1], x[2, 0, :2] = 0.0, 0.0
    label = np.asarray(jax.vmap(net)(jnp.asarray(x))).argmin(1)  # as target: not reached
    result = drivers.attack(jsma_pairs(1.0, 9, targeted=True), net, batch(net, x, label=label))
    np.testing.assert_array_equal(result.iterations[:2], 0)
    np.testing.assert_array_equal(result.x_adv[:2], x[:2])


def test_targets_are_uniform_over_the_other_classes():
    """Protects the draw: each class but the label is the target equally often (chi-square), and the key alone decides."""
    from scipy.stats import chisquare

    attack, keys = jsma_pairs(), jax.random.split(jax.random.key(0), 2000)
    example = batch(linear(np.zeros((5, 16), np.float32)), np.zeros((1, *SHAPE), np.float32))
    targets = jax.vmap(lambda key: attack._target(example._replace(label=jnp.int32(2), key=key), 5))(keys)
    counts = np.bincount(targets, minlength=5)
    assert counts[2] == 0
    assert chisquare(counts[[0, 1, 3, 4]]).pvalue > 0.001


@pytest.mark.parametrize(("name", "attack"), [("pairs", jsma_pairs(targeted=True)), ("single", jsma_single(targeted=True))])
def test_against_literal_searches(name, attack):
    """Protects both rules on LeNet-5: counts, success and the same scalars as literal loops in float64 over all pairs and all classes."""
    known, net = golden(), lenet()
    result = drivers.attack(attack, net, batch(net, known["x"], label=known["target"]), driver="run")
    np.testing.assert_array_equal(result.success, known[f"{name}_success"])
    same_steps = result.iterations == known[f"{name}_steps"]
    changed = (result.x_adv != known["x"]).reshape(len(same_steps), -1)
    expected = np.unpackbits(known[f"{name}_changed"], axis=1, count=784).astype(bool)
    assert same_steps.mean() >= 0.9
    assert (changed == expected).all(1).mean() >= 0.9  # the rest: slopes that tie in float32


def test_against_art():
    """Protects the pair rule on LeNet-5: ART's SaliencyMapMethod turns the same pixels white."""
    known, net = golden(), lenet()
    result = drivers.attack(jsma_pairs(targeted=True), net, batch(net, known["x"], label=known["target"]), driver="run")
    np.testing.assert_array_equal(result.success, known["pairs_art_success"])
    changed = (result.x_adv != known["x"]).reshape(len(result.success), -1)
    assert (changed == np.unpackbits(known["pairs_art_changed"], axis=1, count=784).astype(bool)).all(1).mean() >= 0.9


@pytest.mark.parametrize("attack", [JSMA(), jsma_pairs(), jsma_single()], ids=["jsma", "pairs", "single"])
def test_memory_is_proportional_to_the_image(attack):
    """Protects large images: what a compiled run needs at 224 x 224 x 3 is a few images, and four times that at 112 x 112 x 3."""

    def needed(size: int) -> float:
        net = Classifier(jnp.float32(0), lambda zero, x: jnp.stack([x[..., 0].mean(), x[..., 1].mean() + zero, x[..., 2].mean()]))
        example = batch(net, np.zeros((1, size, size, 3), np.float32), label=np.zeros(1))
        one = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), example)
        memory = jax.jit(drivers.run).lower(attack, net, one).compile().memory_analysis()
        return memory.temp_size_in_bytes / (size * size * 3 * 4)  # in float32 images

    small, large = needed(112), needed(224)
    assert large < 20
    assert large == pytest.approx(small, rel=0.1)
