"""Newton: closed forms, an independent implementation, precision, lanes, and the radius at which it may stop."""

import dataclasses

import jax
import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.attacks import PGD, Newton, bim, fgsm
from tests.attacks.pinned import GOLDEN
from tests.nets import batch, convnet, formula_input, formula_net, linear

VECTORS = np.load(GOLDEN / "vectors.npy")
EPSILON = {"linf": 0.1, "l2": 0.5, "rms": 0.08}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).uniform(size=(24, 8, 8, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("norm", "dual"), [("linf", lambda w: np.abs(w).sum()), ("l2", np.linalg.norm), ("rms", lambda w: 4 * np.linalg.norm(w))]
)
def test_one_step_finds_the_distance_of_a_linear_boundary(norm, dual):
    """Protects the definition: where the margin is linear, one update gives margin over dual norm, exactly."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(2, 16)).astype(np.float32)
    x = rng.uniform(0.4, 0.6, size=(40, 4, 4, 1)).astype(np.float32)
    logits = x.reshape(40, -1) @ weights.T
    net, exact = linear(weights), np.abs(logits[:, 0] - logits[:, 1]) / dual(weights[0] - weights[1])
    result = drivers.attack(Newton(10.0, shortest=1e-6, norm=norm), net, batch(net, x))
    inside = np.abs(result.x_adv - 0.5).reshape(40, -1).max(1) < 0.49
    assert inside.sum() >= 30
    np.testing.assert_array_equal(result.iterations, 1)
    np.testing.assert_allclose(result.crossing[inside], exact[inside], rtol=1e-4)
    np.testing.assert_allclose(result.distance[inside], 1.05 * exact[inside], rtol=1e-4)


def test_two_layers_against_a_fine_grid():
    """Protects the crossing where slopes change: along a path without turns, a grid of 20,000 radii finds it in the same place."""
    rng = np.random.default_rng(1)
    w1, w2 = rng.uniform(0.1, 1, (12, 16)), np.stack([rng.uniform(0.5, 1, 12), np.zeros(12)])  # the margin rises with every pixel
    b1, b2 = -rng.uniform(1, 6, 12), np.array([0, 2.0])
    x = rng.uniform(0.6, 0.9, (20, 4, 4, 1))

    def logits(x):
        return np.maximum(x.reshape(-1, 16) @ w1.T + b1, 0) @ w2.T + b2

    radii = np.linspace(0, 0.6, 20_001)
    grid = np.array([radii[np.argmax(np.diff(logits(one.ravel() - radii[:, None])[:, ::-1], axis=1)[:, 0] < 0)] for one in x])
    with jax.enable_x64(True):
        net = _two_layers(w1, b1, w2, b2)
        result = drivers.attack(Newton(0.01, longest=0.1, max_steps=300), net, batch(net, x))
        fast = drivers.attack(Newton(0.3), net, batch(net, x))
    assert result.success.all()
    np.testing.assert_allclose(result.crossing, grid, atol=3e-3)
    np.testing.assert_allclose(fast.crossing, grid, rtol=0.15)
    assert fast.success.all()


def _two_layers(w1, b1, w2, b2):
    import jax.numpy as jnp

    from a2d_jax.types import Classifier

    return Classifier(tuple(map(jnp.asarray, (w1, b1, w2, b2))), _two_layers_of)


def _two_layers_of(variables, x):
    w1, b1, w2, b2 = variables
    return w2 @ jax.nn.relu(w1 @ x.ravel() + b1) + b2


@pytest.mark.parametrize("norm", EPSILON)
def test_golden_values(norm):
    """Protects the letter of the definition: an independent NumPy implementation in float64 gives the same updates and radii."""
    updates, success, crossing, distance = np.load(GOLDEN / "newton.npz")[norm].T
    with jax.enable_x64(True):
        net = formula_net()
        x = np.stack([formula_input(int(row[0]), row[1]) for row in VECTORS])
        attack = Newton(EPSILON[norm], norm=norm)
        result = drivers.attack(attack, net, batch(net, x, label=VECTORS[:, 2]))
    np.testing.assert_array_equal(result.iterations, updates)
    np.testing.assert_array_equal(result.success, success)
    np.testing.assert_allclose(result.crossing, crossing, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(result.distance, distance, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", EPSILON)
def test_float32_is_enough(norm, images):
    """Protects single precision: crossings differ from those in float64 by a millionth of the image's range, updates by none."""
    attack = Newton(EPSILON[norm], norm=norm)
    net = convnet()
    single = drivers.attack(attack, net, batch(net, images))
    with jax.enable_x64(True):
        wide = dataclasses.replace(net, variables=jax.tree.map(lambda w: np.asarray(w, np.float64), net.variables))
        double = drivers.attack(attack, wide, batch(wide, images.astype(np.float64), label=np.asarray(batch(net, images).label)))
    np.testing.assert_array_equal(single.iterations, double.iterations)
    np.testing.assert_allclose(single.crossing, double.crossing, rtol=1e-4, atol=1e-6)


def test_lanes_change_nothing(images):
    """Protects independence: updates are the same and radii equal to the rounding of sums, whatever the number of lanes."""
    net = convnet()
    results = [drivers.attack(Newton(0.2), net, batch(net, images), lanes=lanes, devices=jax.local_devices()[:1]) for lanes in (2, 8, 16)]
    for other in results[1:]:
        np.testing.assert_array_equal(other.iterations, results[0].iterations)
        np.testing.assert_allclose(other.crossing, results[0].crossing, rtol=1e-5)


@pytest.mark.parametrize(
    "attack", [bim(0.3, 0.003, 100), PGD(2.0, 0.02, 100, norm="l2"), bim(0.02, 0.003, 100)], ids=["bim", "l2", "small ball"]
)
def test_crossing_is_the_count_without_its_ties(attack, images):
    """Protects the crossing of BIM: it lies within the last step, in the ball, and a failure keeps the radius that it has reached."""
    net = convnet()
    result = drivers.attack(attack, net, batch(net, images))
    step, hit = attack.step_size, result.success
    least, most = (np.minimum((result.iterations - before) * step, attack.epsilon) for before in (1, 0))
    assert (result.crossing <= most * (1 + 1e-5)).all()
    assert (result.crossing[hit] >= least[hit] * (1 - 1e-5)).all()
    np.testing.assert_allclose(result.crossing[~hit], most[~hit], rtol=1e-4)
    inside = hit & (least < attack.epsilon)
    assert len(np.unique(result.crossing[inside])) == inside.sum() > 0


def test_one_step_of_fgsm_has_a_crossing(images):
    """Protects the interpolation: from the input in one long step, the crossing lies between 0 and the step."""
    net = convnet()
    result = drivers.attack(fgsm(0.3), net, batch(net, images))
    hit = result.success
    assert hit.any()
    assert ((result.crossing[hit] > 0) & (result.crossing[hit] < 0.3)).all()


def test_a_radius_ends_the_walk_and_changes_no_nearer_crossing(images):
    """Protects the bound: crossings below the radius stay as they are, the others end as failures at or beyond it, for fewer updates."""
    net = convnet()
    whole = drivers.attack(Newton(0.1, longest=0.1), net, batch(net, images))
    radius = float(np.median(whole.crossing))
    short = drivers.attack(Newton(0.1, longest=0.1, max_radius=radius), net, batch(net, images))
    near = whole.success & (whole.crossing < radius)
    assert near.any()
    np.testing.assert_allclose(short.crossing[near], whole.crossing[near], rtol=1e-6)
    assert short.success[near].all()
    assert (short.crossing[~near] >= radius).all()
    assert short.iterations.sum() < whole.iterations.sum()


def test_an_image_on_the_boundary_crosses_at_nothing(images):
    """Protects images without a margin: a given label that is wrong has crossing 0, a predicted one the least that the walk can tell."""
    net = convnet()
    examples = batch(net, images)
    wrong = examples._replace(label=(np.asarray(examples.label) + 1) % 5)
    np.testing.assert_array_equal(drivers.attack(Newton(), net, wrong).crossing, 0)
    flat = linear(np.array([[1, 1, 1, 1], [1, 1, 1, 1.001]], np.float32), np.array([0.0, -0.0005], np.float32))
    tie = batch(flat, np.full((2, 2, 2, 1), 0.5, np.float32), label=np.zeros(2))._replace(predicted=np.ones(2, bool))
    result = drivers.attack(Newton(), flat, tie)
    assert result.success.all()
    assert (result.crossing <= 0.002 * 8 / 255).all()
