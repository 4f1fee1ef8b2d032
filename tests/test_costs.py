"""Attacks, classifier and detector together: labels, keys, costs, the iteration bound, the guarded classifier."""

import jax.numpy as jnp
import numpy as np
import pytest

import a2d_jax
from a2d_jax import costs, drivers, presets
from a2d_jax.attacks import JSMA, Boundary, bim, bim2
from a2d_jax.detectors import KNN, Conformal, Vote, ZScore
from a2d_jax.errors import BadInput
from a2d_jax.types import Classifier
from tests.nets import convnet

ATTACKS = {"bim": bim(0.3, 0.004, 60), "jsma": JSMA(max_steps=60)}


@pytest.fixture(scope="module")
def net():
    return convnet()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(size=(120, 8, 8, 1)).astype(np.float32)


def test_examples_take_the_models_own_label(net, images):
    """Protects A2D's rule: a defence attacks the prediction, and the key is that of the example's number under the seed."""
    batch = costs.examples(net, images[:5], index=np.array([7, 0, 1, 2, 3]), seed=3)
    import jax

    np.testing.assert_array_equal(batch.label, np.asarray(jax.vmap(net)(images[:5])).argmax(1))
    expected = jax.random.fold_in(jax.random.key(3), 7)
    np.testing.assert_array_equal(jax.random.key_data(batch.key)[0], jax.random.key_data(expected))


@pytest.mark.parametrize("count", [1, 3, 256, 300])
def test_predictions(net, count):
    """Protects predictions: class and softmax probability, for any number of images; -1 where the logits are not finite."""
    x = np.random.default_rng(1).uniform(size=(count, 8, 8, 1)).astype(np.float32)
    x[0] = np.nan
    label, probability = costs.predictions(net, x)
    import jax

    logits = np.asarray(jax.vmap(net)(x), np.float64)[1:]
    assert label[0] == -1
    assert np.isnan(probability[0])
    np.testing.assert_array_equal(label[1:], logits.argmax(1))
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(probability[1:], softmax.max(1), rtol=1e-4)


def test_costs_are_columns_by_attack(net, images):
    """Protects the table: one column per attack in the order given, equal to the attack run alone."""
    table, results = costs.costs(net, images[:20], ATTACKS)
    assert table.shape == (20, 2)
    assert list(results) == list(ATTACKS)
    alone = drivers.attack(ATTACKS["jsma"], net, costs.examples(net, images[:20]), driver="run")
    np.testing.assert_array_equal(table[:, 1], alone.cost)


@pytest.mark.parametrize(("detector", "names"), [(ZScore(), ["bim"]), (Vote(k=1), ["bim", "jsma"]), (KNN(k=5), ["bim"])])
def test_bound_saves_steps_and_keeps_verdicts(detector, names, net, images):
    """Protects the iteration bound: the same verdicts from fewer steps."""
    attacks = {name: ATTACKS[name] for name in names}
    table, _ = costs.costs(net, images, attacks)
    crafted = drivers.attack(bim(0.3, 0.03, 20), net, costs.examples(net, images)).x_adv
    fitted = costs.Defense(net, attacks, detector).fit(images[:60], crafted[:60])
    for x in (images[60:], crafted[60:]):
        np.testing.assert_array_equal(fitted.predict(x), fitted.predict(x, bound=False))
    stops = fitted.detector.bounds([int(attack.max_steps) + 1 for attack in attacks.values()])
    assert any(stop is not None for stop in stops)
    short, results = costs.costs(net, images, costs.bounded(attacks, stops))
    full = [stop if stop is not None else 10**9 for stop in stops]
    np.testing.assert_array_equal(short, np.minimum(table, full))
    assert sum(result.iterations.sum() for result in results.values()) < table.sum()


def test_bound_of_every_attack_cuts_the_cost_and_nothing_else(net, images):
    """Protects the bound: with any attack, a smaller budget changes costs above it only, and those read the bound."""
    for attack in (bim(0.3, 0.004, 60), bim2(0.2, 0.004, 60), JSMA(max_steps=60), Boundary(mse_threshold=0.01, max_steps=12)):
        full, _ = costs.costs(net, images[:16], {"a": attack})
        for bound in (1, 5, 11):
            short, _ = costs.costs(net, images[:16], costs.bounded({"a": attack}, [bound]))
            np.testing.assert_array_equal(short, np.minimum(full, bound))


def test_defense_detects_crafted_images(net, images):
    """Protects the main job in one object: crafted images score higher than fresh benign ones."""
    crafted = drivers.attack(bim(0.3, 0.001, 300), net, costs.examples(net, images)).x_adv
    defense = a2d_jax.Defense(net, {"bim": bim(0.3, 0.0005, 300)}, ZScore()).fit(images[:60])
    assert defense.score(crafted[60:]).mean() > defense.score(images[60:]).mean()
    assert defense.predict(crafted[60:]).mean() > 0.9
    assert defense.predict(images[60:]).mean() < 0.4


def test_defense_passes_classes_to_a_conformal_detector(net, images):
    """Protects calibration per class: predicted classes reach the detector when it is fitted and when it judges."""
    fitted = a2d_jax.Defense(net, {"bim": ATTACKS["bim"]}, Conformal(level=0.2, per_class=True)).fit(images)
    table, _ = costs.costs(net, images, {"bim": ATTACKS["bim"]})
    label = costs.predictions(net, images)[0]
    expected = Conformal(level=0.2, per_class=True).fit(table, labels=label)
    np.testing.assert_array_equal(fitted.predict(images[:30], bound=False), expected.predict(table[:30], labels=label[:30]))


def test_presets_hold_the_published_settings():
    """Protects the presets: the defence settings of the specification, for each data set."""
    for name, epsilon, step, epsilon2, step2, mse in (("mnist", 0.3, 6e-4, 0.1, 2e-4, 0.02), ("cifar10", 0.03, 6e-5, 0.01, 2e-5, 5e-5)):
        assert presets.make(name, "defence", "bim") == bim(epsilon, step, 500)
        assert presets.make(name, "defence", "bim2") == bim2(epsilon2, step2, 500)
        assert presets.make(name, "defence", "jsma") == JSMA(0.1, 1999, 7)
        assert presets.make(name, "defence", "dba") == Boundary(mse, 5000)
    assert presets.make("mnist", "crafting", "fgsm", epsilon=0.2).step_size == 0.2, "the one step of FGSM follows its radius"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (("imagenette", "defence", "bim", {}), "expected a preset among mnist, cifar10, imagenet, got 'imagenette'; pass"),
        (("mnist", "defence", "fgsm", {}), "expected a defence attack among bim, bim2, jsma, dba, .*, got 'fgsm'; pass"),
        (
            ("mnist", "defence", "jsma", {"epsilon": 1}),
            "expected a setting of jsma among theta, max_steps, max_changes, got epsilon; leave",
        ),
        (("mnist", "defence", "bim", {"max_steps": -1}), "attack bim: expected max_steps >= 0, got -1; give"),
    ],
)
def test_presets_refuse(call, text):
    """Protects users: an unknown preset, attack or setting is refused in one line that lists the valid ones."""
    *names, overrides = call
    with pytest.raises(BadInput, match=text):
        presets.make(*names, **overrides)


def test_public_names_load():
    """Protects the front door: every public name can be imported, and nothing else pretends to be one."""
    for name in a2d_jax.__all__:
        assert getattr(a2d_jax, name) is not None
    assert a2d_jax.Classifier is Classifier
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = a2d_jax.nothing


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (np.zeros((4, 8, 8)), r"expected images of shape \(n, h, w, c\), got \(4, 8, 8\); add"),
        (np.zeros((4, 8, 8, 1), np.uint8), "expected floating point images in .0, 1., got uint8; divide by 255"),
        (np.full((4, 8, 8, 1), 1.5, np.float32), "expected pixels in .0, 1., got 1.5 to 1.5 in image 0; scale"),
        (np.full((4, 8, 8, 1), np.nan, np.float32), "expected pixels in .0, 1., got nan to nan in image 0; scale"),
    ],
)
def test_images_are_checked(x, text, net):
    """Protects users of the library: images in another range, type or shape are refused, not attacked."""
    with pytest.raises(BadInput, match=text):
        costs.costs(net, x, ATTACKS)


def test_broken_classifier_is_refused(images):
    """Protects loud failure: logits that are not finite end the job in one line."""
    white = np.concatenate([images[:3], np.ones_like(images[:1])])
    for weights, found in (
        (np.nan, "errors in all 4; the first is 0: expected finite logits, got NaN"),
        (0, "finite logits, got NaN or infinity for image 3; check"),
    ):
        broken = Classifier(np.float32(weights), lambda w, x: x.ravel()[:3] * w + jnp.where(jnp.min(x) == 1, jnp.nan, 0))
        with pytest.raises(BadInput, match=found):
            costs.costs(broken, white, ATTACKS)
