"""The baselines in the protocol: scores of sets of images, each a step that is made once."""

import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from a2d_jax.errors import InputWarning
from experiments.baselines import kernel_density, lid
from experiments.baselines.dissector import Dissector
from experiments.baselines.kernel_density import KernelDensity
from experiments.baselines.lid import LID
from experiments.baselines.mutation import Operator, draw_mutants, predicted
from experiments.baselines.noise import Noise
from experiments.paper.networks import DIGITS, Subject
from experiments.paper.sets import BENIGN, TEST, slug
from experiments.paper.study import Study

NOISE: Mapping[tuple[str, str], Noise] = {
    ("mnist", "FGSM"): 0.310,
    ("mnist", "BIM"): 0.128,
    ("cifar10", "FGSM"): 0.050,
    ("cifar10", "BIM"): 0.009,
    ("mnist", "JSMA"): "scalars",
    ("cifar10", "JSMA"): "scalars",
}
"""Of the noisy images that BL1 and BL2 learn from, by data and set; as far as the crafted image for all others."""
BANDWIDTH = {"cifar10": 0.26}
"""Of BL1's kernel; 1.20 for all others."""
RATIO = {"cifar10": 0.005}
"""Of BL3's mutants; 0.05 for all others."""
ALL_TEST = "test images, right or wrong"
"""A set of BL3: the first test images, misclassified ones too, as the paper judges them."""
CHECKED = {"mnist": 10_000}
"""Test images on which a mutant must be accurate; 2,000 of all others."""
LEAST_FOR_SPLIT = 125
"""Pairs of images that BL2's published split needs; with fewer the first half fits and the second is judged."""
INNER = {
    "resnet20": ("layer1.2", "layer2.2", "layer3.2"),
    DIGITS: ("conv1", "conv2", "fc1"),
}
"""Layers of BL4's sub-models."""
POOLED = 8
"""Rows and columns of the maps that BL4 reads."""
READ = 20_000
"""Training images that BL4 learns from, at most: their maps are kept in memory."""


class Ranked(NamedTuple):
    """Scores of a baseline; higher is more adversarial."""

    benign: np.ndarray
    adversarial: np.ndarray


def density(study: Study, subject: Subject, name: str) -> Ranked:
    """BL1 on a set under its published protocol: it is scored on the images that it learned from."""

    def make() -> KernelDensity:
        return KernelDensity(study.classifier(subject), *study.training(subject), BANDWIDTH.get(subject.facts.data, 1.2), seed=study.seed)

    def work() -> Mapping[str, np.ndarray]:
        detector = study.once(f"BL1 of {subject.network}", make)  # it keeps the activations of the training images
        plain, crafted = study.pairs(subject, name)
        with warnings.catch_warnings():
            if subject.stands_in:
                warnings.simplefilter("ignore", InputWarning)  # the network for digits has no dropout
            return _named(kernel_density.as_published(detector, plain, crafted, noise=_noise(subject, name)))

    return _ranked(study.arrays(subject, f"bl1-{slug(name)}", work))


def dimension(study: Study, subject: Subject, name: str) -> Ranked:
    """BL2 on a set under its published protocol: the first images fit, the last ones are judged."""

    def work() -> Mapping[str, np.ndarray]:
        x, _ = study.training(subject)
        detector, noise = LID(study.classifier(subject), x, seed=study.seed), _noise(subject, name)
        plain, crafted = study.pairs(subject, name)
        if len(plain) >= LEAST_FOR_SPLIT:
            return _named(lid.as_published(detector, plain, crafted, noise=noise))
        half = len(plain) // 2
        fitted = detector.fit(plain[:half], crafted[:half], noise=noise)
        return _named((fitted.score(plain[half:]), fitted.score(crafted[half:])))

    return _ranked(study.arrays(subject, f"bl2-{slug(name)}", work))


def mutation(study: Study, subject: Subject, operator: Operator = "nai") -> Mapping[str, np.ndarray]:
    """BL3: which mutants changed the label, `n mutants`, by set; the benign sets against their true labels."""

    def work() -> Mapping[str, np.ndarray]:
        classifier, data = study.classifier(subject), subject.facts.data
        x, label = study.everything(subject, TEST)
        many = CHECKED.get(data, 2000)
        count, ratio = study.size.of(study.size.mutants, subject.network), RATIO.get(data, 0.05)
        mutants = draw_mutants(classifier, x[:many], label[:many], operator=operator, ratio=ratio, count=count, seed=study.seed)
        n = study.images(subject)
        sets = {BENIGN: study.pictures(subject, BENIGN)[:2], ALL_TEST: (x[:n], label[:n])}
        crafted = {name: study.pictures(subject, name).x for name in study.sets(subject)}
        sets |= {name: (images, predicted(classifier, images)) for name, images in crafted.items()}
        ends = np.cumsum([len(images) for images, _ in sets.values()])[:-1]  # all sets at once, for each mutant is drawn again
        changed = mutants.changes(*(np.concatenate(column) for column in zip(*sets.values(), strict=True)))
        return dict(zip(sets, np.split(changed, ends), strict=True))

    return study.arrays(subject, f"bl3-{operator}", work)


def dissection(study: Study, subject: Subject, name: str) -> Ranked | None:
    """BL4 with exponential weights; None where no training images or no layers are known."""
    if subject.facts.data == "photographs" or subject.network not in INNER:
        return None

    def work() -> Mapping[str, np.ndarray]:
        x, label = (column[:READ] for column in study.training(subject))
        detector = Dissector(study.classifier(subject), x, label, INNER[subject.network], size=POOLED, seed=study.seed)
        fitted = detector.fit(study.pictures(subject, BENIGN).x)
        return {one: fitted.score(study.pictures(subject, one).x) for one in (BENIGN, *study.sets(subject))}

    found = study.arrays(subject, "bl4", work)
    return Ranked(found[BENIGN], found[name])


def _noise(subject: Subject, name: str) -> Noise:
    return NOISE.get((subject.facts.data, name), "distance")


def _named(scores: tuple[np.ndarray, np.ndarray]) -> Mapping[str, np.ndarray]:
    return {"negative": scores[0], "positive": scores[1]}


def _ranked(found: Mapping[str, np.ndarray]) -> Ranked:
    return Ranked(found["negative"], found["positive"])
