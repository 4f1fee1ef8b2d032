"""Sets that the paper's authors crafted for their own network: the files `Adv_mnist_NAME.npy` of their released code, images alone."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from a2d_jax.errors import BadInput
from a2d_jax.io.images import open_images
from experiments.paper.crafting import Crafted

PATTERN = "Adv_mnist_*.npy"
TITLES = {"fgsm": "FGSM", "bim-a": "BIM", "bim-b": "BIM-b", "jsma": "JSMA", "cw": "C&W"}
SHAPE = (28, 28, 1)


def files(folder: Path | None) -> Mapping[str, Path]:
    """The files of a folder by name of their set, such as `C&W (authors)`; none without a folder.

    Raises:
      BadInput: a folder without such files, or a file of something else.
    """
    if folder is None:
        return {}
    found = sorted(folder.glob(PATTERN))
    if not found:
        raise BadInput(f"expected {PATTERN} in {folder}, got none; give the folder with the authors' files, or leave --authors out")
    for path in found:
        if (shape := open_images(path).shape) != SHAPE:
            raise BadInput(f"expected MNIST digits n x 28 x 28 x 1 in {path}, got images {' x '.join(map(str, shape))}; take it away")
    return {f"{TITLES.get(key, key)} (authors)": path for path in found for key in [path.stem.removeprefix("Adv_mnist_")]}


def read(path: Path, x: np.ndarray, label: np.ndarray, many: int) -> Crafted:
    """The first images of a file, each with the label of the image nearest to it.

    Args:
      path: the file.
      x: the images that they were crafted from, in any order, `n h w c`.
      label: their classes.
      many: how many.

    Raises:
      BadInput: pixels outside [0, 1] or NaN.
    """
    source = open_images(path)
    pieces = list(source.spans([(0, min(many, len(source)))]))
    if wrong := [error for piece in pieces for error in piece.error if error is not None]:
        raise BadInput(f"expected digits in [0, 1] in {path}, got {len(wrong)} others, the first: {wrong[0]}; take it away")
    crafted = np.concatenate([piece.x for piece in pieces])
    flat, originals = (one.reshape(len(one), -1) for one in (crafted, x))
    nearest = np.argmin((originals**2).sum(1) - 2 * flat @ originals.T, axis=1)
    unknown = np.full(len(crafted), -1)  # the pool need not have their originals
    return Crafted(crafted, label[nearest], np.ones(len(crafted), bool), unknown, len(crafted))
