"""TFRecord files: the framing is that of the format, and damage is found."""

import base64
import pathlib
import struct
import sys

import google_crc32c
import numpy as np
import pytest

from a2d_jax.errors import BadInput
from a2d_jax.io.tfrecord import places, records

FOO_BAR = base64.b64decode(b"AwAAAAAAAACwmUkOZm9vYYq+/gMAAAAAAAAAsJlJDmJhckYA5cg=")
"""The records foo and bar as TensorFlow writes them; Apache Beam tests its own reader with them."""


def framed(data: bytes) -> bytes:
    """A record as the format defines it, in whole numbers of 32 bits."""

    def masked(part: bytes) -> bytes:
        crc = np.uint32(google_crc32c.value(part))
        with np.errstate(over="ignore"):
            return struct.pack("<I", ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8))

    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def test_records_of_another_writer(tmp_path):
    """Records that TensorFlow wrote come back, and the writer of these tests writes the same bytes."""
    (tmp_path / "a").write_bytes(FOO_BAR)
    assert framed(b"foo") + framed(b"bar") == FOO_BAR
    where = places(tmp_path / "a")
    assert list(records(tmp_path / "a", where, 0, 2)) == [b"foo", b"bar"]
    assert list(records(tmp_path / "a", where, 1, 2)) == [b"bar"]


def test_any_lengths(tmp_path):
    """Records of no, one and many bytes are found, and any range is read."""
    sizes = [0, 1, 100_000, 0, 7]
    contents = [bytes([number]) * size for number, size in enumerate(sizes)]
    (tmp_path / "a").write_bytes(b"".join(map(framed, contents)))
    where = places(tmp_path / "a")
    assert list(where.sizes) == sizes
    assert list(records(tmp_path / "a", where, 0, 5)) == contents
    assert list(records(tmp_path / "a", where, 2, 4)) == contents[2:4]
    (tmp_path / "a").write_bytes(b"")
    assert list(places(tmp_path / "a").sizes) == []


@pytest.mark.parametrize("at", range(len(FOO_BAR)))
def test_every_flipped_bit_is_found(at, tmp_path):
    """Whichever byte differs, the file or the record is refused with its path."""
    path: pathlib.Path = tmp_path / "a"
    path.write_bytes(FOO_BAR[:at] + bytes([FOO_BAR[at] ^ 16]) + FOO_BAR[at + 1 :])
    with pytest.raises(BadInput, match=r"^expected .*, got .*; ") as caught:
        list(records(path, places(path), 0, 2))
    assert str(path) in str(caught.value)


def test_without_the_package(tmp_path, monkeypatch):
    """A missing package is told with the command that installs it."""
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    (tmp_path / "a").write_bytes(FOO_BAR)
    with pytest.raises(BadInput, match=r'pip install "a2d-jax\[tfrecord\]"'):
        places(tmp_path / "a")
