"""The binarisation test: an attack in good health finds the image that is there, one with masked gradients does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.adaptive import Evade, binarisation, guarded, unaltered
from a2d_jax.attacks import PGD, bim
from a2d_jax.errors import BadInput
from a2d_jax.types import Classifier
from tests.adaptive.test_guarded import linearised
from tests.nets import batch, convnet

PLAIN = convnet()
X = np.random.default_rng(0).uniform(0.3, 0.7, size=(6, 8, 8, 1)).astype(np.float32)


def inner(variables, x):
    """The layer before the last."""
    x = jax.lax.conv_general_dilated(x[None], variables["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(x)


def masked(variables, x):
    """The same from an image of 256 grey levels, which has no gradient."""
    return inner(variables, jnp.round(x * 255) / 255)


def strong(classifier, x, label):
    return drivers.attack(bim(0.1, 0.01, 40), classifier, batch(classifier, x, label=label), driver="run").x_adv


def test_a_sound_attack_finds_the_image():
    """Protects sound evaluations: PGD finds the image that was put there, which random points do not."""
    finding = binarisation(PLAIN, X, strong, 0.1, features=inner)
    assert (finding.number, finding.fires) == (0, False)
    assert "on 6 of 6 altered networks; 200 random points find it on 0" in finding.sentence
    assert "could not" not in finding.sentence


def test_masked_gradients_miss_it():
    """Protects from masked gradients: the same attack on a network that rounds its input misses, and is told."""
    finding = binarisation(PLAIN, X, strong, 0.1, features=masked)
    assert finding.fires
    assert finding.number > 0.5


def test_one_step_of_no_length_misses_it():
    """Protects from weak attacks: whoever returns the input is told."""
    assert binarisation(PLAIN, X, lambda classifier, x, label: x, 0.1, features=inner).number == 1


def test_l2():
    """Protects the other norm: points and budget are those of an L2 ball."""

    def attack(classifier, x, label):
        return drivers.attack(PGD(0.5, 0.05, 40, norm="l2"), classifier, batch(classifier, x, label=label), driver="run").x_adv

    assert not binarisation(PLAIN, X, attack, 0.5, norm="l2", features=inner).fires


def from_the_original(classifier, x):
    return linearised(unaltered(classifier, PLAIN), x)


def test_with_a_detector():
    """Protects detectors: the image is one that the detector accepts, and only an attack that knows the detector finds it everywhere."""
    measured = jax.jit(jax.vmap(lambda x: linearised(PLAIN, x)))
    rng = np.random.default_rng(1)
    corners = np.clip(X[:, None] + 0.1 * rng.choice([-1.0, 1.0], (6, 50, 8, 8, 1)), 0, 1).astype(np.float32)
    low = float(np.quantile(measured(corners.reshape(-1, 8, 8, 1)), 0.6))

    def accepts(x):
        return np.asarray(measured(x)) >= low

    def knowing(classifier, x, label):
        best = x
        for gain in (0.1, 1.0, 10.0, 100.0):
            guard = guarded(classifier, from_the_original, low, gain)
            result = drivers.attack(Evade(bim(0.1, 0.005, 80)), guard, batch(classifier, x, label=label), driver="run")
            best = result.x_adv if result.success[0] else best
        return best

    finding = binarisation(PLAIN, X, knowing, 0.1, features=inner, accepts=accepts)
    assert not finding.fires, finding.sentence
    unknowing = binarisation(PLAIN, X, strong, 0.1, features=inner, accepts=accepts)
    assert unknowing.fires


def test_what_cannot_be_tested_is_counted():
    """Protects honesty: without a feature that tells points apart nothing is claimed, and images left out are counted."""
    finding = binarisation(PLAIN, X, strong, 0.1, features=lambda variables, x: jnp.ones(3))
    assert (finding.number, finding.fires) == (None, False)
    assert "6 of 6 images could not be tested" in finding.sentence
    nobody = binarisation(PLAIN, X, strong, 0.1, features=inner, accepts=lambda x: np.zeros(len(x), bool))
    assert nobody.number is None


def test_a_unit_that_only_the_image_wakes_does_not_decide():
    """Protects the test itself: features of very different sizes, some asleep at the input, leave an image that a sound attack finds."""

    def uneven(variables, x):
        features = inner(variables, x).ravel()
        return features * jnp.geomspace(1e-3, 1e3, features.size)

    x = np.random.default_rng(5).uniform(0.3, 0.7, size=(12, 8, 8, 1)).astype(np.float32)

    def fine(classifier, x, label):
        return drivers.attack(bim(0.02, 0.001, 60), classifier, batch(classifier, x, label=label)).x_adv

    assert binarisation(PLAIN, x, fine, 0.02, features=inner).number == 0
    assert not binarisation(PLAIN, x, fine, 0.02, features=uneven).fires


def test_unaltered_gives_the_original_back():
    """Protects measurements of the original network: any other classifier is left as it is."""
    assert unaltered(PLAIN, PLAIN) is PLAIN
    seen = []

    def attack(classifier, x, label):
        seen.append(np.asarray(unaltered(classifier, PLAIN)(jnp.asarray(x[0]))))
        return x

    binarisation(PLAIN, X[:1], attack, 0.1, features=inner)
    np.testing.assert_array_equal(seen[0], PLAIN(jnp.asarray(X[0])))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 0.0}, "epsilon > 0"),
        ({"norm": "l0"}, "a norm among linf, l2"),
        ({"points": 0}, "points >= 1"),
        ({"attack": lambda classifier, x, label: np.clip(x + 0.2, 0, 1)}, "within 0.1 of the input"),
    ],
)
def test_refuses_bad_settings(settings, message):
    """Protects early failure: settings that cannot be used, and an attack that takes more than the budget."""
    call = {"attack": strong, "epsilon": 0.1, "features": inner} | settings
    with pytest.raises(BadInput, match=message):
        binarisation(PLAIN, X[:2], **call)


def test_one_program_for_all_images():
    """Protects users' time: the altered networks of all images share the programs of the attack."""
    traces = []

    def counted(variables, x):
        traces.append(None)
        return inner(variables, x)

    net = Classifier(PLAIN.variables, PLAIN.apply)
    binarisation(net, X[:1], strong, 0.1, features=counted)
    before = len(traces)
    binarisation(net, X[1:], strong, 0.1, features=counted, seed=1)
    assert len(traces) == before
