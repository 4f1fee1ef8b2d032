"""Image sets that store their images one after the other as plain numbers: npy, npz and IDX."""

import gzip
import math
import os
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from a2d_jax.errors import BadInput
from a2d_jax.io.source import Block, ImageSource, content_digest, image_shape, image_type, integer_labels, readable, unreadable

Stream = IO[bytes] | gzip.GzipFile

Opened = Callable[[int], AbstractContextManager[Stream]]
"""Opens the raw rows of a set at a byte, counted from its first value."""


def _array_source(
    path: Path,
    opened: Opened,
    dims: tuple[int, ...],
    dtype: np.dtype[Any],
    label: NDArray[np.int64] | None,
    sequential: str | None = None,
) -> ImageSource:
    """A source over raw rows; `sequential` as there."""
    shape = image_shape(dims, path)
    image_type(dtype, path)
    count, row_bytes = dims[0], math.prod(shape) * dtype.itemsize

    def blocks(begin: int, end: int, size: int) -> Iterator[Block]:
        with readable(path), opened(begin * row_bytes) as stream:
            for start in range(begin, end, size):
                n = min(size, end - start)
                x = np.frombuffer(exactly(stream, n * row_bytes), dtype).reshape(n, *shape)
                yield Block(x, None if label is None else label[start : start + n])

    return ImageSource(path, count, shape, label is not None, blocks, lambda: content_digest(path), sequential=sequential)


def _in_file(path: Path, first: int) -> Opened:
    """Rows that lie in a file as they are, packed by gzip or not, from byte `first` on."""

    @contextmanager
    def opened(offset: int) -> Generator[Stream]:
        with uncompressed(path) as stream:
            stream.seek(first + offset)
            yield stream

    return opened


def exactly(stream: Stream, size: int) -> bytes:
    """The next `size` bytes; fewer are an error."""
    data = stream.read(size)
    if len(data) != size:
        raise EOFError("fewer bytes than its header promises")
    return data


def _whole(promised: int, present: int) -> None:
    if present != promised:
        raise EOFError(f"its header promises {promised} bytes, it has {present}")


def _npy_header(stream: Stream, path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type from the head of an npy stream, which is left at the first value."""
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        dims, fortran, dtype = read(stream)
    except Exception as error:  # NumPy reads the head as Python's own text, which raises whatever the damage leads to
        raise unreadable(path, error) from error
    if fortran and len(dims) > 1:
        raise BadInput(f"expected rows in C order, got a Fortran-ordered array in {path}; save numpy.ascontiguousarray(x)")
    return dims, dtype


def open_npy(path: Path) -> ImageSource:
    """One array, no labels."""
    with path.open("rb") as stream:
        dims, dtype = _npy_header(stream, path)
        start = stream.tell()
    image_type(dtype, path)
    _whole(start + math.prod(dims) * dtype.itemsize, path.stat().st_size)
    return _array_source(path, _in_file(path, start), dims, dtype, None)


def open_npz(path: Path) -> ImageSource:
    """Images under the key `x`, labels (if any) under `y`; other keys are ignored.

    The whole set is read through the archive, which checks it. Reading from a later position takes uncompressed images from the file
    itself, because an archive reaches a position only by reading everything before it.
    """
    with zipfile.ZipFile(path) as archive:
        keys = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if "x" not in keys:
            raise BadInput(f"expected the images under the key x, got the keys {', '.join(keys) or 'none'} in {path}; save them as x=")
        member = archive.getinfo("x.npy")
        with archive.open(member) as stream:
            dims, dtype = _npy_header(stream, path)
            start = stream.tell()
    image_type(dtype, path)
    _whole(start + math.prod(dims) * dtype.itemsize, member.file_size)
    label = None
    if "y" in keys:
        with np.load(path, allow_pickle=False) as arrays:
            try:
                y = np.asarray(arrays["y"])
            except ValueError as error:
                raise BadInput(f"expected labels as one integer per image, got Python objects in {path}; save class numbers") from error
            except Exception as error:  # as above
                raise unreadable(path, error) from error
        label = integer_labels(y, dims[0] if dims else 0, path)

    @contextmanager
    def opened(offset: int) -> Generator[Stream]:
        with zipfile.ZipFile(path) as archive, archive.open("x.npy") as stream:
            stream.seek(start + offset)
            yield stream

    if member.compress_type != zipfile.ZIP_STORED:
        why = f"expected uncompressed images, which can be read from any place, got deflated ones in {path}; save them with numpy.savez"
        return _array_source(path, opened, dims, dtype, label, why)
    stored = _in_file(path, _data_of(path, member) + start)
    return _array_source(path, lambda offset: stored(offset) if offset else opened(0), dims, dtype, label)


def _data_of(path: Path, member: zipfile.ZipInfo) -> int:
    """Where the data of a member begin: after its local header, whose name and extra field have lengths of their own."""
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        header = exactly(stream, 30)
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    return member.header_offset + len(header) + name + extra


_IDX_TYPES = {0x08: np.dtype(np.uint8), 0x0D: np.dtype(">f4"), 0x0E: np.dtype(">f8")}


def open_idx(path: Path) -> ImageSource:
    """The files of MNIST and its relatives, packed by gzip or not; the labels file lies beside the images or is missing."""
    dims, dtype, start = _idx_header(path)
    image_shape(dims, path)
    label = None
    if labels_file := _idx_labels_file(path):
        label_dims, label_type, label_start = _idx_header(labels_file)
        with uncompressed(labels_file) as stream:
            stream.seek(label_start)
            label = integer_labels(np.frombuffer(stream.read(), label_type).reshape(label_dims), dims[0], labels_file)
    return _array_source(path, _in_file(path, start), dims, dtype, label, packed_with_gzip(path) if packed(path) else None)


def packed(path: Path) -> bool:
    """Whether a file is packed by gzip."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def packed_with_gzip(path: Path) -> str:
    """Why such a file can be read only from its start, and what to do."""
    return f"expected uncompressed images, which can be read from any place, got {path}, which is packed with gzip; unpack it with gunzip"


def uncompressed(path: Path) -> Stream:
    """A file as it was before gzip, if it was packed."""
    return gzip.open(path, "rb") if packed(path) else path.open("rb")


def _idx_header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Dimensions, type and place of the first value of an IDX file whose length was checked."""
    with uncompressed(path) as stream:
        magic = exactly(stream, 4)
        if magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES:
            raise BadInput(f"expected an IDX file of bytes or floats, got {path}, which starts with {magic.hex()}; convert it first")
        dims = tuple(int(n) for n in np.frombuffer(exactly(stream, 4 * magic[3]), ">u4"))
        start, dtype = stream.tell(), _IDX_TYPES[magic[2]]
        promised, present = start + math.prod(dims) * dtype.itemsize, stream.seek(0, os.SEEK_END)
    _whole(promised, present)
    return dims, dtype, start


def idx_labels_names(name: str) -> list[str]:
    """Names that the labels of a file of images may have; none for a file that is not named as one of images."""
    own = name.removesuffix(".gz")
    labels = own.replace("images", "labels").replace("idx3", "idx1")
    return [] if labels == own else [labels, f"{labels}.gz"]


def _idx_labels_file(path: Path) -> Path | None:
    files = (path.with_name(name) for name in idx_labels_names(path.name))
    return next((file for file in files if file.exists()), None)
