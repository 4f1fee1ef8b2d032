"""Dissector: the validity of a layer by hand, pooling against PyTorch's definition, sub-models against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.linear_model import LogisticRegression

from a2d_jax.classifiers import from_nnx
from a2d_jax.errors import BadInput
from experiments.baselines import dissector
from experiments.baselines.dissector import Dissector, adaptive_average, doubt

pytestmark = pytest.mark.usefixtures("promoting")


class Doubled(nnx.Module):
    """An image of 2 x 2 pixels, doubled, the first of which are logits."""

    def __init__(self, classes=2):
        self.factor = nnx.Param(jnp.asarray(2.0))
        self.classes = classes

    def activations(self, x):
        x = self.factor[...] * x.reshape(len(x), -1)
        return {"doubled": x, "logits": x[:, : self.classes]}

    def __call__(self, x):
        return self.activations(x)["logits"]


def test_validity_by_hand():
    """Protects the formula: p_y against the second largest p where the layer predicts y, against the largest where it does not."""
    p = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.25, 0.25, 0.5]], np.float32)
    expected = 1 - np.array([0.7 / 0.9, 0.1 / 0.8, 0.25 / 0.75])
    np.testing.assert_allclose(doubt(jnp.log(p), jnp.array([0, 2, 0])), expected, rtol=1e-5)


def test_validity_keeps_small_doubts():
    """Protects the ranking of sure images: a doubt far below the precision of 1 - SV is still a number."""
    np.testing.assert_allclose(doubt(jnp.array([[0.0, 40.0]]), jnp.array([1])), np.exp(-40.0), rtol=1e-5)


@pytest.mark.parametrize(("growth", "weights"), [("linear", [1, 2]), ("logarithmic", [0, np.log(2)]), ("exponential", [np.e, np.e**2])])
def test_weights_grow_with_the_layer(growth, weights):
    """Protects the weighted mean: one sub-model and the network's own output, by the three published weights."""
    x = np.random.default_rng(0).random((8, 2, 2, 1), np.float32)
    fitted = Dissector(from_nnx(Doubled()), x, np.arange(8) % 2, ("doubled",), growth=growth).fit(x)
    np.testing.assert_allclose(fitted.score(x), fitted.doubts(x) @ weights / np.sum(weights), rtol=1e-6)


@pytest.mark.parametrize(("length", "size"), [(8, 4), (7, 3), (5, 4), (4, 4), (3, 4)])
def test_adaptive_average(length, size):
    """Protects the pooled maps: part i of a side averages from floor(i L / s) to ceil((i + 1) L / s); small maps stay."""
    x = np.random.default_rng(0).random((length, length, 2), np.float32)
    ends = [(i * length // size, int(np.ceil((i + 1) * length / size))) for i in range(size)]
    expected = x if length < size else np.array([[x[a:b, c:d].mean((0, 1)) for c, d in ends] for a, b in ends])
    np.testing.assert_allclose(adaptive_average(jnp.asarray(x), size), expected, rtol=1e-5)


def test_adaptive_average_equals_pytorch(torch):
    """Protects the pooled maps against the library of the original."""
    x = np.random.default_rng(0).random((7, 5, 2), np.float32)
    theirs = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(x.transpose(2, 0, 1))[None], 3)[0].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(adaptive_average(jnp.asarray(x), 3), theirs, rtol=1e-5)


def test_submodel_equals_scikit_learn():
    """Protects the training: with a penalty it ends where scikit-learn's logistic regression does."""
    generator = np.random.default_rng(0)
    x = generator.random((200, 2, 2, 1), np.float32)
    label = (x.reshape(200, 4) @ generator.standard_normal((4, 3)) + 0.3 * generator.standard_normal((200, 3))).argmax(1)
    settings = {"epochs": 500, "learning_rate": 0.1, "batch_size": 200, "weight_decay": 0.01}
    kernel, bias = Dissector(from_nnx(Doubled(3)), x, label, ("doubled",), **settings).submodels["doubled"]
    rows = 2 * x.reshape(200, 4)
    theirs = LogisticRegression(C=1 / (0.01 * 200), max_iter=1000, tol=1e-8).fit(rows, label)
    np.testing.assert_allclose(jax.nn.softmax(rows @ kernel + bias[None]), theirs.predict_proba(rows), atol=1e-3)


def test_unknown_layers_are_refused():
    """Protects users: the names that the network has are in the message."""
    x = np.zeros((4, 2, 2, 1), np.float32)
    with pytest.raises(BadInput, match="some of input, doubled, logits, got 'tripled'"):
        Dissector(from_nnx(Doubled()), x, np.zeros(4, int), ("tripled",)).fit(x)
    with pytest.raises(BadInput, match="one of linear, logarithmic, exponential, got 'square'"):
        Dissector(from_nnx(Doubled()), x, np.zeros(4, int), ("doubled",), growth="square")
    assert set(dissector.GROWTHS) == {"linear", "logarithmic", "exponential"}
