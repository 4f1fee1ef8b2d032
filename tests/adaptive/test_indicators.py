"""Indicators of attack failure: each fires on a fault that was planted, and is silent on an attack in good health."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.adaptive import (
    Evade,
    guarded,
    incomplete_optimisation,
    silent_success,
    swept,
    transfer_failure,
    twice_the_steps,
    unavailable_gradients,
    unconstrained_attack_failure,
    unstable_predictions,
    watch,
)
from a2d_jax.attacks import PGD, bim, bim_b
from a2d_jax.errors import BadInput
from a2d_jax.losses import cross_entropy, margin, misclassifies
from a2d_jax.types import Classifier
from tests.adaptive.test_guarded import corner, linearised
from tests.nets import batch, convnet

N = 20
PLAIN = convnet()


def quantised(variables, x):
    """Masked gradients: 16 grey levels."""
    return PLAIN.apply(variables, jnp.round(x * 15) / 15)


def saturated(variables, x):
    """Masked gradients: outputs that have gone to 0 or 1."""
    return jax.nn.sigmoid(1000 * PLAIN.apply(variables, x))


def called_back(variables, x):
    """A broken graph: part of the network is not JAX."""
    return jax.pure_callback(lambda z: np.asarray(z), jax.ShapeDtypeStruct((5,), jnp.float32), PLAIN.apply(variables, x))


def shattered(variables, x):
    """Shattered gradients: a strong ripple that no step of an attack follows."""
    return PLAIN.apply(variables, x + 0.3 * jnp.sin(3e4 * x))


@pytest.fixture(scope="module")
def examples():
    return batch(PLAIN, np.random.default_rng(0).uniform(0.2, 0.8, size=(N, 8, 8, 1)).astype(np.float32))


def of(apply):
    return Classifier(PLAIN.variables, apply)


def gradients(classifier, label):
    """What a user writes: gradients of the loss of the attack, for a batch."""
    return lambda x: jax.vmap(jax.grad(lambda z, y: cross_entropy(classifier(z), y)))(jnp.asarray(x), label)


def margins(classifier, label):
    return lambda x: jax.vmap(lambda z, y: margin(classifier(z), y))(jnp.asarray(x), label)


def succeeds(attack, classifier, examples):
    return drivers.attack(attack, classifier, examples, driver="run").success


@pytest.mark.parametrize("apply", [quantised, saturated, called_back])
def test_unavailable_gradients(apply, examples):
    """Protects from masked gradients: zero, saturated or interrupted ones are told, those of a network are not."""
    finding = unavailable_gradients(gradients(of(apply), examples.label), examples.x)
    assert finding.fires
    assert finding.number > 0.5
    assert finding.name == "unavailable gradients"
    healthy = unavailable_gradients(gradients(PLAIN, examples.label), examples.x)
    assert (healthy.fires, healthy.number) == (False, 0)


def test_one_gradient_that_is_not_finite(examples):
    """Protects single images: a gradient that is NaN or 0 on one image is told."""
    for bad in (np.nan, np.inf, 0.0):
        slopes = np.ones_like(examples.x)
        slopes[3] = bad
        assert unavailable_gradients(lambda x, slopes=slopes: slopes, examples.x).number == 1 / N


def test_unstable_predictions(examples):
    """Protects from shattered gradients: a ripple is told, a network is not, and the same seed gives the same number."""
    finding = unstable_predictions(margins(of(shattered), examples.label), examples.x)
    assert finding.fires
    assert finding == unstable_predictions(margins(of(shattered), examples.label), examples.x)
    assert not unstable_predictions(margins(PLAIN, examples.label), examples.x).fires


def test_unstable_predictions_of_a_known_loss():
    """Protects the number: where the loss is 1 plus the change of one pixel over the radius, the mean change is a half."""
    x = np.full((200, 1, 1, 1), 0.5, np.float32)
    finding = unstable_predictions(lambda z: 1 + (np.asarray(z)[:, 0, 0, 0] - 0.5) / 1e-3, x)
    assert abs(finding.number - 0.5) < 0.01


def test_silent_success():
    """Protects what was found: an attack that walks through the accepted range and ends too deep loses its successes, and is told."""
    net, examples = corner(np.random.default_rng(3), classes=2)
    low, high = 0.01, 0.03
    deep = bim_b(0.3, 0.005, 40)

    def won(classifier, x):
        measured = linearised(classifier, x)
        return classifier(x), (measured >= low) & (measured <= high)

    result, (logits, accepted) = watch(deep, net, examples, won)
    path = np.asarray(jax.vmap(jax.vmap(misclassifies, (0, None)))(logits, examples.label)) & accepted
    end = np.asarray(jax.vmap(lambda x: won(net, x)[1])(result.x_adv)) & result.success
    finding = silent_success(path, end)
    assert finding.number == 1
    assert finding.fires

    evading, seen = watch(Evade(bim(0.3, 0.005, 80)), guarded(net, linearised, low, 0.2, upper=high), examples, lambda c, x: c(x))
    path = (seen.argmax(2) != examples.label[:, None]) & (seen.argmax(2) != 2)
    assert path.any()
    assert not silent_success(path, evading.success).fires


def test_watch_sees_every_point(examples):
    """Protects the path: the first point is the input, there is one for each look, and the result is that of the drivers."""
    attack = bim_b(0.1, 0.01, 12)
    result, path = watch(attack, PLAIN, examples, lambda _, x: x)
    assert path.shape == (N, 13, 8, 8, 1)
    np.testing.assert_array_equal(path[:, 0], examples.x)
    np.testing.assert_array_equal(path[:, -1], result.x_adv)
    np.testing.assert_array_equal(result.x_adv, drivers.attack(attack, PLAIN, examples, driver="run").x_adv)


def test_incomplete_optimisation():
    """Protects from small steps: a loss that still rises at the end is told, one that has settled in the corner of the ball is not."""
    net, examples = corner(np.random.default_rng(4))

    def rising(attack):
        result, logits = watch(attack, net, examples, lambda c, x: c(x))
        return incomplete_optimisation(np.asarray(-jax.vmap(jax.vmap(margin, (0, None)))(logits, examples.label)), result.success)

    assert rising(bim_b(1e-3, 1e-5, 30)).number == 1
    assert rising(bim_b(1e-3, 1e-4, 8)).fires, "a path shorter than the window is all window"
    settled = rising(bim_b(1e-3, 1e-4, 60))
    assert (settled.number, settled.fires) == (0, False)
    nothing = incomplete_optimisation(np.zeros((3, 5)), np.ones(3, bool))
    assert (nothing.number, nothing.fires) == (None, False)


def test_transfer_failure():
    """Protects from a surrogate: an attack on a detector with another threshold does not carry over, and is told."""
    net, examples = corner(np.random.default_rng(3), classes=2)
    real = guarded(net, linearised, 0.03, 0.2)

    def against_the_real(surrogate):
        result = drivers.attack(Evade(bim(0.3, 0.002, 100)), surrogate, examples, driver="run")
        classes = np.asarray(jax.vmap(real)(result.x_adv)).argmax(1)
        return transfer_failure(result.success, (classes != examples.label) & (classes != 2))

    assert against_the_real(guarded(net, linearised, 0.01, 0.2)).number == 1
    assert not against_the_real(real).fires
    assert transfer_failure(np.zeros(3, bool), np.zeros(3, bool)).number is None


def test_unconstrained_attack_failure_and_the_wall_of_gain(examples):
    """Protects the unbounded check: masked gradients and a wall of gain are told, a gentle gain is not. A sweep of gains tells the wall."""
    masked = unconstrained_attack_failure(succeeds(bim(1.0, 0.02, 60), of(quantised), examples))
    assert masked.fires
    assert not unconstrained_attack_failure(succeeds(bim(1.0, 0.02, 60), PLAIN, examples)).fires

    net, lines = corner(np.random.default_rng(3), classes=2)
    won = {str(gain): succeeds(Evade(bim(1.0, 1e-3, 200)), guarded(net, linearised, 0.02, gain), lines) for gain in (0.2, 1e3)}
    assert unconstrained_attack_failure(won["1000.0"]).number == 1
    assert not unconstrained_attack_failure(won["0.2"]).fires
    assert swept(won, "1000.0").fires
    assert "0.2" in swept(won, "1000.0").sentence
    assert not swept(won, "0.2").fires


def test_twice_the_steps(examples):
    """Protects from too few steps: what twice as many win is told."""
    hurried = [succeeds(PGD(0.3, 0.001, steps), PLAIN, examples) for steps in (40, 80)]
    assert twice_the_steps(*hurried).fires
    unhurried = [succeeds(PGD(0.3, 0.02, steps), PLAIN, examples) for steps in (40, 80)]
    assert not twice_the_steps(*unhurried).fires


def test_one_image_more_is_chance():
    """Protects from false alarms: differences within two standard errors are silent, the number is that of the flags."""
    once = np.arange(100) < 50
    one, ten = once | (np.arange(100) == 60), once | (np.arange(100) >= 90)
    assert twice_the_steps(once, one).number == pytest.approx(0.01)
    assert not twice_the_steps(once, one).fires
    assert twice_the_steps(once, ten).fires
    assert twice_the_steps(once, ten).threshold == pytest.approx(2 * np.sqrt(0.1 * 0.9 / 100))
    assert not twice_the_steps(once, np.zeros(100, bool)).fires


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unavailable_gradients(lambda x: np.ones((1, 2, 2, 1)), np.ones((3, 2, 2, 1), np.float32)), "3 gradients"),
        (lambda: unstable_predictions(lambda x: np.ones(2), np.ones((3, 2, 2, 1), np.float32)), "finite losses"),
        (lambda: unstable_predictions(lambda x: np.ones(3), np.ones((3, 2, 2, 1), np.float32), draws=0), "draws >= 1"),
        (lambda: unstable_predictions(lambda x: np.ones(3), np.ones((3, 2, 2, 1), np.float32), radius=0), "radius > 0"),
        (lambda: silent_success(np.ones((3, 2), bool), np.ones(4, bool)), "points of the path as true or false for each of 4"),
        (lambda: silent_success(np.ones(4, bool), np.ones(4, bool)), "points of the path"),
        (lambda: incomplete_optimisation(np.full((3, 2), np.nan), np.zeros(3, bool)), "a finite objective"),
        (lambda: transfer_failure(np.ones(3), np.ones(3, bool)), "successes against the surrogate as true or false"),
        (lambda: unconstrained_attack_failure(np.zeros(0, bool)), "at least one"),
        (lambda: swept({"1": np.ones(3, bool)}, "2"), "one of 1"),
    ],
)
def test_refuses_what_cannot_be_judged(call, message):
    """Protects early failure: tables that do not fit are refused with what to do."""
    with pytest.raises(BadInput, match=message):
        call()
