"""Small classifiers for the tests: linear, convolutional, and the network defined by formulas of the reference test vectors."""

import jax
import jax.numpy as jnp
import numpy as np

from a2d_jax.drivers import program, refill
from a2d_jax.types import Classifier, Example


def linear(weights: np.ndarray, bias: np.ndarray | None = None) -> Classifier:
    """Logits `W x + b` of the flattened image; weights `k n`."""
    return Classifier((jnp.asarray(weights), jnp.asarray(np.zeros(len(weights), weights.dtype) if bias is None else bias)), _linear)


def _linear(variables, x):
    weights, bias = variables
    return weights @ x.ravel() + bias


def convnet(seed: int = 0, classes: int = 5, size: int = 8) -> Classifier:
    """One random convolution, ReLU, one dense layer, for images `size size 1`."""
    first, second = jax.random.split(jax.random.key(seed))
    return Classifier(
        {
            "kernel": jax.random.normal(first, (3, 3, 1, 4)) * 0.5,
            "dense": jax.random.normal(second, (size * size * 4, classes)) * 0.3,
        },
        _convnet,
    )


def _convnet(variables, x):
    x = jax.lax.conv_general_dilated(x[None], variables["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return (jax.nn.relu(x).reshape(1, -1) @ variables["dense"])[0]


def formula_net(dtype=np.float64) -> Classifier:
    """The 36-8-5 ReLU network of the test vectors, whose weights are defined by formulas."""
    h, i, k = np.arange(8), np.arange(36), np.arange(5)
    w1 = (((5 * h[:, None] + 3 * i + h[:, None] * i) % 11) - 5) / 4
    b1 = ((h % 3) - 1) / 2
    w2 = (((7 * k[:, None] + 2 * h + k[:, None] * h) % 9) - 4) / 3
    return Classifier(tuple(jnp.asarray(a, dtype) for a in (w1, b1, w2)), _formula_net)


def _formula_net(variables, x):
    w1, b1, w2 = variables
    return w2 @ jax.nn.relu(w1 @ x.ravel() + b1)


def formula_input(s: int, offset: float) -> np.ndarray:
    """Input `s` of the test vectors, 6 x 6 x 1 in float64."""
    i = np.arange(36)
    return np.maximum(0, ((i * (s + 2) + 3 * s) % 17) / 16 - offset).reshape(6, 6, 1)


def batch(classifier: Classifier, x, seed: int = 0, label=None) -> Example:
    """Examples with the model's own predictions as labels, as if they were given, and a key for each."""
    if label is None:
        label = np.asarray(jax.vmap(classifier)(jnp.asarray(x))).argmax(1)
    keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(seed), n))(jnp.arange(len(x), dtype=jnp.uint32))
    return Example(np.asarray(x), np.asarray(label, np.int32), keys, np.zeros(len(x), bool))


def forget_times(monkeypatch) -> None:
    """Let `stream` decide about shrinking as if no program had been compiled yet; the programs themselves stay."""
    handed_out = program.program

    def without_times(mesh):
        found = handed_out(mesh)
        monkeypatch.setattr(found, "seconds", {})
        monkeypatch.setattr(found, "trips", {})
        return found

    monkeypatch.setattr(refill, "program", without_times)
