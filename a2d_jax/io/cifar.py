"""Readers for the files of CIFAR-10 and CIFAR-100 as their authors publish them: the binary version, and the Python one, which is a pickle.

CIFAR-100 has two labels, coarse (20 classes) and fine (100 classes). The fine one is taken.
"""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from a2d_jax.errors import BadInput
from a2d_jax.io.arrays import exactly
from a2d_jax.io.source import Block, ImageSource, content_digest, integer_labels, readable

SHAPE = (32, 32, 3)
PLANES = 3 * 32 * 32  # the red plane, the green one, the blue one, each row by row


PICKLE = b"\x80"
"""First byte of the Python version."""


class Form(NamedTuple):
    """One of the two data sets."""

    name: str
    classes: tuple[int, ...]  # of each label byte of a record; the last one is the label
    labels: str  # name in the Python version

    @property
    def record(self) -> int:
        """Bytes of an image in the binary version: the labels come first."""
        return len(self.classes) + PLANES


CIFAR10, CIFAR100 = Form("CIFAR-10", (10,), "labels"), Form("CIFAR-100", (20, 100), "fine_labels")


def open_cifar(path: Path, form: Form | None = None) -> ImageSource:
    """The binary version: records of one or two labels and three colour planes.

    Args:
      path: the file.
      form: which of the two it is; None tells by the name and the size, see `_form`.
    """
    size = path.stat().st_size
    form = form or _form(path, size)
    count, rest = divmod(size, form.record)
    if rest:
        raise BadInput(
            f"expected a {form.name} binary file of whole records of {form.record} bytes, got {rest} bytes more in {path}; fetch it again"
        )

    def blocks(begin: int, end: int, size: int) -> Iterator[Block]:
        with readable(path), path.open("rb") as stream:
            stream.seek(begin * form.record)
            for start in range(begin, end, size):
                n = min(size, end - start)
                records = np.frombuffer(exactly(stream, n * form.record), np.uint8).reshape(n, form.record)
                for place, classes in enumerate(form.classes):
                    _check(records[:, place], classes, form, path)
                yield Block(_images(records[:, -PLANES:]), records[:, len(form.classes) - 1].astype(np.int64))

    return ImageSource(path, count, SHAPE, True, blocks, lambda: content_digest(path))


def _form(path: Path, size: int) -> Form:
    """By the names that the authors gave: data_batch_1.bin and test_batch.bin, train.bin and test.bin. Else by the length of a record."""
    if path.name.startswith(("data_batch", "test_batch")):
        return CIFAR10
    fits = [form for form in (CIFAR100, CIFAR10) if size % form.record == 0]
    if path.name in ("train.bin", "test.bin"):
        return fits[0] if fits else CIFAR100
    if len(fits) == 2 and size:
        raise BadInput(
            f"expected a size that tells CIFAR-10 from CIFAR-100, got {size} bytes in {path}, which fit both; "
            "call the file test_batch.bin if it is CIFAR-10, test.bin if it is CIFAR-100"
        )
    return fits[0] if len(fits) == 1 else CIFAR10


def open_cifar_python(path: Path, form: Form | None = None) -> ImageSource:
    """A batch of the Python version. The whole file (31 MB; 155 MB of CIFAR-100) is read now, and again each time images are read.

    Args:
      path: the file.
      form: which of the two it is; None tells by the names of the labels.
    """
    count = len(_unpickled(path, form)[0])

    def blocks(begin: int, end: int, size: int) -> Iterator[Block]:
        planes, label = _unpickled(path, form)
        for start in range(begin, end, size):
            here = slice(start, min(start + size, end))
            yield Block(_images(planes[here]), label[here])

    return ImageSource(path, count, SHAPE, True, blocks, lambda: content_digest(path))


def _images(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _check(label: NDArray[Any], classes: int, form: Form, path: Path) -> None:
    if len(label) and not 0 <= label.min() <= label.max() < classes:
        raise BadInput(
            f"expected {form.name} labels 0 to {classes - 1}, got {label.min()} to {label.max()} in {path}; "
            f"check that it is a {form.name} file"
        )


def _unpickled(path: Path, form: Form | None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Colour planes `n 3072` and labels `n` of a batch of the Python version."""
    try:
        with path.open("rb") as file:
            found = _NumbersAndText(file, encoding="bytes").load()  # text of Python 2 is bytes here
        found = {key.decode() if isinstance(key, bytes) else key: value for key, value in found.items()}
        form = form or (CIFAR100 if CIFAR100.labels in found else CIFAR10)
        planes, label = found["data"], found[form.labels]
    except BadInput:
        raise BadInput(f"expected a CIFAR batch of numbers and text, got {path}, which asks for code to run; fetch it again") from None
    except Exception as error:  # the unpickler of a damaged file raises whatever the damage leads to
        raise BadInput(f"expected a batch of CIFAR, got {path}, which is damaged or of another kind; fetch it again") from error
    if not (isinstance(planes, np.ndarray) and planes.dtype == np.uint8 and planes.ndim == 2 and planes.shape[1] == PLANES):
        raise BadInput(f"expected {form.name} images as bytes of shape n {PLANES}, got something else in {path}; fetch it again")
    label = integer_labels(np.asarray(label), len(planes), path)
    _check(label, form.classes[-1], form, path)
    return planes, label


class _NumbersAndText(pickle.Unpickler):
    """An unpickler that knows three names, those of which a NumPy array consists, under the modules NumPy has kept them in.

    Dictionaries, lists, text, bytes and numbers need no name. Every other name, hence every other callable, is refused before it is
    looked up, so that nothing is imported.
    """

    NAMES: ClassVar[dict[str, Any]] = {
        "_reconstruct": np.ndarray(0).__reduce__()[0],
        "ndarray": np.ndarray,
        "dtype": np.dtype,
    }
    MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")

    def find_class(self, module_name: str, global_name: str) -> Any:
        if module_name not in self.MODULES or global_name not in self.NAMES:
            raise BadInput(f"{module_name}.{global_name}")
        return self.NAMES[global_name]
