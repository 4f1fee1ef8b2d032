"""DeepFool: closed forms on linear classifiers, the choice among classes, clipping, ties, and the number of queries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.attacks import DeepFool
from tests.nets import batch, formula_input, formula_net, linear

SHAPE = (4, 4, 1)
DUAL = {"l2": 2, "linf": 1}


def in_the_middle(classes: int, n: int = 12, seed: int = 0):
    rng = np.random.default_rng(seed)
    weights = (4 * rng.normal(size=(classes, 16))).astype(np.float32)
    return linear(weights), weights, rng.uniform(0.45, 0.55, size=(n, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("form", ["original", "foolbox"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_one_update_reaches_the_nearest_flat_boundary(norm, form):
    """Protects the step: on a linear classifier one update goes (1 + overshoot) times the distance, in the norm of the attack."""
    net, weights, x = in_the_middle(classes=4)
    logits = x.reshape(12, -1) @ weights.T
    label = logits.argmax(1)
    gaps = logits.max(1, keepdims=True) - logits
    lengths = np.linalg.norm(weights[None] - weights[label][:, None], ord=DUAL[norm], axis=2)
    distance = np.where(gaps > 0, gaps / np.maximum(lengths, 1e-9), np.inf).min(1)
    result = drivers.attack(DeepFool(0.1, norm=norm, form=form), net, batch(net, x))
    np.testing.assert_array_equal(result.cost, 1)
    np.testing.assert_allclose(result.distance, 1.1 * (distance + (1e-4 if form == "original" else 0)), rtol=1e-4)


def test_only_candidates_are_looked_at():
    """Protects the choice: classes beyond the candidates are left alone though their boundary is nearer."""
    weights = np.zeros((3, 16), np.float32)
    weights[1, 0], weights[2, 1:] = 1, 10
    net = linear(weights, np.array([0, -0.6, -78], np.float32))  # class 1 second best, class 2 last but with a steep slope
    examples = batch(net, np.full((2, *SHAPE), 0.5, np.float32))
    near, far = (drivers.attack(DeepFool(candidates=n), net, examples) for n in (3, 2))
    assert (np.asarray(jax.vmap(net)(near.x_adv)).argmax(1) == 2).all()
    assert (np.asarray(jax.vmap(net)(far.x_adv)).argmax(1) == 1).all()
    assert (near.distance < far.distance * 2).all()
    np.testing.assert_array_equal(near.backward_queries, 3 * near.forward_queries)
    np.testing.assert_array_equal(far.backward_queries, 2 * far.forward_queries)


def test_a_thousand_classes_need_ten_gradients():
    """Protects memory: of 1000 classes only the gradients of 10 are ever formed."""
    net, _, x = in_the_middle(classes=1000, n=2)
    examples = batch(net, x)
    result = drivers.attack(DeepFool(), net, examples)
    assert result.success.all()
    np.testing.assert_array_equal(result.backward_queries, 10 * result.forward_queries)
    example = jax.tree.map(lambda leaf: leaf[0], examples)
    program = jax.make_jaxpr(lambda s: DeepFool().step(net, example, s))(DeepFool().init(example))
    shapes = {v.aval.shape for equation in program.eqns for v in equation.outvars}
    assert (10, *SHAPE) in shapes
    assert (1000, *SHAPE) not in shapes


def literal(x, overshoot, steps, norm, form):
    """The rules of the specification (B12) on the formula network, in float64 NumPy: updates at success, and the point."""
    h, i, k = np.arange(8), np.arange(36), np.arange(5)
    w1 = (((5 * h[:, None] + 3 * i + h[:, None] * i) % 11) - 5) / 4
    b1 = ((h % 3) - 1) / 2
    w2 = (((7 * k[:, None] + 2 * h + k[:, None] * h) % 9) - 4) / 3
    start, total = x.copy(), np.zeros_like(x)
    for step in range(steps + 1):
        hidden = w1 @ x + b1
        z = w2 @ np.maximum(hidden, 0)
        jacobian = (w2 * (hidden > 0)) @ w1
        if step == 0:
            label = z.argmax()
        if z.argmax() != label:
            return step, x
        if step == steps:
            return steps + 1, x
        best = (np.inf, None)
        for c in range(5):
            if c == label or (form == "foolbox" and not z[c] < z[label]):
                continue
            w = jacobian[label] - jacobian[c]
            distance = abs(z[c] - z[label]) / (np.linalg.norm(w, DUAL[norm]) + 1e-8)
            if distance < best[0]:
                best = (distance, w)
        distance, w = best
        direction = w / (np.linalg.norm(w) + 1e-8) if norm == "l2" else np.sign(w)
        if form == "foolbox":
            x = np.clip(x - (1 + overshoot) * distance * direction, 0, 1)
        else:
            total -= (distance + 1e-4) * direction
            x = np.clip(start + (1 + overshoot) * total, 0, 1)
    raise AssertionError


@pytest.mark.parametrize("form", ["original", "foolbox"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_follows_the_rules(norm, form):
    """Protects counts and points: clipping, several updates and failures, against a float64 rewriting of the rules."""
    images = [0.02 + 0.96 * formula_input(s, 0) for s in range(14)]
    with jax.enable_x64(True):
        net = formula_net()
        result = drivers.attack(DeepFool(0.02, 8, norm=norm, form=form), net, batch(net, np.stack(images)))
    counts, points = zip(*(literal(image.ravel(), 0.02, 8, norm, form) for image in images), strict=True)
    np.testing.assert_array_equal(result.cost, counts)
    np.testing.assert_allclose(result.x_adv.reshape(14, -1), points, rtol=1e-9, atol=1e-12)
    assert max(counts) > 1
    assert np.isin(points, (0, 1)).any()


@pytest.mark.parametrize("form", ["original", "foolbox"])
def test_dead_end_is_left_at_once(form):
    """Protects zero gradients: where no step leads anywhere the attack gives up after one look, at the cost of a failure."""
    flat = linear(np.zeros((3, 16), np.float32), np.array([1.0, 0.5, 0.0], np.float32))
    result = drivers.attack(DeepFool(form=form), flat, batch(flat, np.full((2, *SHAPE), 0.5, np.float32)))
    np.testing.assert_array_equal(result.cost, 51)
    np.testing.assert_array_equal(result.iterations, 0)
    np.testing.assert_array_equal(result.forward_queries, 1)


def test_ties_with_the_label():
    """Protects ties: `original` crosses a boundary it stands on by 1e-4; `foolbox` leaves the tied class out, and fails with two."""
    weights = np.zeros((2, 16), np.float32)
    weights[1, 0] = 1
    net = linear(weights, np.array([0.5, 0], np.float32))
    examples = batch(net, np.full((2, *SHAPE), 0.5, np.float32))
    np.testing.assert_array_equal(examples.label, 0)
    original = drivers.attack(DeepFool(0.0), net, examples)
    np.testing.assert_array_equal(original.cost, 1)
    np.testing.assert_allclose(original.distance, 1e-4, rtol=1e-2)
    assert not drivers.attack(DeepFool(0.0, form="foolbox"), net, examples).success.any()


def test_saturated_pixels_shrink_the_margin_by_a_share():
    """Protects clipping: with half of the slope in pixels on the bound, `foolbox` closes 1.05 / 2 of the gap per update."""
    weights = np.zeros((2, 16), np.float32)
    weights[0, :2] = 1
    net = linear(weights, np.array([0, 0.1], np.float32))
    x = np.full(SHAPE, 0.5, np.float32)
    x[0, 0] = 0
    example = jax.tree.map(lambda leaf: leaf[0], batch(net, x[None]))
    attack, state, gaps = DeepFool(0.05, form="foolbox"), None, []
    state = attack.init(example)
    for _ in range(5):
        gaps.append(float(jnp.diff(net(state.x_adv))[0]))
        state = attack.step(net, example, state)
    np.testing.assert_allclose(np.array(gaps[1:]) / gaps[:-1], 1 - 1.05 / 2, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overshoot": -0.1}, r"expected overshoot >= 0, got -0\.1; give"),
        ({"candidates": 1}, "expected candidates >= 2, got 1; give the number of classes"),
        ({"norm": "l1"}, "expected a norm among l2, linf, got 'l1'; pass"),
        ({"form": "art"}, "expected a form among original, foolbox, got 'art'; pass"),
    ],
)
def test_refuses(settings, message):
    """Protects early failure: a bad setting is refused by name, with what to do."""
    with pytest.raises(ValueError, match=message):
        DeepFool(**settings)
