"""CIFAR-10 and CIFAR-100 as published: both versions give the same pixels, and a batch with anything but plain data runs no code."""

import os
import pathlib
import pickle
import struct

import numpy as np
import pytest

from a2d_jax.errors import BadInput
from a2d_jax.io.cifar import open_cifar, open_cifar_python
from a2d_jax.io.images import open_images
from a2d_jax.io.source import ImageSource

IMAGES = np.random.default_rng(1).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(20) % 10


def write_binary(path: pathlib.Path, images: np.ndarray, labels: np.ndarray, coarse: np.ndarray | None = None) -> pathlib.Path:
    """Records of CIFAR-10, or of CIFAR-100 if there are coarse labels."""
    heads = [bytes([y]) for y in labels] if coarse is None else [bytes(pair) for pair in zip(coarse, labels, strict=True)]
    path.write_bytes(b"".join(head + x.transpose(2, 0, 1).tobytes() for x, head in zip(images, heads, strict=True)))
    return path


def write_python(path: pathlib.Path, images: np.ndarray, labels: np.ndarray, key: bytes = b"labels") -> pathlib.Path:
    """A batch as Python 2 pickled it (protocol 2, text as bytes, an array under `numpy.core`), spelled out opcode by opcode."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    planes = images.transpose(0, 3, 1, 2).tobytes()
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    array += b"(" + number(1) + number(len(images)) + number(3072) + b"\x86" + dtype + b"\x89T"
    array += struct.pack("<i", len(planes)) + planes + b"tb"
    items = text(b"batch_label") + text(b"a batch") + text(key) + b"](" + b"".join(map(number, labels)) + b"e"
    path.write_bytes(b"\x80\x02}(" + items + text(b"data") + array + b"u.")
    return path


def read(source: ImageSource) -> tuple[np.ndarray, np.ndarray]:
    pieces = list(source.pieces(8))
    assert [len(piece.x) for piece in pieces] == [8, 8, 4]
    return np.concatenate([piece.x for piece in pieces]), np.concatenate([piece.label for piece in pieces])


def test_both_versions(tmp_path):
    """Records and pickled batches give the pixels that NumPy wrote; the pickle is also what Python's own unpickler reads."""
    binary, python = write_binary(tmp_path / "a.bin", IMAGES, LABELS), write_python(tmp_path / "a", IMAGES, LABELS)
    theirs = pickle.loads(python.read_bytes(), encoding="bytes")
    np.testing.assert_array_equal(theirs[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), IMAGES)
    for source in (open_cifar(binary), open_cifar_python(python)):
        x, label = read(source)
        np.testing.assert_array_equal(x, IMAGES / np.float32(255))
        np.testing.assert_array_equal(label, LABELS)


def test_cifar_100(tmp_path):
    """The fine labels of CIFAR-100 are the labels, in both versions, by path: the file tells which of the two sets it is."""
    coarse, fine = LABELS * 2, LABELS * 11
    python = write_python(tmp_path / "train", IMAGES, fine, b"fine_labels")
    for name in ("train.bin", "test.bin", "other.bin"):
        for source in (open_images(write_binary(tmp_path / name, IMAGES, fine, coarse)), open_images(python)):
            x, label = read(source)
            np.testing.assert_array_equal(x, IMAGES / np.float32(255))
            np.testing.assert_array_equal(label, fine)
    for source in (
        open_images(write_python(tmp_path / "a", IMAGES, LABELS)),
        open_images(write_binary(tmp_path / "a.bin", IMAGES, LABELS)),
    ):
        np.testing.assert_array_equal(read(source)[1], LABELS)
    both = {"fine_labels": fine.tolist(), "coarse_labels": coarse.tolist(), "data": IMAGES.transpose(0, 3, 1, 2).reshape(20, -1)}
    (tmp_path / "b").write_bytes(pickle.dumps(both, protocol=4))
    np.testing.assert_array_equal(read(open_images(tmp_path / "b"))[1], fine)


def test_which_of_the_two(tmp_path):
    """The authors' names decide, then the length of a record; a size that fits both is refused with what to do."""
    one, other = np.zeros((3074, 32, 32, 3), np.uint8), np.zeros((3073, 32, 32, 3), np.uint8)
    zeros = np.zeros(3074, int)
    for name, wanted in (("data_batch_1.bin", 3074), ("test_batch.bin", 3074), ("train.bin", 3073), ("test.bin", 3073)):
        assert len(open_images(write_binary(tmp_path / name, one, zeros))) == wanted
    write_binary(tmp_path / "x.bin", other, zeros[1:], zeros[1:])
    with pytest.raises(
        BadInput, match=r"^expected a size that tells .*, got 9446402 bytes in .*, which fit both; call the file test_batch\.bin"
    ):
        open_images(tmp_path / "x.bin")
    assert len(open_images(write_binary(tmp_path / "train.bin", IMAGES, LABELS))) == 20  # CIFAR-10 under the other name
    for name, record in (("test_batch.bin", 3073), ("train.bin", 3074)):
        (tmp_path / name).write_bytes(bytes(3 * record + 5))
        with pytest.raises(BadInput, match=f"whole records of {record} bytes"):
            open_images(tmp_path / name)
    write_binary(tmp_path / "test_batch.bin", IMAGES, LABELS, LABELS)
    with pytest.raises(BadInput, match="CIFAR-10 binary"):
        open_images(tmp_path / "test_batch.bin")


def test_labels_of_cifar_100(tmp_path):
    """Coarse labels above 19 and fine ones above 99 are refused: the file is another one."""
    for coarse, fine in ((20, 0), (0, 100)):
        write_binary(tmp_path / "train.bin", IMAGES[:1], np.array([fine]), np.array([coarse]))
        with pytest.raises(BadInput, match="check that it is a CIFAR-100 file"):
            list(open_images(tmp_path / "train.bin").pieces())
    (tmp_path / "a").write_bytes(pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "fine_labels": [100]}))
    refused(tmp_path / "a", "0 to 99")


def test_python_3_batch(tmp_path):
    """A batch that was pickled again by Python 3 and NumPy 2 reads the same."""
    planes = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2)).reshape(-1, 3072)
    (tmp_path / "a").write_bytes(pickle.dumps({"data": planes, "labels": LABELS.tolist()}, protocol=4))
    np.testing.assert_array_equal(read(open_cifar_python(tmp_path / "a"))[0], IMAGES / np.float32(255))


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def refused(path: pathlib.Path, word: str) -> None:
    with pytest.raises(BadInput, match=r"expected .*, got .*; ") as caught:
        open_cifar_python(path)
    assert word in str(caught.value)
    assert str(path) in str(caught.value)


def test_nothing_is_run(tmp_path):
    """A pickle that asks for code (a command, a builtin, NumPy's own loader) is refused and leaves no trace."""
    trace = tmp_path / "trace"
    for bad in (Malicious(os.system, f"touch {trace}"), Malicious(exec, f"open({str(trace)!r}, 'w')"), Malicious(np.load, str(trace))):
        for content in ({b"data": bad, b"labels": []}, bad):
            (tmp_path / "a").write_bytes(pickle.dumps(content))
            refused(tmp_path / "a", "asks for code")
    # a name inside a module that is allowed, and an attribute of an allowed name
    for name in (b"cnumpy\nsave\n", b"\x8c\x05numpy\x8c\x0endarray.tofile\x93"):
        (tmp_path / "a").write_bytes(b"\x80\x04" + name + b".")
        refused(tmp_path / "a", "asks for code")
    with pytest.raises(BadInput, match="asks for code"):
        open_images(tmp_path / "a")
    assert not trace.exists()


def test_refused_batches(tmp_path):
    """Truncated files, other contents, labels of other classes and other numbers of labels have their own line."""
    path = write_python(tmp_path / "a", IMAGES, LABELS)
    path.write_bytes(path.read_bytes()[:-100])
    refused(path, "damaged")
    path.write_bytes(b"no pickle")
    refused(path, "damaged")
    for content, word in [
        ({b"images": 1}, "damaged"),
        ([1, 2], "damaged"),
        ({b"data": [1, 2], b"labels": [0, 0]}, "3072"),
        ({b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 0]}, "3072"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}, "0 to 10"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, "1 labels for 2 images"),
    ]:
        path.write_bytes(pickle.dumps(content))
        refused(path, word)
    with pytest.raises(BadInput, match="0 to 200"):
        list(open_cifar(write_binary(tmp_path / "a.bin", IMAGES[:2], np.array([0, 200]))).pieces(2))
