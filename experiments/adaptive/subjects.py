"""Networks whose detectors are attacked, with the radii that the attacker may use, and what was asked of the attack."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from a2d_jax import costs, jobs
from a2d_jax.io import checkpoints
from a2d_jax.io.datasets import load
from a2d_jax.types import Classifier
from experiments import demo
from experiments.newton import DIGITS, NETWORKS, Network
from experiments.work import Work
from models.table import LITE0, lite0_checkpoint, photographs
from models.training import whole

Ball = Literal["linf", "l2"]
"""Norms in which attackers are bounded."""


class Target(NamedTuple):
    """What was asked of the attack.

    Attributes:
      norm: of the radius.
      epsilon: radius.
      joint: share of images that must be misclassified and accepted, at least.
    """

    norm: Ball
    epsilon: float
    joint: float


class Subject(NamedTuple):
    """A network and its attacker.

    Attributes:
      network: how it is made, its data and its preset.
      budgets: radii by norm, rising; L2 in true L2 of pixels in [0, 1]. The last one is meant to win every image.
      targets: what was asked.
      why: what it stands in for.
      magnet: MagNet's autoencoders guard it too.
      share: of the images of a size that it takes; a large network takes fewer.
      ranks: images of other classes from which an attack starts; several where gradients lead nowhere.
      compared: attackers that are there for a comparison run too.
      hard_label: images that are attacked by verdicts alone, which takes hundreds of thousands of answers for each.
    """

    network: Network
    budgets: Mapping[Ball, Sequence[float]]
    targets: Sequence[Target] = ()
    why: str = ""
    magnet: bool = False
    share: float = 1.0
    ranks: int = 1
    compared: bool = True
    hard_label: int = 0


CARLINI = Network("models.magnet:carlini_mnist", "magnet/carlini_mnist.h5", "mnist", "mnist")
AUTOENCODERS = {"models.magnet:autoencoder1": "magnet/MNIST_I.h5", "models.magnet:autoencoder2": "magnet/MNIST_II.h5"}
"""MagNet's autoencoders and their files in the folder of checkpoints."""
SUBJECTS: Mapping[str, Subject] = {
    "CIFAR-AT": Subject(
        NETWORKS["CIFAR-AT"],
        {"linf": (4 / 255, 8 / 255, 16 / 255), "l2": (0.8, 1.6, 3.2)},
        (Target("linf", 8 / 255, 0.80), Target("l2", 1.6, 0.95)),
        "a ResNet-20 trained by PGD stands in for Madry's wide ResNet (AT)",
    ),
    "CIFAR": Subject(
        NETWORKS["CIFAR"],
        {"linf": (0.5 / 255, 1 / 255, 2 / 255)},
        (Target("linf", 2 / 255, 0.95),),
        "a ResNet-20 stands in for the wide ResNet with standard training",
    ),
    "MNIST-AT": Subject(
        NETWORKS["MNIST-AT"],
        {"linf": (0.3, 0.6, 0.7, 0.8, 1.0), "l2": (2.0, 4.0, 8.0)},
        (Target("linf", 0.8, 0.95), Target("l2", 4.0, 0.75)),
        "a small network trained by PGD; the paper has no adversarially trained network for MNIST",
        ranks=3,
        hard_label=10,
    ),
    "MNIST": Subject(NETWORKS["MNIST"], {"linf": (0.1, 0.15, 0.2, 0.3, 0.5)}),
    "MagNet": Subject(CARLINI, {"l2": (2.0, 4.0, 8.4)}, (), "the network that MagNet protects, with its own weights", magnet=True),
    "LeNet-5": Subject(NETWORKS["LeNet-5"], {"linf": (0.05, 0.1, 0.2, 0.3, 0.5)}),
    "ResNet-20": Subject(NETWORKS["ResNet-20"], {"linf": (0.5 / 255, 1 / 255, 2 / 255)}, share=0.5),
    "Lite0": Subject(
        NETWORKS["Lite0"],
        {"linf": (0.5 / 255, 1 / 255)},
        (),
        "EfficientNet-Lite0 and a folder of photographs stand in for ResNet-101 and ImageNet",
        share=0.25,
        compared=False,
    ),
}
TINY = Subject(
    DIGITS,
    {"linf": (0.1, 0.2, 0.4), "l2": (1.0, 4.0)},
    (),
    "a small LeNet for scikit-learn's digits stands in for every network",
    hard_label=4,
)


class Opened(NamedTuple):
    """A network that is open.

    Attributes:
      classifier: one image to logits.
      x: test images that it classifies correctly, `n h w c`.
      label: their classes.
      autoencoders: of MagNet, as classifiers from an image to an image.
    """

    classifier: Classifier
    x: np.ndarray
    label: np.ndarray
    autoencoders: Sequence[Classifier] = ()


def missing(subject: Subject, folder: Path | None, photos: Path | None) -> str:
    """Why a network cannot be opened; empty if everything is there. Nothing is read."""
    network = subject.network
    if network.data == "digits":
        return ""
    if network.data == "photographs" and photos is None:
        return "it needs --photographs"
    names = [network.checkpoint, *(AUTOENCODERS.values() if subject.magnet else ())]
    places = [lite0_checkpoint() if name == LITE0 else folder and folder / name for name in names]
    absent = [name for name, place in zip(names, places, strict=True) if place is None or not place.exists()]
    return f"{', '.join(absent)} is not in the folder of checkpoints" if absent else ""


def opened(name: str, subject: Subject, work: Work, folder: Path | None, photos: Path | None) -> Opened:
    """Open a network and its test images.

    Raises:
      BadInput: weights or data that cannot be read.
    """
    network = subject.network
    if network.data == "digits":
        classifier = demo.train(*whole(load("digits", "train")), 0, work.console)
    else:
        classifier = _loaded(work, network.factory, network.checkpoint, folder)
    x, label = photographs(photos) if network.data == "photographs" and photos else whole(load(network.data, "test"))
    right = costs.predictions(classifier, x)[0] == label
    guards = [_loaded(work, factory, file, folder) for factory, file in AUTOENCODERS.items()] if subject.magnet else []
    return Opened(classifier, x[right], label[right], guards)


def _loaded(work: Work, factory: str, file: str, folder: Path | None) -> Classifier:
    source = lite0_checkpoint() if file == LITE0 else (folder or Path()) / file
    if source is not None and source.is_dir():
        return checkpoints.load(factory, source).classifier
    name = f"networks/{factory.rpartition(':')[2]}-{Path(file).stem}"
    return checkpoints.load(factory, work.once(name, jobs.ConvertSpec, source=source, classifier=factory)).classifier
