"""The contract of all detectors that read images: one table, one line per detector; and what each baseline must give."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from rich.console import Console

from a2d_jax import Defense, costs, drivers, metrics
from a2d_jax.attacks import bim, fgsm
from a2d_jax.detectors import ZScore
from a2d_jax.errors import BadInput
from a2d_jax.io.datasets import load
from a2d_jax.types import Classifier
from experiments import demo
from experiments.baselines.dissector import Dissector
from experiments.baselines.kernel_density import KernelDensity
from experiments.baselines.lid import LID
from models import training

pytestmark = [
    pytest.mark.usefixtures("promoting"),
    pytest.mark.filterwarnings("ignore:the network has no dropout"),  # the network of the digits has none
]


class Digits(NamedTuple):
    """A small LeNet, what it was trained on, and pairs of benign and adversarial test digits."""

    classifier: Classifier
    x: np.ndarray
    label: np.ndarray
    benign: np.ndarray
    adversarial: np.ndarray


@pytest.fixture(scope="session")
def digits() -> Digits:
    """The network of the demo and digits crafted against it, made once."""
    x, label = training.whole(load("digits", "train"))
    with jax.numpy_dtype_promotion("standard"):
        classifier = demo.train(x, label, 0, Console(quiet=True))
    clean, truth = training.whole(load("digits", "test"))
    right = costs.predictions(classifier, clean)[0] == truth
    clean, truth = clean[right], truth[right]
    result = drivers.attack(fgsm(0.15), classifier, costs.examples(classifier, clean, truth))
    kept = np.asarray(result.success)
    return Digits(classifier, x, label, clean[kept], np.asarray(result.x_adv)[kept])


@dataclass(frozen=True)
class Case:
    """One detector."""

    make: Callable[[Digits, int], Any]  # with this network, and this seed
    auroc: float  # at least, on new digits
    random: bool = True  # the seed changes something
    learns: bool = True  # from adversarial images


CASES = {
    "defense": Case(lambda d, seed: Defense(d.classifier, {"bim": bim()}, ZScore()), 0.9, random=False, learns=False),
    "kernel_density": Case(lambda d, seed: KernelDensity(d.classifier, d.x, d.label, seed=seed), 0.9),
    "lid": Case(lambda d, seed: LID(d.classifier, d.x, seed=seed), 0.75),
    "dissector": Case(
        lambda d, seed: Dissector(d.classifier, d.x, d.label, ("relu1", "pool2", "relu3"), size=4, seed=seed), 0.75, learns=False
    ),
}
FITTED_TO = 100  # pairs
every_detector = pytest.mark.parametrize("name", CASES)
_fitted: dict[str, Any] = {}


def fitted(name: str, digits: Digits, seed: int = 0) -> Any:
    """The detector fitted to the first pairs; tests that do not change it share it."""
    key = f"{name} {seed}"
    if key not in _fitted:
        _fitted[key] = fit(name, digits, seed)
    return _fitted[key]


def fit(name: str, digits: Digits, seed: int) -> Any:
    return CASES[name].make(digits, seed).fit(digits.benign[:FITTED_TO], digits.adversarial[:FITTED_TO])


@every_detector
def test_adversarial_images_score_higher(name, digits):
    """Protects the direction and the purpose: on digits that it was not fitted to, adversarial ones score higher, one number each."""
    detector = fitted(name, digits)
    benign, adversarial = (detector.score(x[FITTED_TO : FITTED_TO + 150]) for x in (digits.benign, digits.adversarial))
    assert benign.shape == adversarial.shape == (150,)
    assert np.isfinite(benign).all()
    assert np.isfinite(adversarial).all()
    assert metrics.auroc(benign, adversarial) >= CASES[name].auroc


@every_detector
def test_score_depends_on_the_image_alone(name, digits):
    """Protects verdicts: the score of a batch of one, in another order and among other images, is the same bit for bit."""
    detector = fitted(name, digits)
    x = np.concatenate([digits.benign[-20:], digits.adversarial[-20:]])
    scores = detector.score(x)
    np.testing.assert_array_equal(detector.score(x[::-1])[::-1], scores)
    for row in (0, 7, 25, 39):
        np.testing.assert_array_equal(detector.score(x[row : row + 1]), scores[row : row + 1])


@every_detector
def test_seed_decides(name, digits):
    """Protects reproducibility: fitted again with the same seed it gives the same scores, and with another seed others."""
    x = np.concatenate([digits.benign[-20:], digits.adversarial[-20:]])
    scores = fitted(name, digits).score(x)
    np.testing.assert_array_equal(fit(name, digits, 0).score(x), scores)
    assert np.array_equal(fitted(name, digits, 1).score(x), scores) != CASES[name].random


BAD = {
    "none": (lambda x: x[:0], "at least one image"),
    "NaN": (lambda x: np.where(np.arange(len(x))[:, None, None, None] == 1, np.nan, x).astype(np.float32), "pixels in"),
    "bytes": (lambda x: (255 * x).astype(np.uint8), "floating point"),
    "too bright": (lambda x: 255 * x, "pixels in"),
    "one image without its axis": (lambda x: x[0], r"shape \(n, h, w, c\)"),
    "another shape": (lambda x: np.pad(x, [(0, 0), (1, 1), (0, 0), (0, 0)]), "8 x 8 x 1"),
}


@every_detector
@pytest.mark.parametrize("bad", BAD)
def test_bad_images_are_refused(name, bad, digits):
    """Protects users: what is no batch of such images is refused in one line, by `score` and by `fit`."""
    spoil, expected = BAD[bad]
    x, x_adv = digits.benign[:FITTED_TO], digits.adversarial[:FITTED_TO]
    attempts = [lambda: fitted(name, digits).score(spoil(x))]
    if bad != "another shape" or name != "defense":  # a defense takes its shape from the images that it is fitted to
        attempts.append(lambda: CASES[name].make(digits, 0).fit(spoil(x), x_adv))
    if CASES[name].learns:
        attempts.append(lambda: CASES[name].make(digits, 0).fit(x, spoil(x_adv)))
    for attempt in attempts:
        with pytest.raises(BadInput, match=expected) as refused:
            attempt()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.learns])
def test_adversarial_images_are_asked_for(name, digits):
    """Protects users: a detector that learns from adversarial images says so where they are missing."""
    with pytest.raises(BadInput, match="expected adversarial images beside the benign ones, got none"):
        CASES[name].make(digits, 0).fit(digits.benign)
