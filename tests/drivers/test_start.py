"""`Example.start`: an attack that begins elsewhere than at the centre of its ball, with every driver."""

import jax
import numpy as np
import pytest

from a2d_jax import costs, drivers, inputs
from a2d_jax.attacks import APGD, PGD, Newton, bim, pgd
from a2d_jax.drivers import refill
from a2d_jax.errors import BadInput
from a2d_jax.types import Classifier
from tests.nets import batch, convnet, forget_times, linear

ATTACK = bim(0.1, 0.01, 20)
N = 14


@pytest.fixture(scope="module")
def net():
    return convnet()


@pytest.fixture(scope="module")
def examples(net):
    """Most starts lie in the ball, some far outside it and outside [0, 1]."""
    rng = np.random.default_rng(11)
    made = batch(net, rng.uniform(size=(N, 8, 8, 1)).astype(np.float32))
    start = made.x + rng.uniform(-0.1, 0.1, made.x.shape).astype(np.float32)
    start[:4] = rng.uniform(-3, 3, (4, 8, 8, 1))
    return made._replace(start=start)


@pytest.fixture(scope="module")
def expected(net, examples):
    return drivers.attack(ATTACK, net, examples, driver="run", devices=jax.local_devices()[:1])


def projected(examples, epsilon):
    return np.clip(examples.x + np.clip(examples.start - examples.x, -epsilon, epsilon), 0, 1)


@pytest.mark.parametrize(("driver", "lanes"), [("run", None), ("unroll", None), ("stream", 2), ("stream", 64)])
def test_all_drivers_agree(driver, lanes, net, examples, expected):
    """Protects the drivers: starts travel with their examples through lanes, devices and padding; a ball is around x, not the start."""
    result = drivers.attack(ATTACK, net, examples, driver=driver, lanes=lanes)
    jax.tree.map(np.testing.assert_array_equal, result, expected)
    assert np.abs(result.x_adv - examples.x).max() <= 0.1 * (1 + 1e-5)
    assert 0 <= result.x_adv.min() <= result.x_adv.max() <= 1
    assert np.isnan(result.crossing).all(), "a path from elsewhere has no radius at which the class of the input changes"
    assert 0 < result.success.sum() < N or np.unique(result.cost).size > 2


def test_the_first_point_is_the_projected_start(net, examples):
    """Protects the start: without updates the attack returns the point of the ball that is nearest to the start."""
    result = drivers.attack(bim(0.1, 0.01, 0), net, examples)
    np.testing.assert_allclose(result.x_adv, projected(examples, 0.1), atol=1e-6)


def test_costs_count_from_the_start(net, examples):
    """Protects the count: on a linear classifier NumPy needs as many updates from the same start; the way there is none."""
    rng = np.random.default_rng(2)
    weights, x = rng.normal(size=(2, 64)).astype(np.float32), rng.uniform(0.4, 0.6, (30, 8, 8, 1)).astype(np.float32)
    straight = linear(weights)
    made = batch(straight, x)._replace(start=x + rng.uniform(-0.05, 0.05, x.shape).astype(np.float32))
    made.start[:5] += 0.25 * np.sign(weights[1 - made.label[:5]] - weights[made.label[:5]]).reshape(5, 8, 8, 1)
    result = drivers.attack(bim(0.3, 0.002, 60), straight, made)
    for i in range(30):
        point = made.start[i].ravel().astype(np.float64)
        ascent, needed = np.sign(weights[1 - made.label[i]] - weights[made.label[i]]), 0
        while (weights @ point).argmax() == made.label[i] and needed < 61:
            point, needed = point + 0.002 * ascent, needed + 1
        assert result.cost[i] == needed
    assert (result.cost == 0).any(), "a start that is a success costs nothing"
    assert np.unique(result.cost).size > 5


@pytest.mark.parametrize("driver", ["run", "stream"])
def test_only_the_input_cannot_contradict_its_own_label(driver, net):
    """Protects both promises: a start that is a success costs 0 whoever gave the label, but the input with its own label never does."""
    x = np.random.default_rng(6).uniform(size=(10, 8, 8, 1)).astype(np.float32)
    crafted = drivers.attack(bim(0.2, 0.02, 20), net, costs.examples(net, x)).x_adv
    own = costs.examples(net, x, start=crafted)
    assert own.predicted.all()
    result = drivers.attack(bim(0.2, 0.02, 20), net, own, driver=driver)
    np.testing.assert_array_equal(result.cost, 0)
    np.testing.assert_allclose(result.x_adv, crafted, atol=1e-6)
    np.testing.assert_array_equal(result.success, np.asarray(jax.vmap(net)(result.x_adv)).argmax(1) != own.label)
    second = np.argsort(np.asarray(jax.vmap(net)(x)), axis=1)[:, -2]
    still = costs.examples(net, x, second, predicted=True, start=x)  # as if another program had predicted the second best class
    assert drivers.attack(bim(0.2, 0.02, 20), net, still, driver=driver).cost.min() >= 1


def test_the_input_as_start_is_no_start(net, examples):
    """Protects the meaning: `start = x` gives the result of no start, but for the crossing."""
    plain = examples._replace(start=None)
    result, same = (drivers.attack(ATTACK, net, some)._replace(crossing=None) for some in (plain, plain._replace(start=plain.x)))
    jax.tree.map(np.testing.assert_array_equal, result, same)


def test_restarts_begin_at_the_start(net, examples):
    """Protects restarts: the first run goes from the start, later ones from the random points that they have without it."""
    attack = PGD(0.1, 0.01, 12, restart_every=6, early_stop=False)
    first = drivers.attack(bim(0.1, 0.01, 6), net, examples)
    stopped = PGD(0.1, 0.01, 12, restart_every=6)
    together = drivers.attack(stopped, net, examples)
    within = together.iterations <= 6
    np.testing.assert_array_equal(together.x_adv[within & together.success], first.x_adv[within & together.success])
    later, random = (drivers.attack(attack, net, some) for some in (examples, examples._replace(start=None)))
    np.testing.assert_array_equal(later.x_adv, random.x_adv)


def test_apgd_begins_there(net, examples):
    """Protects APGD: the input is judged first, and its jump goes to the projected start."""
    result = drivers.attack(APGD(0.1, 1), net, examples)
    moved = result.iterations == 1
    assert moved.any()
    np.testing.assert_allclose(result.x_adv[moved], projected(examples, 0.1)[moved], atol=1e-6)


def test_other_attacks_refuse_a_start(net, examples):
    """Protects against a start that is silently ignored."""
    for driver in ("run", "stream"):
        with pytest.raises(
            BadInput, match="expected an attack that takes a starting point, such as PGD, APGD or Boundary, got Newton; leave start"
        ):
            drivers.attack(Newton(0.1), net, examples, driver=driver)


@pytest.mark.parametrize("steps", [1, 7])
def test_pieces_with_and_without_starts(steps, net, examples, expected):
    """Protects streams: starts arrive in pieces of any size; pieces without one in between are refused."""
    pieces = [jax.tree.map(lambda leaf, n=n: leaf[n : n + steps], examples) for n in range(0, N, steps)]
    found = list(drivers.stream(ATTACK, net, pieces, lanes=2, devices=jax.local_devices()[:1]))
    order = np.argsort(np.concatenate([some.index for some in found]))
    np.testing.assert_array_equal(np.concatenate([some.result.x_adv for some in found])[order], expected.x_adv)
    with pytest.raises(BadInput, match="expected a start in every piece of a stream or in none, got 'some of both'; give the images"):
        list(drivers.stream(ATTACK, net, [pieces[0], pieces[1]._replace(start=None)], lanes=2))


def test_a_warm_stream_with_starts_compiles_nothing(net, examples, monkeypatch):
    """Protects services: `warm(starts=True)` compiles what a stream of examples with starts needs, and a stream without needs no more."""
    monkeypatch.setattr(refill, "PATIENCE", 0.0)
    forget_times(monkeypatch)
    traces = []

    def counting(variables, x):
        traces.append(None)
        return net.apply(variables, x)

    counted = Classifier(net.variables, counting)
    inputs.class_count(counted, (8, 8, 1), "the test")
    for starts, some in ((True, examples), (False, examples._replace(start=None))):
        drivers.warm(ATTACK, counted, (8, 8, 1), lanes=8, starts=starts)
        before = len(traces)
        list(drivers.stream(ATTACK, counted, [some], lanes=8))
        assert len(traces) == before


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda start: start[:, :6], r"expected starting points of shape \(14, 8, 8, 1\), as the images, got \(14, 6, 8, 1\)"),
        (lambda start: start[:3], r"got \(3, 8, 8, 1\); give one point for each image"),
        (lambda start: np.where(start > 0.9, np.nan, start), "expected finite starting points, got 'NaN or infinity'"),
        (lambda start: ["a"] * N, "expected starting points as numbers"),
    ],
)
def test_bad_starts_are_refused(change, text, net, examples):
    """Protects early failure: starts of another shape or count, not finite, or no numbers, in drivers and in `costs.examples`."""
    bad = change(examples.start)
    for call in (
        lambda: drivers.attack(ATTACK, net, examples._replace(start=bad)),
        lambda: costs.examples(net, examples.x, start=bad),
    ):
        with pytest.raises(BadInput, match=text):
            call()


def test_pgd_of_other_norms_takes_a_start(net, examples):
    """Protects the projection in L2: the first point lies on the sphere, in the direction of the start."""
    result = drivers.attack(PGD(0.5, 0.1, 0, norm="l2"), net, examples)
    delta = (examples.start - examples.x).reshape(N, -1)
    length = np.linalg.norm(delta, axis=1, keepdims=True)
    moved = np.clip(examples.x.reshape(N, -1) + delta * np.minimum(1, 0.5 / length), 0, 1)
    np.testing.assert_allclose(result.x_adv.reshape(N, -1), moved, atol=1e-6)
    assert pgd(0.1).takes_start
