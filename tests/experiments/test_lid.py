"""Local intrinsic dimensionality: known manifolds, the formula, degenerate distances, and the two protocols."""

import numpy as np
import pytest
from flax import nnx
from scipy.spatial.distance import cdist

from a2d_jax.classifiers import from_nnx
from a2d_jax.errors import BadInput
from experiments.baselines import lid as lid_module
from experiments.baselines.lid import LID, as_published, lid, published_split
from models.lenet import lenet_digits


def images(n, seed=0):
    return np.random.default_rng(seed).random((n, 8, 8, 1), np.float32)


@pytest.fixture(scope="module")
def classifier():
    return from_nnx(lenet_digits(nnx.Rngs(0)))


@pytest.mark.parametrize("d", [1, 2, 5, 10, 30])
def test_dimension_of_a_ball(d):
    """Protects the estimate: at the centre of a uniform ball of dimension d it is d, whatever space the ball lies in.

    The logarithms of v_k / v_i are k - 1 exponential variables of rate d, so 1 / LID has mean (k - 1) / (k d) and relative deviation
    1 / sqrt(k - 1).
    """
    balls, points, k = 2000, 100, 20
    generator = np.random.default_rng(d)
    x = generator.standard_normal((balls, points, d))
    x *= generator.random((balls, points, 1)) ** (1 / d) / np.linalg.norm(x, axis=-1, keepdims=True)
    rotation, _ = np.linalg.qr(generator.standard_normal((d + 3, d)))
    estimates = lid(np.linalg.norm(x @ rotation.T, axis=-1), k)
    error = 4 / np.sqrt(balls * (k - 1))
    np.testing.assert_allclose((1 / estimates).mean() * k / (k - 1), 1 / d, rtol=error)
    np.testing.assert_allclose(lid(np.linalg.norm(x, axis=-1).reshape(-1), 20_000), d, rtol=4 / np.sqrt(20_000))


def test_formula():
    """Protects the formula of the paper, for distances in any order and unit, and the nearest k alone."""
    v = np.array([1.0, 2.0, 3.0, 7.0])
    expected = -3 / sum(np.log(one / 3) for one in v[:3])
    for distances in (v, v[::-1], 1e-3 * v, np.append(v, 100.0)):
        np.testing.assert_allclose(lid(distances, 3), expected)
    np.testing.assert_allclose(lid(np.stack([v, 2 * v]), 3), [expected, expected])


def test_degenerate_distances():
    """Protects the regression from infinity: neighbours in the same place, and neighbours that are all equally far."""
    assert lid(np.zeros(5), 4) == 0
    assert 0 < lid(np.array([0.0, 0.0, 1.0, 2.0]), 4) < 0.1
    assert lid(np.ones(5), 4) == 1000
    assert lid(np.array([1.0, 1.0, 1.0, 1 + 1e-12]), 4) == 1000


def test_too_few_distances_are_refused():
    """Protects users from an estimate of fewer neighbours than they ask for."""
    with pytest.raises(BadInput, match="distances to at least 20 points"):
        lid(np.ones((3, 19)), 20)
    with pytest.raises(BadInput, match="at least 2 neighbours"):
        lid(np.ones(3), 1)


def test_features_are_those_of_the_distances_at_every_layer(classifier):
    """Protects the features: one for the image, one for each layer and one for the softmax, against distances of SciPy."""
    x, reference = images(7, 1), images(40)
    detector = LID(classifier, reference, k=5, minibatch=40)
    there, here = detector.outputs(reference), detector.outputs(x)
    assert list(here) == ["input", "conv1", "relu1", "conv2", "relu2", "pool2", "flatten", "fc1", "relu3", "logits", "softmax"]
    expected = np.stack([lid(cdist(here[name].astype(float), there[name].astype(float)), 5) for name in here], axis=1)
    np.testing.assert_allclose(detector.features(x), expected, rtol=1e-3)
    np.testing.assert_allclose(here["softmax"].sum(1), 1, rtol=1e-5)


def test_an_image_of_the_minibatch_is_no_neighbour_of_itself(classifier):
    """Protects benign training images from an estimate with the distance 0."""
    x = images(30)
    detector = LID(classifier, x, k=5, minibatch=30)
    without = [LID(classifier, np.delete(x, row, axis=0), k=5, minibatch=29).features(x[row : row + 1])[0] for row in (0, 17)]
    np.testing.assert_allclose(detector.features(x)[[0, 17]], without, rtol=1e-4)


def test_published_protocol(classifier):
    """Protects the table: scores of what the regression did not learn from, benign and noisy ones together, without training images."""
    x = images(202)
    x_adv = np.clip(x + 0.4 * np.sign(images(202, 1) - 0.5), 0, 1)
    negative, positive = as_published(LID(classifier, images(100, 2), noise=0.1), x[:150], x_adv[:150])
    assert (negative.shape, positive.shape) == ((100,), (50,))
    assert positive.mean() > negative.mean()
    again = as_published(LID(classifier, images(100, 3), noise=0.1), x[:150], x_adv[:150])
    np.testing.assert_array_equal(again[1], positive)


def test_minibatches_of_the_published_protocol(classifier):
    """Protects the table: an image and its versions are compared with its own hundred, without the nearest; a short rest has its own."""
    x, x_adv = images(150), images(150, 1)
    detector = LID(classifier, images(100, 2))
    outputs = [{name: array.astype(float) for name, array in detector.outputs(one).items()} for one in (x, x_adv)]
    made = lid_module._within_minibatches(detector, (x, x_adv))
    for rows in (range(100), range(100, 150)):
        for features, here in zip(made, outputs, strict=True):
            for column, name in enumerate(here):
                distances = np.sort(cdist(here[name][rows], outputs[0][name][rows]), axis=1)[:, 1:]
                np.testing.assert_allclose(features[rows, column], lid(distances, 20), rtol=1e-3)


def test_published_split():
    """Protects the split of the released code: the first 100 * floor(0.008 n) images train."""
    assert [published_split(n) for n in (125, 200, 250, 999, 1000)] == [100, 100, 200, 700, 800]
    with pytest.raises(BadInput, match="at least 125 pairs"):
        published_split(124)


def test_bad_settings_are_refused(classifier):
    """Protects users: each in one line, before anything is computed."""
    with pytest.raises(BadInput, match="a minibatch of more than k = 20 images, got 20"):
        LID(classifier, images(30), minibatch=20)
    with pytest.raises(BadInput, match="at least 100 training images, got 30"):
        LID(classifier, images(30)).features(images(2))
    with pytest.raises(BadInput, match="one adversarial image for each benign one, got 3 for 200"):
        as_published(LID(classifier, images(100)), images(200), images(3))
