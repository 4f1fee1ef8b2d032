"""Records of TFRecord files, read without TensorFlow.

A record is its length (8 bytes), a checksum of the length, its bytes and a checksum of them (4 bytes each), all little-endian. A checksum
is CRC-32C, rotated and shifted by a constant. Both are compared, so damage is found: that of lengths when a file is opened, that of bytes
when they are read.

Source: https://www.tensorflow.org/tutorials/load_data/tfrecord, "TFRecords format details". Differs: nowhere.
"""

import importlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from a2d_jax.errors import BadInput
from a2d_jax.io.arrays import exactly
from a2d_jax.io.source import readable

HEADER, CHECKSUM = 12, 4
"""Bytes before the content of a record, and behind it."""


class Places(NamedTuple):
    """Where the records of a file are: first byte and number of bytes of each content."""

    begins: "array[int]"
    sizes: "array[int]"


def places(path: Path) -> Places:
    """Walk over the headers of a file.

    Raises:
      BadInput: a damaged length, a file that breaks off, or the package `google-crc32c` is missing.
    """
    crc = _crc(path)
    found = Places(array("q"), array("q"))
    with readable(path), path.open("rb", buffering=0) as stream:  # a buffer would read more than the headers
        whole, end = path.stat().st_size, 0
        while end < whole:
            header = exactly(stream, HEADER)
            size = int.from_bytes(header[:8], "little")
            if int.from_bytes(header[8:], "little") != _masked(crc.value(header[:8])):
                raise EOFError(f"a wrong checksum at byte {end}")
            found.begins.append(end + HEADER)
            found.sizes.append(size)
            end += HEADER + size + CHECKSUM
            if end > whole:
                raise EOFError("fewer bytes than its header promises")
            stream.seek(end)
    return found


def records(path: Path, where: Places, begin: int, end: int) -> Iterator[bytes]:
    """The contents of the records from number `begin` to `end - 1` of a file.

    Raises:
      BadInput: the bytes of a record do not have its checksum.
    """
    crc = _crc(path)
    with readable(path), path.open("rb") as stream:
        for number in range(begin, end):
            stream.seek(where.begins[number])
            data = exactly(stream, where.sizes[number])
            if int.from_bytes(exactly(stream, CHECKSUM), "little") != _masked(crc.value(data)):
                raise EOFError(f"a wrong checksum of record {number}")
            yield data


def _masked(checksum: int) -> int:
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc(path: Path) -> Any:
    try:
        return importlib.import_module("google_crc32c")
    except ImportError as error:
        raise BadInput(
            f'expected the package google-crc32c to read {path}, got none installed; run: pip install "a2d-jax[tfrecord]"'
        ) from error
