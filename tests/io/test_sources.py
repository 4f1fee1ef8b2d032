"""The contract of all sources: rows equal those of the pieces, a description reopens the same set, reading rows costs only these rows."""

import json
import pathlib
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

from a2d_jax.errors import BadInput
from a2d_jax.io.class_names import CIFAR10_CLASSES
from a2d_jax.io.datasets import load
from a2d_jax.io.images import open_images, reopen
from a2d_jax.io.photographs import Preprocessing
from a2d_jax.io.source import ImageSource, Piece, in_memory, joined
from tests.io.photographs_torchvision import photograph
from tests.io.test_cifar import IMAGES, LABELS, write_binary, write_python
from tests.io.test_images import KINDS, encoded, write, write_folder, write_idx
from tests.io.test_many_files import crafted, write_parquet, write_shards
from tests.io.test_prepared import DIGITS, as_tfrecord, grey, png, prepare
from tests.io.test_tar import samples, write_tar

Make = Callable[[pathlib.Path], ImageSource]


def cifar_binary(folder: pathlib.Path) -> ImageSource:
    return open_images(write_binary(folder / "test_batch.bin", IMAGES, LABELS))


def cifar_python(folder: pathlib.Path) -> ImageSource:
    (folder / "cifar-10-batches-py").mkdir()
    write_python(folder / "cifar-10-batches-py" / "test_batch", IMAGES, LABELS)
    return load("cifar10", "test", folder=folder)


def cifar_joined(folder: pathlib.Path) -> ImageSource:
    (folder / "cifar-10-batches-bin").mkdir()
    for i, (begin, end) in enumerate([(0, 2), (2, 3), (3, 11), (11, 12), (12, 20)]):
        write_binary(folder / "cifar-10-batches-bin" / f"data_batch_{i + 1}.bin", IMAGES[begin:end], LABELS[begin:end])
    return load("cifar10", "train", shape=(32, 32, 3), folder=folder)


def cifar100_binary(folder: pathlib.Path) -> ImageSource:
    (folder / "cifar-100-binary").mkdir()
    write_binary(folder / "cifar-100-binary" / "test.bin", IMAGES, LABELS, coarse=LABELS // 2)
    return load("cifar100", "test", folder=folder)


def cifar100_python(folder: pathlib.Path) -> ImageSource:
    return open_images(write_python(folder / "train", IMAGES, LABELS * 11, b"fine_labels"))


def prepared(folder: pathlib.Path) -> ImageSource:
    prepare(folder / "tfds", "mnist", {"test": grey(slice(11))}, DIGITS)
    return load("mnist", "test", folder=folder)


def prepared_by_default(folder: pathlib.Path) -> ImageSource:
    """As TFRecord."""
    prepare(folder / "tfds", "mnist", {"test": grey(slice(11))}, DIGITS)
    as_tfrecord(folder / "tfds" / "mnist" / "1.0.0")
    return load("mnist", "test", folder=folder)


def photographs(folder: pathlib.Path) -> ImageSource:
    """Of several sizes, one damaged, in folders called like classes."""
    for number, name in enumerate(CIFAR10_CLASSES[:6]):
        (folder / "set" / name).mkdir(parents=True)
        photograph(40 + number, 60).save(folder / "set" / name / "a.png")
    (folder / "set" / "bird" / "a.png").write_bytes(b"no image")
    return open_images(folder / "set", (32, 32, 3), preprocessing=Preprocessing(36, 32, "bicubic"), classes=CIFAR10_CLASSES)


def odd_tables(folder: pathlib.Path) -> ImageSource:
    """Names of its own, row groups of several lengths, an empty one among them, and larger ones than are read at a time."""
    x = np.random.default_rng(2).random((200, 3, 3, 1)).astype(np.float32)
    table = pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(x), "id": [f"image {i}" for i in range(200)]})
    with pq.ParquetWriter(folder / "x.parquet", table.schema) as file:
        for begin, end in ((0, 1), (1, 1), (1, 10), (10, 150), (150, 200)):
            file.write_table(table.slice(begin, end - begin), row_group_size=1000)
    return open_images(folder / "x.parquet")


def crafted_in_shards(folder: pathlib.Path) -> ImageSource:
    for number, rows in enumerate((slice(0, 1), slice(1, 1), slice(1, 5), slice(5, 7))):
        write_parquet(folder / "set" / f"part-{number:06d}.parquet", crafted(rows, (0,) if number == 3 else ()))
    return open_images(folder / "set")


def tar_shards(folder: pathlib.Path) -> ImageSource:
    """One level down, one image damaged, one label missing."""
    (folder / "set" / "train").mkdir(parents=True)
    for number, rows in enumerate((range(3), range(3, 3), range(3, 7))):
        members = [(name, data if name != "0005.png" else b"no image") for name, data in samples(rows) if name != "0004.cls"]
        write_tar(folder / "set" / "train" / f"{number}.tar", members)
    return open_images(folder / "set")


def deflated(folder: pathlib.Path) -> ImageSource:
    np.savez_compressed(folder / "x.npz", x=IMAGES, y=LABELS)
    return open_images(folder / "x.npz")


FILES: dict[str, Make] = {kind: lambda folder, kind=kind: open_images(write(kind, folder)[0]) for kind in KINDS}
SEQUENTIAL: dict[str, tuple[Make, str]] = {
    "npz deflated": (deflated, "numpy.savez"),
    "npz deflated, big-endian": (FILES.pop("npz compressed, float64, big-endian"), "numpy.savez"),
    "idx gz": (FILES.pop("idx gz"), "gunzip"),
    "tar gz": (lambda folder: open_images(write_tar(folder / "a.tar.gz", samples())), "gunzip"),
}
FILES |= {
    "cifar binary": cifar_binary,
    "cifar python": cifar_python,
    "cifar joined": cifar_joined,
    "cifar 100 binary": cifar100_binary,
    "cifar 100 python": cifar100_python,
    "prepared": prepared,
    "prepared, tfrecord": prepared_by_default,
    "photographs": photographs,
    "parquet, odd row groups": odd_tables,
    "parquet shards": lambda folder: open_images(write_shards(folder, under="data")),
    "parquet shards by pattern": lambda folder: open_images(write_shards(folder) / "train-*.parquet"),
    "crafted images in shards": crafted_in_shards,
    "tar": lambda folder: open_images(write_tar(folder / "a.tar", samples())),
    "tar shards": tar_shards,
    "digits by name": lambda folder: load("digits", "test"),
}
MEMORY: dict[str, Make] = {
    "in memory": lambda folder: in_memory("some", IMAGES, LABELS),
    "in memory, without labels": lambda folder: in_memory("some", IMAGES / 255),
    "joined in memory": lambda folder: joined(folder, [in_memory("a", IMAGES[:3], LABELS[:3]), in_memory("b", IMAGES[3:], LABELS[3:])]),
}
RANDOM = FILES | MEMORY
ON_DISK = FILES | {name: make for name, (make, _) in SEQUENTIAL.items()}


@pytest.fixture(autouse=True)
def nothing_prepared(tmp_path, monkeypatch):
    """Prepared sets are those of the test alone."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))


def equal(one: Piece, other: Piece) -> None:
    np.testing.assert_array_equal(one.index, other.index)
    np.testing.assert_array_equal(one.x, other.x)
    assert one.x.dtype == other.x.dtype == np.float32
    assert one.x.shape[1:] == other.x.shape[1:]
    assert (one.id, one.error) == (other.id, other.error)
    assert (one.label is None) == (other.label is None)
    if one.label is not None:
        np.testing.assert_array_equal(one.label, other.label)


def whole(source: ImageSource) -> Piece:
    return together(source, list(source.pieces(3)))


def together(source: ImageSource, pieces: list[Piece]) -> Piece:
    return Piece(
        np.concatenate([piece.index for piece in pieces]),
        [name for piece in pieces for name in piece.id],
        np.concatenate([piece.x for piece in pieces]),
        np.concatenate([piece.label for piece in pieces]) if source.labels else None,
        [error for piece in pieces for error in piece.error],
    )


def cut(piece: Piece, begin: int, end: int) -> Piece:
    here = slice(begin, end)
    label = None if piece.label is None else piece.label[here]
    return Piece(piece.index[here], piece.id[here], piece.x[here], label, piece.error[here])


@pytest.mark.parametrize("name", RANDOM)
def test_rows_are_those_of_the_pieces(name, tmp_path):
    """Any places, none, one, the last or all, give what the pieces hold there, as often as asked and in any order."""
    source = RANDOM[name](tmp_path)
    assert source.random_access
    everything, n = whole(source), len(source)
    np.testing.assert_array_equal(everything.index, np.arange(n))
    for begin, end in [(n - 1, n), (2, 5), (0, n), (0, 1), (3, 3), (n, n), (1, n - 1), (n // 2, n // 2 + 2), (n - 1, n)]:
        equal(source.rows(begin, end), cut(everything, begin, end))
    for begin, end in [(-1, 2), (2, n + 1), (3, 2)]:
        with pytest.raises(BadInput, match=rf"expected places from 0 to {n} .*, got {begin} to {end}; "):
            source.rows(begin, end)


@pytest.mark.parametrize("name", [*RANDOM, *SEQUENTIAL])
def test_ranges_are_those_of_the_pieces(name, tmp_path):
    """However a set is cut into ranges and pieces, images, ids, labels and errors are those of the whole; no piece crosses a border."""
    source = (RANDOM | {name: make for name, (make, _) in SEQUENTIAL.items()})[name](tmp_path)
    everything, n = whole(source), len(source)
    cuts = [[(0, n)], [(0, 2), (2, 5), (5, n)], [(1, 1), (1, 3), (4, 5), (n - 1, n)], [(i, i + 1) for i in range(n)], [(n - 2, n)], []]
    for ranges in cuts:
        places = [place for begin, end in ranges for place in range(begin, end)]
        for size in (1, 2, 3, None):
            pieces = list(source.spans(ranges, size))
            assert all(0 < len(piece.x) <= (size or n) for piece in pieces)
            for piece in pieces:
                assert any(begin <= piece.index[0] and piece.index[-1] < end for begin, end in ranges)
            assert [place for piece in pieces for place in piece.index] == places
            if pieces:
                parts = [cut(everything, begin, end) for begin, end in ranges]
                equal(together(source, pieces), together(source, parts))
    for ranges in ([(0, 2), (1, 3)], [(2, 3), (0, 1)], [(-1, 2)], [(0, n + 1)], [(2, 1)]):
        with pytest.raises(BadInput, match=rf"^expected ranges in ascending order from 0 to {n} .*; sort them"):
            source.spans(ranges)


def test_ranges_that_touch_are_read_in_one_go(tmp_path):
    """A new start of the reader, which may be dear, is paid once for ranges that touch, and once for all of a set without places."""
    starts: list[tuple[int, int]] = []

    def counted(source: ImageSource) -> ImageSource:
        def blocks(begin: int, end: int, size: int):
            starts.append((begin, end))
            return source.blocks(begin, end, size)

        return replace(source, blocks=blocks)

    ranges = [(0, 2), (2, 7), (8, 9), (9, 9), (9, 20)]
    list(counted(in_memory("some", IMAGES, LABELS)).spans(ranges, 4))
    assert starts == [(0, 7), (8, 20)]
    starts.clear()
    source = counted(deflated(tmp_path))
    list(source.spans(ranges, 4))
    assert starts == [(0, 20)]
    assert source.seen.lines(20) == []


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_sets_without_places_say_what_to_do(name, tmp_path):
    """A file that can only be read through is told beforehand and refused in one line with the remedy; its pieces come all the same."""
    make, remedy = SEQUENTIAL[name]
    source = make(tmp_path)
    assert not source.random_access
    assert len(whole(source).x) == len(source)
    with pytest.raises(BadInput, match=rf"^expected .*, got .*; .*{remedy}$") as caught:
        source.rows(2, 3)
    assert str(source.path) in str(caught.value)
    with pytest.raises(BadInput, match=remedy):
        joined(tmp_path, [in_memory("a", IMAGES, LABELS), source]).rows(0, 1)


@pytest.mark.parametrize("name", ON_DISK)
def test_a_description_opens_the_same_set(name, tmp_path, monkeypatch):
    """Plain JSON is enough to open the set again from another folder: number, shape, digest, images and the limit are the same."""
    source = ON_DISK[name](tmp_path)
    monkeypatch.chdir(tmp_path)
    for one in (source, replace(source, count=2)):
        again = reopen(json.loads(json.dumps(one.description)))
        assert (again.count, again.shape, again.labels, again.digest()) == (one.count, source.shape, source.labels, source.digest())
        assert (again.preprocessing, again.random_access) == (source.preprocessing, source.random_access)
        assert again.description == one.description
        equal(whole(again), cut(whole(source), 0, one.count))


def test_relative_paths_are_described_from_the_root(tmp_path, monkeypatch):
    """A description made in one folder is good in another."""
    (tmp_path / "elsewhere").mkdir()
    write("npy", tmp_path)
    monkeypatch.chdir(tmp_path)
    description = open_images("set.npy").description
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(reopen(description)) == 7


def test_refused_descriptions(tmp_path):
    """Sets in memory, foreign data and sets that have shrunk are refused in one line."""
    assert in_memory("some", IMAGES).description is None
    with pytest.raises(BadInput, match=r"in memory; save its images with numpy\.savez"):
        reopen(None)
    for foreign in ({}, {"path": "x.npy"}, [1, 2], "x.npy"):
        with pytest.raises(BadInput, match=r"expected the description of a set, got .*; "):
            reopen(foreign)
    source = cifar_binary(tmp_path)
    write_binary(source.path, IMAGES[:3], LABELS[:3])
    with pytest.raises(BadInput, match=r"expected at least 20 images .*, got 3; "):
        reopen(source.description)


def test_a_limit_holds_for_pieces_and_rows(tmp_path):
    """The first n images are a set of n images."""
    source = replace(cifar_joined(tmp_path), count=4)
    equal(whole(source), cut(whole(cifar_binary(tmp_path)), 0, 4))
    assert len(source.rows(2, 4).x) == 2
    with pytest.raises(BadInput, match="0 to 4"):
        source.rows(2, 5)


def test_a_flipped_bit_in_an_archive_is_found(tmp_path):
    """Reading a whole npz still checks its images against the archive's own sum."""
    np.savez(tmp_path / "x.npz", x=IMAGES)
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[1000] ^= 1
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(BadInput, match="CRC"):
        whole(open_images(tmp_path / "x.npz"))


@pytest.mark.parametrize("kind", ["npy", "idx", "cifar"])
def test_the_end_of_a_huge_file_comes_at_once(kind, tmp_path):
    """30 GB of black images, a hole on the disk: the last images are read in a moment, without what lies before them."""
    count, shape = 200_000, (224, 224, 3)
    path = tmp_path / {"npy": "x.npy", "idx": "x-images-idx3-ubyte", "cifar": "x.bin"}[kind]
    with path.open("wb") as file:
        if kind == "npy":
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)})
        elif kind == "idx":
            file.write(bytes([0, 0, 8, 4]) + np.asarray((count, *shape), ">u4").tobytes())
        else:
            count, shape = 10_000_000, (32, 32, 3)
        file.truncate(file.tell() + count * (int(np.prod(shape)) + (kind == "cifar")))
        file.seek(-1, 2)
        file.write(b"\xff")
    source = open_images(path)
    begin = time.monotonic()
    piece = source.rows(count - 5, count)
    assert time.monotonic() - begin < 2
    assert (piece.x.sum(), piece.x[-1, -1, -1, -1]) == (1, 1)


LARGE = ["npy", "npz", "idx", "cifar", "folder", "parquet", "joined", "parquet shards", "tar", "tfrecord"]


def large(kind: str, folder: pathlib.Path) -> ImageSource:
    """Some hundred noisy images, a megabyte or more."""
    x = np.random.default_rng(3).integers(0, 256, (400, 32, 32, 3), dtype=np.uint8)
    path = folder / "set"
    match kind:
        case "npy":
            np.save(path.with_suffix(".npy"), x)
            return open_images(path.with_suffix(".npy"))
        case "npz":
            np.savez(path.with_suffix(".npz"), x=x)
            return open_images(path.with_suffix(".npz"))
        case "idx":
            return open_images(write_idx(path, x))
        case "cifar":
            return open_images(write_binary(path.with_suffix(".bin"), x, np.zeros(400, int)))
        case "folder":
            return open_images(write_folder(path, x))
        case "parquet":
            table = pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(x.astype(np.float32) / 255)})
            pq.write_table(table, path.with_suffix(".parquet"), row_group_size=20)
            return open_images(path.with_suffix(".parquet"))
        case "parquet shards":
            for number in range(20):
                table = pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(x[20 * number : 20 * number + 20])})
                write_parquet(path / f"{number:02d}.parquet", table)
            return open_images(path)
        case "tar":
            members = [(f"{i:03d}.png", encoded(image)) for i, image in enumerate(x)]
            path.mkdir()
            for number in range(4):
                write_tar(path / f"{number}.tar", members[100 * number : 100 * number + 100])
            return open_images(path)
        case "tfrecord":
            examples = [{"image": png(image), "label": i % 10} for i, image in enumerate(x)]
            features = {"image": tfds.features.Image(shape=(32, 32, 3)), "label": DIGITS["label"]}
            prepare(folder / "tfds", "mnist", {"test": examples}, features)
            as_tfrecord(folder / "tfds" / "mnist" / "1.0.0")
            return load("mnist", "test", folder=folder)
        case "joined":
            return joined(folder, [open_images(write_binary(folder / f"{i}.bin", x, np.zeros(400, int))) for i in range(3)])
        case _:
            raise AssertionError(kind)


@pytest.mark.skipif(not pathlib.Path("/proc/self/io").exists(), reason="Linux tells how many bytes a process reads, others do not")
@pytest.mark.parametrize("kind", LARGE)
def test_rows_read_little_more_than_themselves(kind, tmp_path):
    """Two images from the middle, or the last, take a small share of the set's bytes: at most 0.4 MB of 1.2 MB and more."""

    def read() -> int:
        return int(pathlib.Path("/proc/self/io").read_text().split()[1])

    source = large(kind, tmp_path)
    source.rows(0, 1)
    for begin, end in ((201, 203), (len(source) - 1, len(source))):
        before = read()
        source.rows(begin, end)
        assert read() - before < 4e5
    before = read()
    whole(source)
    assert read() - before > 1.2e6
