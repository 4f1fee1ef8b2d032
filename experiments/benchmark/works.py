"""What is to be done: images, weights and an attack. Every contestant gets the same."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from a2d_jax import presets
from a2d_jax.attacks import PGD
from a2d_jax.errors import BadInput

LENET5 = Path(__file__).parents[2] / "tests" / "golden" / "lenet5_mnist.npz"
FITTED = 128  # images that the detector of the bounded contestant is fitted to; they come after the images of the work


class Work(NamedTuple):
    """A classifier's weights, images to count the costs of, and the attack that is counted."""

    title: str
    arrays: Mapping[str, np.ndarray]  # weights, in the names and layouts of PyTorch
    x: np.ndarray  # `n h w c`, float32 in [0, 1]
    fitted: np.ndarray  # likewise: benign images for a detector
    attack: PGD


def lenet5_mnist_bim(images: int) -> Work:
    """BIM costs of the first MNIST test digits on the real LeNet-5, with the settings of the MNIST preset."""
    x = mnist(images + FITTED)
    return Work(
        "BIM costs of benign MNIST test digits, LeNet-5", lenet5_arrays(), x[:images], x[images:], presets.make("mnist", "defence", "bim")
    )


WORKS: dict[str, Callable[[int], Work]] = {"lenet5-mnist-bim": lenet5_mnist_bim}
"""Works by name, each a function of the number of images. A new work is a row here and a network that the contestants know."""


def lenet5_arrays() -> dict[str, np.ndarray]:
    """The arrays of the original LeNet-5 checkpoint."""
    with np.load(LENET5, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name.startswith(("conv", "fc"))}


def mnist(images: int) -> np.ndarray:
    """The first MNIST test digits, `n 28 28 1`.

    Raises:
      BadInput: the file is not there, or holds fewer.
    """
    path = Path(os.environ.get("A2D_DATA", Path.home() / ".cache" / "a2d-data")) / "mnist" / "t10k-images-idx3-ubyte"
    if not path.is_file():
        raise BadInput(f"expected the MNIST test images at {path}, got no such file; put the IDX files there or set A2D_DATA")
    x = np.fromfile(path, np.uint8, offset=16).reshape(-1, 28, 28, 1)
    if images > len(x):
        raise BadInput(f"expected at most {len(x) - FITTED} images, got {images - FITTED}; MNIST has no more test digits")
    return x[:images].astype(np.float32) / 255
