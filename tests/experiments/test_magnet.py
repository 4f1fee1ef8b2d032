"""MagNet's detectors: marks, thresholds and verdicts by their definition, and the published facts on the real weights."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from a2d_jax.classifiers import from_nnx
from a2d_jax.costs import predictions
from a2d_jax.errors import BadInput
from a2d_jax.io.convert import convert
from a2d_jax.io.datasets import load
from experiments.baselines.magnet import MagNet, reconstructed
from models.magnet import autoencoder1, autoencoder2, carlini_mnist, magnet_mnist
from models.training import whole


class Scaled(nnx.Module):
    """Moves every pixel by a share of itself: its marks are known."""

    def __init__(self, share):
        self.factor = nnx.Param(jnp.asarray(1 - share))

    def __call__(self, x):
        return x * self.factor[...]


class Fixed(nnx.Module):
    """Gives what a test says."""

    def __init__(self, move):
        self.move = move

    def __call__(self, x):
        return self.move(x)


def flat(values):
    """Images of one grey value each."""
    return np.broadcast_to(np.asarray(values, np.float32)[:, None, None, None], (len(values), 4, 4, 1))


def test_marks_and_thresholds():
    """Protects the definition by hand: the m-th largest of the benign marks, the mean of |x - AE(x)|^p, flagged from the threshold on."""
    benign = flat(np.arange(1, 51) / 100)
    fitted = MagNet([Scaled(0.5), Scaled(0.2)], powers=(2, 1), drop_rate=0.05).fit(benign)  # m = floor(2.5) = 2: the mark of 0.49
    np.testing.assert_allclose(fitted.thresholds, [(0.49 * 0.5) ** 2, 0.49 * 0.2], rtol=1e-6)
    x = flat([0.1, 0.49, 0.98])
    grey = np.array([0.1, 0.49, 0.98])
    np.testing.assert_allclose(fitted.marks(x), np.stack([(grey * 0.5) ** 2, grey * 0.2], axis=1), rtol=1e-5)
    np.testing.assert_allclose(fitted.score(x), (grey / 0.49) ** np.array([1, 1, 2]), rtol=1e-5)  # p = 2 lifts what is above 1
    assert fitted.predict(x).tolist() == [False, True, True]
    assert fitted.predict(benign).sum() == 2


def test_flagged_exactly_from_the_threshold_on():
    """Protects the verdict: it is "mark >= threshold of either detector", and it is "score >= 1", with ties at the threshold."""
    random = np.random.default_rng(0)
    benign, x = (random.random((200, 4, 4, 1), np.float32) for _ in range(2))
    modules = [Fixed(lambda x: x**2), Fixed(lambda x: jnp.sqrt(x))]
    fitted = MagNet(modules, (2, 1), 0.02).fit(benign)
    assert ((fitted.marks(benign) >= fitted.thresholds).sum(0) == 4).all(), "m of the benign images for each detector"
    for images in (benign, x):
        either = (fitted.marks(images) >= fitted.thresholds).any(1)
        np.testing.assert_array_equal(fitted.predict(images), either)
        np.testing.assert_array_equal(fitted.score(images) >= 1, either)


def test_scores_do_not_depend_on_other_images():
    """Protects the contract: alone, in another order, or among more images than a batch has, an image has one score."""
    x = np.random.default_rng(0).random((150, 28, 28, 1), np.float32)
    fitted = MagNet([autoencoder1(), autoencoder2()], drop_rate=0.1).fit(x)
    score = fitted.score(x)
    np.testing.assert_array_equal(fitted.score(x[140:141]), score[140:141])
    np.testing.assert_array_equal(fitted.score(x[::-1]), score[::-1])


def test_far_images_score_higher():
    """Protects the direction: an autoencoder that gives smooth images marks noise as more adversarial."""
    smooth = np.linspace(0, 1, 100, dtype=np.float32)[:, None, None, None] * np.ones((1, 4, 4, 1), np.float32)
    noisy = np.clip(smooth + np.random.default_rng(0).normal(0, 0.2, smooth.shape).astype(np.float32), 0, 1)
    mean = Fixed(lambda x: 0.99 * jnp.broadcast_to(x.mean((1, 2), keepdims=True), x.shape))
    fitted = MagNet([mean], (2,), 0.05).fit(smooth)
    assert fitted.score(noisy).min() > fitted.score(smooth).max()


def test_reconstructed_in_evaluation_mode():
    """Protects the reformer: the module's images, without dropout, whatever its mode; the module is left as it is."""

    class Dropping(nnx.Module):
        def __init__(self):
            self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.dropout(x)

    x = np.random.default_rng(0).random((3, 4, 4, 1), np.float32)
    module = Dropping()
    np.testing.assert_array_equal(reconstructed(module, x), x)
    assert module.dropout.rngs is not None


def test_refusals():
    """Protects messages: settings, too few images, images and autoencoders that do not fit."""
    x = flat([0.2, 0.4, 0.6])
    half = Scaled(0.5)
    for settings, message in (
        ({"autoencoders": []}, "a power for each"),
        ({"autoencoders": [half]}, "got '1 and 2'"),
        ({"autoencoders": [half], "powers": (0,)}, "powers above 0"),
        ({"autoencoders": [half], "powers": (1,), "drop_rate": 0.0}, "drop rate"),
        ({"autoencoders": [half], "powers": (1,), "drop_rate": float("nan")}, "drop rate"),
    ):
        with pytest.raises(BadInput, match=message):
            MagNet(**settings)
    with pytest.raises(BadInput, match=r"at least 1000 images for a drop rate of 0\.001, got 3"):
        MagNet([half], (1,)).fit(x)
    for move, message in (
        (lambda x: x, "change benign images"),
        (lambda x: x[..., :2, :], "images"),
        (lambda x: x * jnp.nan, "finite"),
        (lambda x: x @ jnp.ones((3, 3)), "takes"),
    ):
        with pytest.raises(BadInput, match=message):
            MagNet([Fixed(move)], (1,), 0.5).fit(x)
    fitted = MagNet([half], (1,), 0.5).fit(x)
    for bad, message in ((x[:0], "at least one image"), (x[0], "shape"), (2 * x, "pixels in"), (x * np.nan, "pixels in")):
        with pytest.raises(BadInput, match=message):
            fitted.score(bad)


def test_carlini_and_wagners_network_reads_pixels_around_zero():
    """Protects the preprocessing: with the same weights it gives for x what the guarded network gives for x - 0.5."""
    x = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    np.testing.assert_array_equal(carlini_mnist()(x), magnet_mnist()(x - np.float32(0.5)))


@pytest.mark.slow
def test_published_facts(shared, mnist):
    """Protects conversion and use of the real weights: accuracies, reconstruction errors, thresholds from the authors' 5000 images."""
    folder = shared / "data" / "checkpoints" / "magnet"
    pairs = (("MNIST_I.h5", autoencoder1()), ("MNIST_II.h5", autoencoder2()))
    autoencoders = [convert(folder / name, module).module for name, module in pairs]
    net = from_nnx(convert(folder / "carlini_mnist.h5", carlini_mnist()).module)
    x, label = whole(load("mnist", "test", folder=mnist.parent))
    assert (predictions(net, x)[0] == label).mean() == pytest.approx(0.9940)
    for module, error, behind in zip(autoencoders, (0.00125, 0.00050), (0.9927, 0.9934), strict=True):
        moved = reconstructed(module, x)
        assert ((moved.astype(np.float64) - x) ** 2).mean() == pytest.approx(error, abs=5e-6)
        assert (predictions(net, moved)[0] == label).mean() == pytest.approx(behind)
    validation = whole(load("mnist", "train", folder=mnist.parent))[0][:5000]
    fitted = MagNet(autoencoders).fit(validation)
    assert ((fitted.marks(validation) >= fitted.thresholds).sum(0) == 5).all()
    np.testing.assert_allclose(fitted.thresholds, [0.004287, 0.014724], rtol=1e-3)
    assert fitted.predict(x).mean() < 0.005
