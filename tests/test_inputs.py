"""Arguments from Python: every public function reports a bad argument in one line."""

import jax
import numpy as np
import pytest

import a2d_jax
from a2d_jax import costs, drivers, inputs, metrics, robustness
from a2d_jax.attacks import bim
from a2d_jax.detectors import KNN, ZScore
from a2d_jax.errors import BadInput
from a2d_jax.types import Example
from tests.nets import convnet

NET = convnet()
GOOD = np.random.default_rng(0).random((24, 8, 8, 1), np.float32)
ATTACKS = {"bim": bim(0.3, 0.05, 8)}


class Tensor:
    """A tensor of another library that NumPy cannot read, on another device for instance."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert a tensor on cuda:0 to numpy")


BAD_IMAGES = {
    "single image": (GOOD[0], r"got \(8, 8, 1\); write x\[None\] for a batch of one"),
    "no channels": (GOOD[..., 0], r"got \(24, 8, 8\); add the missing axes"),
    "no images": (GOOD[:0], "expected at least one image, got none"),
    "an empty list": ([], r"got \(0,\)"),
    "bytes": ((GOOD * 255).astype(np.uint8), "got uint8; divide by 255"),
    "flags": (GOOD > 0.5, "got bool; convert"),
    "text": (["0.png"], "expected images as numbers, got list"),
    "a foreign tensor": (Tensor(), "got Tensor, which NumPy cannot read .can't convert a tensor on cuda:0"),
    "images of two sizes": ([GOOD[0], GOOD[0, :4]], "expected images as one array, got list"),
    "too bright": (GOOD * 255, r"expected pixels in \[0, 1\], got"),
    "normalised": (GOOD - 0.5, r"expected pixels in \[0, 1\], got -"),
    "NaN": (np.where(np.arange(24)[:, None, None, None] == 3, np.nan, GOOD), "got nan to nan in image 3"),
    "another size": (GOOD[:, :6], "6 x 8 x 1"),
    "channels first": (GOOD.transpose(0, 3, 1, 2), "1 x 8 x 8.*channels seem to come first: transpose to n h w c"),
}
BAD_LABELS = {
    "too few": (np.zeros(23, int), r"expected labels of shape \(24,\), got \(23,\)"),
    "one hot": (np.eye(5)[np.zeros(24, int)], r"got \(24, 5\); take the argmax"),
    "floats": (np.zeros(24), "expected labels as whole numbers, got float64"),
    "text": (["cat"] * 24, "expected labels as numbers"),
    "a class too many": (np.full(24, 5), "expected labels from 0 to 4, got 5 for image 0; they seem to count from 1: subtract 1"),
    "negative": (np.full(24, -1), "expected labels from 0 to 4, got -1"),
}


def batch(x, label=None):
    n = len(x) if hasattr(x, "__len__") else 0
    return Example(x, np.zeros(n, np.int32) if label is None else label, jax.random.split(jax.random.key(0), max(n, 1))[:n])


@pytest.fixture(scope="module")
def fitted():
    return a2d_jax.Defense(NET, ATTACKS, ZScore()).fit(GOOD)


IMAGE_ENTRIES = {
    "costs": lambda fitted, x: costs.costs(NET, x, ATTACKS),
    "examples": lambda fitted, x: costs.examples(NET, x),
    "Defense.fit": lambda fitted, x: a2d_jax.Defense(NET, ATTACKS, ZScore()).fit(x),
    "Defense.fit adversarial": lambda fitted, x: a2d_jax.Defense(NET, ATTACKS, KNN(k=3)).fit(GOOD, x),
    "predict": lambda fitted, x: fitted.predict(x),
    "score": lambda fitted, x: fitted.score(x),
    "judge": lambda fitted, x: fitted.judge(x),
    "attack": lambda fitted, x: drivers.attack(ATTACKS["bim"], NET, batch(x)),
    "attack in lock-step": lambda fitted, x: drivers.attack(ATTACKS["bim"], NET, batch(x), driver="run"),
    "clever": lambda fitted, x: robustness.clever_scores(NET, batch(x)),
}
LABEL_ENTRIES = {
    "costs": lambda y: costs.costs(NET, GOOD, ATTACKS, label=y),
    "examples": lambda y: costs.examples(NET, GOOD, y),
    "attack": lambda y: drivers.attack(ATTACKS["bim"], NET, batch(GOOD, y)),
    "stream": lambda y: list(drivers.stream(ATTACKS["bim"], NET, [batch(GOOD, y)])),
    "clever": lambda y: robustness.clever_scores(NET, batch(GOOD, y)),
}


def refused(call, text):
    with pytest.raises(BadInput, match=text) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", BAD_IMAGES)
@pytest.mark.parametrize("entry", IMAGE_ENTRIES)
def test_images(entry, kind, fitted):
    """Protects callers: what is no batch of images is refused by every entry, in one line that says what to do."""
    x, text = BAD_IMAGES[kind]
    refused(lambda: IMAGE_ENTRIES[entry](fitted, x), text)


@pytest.mark.parametrize("kind", BAD_LABELS)
@pytest.mark.parametrize("entry", LABEL_ENTRIES)
def test_labels(entry, kind):
    """Protects callers: labels that are no class numbers of the classifier, one for each image, are refused."""
    y, text = BAD_LABELS[kind]
    refused(lambda: LABEL_ENTRIES[entry](y), text)


@pytest.mark.parametrize("kind", [np.float64, np.float16, list])
def test_what_numpy_reads_is_taken(kind, fitted):
    """Protects convenience: other floating point types and lists of images give what float32 gives."""
    x = GOOD.astype(np.float16).astype(np.float32)
    given = list(x) if kind is list else x.astype(kind)
    np.testing.assert_array_equal(fitted.judge(given).costs, fitted.judge(x).costs)
    assert inputs.images(given).dtype == np.float32


def test_other_arguments():
    """Protects callers: something that is no classifier, no example, no key, and tables that are none."""
    refused(lambda: costs.costs(NET, None, ATTACKS), "expected images as numbers, got NoneType")
    refused(lambda: costs.costs(lambda x: x, GOOD, ATTACKS), "expected a Classifier, got 'function'; make it with")
    refused(lambda: costs.costs(NET, GOOD, {"bim": "bim"}), "expected bim to be an attack, got a str without init, step")
    refused(lambda: drivers.attack(ATTACKS["bim"], NET, GOOD), "expected an Example, got 'ndarray'")
    refused(lambda: drivers.attack(ATTACKS["bim"], NET, batch(GOOD)._replace(key=np.arange(24))), "expected 24 JAX keys")
    refused(lambda: ZScore().fit([[1, 2], [3]]), "expected benign costs as one array, got list")
    refused(lambda: ZScore().fit(np.arange(30)).score(["a"]), "expected costs as numbers")
    refused(lambda: metrics.auroc([[1, 2], [3]], [1]), "expected benign scores as one array|expected finite benign scores")
    refused(lambda: metrics.tpr_at_fpr([1, 2], [3], -0.1), "expected a rate in")
