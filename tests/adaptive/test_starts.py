"""Transplanted starts: which donors, and that they take an attack where gradients do not lead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from a2d_jax import drivers, norms
from a2d_jax.adaptive import cost_ascent, donors, margin_ascent, transplanted
from a2d_jax.attacks import DeepFool
from a2d_jax.errors import BadInput
from a2d_jax.types import Classifier
from tests.nets import batch, convnet, linear

N, POOL = 6, 40


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(size=(N + POOL, 5, 5, 1)).astype(np.float32)


LABEL, OTHER = np.arange(N) % 3, np.arange(POOL) % 3


@pytest.mark.parametrize("norm", ["linf", "l2", "rms"])
def test_donors_are_the_nearest_of_another_class(images, norm):
    """Protects the choice: a plain loop over the library's projection finds the same images, nearest first."""
    x, pool, epsilon = images[:N], images[N:], {"linf": 0.3, "l2": 0.8, "rms": 0.2}[norm]
    found = donors(x, LABEL, pool, OTHER, epsilon=epsilon, norm=norm, count=4)
    for i in range(N):
        left = [np.linalg.norm(p - norms.clip_to_ball(jnp.asarray(p), jnp.asarray(x[i]), epsilon, norm)) for p in pool]
        order = [j for j in np.argsort(left) if OTHER[j] != LABEL[i]]
        np.testing.assert_array_equal(found[i], order[:4])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_attack_begins_at_the_donor_moved_onto_its_ball(images, norm):
    """Protects the transplant: without an update, an attack returns the projected donor, of the rank asked for, within its ball."""
    net, epsilon = convnet(size=5), {"linf": 0.3, "l2": 0.8}[norm]
    examples = batch(net, images[:N], label=LABEL)
    for rank in (0, 2):
        moved = transplanted(examples, images[N:], OTHER, epsilon=epsilon, norm=norm, rank=rank)
        chosen = donors(images[:N], LABEL, images[N:], OTHER, epsilon=epsilon, norm=norm, count=3)[:, rank]
        result = drivers.attack(margin_ascent(epsilon, 0, norm), net, moved, driver="run")
        for i in range(N):
            expected = norms.clip_to_ball(jnp.asarray(images[N + chosen[i]]), jnp.asarray(images[i]), epsilon, norm)
            np.testing.assert_allclose(result.x_adv[i], expected, atol=1e-6)
    with pytest.raises(BadInput, match="an attack that takes a starting point, such as PGD, APGD or Boundary, got DeepFool"):
        drivers.attack(DeepFool(), net, moved)


def masked(variables, x):
    """A linear network whose logits are whole numbers: its gradient is 0 everywhere."""
    return jnp.round(variables @ x.ravel())


def test_a_transplant_succeeds_where_gradients_are_masked(images):
    """Protects the reason for it: ascent from the input fools nothing on a network without gradients, from donors it fools most images."""
    weights = np.random.default_rng(1).normal(size=(3, 25)).astype(np.float32) * 5
    net = Classifier(jnp.asarray(weights), masked)
    predicted = np.asarray(jax.vmap(net)(jnp.asarray(images))).argmax(1)
    examples = batch(net, images[:N])
    assert not drivers.attack(margin_ascent(0.5, 10), net, examples).success.any()
    wins = np.zeros(N, bool)
    for rank in range(3):
        moved = transplanted(examples, images[N:], predicted[N:], epsilon=0.5, rank=rank)
        for attack in (margin_ascent(0.5, 10), cost_ascent(0.5, 10, cost="margin")):
            result = drivers.attack(attack, net, moved)
            assert result.distance.max() <= 0.5 + 1e-5
            wins |= result.success
    assert wins.mean() > 0.8


def test_restarts_go_on_from_random_points(images):
    """Protects the union of both: the first run begins at the donor, the next at random points, and the best of all runs is kept."""
    net = linear(np.random.default_rng(2).normal(size=(3, 25)).astype(np.float32))
    examples = batch(net, images[:N])
    label = np.asarray(jax.vmap(net)(jnp.asarray(images))).argmax(1)
    moved = transplanted(examples, images[N:], label[N:], epsilon=0.2)
    one, more = (drivers.attack(cost_ascent(0.2, 8, cost="linearised", restarts=runs), net, moved) for runs in (1, 3))
    assert (more.success >= one.success).all()
    assert more.iterations.min() == 27


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pool_label": np.zeros(POOL, int), "label": np.zeros(N, int)}, "expected 1 images of other classes than 0 in the pool, got 0"),
        ({"count": 30}, "expected 30 images of other classes .* larger pool"),
        ({"count": 0}, "expected count >= 1, got 0"),
        ({"pool": np.zeros((POOL, 5, 4, 1), np.float32)}, r"of shape \(5, 5, 1\), got \(5, 4, 1\)"),
        ({"pool_label": np.zeros(3, int)}, r"expected labels of the pool of shape \(40,\), got \(3,\)"),
        ({"norm": "l0"}, "a norm among linf, l2, rms, got 'l0'"),
        ({"epsilon": -1.0}, "expected epsilon >= 0"),
        ({"x": np.full((N, 5, 5, 1), 2.0, np.float32)}, "expected pixels in"),
    ],
)
def test_what_cannot_be_is_refused(images, change, says):
    """Protects early failure: pools without another class, other shapes, other norms."""
    given = {"x": images[:N], "label": LABEL, "pool": images[N:], "pool_label": OTHER, "epsilon": 0.1, **change}
    places = [given.pop(name) for name in ("x", "label", "pool", "pool_label")]
    with pytest.raises(BadInput, match=says):
        donors(*places, **given)
