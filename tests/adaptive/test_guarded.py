"""A guarded classifier: what it flags, what attacks on it may call a success, and derivatives through a measurement that has gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from a2d_jax import classifiers, drivers
from a2d_jax.adaptive import Evade, guarded, is_guarded
from a2d_jax.attacks import DeepFool, bim, bim_b, pgd
from a2d_jax.errors import BadInput
from a2d_jax.losses import cross_entropy, margin, prediction
from a2d_jax.types import Classifier
from models.advertorch import advertorch_mnist
from models.lenet import lenet5, lenet_digits
from models.resnet import cifar_resnet20
from tests.nets import batch, convnet, linear
from tests.test_contract import CASES, every_attack

N, RHO = 8, 0.004
TRACES = []


def lead(classifier, x):
    """The logit of the predicted class less the next one."""
    logits = classifier(x)
    return margin(logits, prediction(logits))


def linearised(classifier, x):
    """The distance in Linf at which the margin would be 0 if the network were linear: a measurement that contains a gradient."""
    label = prediction(classifier(x))
    value, gradient = jax.value_and_grad(lambda z: margin(classifier(z), label))(x)
    return value / jnp.sum(jnp.abs(gradient))


def fixed(classifier, x):
    return jnp.sum(classifier(x)) * 0 + x[0, 0, 0]


@pytest.fixture(scope="module")
def net():
    plain = convnet()

    def apply(variables, x):
        TRACES.append(None)
        return plain.apply(variables, x)

    return Classifier(plain.variables, apply)


@pytest.fixture(scope="module")
def examples(net):
    return batch(net, np.random.default_rng(0).uniform(0.2, 0.8, size=(N, 8, 8, 1)).astype(np.float32))


def judged(net, x, threshold=RHO, measurement=linearised):
    """Class, and whether the detector accepts, computed apart from the guarded classifier; and the measurement."""
    measured = np.asarray(jax.vmap(lambda z: measurement(net, z))(jnp.asarray(x)))
    return np.asarray(jax.vmap(net)(jnp.asarray(x))).argmax(1), measured >= threshold, measured


def test_the_last_logit_wins_where_the_detector_flags(net, examples):
    """Protects the formula: the k logits are as they were, and the last is the largest exactly where the detector flags, for every gain."""
    x = jnp.asarray(examples.x)
    plain, measured = jax.vmap(net)(x), judged(net, x, measurement=lead)[2]
    low, high = np.sort(measured)[[2, 5]] + 1e-3
    for gain in (0.05, 1.0, 30.0):
        logits = np.asarray(jax.vmap(guarded(net, lead, float(low), gain, upper=float(high)))(x))
        np.testing.assert_array_equal(logits[:, :-1], plain)
        beyond = gain * np.maximum(low - measured, measured - high)
        np.testing.assert_allclose(logits[:, -1], np.asarray(plain).max(1) + beyond, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(logits.argmax(1) == 5, (measured < low) | (measured > high))
    assert 0 < ((measured < low) | (measured > high)).sum() < N


def test_a_measurement_on_the_threshold_is_accepted():
    """Protects ties, which integer costs have: the image is flagged below the threshold, not on it."""
    net = linear(np.eye(2, 4, dtype=np.float32))
    x = jnp.full((2, 2, 1), 0.25)
    for gain in (1e-3, 1.0, 1e3):
        assert prediction(guarded(net, fixed, 0.25, gain)(x)) == 0
        assert prediction(guarded(net, fixed, 0.26, gain)(x)) == 2


@every_attack
def test_every_attack_succeeds_if_it_fools_and_is_accepted(case, net, examples):
    """Protects the adaptive attacker: whatever the attack, its success is that the classifier is wrong and the detector accepts."""
    attack, guard = Evade(case.attack), guarded(net, linearised, RHO, 3.0)
    result = drivers.attack(attack, guard, examples, driver="run")
    label, accepted, measured = judged(net, result.x_adv)
    logits = np.asarray(jax.vmap(net)(jnp.asarray(result.x_adv)))
    if case.goal == "label":
        hit = label == examples.label
    elif case.goal == "second best":
        hit = label == np.argsort(np.asarray(jax.vmap(net)(jnp.asarray(examples.x))), axis=1)[:, -2]
    elif case.goal == "drawn":
        hit = label == jax.vmap(lambda example: case.attack._target(example, 5))(examples)
    else:
        hit = label != examples.label
    lead = np.sort(logits, axis=1)[:, -1] - np.sort(logits, axis=1)[:, -2]
    clear = (np.abs(measured - RHO) > 1e-5) & (lead > 1e-4)  # of rounding
    np.testing.assert_array_equal(result.success[clear], (hit & accepted)[clear])
    assert np.isfinite(result.x_adv).all()
    assert not result.broken.any()
    if case.ball:
        assert result.distance.max() <= case.attack.epsilon * (1 + 1e-5)


@pytest.mark.parametrize("name", ["bim", "pgd_targeted", "boundary", "deepfool", "jsma", "newton", "cw"])
def test_drivers_agree(name, net, examples):
    """Protects the drivers: lanes that are refilled give what lock-step gives, for an attack in `Evade` too."""
    attack, guard = Evade(CASES[name].attack), guarded(net, linearised, RHO, 3.0)
    run, stream = (drivers.attack(attack, guard, examples, driver=driver, lanes=2) for driver in ("run", "stream"))
    np.testing.assert_array_equal(run.success, stream.success)
    np.testing.assert_allclose(run.x_adv, stream.x_adv, rtol=1e-4, atol=1e-5)


def test_without_evade_a_flagged_image_would_count(net, examples):
    """Protects the reason for `Evade`: to an untargeted attack on the k + 1 classes, "flagged" is as good as any other class."""
    guard = guarded(net, linearised, RHO, 3.0)
    plain = drivers.attack(bim(0.2, 0.001, 60), guard, examples, driver="run")
    honest = drivers.attack(Evade(bim(0.2, 0.001, 60)), guard, examples, driver="run")
    assert plain.success.all()
    assert not judged(net, plain.x_adv)[1].any()
    label, accepted, _ = judged(net, honest.x_adv)
    assert honest.success.any()
    np.testing.assert_array_equal(honest.success, (label != examples.label) & accepted)


def test_a_sweep_compiles_nothing(net, examples):
    """Protects users' time: another gain, threshold, upper end or set of weights runs the same program."""
    attack = Evade(bim(0.1, 0.01, 20))
    drivers.attack(attack, guarded(net, linearised, RHO, 1.0), examples, driver="run")
    before = len(TRACES)
    other = Classifier(jax.tree.map(lambda w: w * 1.1, net.variables), net.apply)
    for changed in (guarded(net, linearised, RHO, 2.0), guarded(other, linearised, 0.1, 0.5, upper=0.3)):
        drivers.attack(attack, changed, examples, driver="run")
    assert len(TRACES) == before


def corner(rng, classes=3, scale=1.0):
    """A linear network, and images far enough from the bounds."""
    net = linear((rng.normal(size=(classes, 36)) * scale).astype(np.float32))
    return net, batch(net, rng.uniform(0.4, 0.6, size=(12, 6, 6, 1)).astype(np.float32))


def distance(net, x, label):
    """Linf distance of the nearest other class of a linear network: margin over the L1 norm of the difference of weights."""
    weights = np.asarray(net.variables[0], np.float64)
    values = np.asarray(x, np.float64).reshape(len(x), -1) @ weights.T
    rows = np.arange(len(x))
    gaps = (values[rows, label][:, None] - values) / np.maximum(np.abs(weights[label][:, None] - weights[None]).sum(2), 1e-9)
    gaps[rows, label] = np.inf
    return gaps.min(1)


def test_two_linear_classes_cost_the_distance_and_the_toll():
    """Protects the law on which audits stand: with two linear classes and an exact detector the toll is rho, to a step."""
    rng = np.random.default_rng(3)
    net, examples = corner(rng, classes=2)
    rho, step = 0.02, 1e-3
    nearest = distance(net, examples.x, examples.label)
    guard = guarded(net, linearised, rho, 0.2)
    result = drivers.attack(Evade(bim(1.0, step, 400)), guard, examples, driver="run")
    assert result.success.all()
    np.testing.assert_allclose(result.distance, step * np.ceil((nearest + rho) / step), atol=1.01 * step)
    for epsilon in np.quantile(nearest, [0.3, 0.7]) + rho:
        short = drivers.attack(Evade(bim(float(epsilon), step, 400)), guard, examples, driver="run").success
        clear = np.abs(nearest + rho - epsilon) > 1e-4
        np.testing.assert_array_equal(short[clear], (nearest + rho <= epsilon)[clear])
        assert 0 < short.sum() < len(short)


def test_a_large_gain_is_a_wall():
    """Protects the warning: with a gain above the slope of the logits, the same attack stands before the boundary for ever."""
    net, examples = corner(np.random.default_rng(3), classes=2)
    steep = float(2 * np.abs(np.asarray(net.variables[0])).sum())
    wall = drivers.attack(Evade(bim(1.0, 1e-3, 400)), guarded(net, linearised, 0.02, steep), examples, driver="run")
    assert not wall.success.any()


def test_two_sided_detectors(net, examples):
    """Protects detectors that flag both ends: a full-budget attack goes too deep for the upper end, and an evading one stays between."""
    rng = np.random.default_rng(3)
    net, examples = corner(rng, classes=2)
    low, high = 0.01, 0.03
    guard = guarded(net, linearised, low, 0.2, upper=high)
    deep = drivers.attack(bim_b(0.3, 0.01, 40), net, examples, driver="run")
    assert (judged(net, deep.x_adv)[2] > high).all()
    evading = drivers.attack(Evade(bim(0.3, 0.002, 200)), guard, examples, driver="run")
    label, _, measured = judged(net, evading.x_adv)
    assert evading.success.all()
    assert (label != examples.label).all()
    assert ((measured > low - 1e-5) & (measured < high + 1e-5)).all()


def test_an_infinite_measurement_is_no_broken_model():
    """Protects flat networks: an image without a gradient is infinitely far from the boundary; the logits stay finite, NaN stays NaN."""
    net = linear(np.zeros((2, 4), np.float32), np.array([1.0, 0.0], np.float32))
    x = jnp.full((2, 2, 1), 0.5)
    assert linearised(net, x) == jnp.inf
    logits = guarded(net, linearised, 0.1, 1.0)(x)
    assert np.isfinite(logits).all()
    assert prediction(logits) == 0
    assert prediction(guarded(net, linearised, 0.1, 1.0, upper=5.0)(x)) == 2
    assert np.isnan(guarded(net, lambda c, x: jnp.nan * c(x)[0], 0.1, 1.0)(x)[-1])


def test_an_image_labelled_flagged_is_no_success(net, examples):
    """Protects from a label that the plain classifier does not know: the guarded classifier's own prediction of a false alarm."""
    guard = guarded(net, linearised, 1e3, 1.0)  # flags everything
    result = drivers.attack(Evade(bim(0.1, 0.01, 5)), guard, examples._replace(label=np.full(N, 5, np.int32)), driver="run")
    assert not result.success.any()
    assert result.broken.all()


def test_evade_says_what_its_attack_is():
    """Protects readers of an attack: norm, budget and goal are those of the attack within."""
    attack = Evade(DeepFool(max_steps=7))
    assert (attack.norm, attack.max_steps, attack.length(), attack.targeted) == ("l2", 7, 8, False)
    assert Evade(dataclasses.replace(bim(), targeted=True)).targeted
    assert not is_guarded(convnet())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: guarded(guarded(net, lead, 1.0), lead, 1.0), "a classifier without a detector"),
        (lambda net: guarded(net, lead, 1.0, 0.0), "a gain above 0"),
        (lambda net: guarded(net, lead, 1.0, float("inf")), "a gain above 0"),
        (lambda net: guarded(net, lead, float("nan")), "a number as threshold"),
        (lambda net: guarded(net, lead, 2.0, upper=1.0), "a threshold of at most upper"),
        (lambda net: guarded(net, lambda c, x: c(x), 1.0)(jnp.ones((8, 8, 1))), "one number for one image"),
        (lambda net: drivers.attack(Evade(bim()), net, batch(net, np.ones((2, 8, 8, 1), np.float32))), "a guarded classifier for Evade"),
    ],
)
def test_refuses_what_makes_no_sense(make, message):
    """Protects early failure: settings that cannot be meant are refused with what to do."""
    with pytest.raises(BadInput, match=message):
        make(convnet())


def slope(classifier, x):
    """Squared length of the gradient of the cross entropy: a smooth measurement whose derivative is a second derivative."""
    gradient = jax.grad(lambda z: cross_entropy(classifier(z), jnp.zeros((), jnp.int32)))(x)
    return jnp.sum(gradient**2)


@pytest.mark.parametrize("make", [lenet5, lenet_digits, cifar_resnet20, advertorch_mnist])
def test_derivatives_through_a_gradient(make):
    """Protects attacks on detectors that use gradients: on the zoo's fast layers a second derivative is that of finite differences."""
    module = make()
    shape = type(module).input_shape
    net = classifiers.from_nnx(module)
    with jax.enable_x64(True):
        net = Classifier(jax.tree.map(lambda w: w.astype(jnp.float64), net.variables), net.apply)
        rng = np.random.default_rng(0)
        x, way = (jnp.asarray(rng.uniform(size=shape)) for _ in range(2))
        guard = guarded(net, slope, 100.0, 2.0)
        flagged = jax.jit(lambda x: guard(x)[-1])
        exact = jnp.vdot(jax.jit(jax.grad(flagged))(x), way)
        h = 1e-7  # so small that no unit switches between the two points
        differences = (flagged(x + h * way) - flagged(x - h * way)) / (2 * h)
        np.testing.assert_allclose(exact, differences, rtol=1e-4)


def test_evading_pgd_on_a_network_with_planes():
    """Protects the whole way on LeNet-5's joint layers: PGD through `Evade` and a linearised distance runs in both drivers."""
    net = classifiers.from_nnx(lenet5())
    examples = batch(net, np.random.default_rng(0).uniform(size=(4, 28, 28, 1)).astype(np.float32))
    guard = guarded(net, linearised, 1e-3, 1.0)
    for driver in ("run", "stream"):
        result = drivers.attack(Evade(pgd(0.3, 0.02, 10)), guard, examples, driver=driver, lanes=2)
        label, accepted, _ = judged(net, result.x_adv, 1e-3)
        np.testing.assert_array_equal(result.success, (label != examples.label) & accepted)
