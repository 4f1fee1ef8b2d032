"""Kernel density and Bayesian uncertainty: both features by their formulas, noisy negatives, the regression, and the published protocol."""

import warnings
from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegressionCV
from sklearn.preprocessing import StandardScaler

from a2d_jax import costs
from a2d_jax.classifiers import from_nnx
from a2d_jax.errors import BadInput, InputWarning
from experiments.baselines.activations import activations_of, inside, passes_of, stochastic
from experiments.baselines.kernel_density import KernelDensity, as_published
from experiments.baselines.noise import noisy
from experiments.baselines.regression import regression
from models.lenet import lenet_digits


class Dropping(nnx.Module):
    """A dense layer with dropout behind it."""

    input_shape = (4, 4, 1)

    def __init__(self, rngs):
        self.fc1 = nnx.Linear(16, 12, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.fc2 = nnx.Linear(12, 3, rngs=rngs)

    def activations(self, x):
        hidden = nnx.relu(self.fc1(x.reshape(len(x), -1)))
        return {"relu1": hidden, "logits": self.fc2(self.dropout(hidden))}

    def __call__(self, x):
        return self.activations(x)["logits"]


def images(n, seed=0):
    return np.random.default_rng(seed).random((n, 4, 4, 1), np.float32)


@pytest.fixture(scope="module")
def classifier():
    return from_nnx(Dropping(nnx.Rngs(2)))


@pytest.fixture(scope="module")
def detector(classifier):
    return KernelDensity(classifier, images(90), np.arange(90) % 3, bandwidth=0.3, noise=0.1)


@pytest.mark.parametrize("bandwidth", [0.3, 0.02])
def test_density_by_its_formula(bandwidth, classifier):
    """Protects K: the logarithm of the mean of Gaussians around training images of the predicted class, at the last hidden layer.

    With the small bandwidth all images lie in the tails, where scikit-learn's default is wrong.
    """
    x, label = images(6, 1), np.arange(900) % 3
    detector = KernelDensity(classifier, images(900), label, bandwidth)
    there, here = (inside(activations_of(classifier), one)["relu1"].astype(float) for one in (detector.x, x))
    predicted, _ = costs.predictions(classifier, x)
    expected = []
    for row, k in zip(here, predicted, strict=True):
        centres = there[label == k]
        powers = -((centres - row) ** 2).sum(1) / (2 * bandwidth**2)
        expected.append(logsumexp(powers) - np.log(len(centres)) - len(row) / 2 * np.log(2 * np.pi * bandwidth**2))
    np.testing.assert_allclose(detector.features(x)[:, 0], expected, rtol=1e-4)


def test_uncertainty_by_its_formula(classifier, detector):
    """Protects U: the variance of the softmax over passes with dropout, averaged over classes; keys belong to images."""
    x = images(6, 1)
    keys = np.asarray(jax.random.key_data(costs.examples(classifier, x).key))
    softmax = jax.nn.softmax(stochastic(passes_of(classifier), x, keys, 50))
    np.testing.assert_allclose(detector.features(x)[:, 1], np.var(np.asarray(softmax, float), axis=1).mean(1), rtol=1e-3)
    np.testing.assert_array_equal(detector.features(x[4:5]), detector.features(x)[4:5])


def test_noise_is_as_far_as_the_attack():
    """Protects the negatives: equal L2 for each image, after clipping; an unchanged image stays."""
    x = images(20)
    x_adv = np.clip(x + 0.3 * np.sign(images(20, 1) - 0.5), 0, 1)
    x_adv[3] = x[3]
    made = noisy(x, x_adv, "distance", 0)
    assert made.min() >= 0
    assert made.max() <= 1
    np.testing.assert_allclose(*(np.sqrt(((one - x) ** 2).sum((1, 2, 3))) for one in (made, x_adv)), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(noisy(x, x_adv, "distance", 0), made)
    assert not np.array_equal(noisy(x, x_adv, "distance", 1), made)


def test_noise_of_a_deviation_and_of_scalars():
    """Protects the other two kinds: Gaussian of a given deviation; as many scalars set to 1 as were changed, drawn with replacement."""
    x = np.full((50, 4, 4, 1), 0.5, np.float32)
    np.testing.assert_allclose(noisy(x, x[:1], 0.1, 0).std(), 0.1, rtol=0.1)
    x_adv = x.copy()
    x_adv[:, :2, :2] = 0
    changed = (noisy(x, x_adv, "scalars", 0) != x).sum((1, 2, 3))
    assert changed.max() == 4
    assert changed.min() >= 1
    assert (noisy(x, x_adv, "scalars", 0).max((1, 2, 3)) == 1).all()
    white = np.ones_like(x)
    np.testing.assert_array_equal(noisy(white, x_adv, "scalars", 0), white)
    np.testing.assert_array_equal(noisy(x, x + 1e-5, "scalars", 0), x)  # rounding is no change


@pytest.mark.parametrize("noise", [0, -0.1, "gaussian", True, None])
def test_unknown_noise_is_refused(noise):
    """Protects users from noise of another kind than they mean."""
    with pytest.raises(BadInput, match="noise as a positive standard deviation, distance or scalars"):
        noisy(images(2), images(2), noise, 0)


@pytest.mark.parametrize("noise", ["distance", "scalars"])
def test_noise_of_pairs_needs_pairs(noise, classifier, detector):
    """Protects users: noise like an attack's needs the adversarial version of every benign image."""
    with pytest.raises(BadInput, match="one adversarial image for each benign one, in their order, got 10 for 20"):
        detector.fit(images(20), images(10), noise=noise)
    detector.fit(images(20), images(10), noise=0.1)


def test_regression_equals_scikit_learn():
    """Protects the written-out search: the weights of `LogisticRegressionCV` with its defaults, and scores that are its log odds."""
    generator = np.random.default_rng(0)
    negative, positive = generator.standard_normal((120, 3)), generator.normal([1, 0.5, 0], size=(60, 3))
    rows, which = np.concatenate([negative, positive]), np.arange(180) >= 120
    scaler = StandardScaler().fit(rows)
    ours = regression(scaler, negative, positive)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of this release, that its defaults will change
        theirs = LogisticRegressionCV(max_iter=10_000).fit(scaler.transform(rows), which)
    np.testing.assert_allclose(ours.model.C, np.ravel(theirs.C_)[0])
    np.testing.assert_allclose(ours.score(rows), theirs.decision_function(scaler.transform(rows)), rtol=1e-2, atol=1e-3)


def test_published_protocol(detector):
    """Protects the table: scores are those of the images that it was fitted to, ranked in the three ways of the released code."""
    x, x_adv = images(30, 1), images(30, 2)
    fitted = detector.fit(x, x_adv)
    negative, positive = as_published(detector, x, x_adv, variant="all")
    np.testing.assert_array_equal(positive, fitted.score(x_adv))
    np.testing.assert_array_equal(negative[:30], fitted.score(x))
    assert negative.shape == (60,)
    for variant, shapes in (("positives", (60, 20)), ("first", (40, 20))):
        made = as_published(detector, x, x_adv, variant=variant, first=20)
        assert tuple(map(len, made)) == shapes
        np.testing.assert_array_equal(made[1], positive[:20])
    np.testing.assert_array_equal(made[0], np.concatenate([negative[:20], negative[30:50]]))
    with pytest.raises(BadInput, match="one of all, positives, first"):
        as_published(detector, x, x_adv, variant="some")


def test_no_dropout_is_said():
    """Protects users: the uncertainty of a network without dropout is 0, the caller hears it, and the density still decides."""
    x = np.random.default_rng(0).random((40, 8, 8, 1), np.float32)
    detector = KernelDensity(from_nnx(lenet_digits(nnx.Rngs(0))), x, np.arange(40) % 10, noise=0.1)
    with pytest.warns(InputWarning, match="the network has no dropout") as said:
        fitted = detector.fit(x, np.clip(1.5 * x, 0, 1))
    assert said[0].filename == __file__
    with pytest.warns(InputWarning, match="the network has no dropout") as said:
        as_published(detector, x, np.clip(1.5 * x, 0, 1))
    assert said[0].filename == __file__
    assert np.ptp(fitted.score(x)) > 0
    assert (detector.features(x)[:, 1] == 0).all()


def test_bad_settings_are_refused(classifier):
    """Protects users: each in one line, with what to do."""
    make = partial(KernelDensity, classifier, images(30), np.arange(30) % 3)
    with pytest.raises(BadInput, match="a positive bandwidth"):
        make(bandwidth=0)
    with pytest.raises(BadInput, match="at least 2 passes"):
        make(passes=1)
    with pytest.raises(BadInput, match="one of input, relu1, logits, got 'fc9'"):
        make(layer="fc9").features(images(2))
    with pytest.raises(BadInput, match="training images of every predicted class, got none of class"):
        KernelDensity(classifier, images(30), np.full(30, 1)).features(images(60, 1))
    with pytest.raises(BadInput, match="at least 5 benign and adversarial images"):
        make(noise=0.1).fit(images(3), images(3))
