"""Readers for the files of CIFAR-10 as its authors publish them: the binary version, and the Python version, which is a pickle."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from a2d_jax.errors import BadInput
from a2d_jax.io.arrays import exactly
from a2d_jax.io.source import Block, ImageSource, content_digest, integer_labels, readable

SHAPE = (32, 32, 3)
PLANES = 3 * 32 * 32  # the red plane, the green one, the blue one, each row by row


def open_cifar(path: Path) -> ImageSource:
    """The binary version of CIFAR-10: records of one label and three colour planes."""
    record = 1 + PLANES  # the label comes first
    count, rest = divmod(path.stat().st_size, record)
    if rest:
        raise BadInput(
            f"expected a CIFAR-10 binary file of whole records of {record} bytes, got {rest} bytes more in {path}; fetch it again"
        )

    def blocks(begin: int, end: int, size: int) -> Iterator[Block]:
        with readable(path), path.open("rb") as stream:
            stream.seek(begin * record)
            for start in range(begin, end, size):
                n = min(size, end - start)
                records = np.frombuffer(exactly(stream, n * record), np.uint8).reshape(n, record)
                label = records[:, 0].astype(np.int64)
                _check(label, path)
                yield Block(_images(records[:, 1:]), label)

    return ImageSource(path, (path,), count, SHAPE, True, blocks, lambda: content_digest(path))


def open_cifar_python(path: Path) -> ImageSource:
    """A batch of the Python version of CIFAR-10. The whole file (31 MB) is read now, and again each time images are read."""
    count = len(_unpickled(path)[0])

    def blocks(begin: int, end: int, size: int) -> Iterator[Block]:
        planes, label = _unpickled(path)
        for start in range(begin, end, size):
            here = slice(start, min(start + size, end))
            yield Block(_images(planes[here]), label[here])

    return ImageSource(path, (path,), count, SHAPE, True, blocks, lambda: content_digest(path))


def _images(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _check(label: NDArray[np.int64], path: Path) -> None:
    if len(label) and not 0 <= label.min() <= label.max() <= 9:
        raise BadInput(f"expected CIFAR-10 labels 0 to 9, got {label.min()} to {label.max()} in {path}; check that it is a CIFAR-10 file")


def _unpickled(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Colour planes `n 3072` and labels `n` of a batch of the Python version."""
    try:
        with path.open("rb") as file:
            found = _NumbersAndText(file, encoding="bytes").load()  # text of Python 2 is bytes here
        planes, label = (found[key if key in found else key.decode()] for key in (b"data", b"labels"))
    except BadInput:
        raise BadInput(f"expected a CIFAR-10 batch of numbers and text, got {path}, which asks for code to run; fetch it again") from None
    except Exception as error:  # the unpickler of a damaged file raises whatever the damage leads to
        raise BadInput(f"expected a batch of CIFAR-10, got {path}, which is damaged or of another kind; fetch it again") from error
    if not (isinstance(planes, np.ndarray) and planes.dtype == np.uint8 and planes.ndim == 2 and planes.shape[1] == PLANES):
        raise BadInput(f"expected CIFAR-10 images as bytes of shape n {PLANES}, got something else in {path}; fetch it again")
    label = integer_labels(np.asarray(label), len(planes), path)
    _check(label, path)
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
