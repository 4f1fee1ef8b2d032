"""Data sets by name, read from this machine: MNIST, CIFAR-10, CIFAR-100, ImageNet and the digits of scikit-learn.

`load` looks first for the standard files under `A2D_DATA` (`~/.cache/a2d-data` if that is not set):

    A2D_DATA/mnist/                  or MNIST/raw/: train-images-idx3-ubyte, ... as published, packed by gzip or not
    A2D_DATA/cifar-10-batches-bin/   or cifar-10-batches-py/: the unpacked archive
    A2D_DATA/cifar-100-binary/       or cifar-100-python/: the same
    A2D_DATA/imagenet/train/, validation/ (or val/): a folder of photographs for each class, named by WordNet (n01440764) or number

then for files that TensorFlow Datasets prepared earlier (below `TFDS_DATA_DIR`, else `~/tensorflow_datasets`). If a set is
missing, the error says what to do. Nothing is ever downloaded.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from a2d_jax.errors import BadInput
from a2d_jax.io.arrays import open_idx
from a2d_jax.io.cifar import CIFAR10, CIFAR100, open_cifar, open_cifar_python
from a2d_jax.io.class_names import IMAGENET_CLASSES
from a2d_jax.io.files import home_folder
from a2d_jax.io.folder import open_folder
from a2d_jax.io.here import Here
from a2d_jax.io.listing import listing
from a2d_jax.io.photographs import Preprocessing
from a2d_jax.io.pixels import Background
from a2d_jax.io.prepared import open_prepared, prepared_folder
from a2d_jax.io.source import ImageSource, Shape, check_shape, in_memory, joined, readable

DIGITS_TRAIN = 1152  # of 1797; the other 645 are test images


class Files(NamedTuple):
    """One layout of a data set on disk."""

    folder: str
    open: Callable[[Path], ImageSource]
    images: dict[str, tuple[str, ...]]  # by split
    labels: dict[str, tuple[str, ...]]  # files of labels alone, which the reader finds by itself


_MNIST = {"train": ("train-images-idx3-ubyte",), "test": ("t10k-images-idx3-ubyte",)}
_MNIST_LABELS = {"train": ("train-labels-idx1-ubyte",), "test": ("t10k-labels-idx1-ubyte",)}
_CIFAR = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_CIFAR_BINARY = {split: tuple(f"{name}.bin" for name in names) for split, names in _CIFAR.items()}
FILES = {
    "mnist": (Files("mnist", open_idx, _MNIST, _MNIST_LABELS), Files("MNIST/raw", open_idx, _MNIST, _MNIST_LABELS)),
    "cifar10": (
        Files("cifar-10-batches-bin", partial(open_cifar, form=CIFAR10), _CIFAR_BINARY, {}),
        Files("cifar-10-batches-py", partial(open_cifar_python, form=CIFAR10), _CIFAR, {}),
    ),
    "cifar100": (
        Files("cifar-100-binary", partial(open_cifar, form=CIFAR100), {"train": ("train.bin",), "test": ("test.bin",)}, {}),
        Files("cifar-100-python", partial(open_cifar_python, form=CIFAR100), {"train": ("train",), "test": ("test",)}, {}),
    ),
}
SPLITS = {
    "mnist": ("train", "test"),
    "cifar10": ("train", "test"),
    "cifar100": ("train", "test"),
    "imagenet": ("train", "validation"),
    "digits": ("train", "test"),
}
IMAGENET_FOLDERS = {"train": ("train",), "validation": ("validation", "val")}
PREPARED = {"mnist": "mnist", "cifar10": "cifar10", "cifar100": "cifar100", "imagenet": "imagenet2012"}
"""Names in TensorFlow Datasets."""


class NotHere(BadInput):
    """A data set is nowhere on this machine."""


def load(
    name: str,
    split: str,
    *,
    shape: Shape | None = None,
    preprocessing: Preprocessing | None = None,
    folder: Path | None = None,
    background: str | None = None,
) -> ImageSource:
    """Open a data set by name.

    Args:
      name: mnist, cifar10, cifar100, imagenet or digits.
      split: train or test; for ImageNet train or validation, because its test set has no public labels. Splits have only the names that
        their authors gave them: calling a validation set "test" would hide what a number was measured on. The digits have no splits of
        their own: 1152 of them, drawn with seed 0, are for training.
      shape: height, width, channels that the classifier expects.
      preprocessing: how photographs of ImageNet get this shape, as a classifier declares it; without it all other photographs are errors.
      folder: folder of the data sets; default `data_folder()`.
      background: colour behind transparent pixels, see `a2d_jax.io.images.open_images`.

    Raises:
      NotHere: a data set that is missing.
      BadInput: an unknown name or split, a data set that is incomplete or damaged, or images of another shape.
    """
    if name not in SPLITS:
        raise BadInput(f"expected a data set among {', '.join(SPLITS)}, got {name!r}; name one of them")
    if split not in SPLITS[name]:
        raise BadInput(f"expected the split {' or '.join(SPLITS[name])} of {name}, got {split!r}; name one of them")
    if name == "digits":
        source = _digits(split)
    else:
        root = folder or data_folder()
        under = None if background is None else Background(background)
        here = _photographs(root, split, shape, preprocessing, under) if name == "imagenet" else _from_files(root, name, split)
        source = here or open_prepared(PREPARED[name], split, shape, preprocessing, under)
        if source is None:
            raise _nowhere(root, name, split)
    check_shape(source, shape)
    origin = {
        "data": name,
        "split": split,
        "shape": shape and list(shape),
        "preprocessing": preprocessing and asdict(preprocessing),
        "folder": folder and str(folder.absolute()),
        "background": background,
    }
    return replace(source, origin=origin)


def data_folder() -> Path:
    """Where data sets lie: `A2D_DATA`, or `~/.cache/a2d-data`."""
    return Path(os.environ.get("A2D_DATA") or (home_folder() or Path("~")) / ".cache" / "a2d-data")


def _digits(split: str) -> ImageSource:
    from sklearn.datasets import load_digits  # here: few commands should pay for it

    pixels, label = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(label))  # the set is sorted by writer
    rows = order[:DIGITS_TRAIN] if split == "train" else order[DIGITS_TRAIN:]
    x = (pixels[rows].reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    return in_memory(f"scikit-learn digits ({split})", x, np.asarray(label)[rows].astype(np.int64))


def _photographs(
    root: Path, split: str, shape: Shape | None, preprocessing: Preprocessing | None, background: Background | None
) -> ImageSource | None:
    folders = (root / "imagenet" / name for name in IMAGENET_FOLDERS[split])
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        return None
    source = open_folder(Here(folder), listing(folder, depth=1), shape, preprocessing, IMAGENET_CLASSES, background)
    if not source.labels:
        raise BadInput(
            f"expected a folder for each class in {folder}, named like n01440764 or 0, got others; sort the photographs into such folders"
        )
    return source


def _from_files(root: Path, name: str, split: str) -> ImageSource | None:
    for form in FILES[name]:
        folder = root / form.folder
        if folder.is_dir():
            _all_there(folder, form.labels.get(split, ()))
            sources = [_opened(form, file) for file in _all_there(folder, form.images[split])]
            return sources[0] if len(sources) == 1 else joined(folder, sources)
    return None


def _nowhere(root: Path, name: str, split: str) -> NotHere:
    prepared = prepared_folder(PREPARED[name])
    if name == "imagenet":
        wanted = f"{root / 'imagenet' / split}/n01440764/*.JPEG and so on"
    else:
        wanted = " or ".join(
            f"{root / form.folder} ({', '.join((*form.images[split], *form.labels.get(split, ())))})" for form in FILES[name]
        )
    return NotHere(
        f"expected the {split} set of {name} in {wanted}, or prepared in {prepared}, got neither; put the files there, set A2D_DATA to the "
        f"folder above them, or, where TensorFlow is installed, run: tfds build {PREPARED[name]} --file_format=array_record"
    )


def _opened(form: Files, file: Path) -> ImageSource:
    with readable(file):
        return form.open(file)


def _all_there(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """The files of these names, packed by gzip or not."""
    files = [next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None) for name in names]
    missing = [name for name, file in zip(names, files, strict=True) if file is None]
    if missing:
        raise BadInput(f"expected all files of the data set in {folder}, got no {', '.join(missing)}; unpack the archive again")
    return [file for file in files if file is not None]
