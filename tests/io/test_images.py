"""Image sets: every kind of file gives the same pixels, bad rows have an error, bad files are refused in one line."""

import gzip
import hashlib
import io
import json
import pathlib
import re
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from a2d_jax.errors import BadInput
from a2d_jax.io.images import ImageSource, open_images
from a2d_jax.io.source import Block, in_memory

N = 7
BYTES = np.random.default_rng(0).integers(0, 256, (N, 4, 5, 3), dtype=np.uint8)
LABELS = np.arange(N) % 3
FLOATS = BYTES.astype(np.float32) / np.float32(255)


def write_idx(path: pathlib.Path, array: np.ndarray) -> pathlib.Path:
    data = bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def encoded(x: np.ndarray, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(x.squeeze()).save(file, form)
    return file.getvalue()


def write_folder(path: pathlib.Path, images: np.ndarray = BYTES) -> pathlib.Path:
    path.mkdir()
    for i, x in enumerate(images):
        (path / f"{i:03d}.png").write_bytes(encoded(x))
    return path


def write(kind: str, folder: pathlib.Path) -> tuple[pathlib.Path, bool]:
    """The images BYTES in one of the accepted kinds, and whether the labels are with them."""
    path = folder / "set"
    flat, label = pa.array(list(BYTES.reshape(N, -1))), pa.array(LABELS)
    match kind:
        case "npz":
            np.savez(path.with_suffix(".npz"), x=BYTES, y=LABELS)
            return path.with_suffix(".npz"), True
        case "npz compressed, float64, big-endian":
            np.savez_compressed(path.with_suffix(".npz"), x=FLOATS.astype(">f8"), y=LABELS[:, None])
            return path.with_suffix(".npz"), True
        case "npy":
            np.save(path.with_suffix(".npy"), FLOATS)
            return path.with_suffix(".npy"), False
        case "folder":
            return write_folder(path), False
        case "class folders":
            path.mkdir()
            for name in range(N):  # one image a class: the order of names is the order of images
                write_folder(path / str(name), BYTES[name : name + 1])
            return path, False
        case "idx":
            write_idx(folder / "my-labels-idx1-ubyte", LABELS)
            return write_idx(folder / "my-images-idx4-ubyte".replace("idx4", "idx3"), BYTES), True
        case "idx gz":
            write_idx(folder / "my-labels-idx1-ubyte.gz", LABELS)
            return write_idx(folder / "my-images-idx3-ubyte.gz", BYTES), True
        case "parquet image":
            table = pa.table({"image": [{"bytes": encoded(x), "path": None} for x in BYTES], "label": label})
        case "parquet bytes":
            table = pa.table({"img": [encoded(x) for x in BYTES]})
        case "parquet list":
            table = pa.table({"x": flat, "y": label}).replace_schema_metadata({"shape": json.dumps([4, 5, 3])})
        case "parquet tensor":
            table = pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(FLOATS), "y": label})
        case _:
            raise AssertionError(kind)
    pq.write_table(table, path.with_suffix(".parquet"), row_group_size=3)
    return path.with_suffix(".parquet"), {"y", "label"} & set(table.column_names) != set()


KINDS = ["npz", "npz compressed, float64, big-endian", "npy", "folder", "class folders", "idx", "idx gz"]
KINDS += ["parquet image", "parquet bytes", "parquet list", "parquet tensor"]


def read(source: ImageSource, size: int = 3) -> tuple[np.ndarray, list[str], np.ndarray | None, list[str | None]]:
    pieces = list(source.pieces(size))
    assert [len(piece.x) for piece in pieces[:-1]] == [size] * (len(pieces) - 1)
    np.testing.assert_array_equal(np.concatenate([piece.index for piece in pieces]), np.arange(len(source)))
    label = np.concatenate([piece.label for piece in pieces if piece.label is not None]) if source.labels else None
    x = np.concatenate([piece.x for piece in pieces])
    assert x.dtype == np.float32
    return x, [i for piece in pieces for i in piece.id], label, [e for piece in pieces for e in piece.error]


@pytest.mark.parametrize("kind", KINDS)
def test_same_pixels_from_every_kind(kind, tmp_path):
    """Every accepted file kind gives the pixels NumPy computes (bytes / 255), in order, in full pieces, twice over."""
    path, labelled = write(kind, tmp_path)
    source = open_images(path)
    assert (len(source), source.shape) == (N, (4, 5, 3))
    for _ in range(2):
        x, ids, label, error = read(source)
        np.testing.assert_array_equal(x, FLOATS)
        assert len(set(ids)) == N
        assert error == [None] * N
        if labelled:
            np.testing.assert_array_equal(label, LABELS)
        elif kind == "class folders":
            np.testing.assert_array_equal(label, np.arange(N))
        else:
            assert label is None


def test_cifar_binary(tmp_path):
    """CIFAR-10 records (label, then colour planes) become n h w c; the planes are written here by NumPy alone."""
    x = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(b"".join(bytes([i]) + image.transpose(2, 0, 1).tobytes() for i, image in enumerate(x)))
    got, _, label, _ = read(open_images(path))
    np.testing.assert_array_equal(got, x / np.float32(255))
    np.testing.assert_array_equal(label, np.arange(4))


@pytest.mark.parametrize("name", ["y", "label", "fine_label"])
def test_names_of_labels_in_tables(name, tmp_path):
    """The label of a table has the names in use, CIFAR-100's among them; its coarse label is none."""
    table = pa.table({"img": [encoded(x) for x in BYTES], "coarse_label": [0] * N, name: pa.array(LABELS)})
    pq.write_table(table, tmp_path / "x.parquet")
    np.testing.assert_array_equal(read(open_images(tmp_path / "x.parquet"))[2], LABELS)


def test_grey_arrays_get_one_channel(tmp_path):
    """`n h w` means one channel."""
    np.save(tmp_path / "x.npy", BYTES[..., 0])
    source = open_images(tmp_path / "x.npy", shape=(4, 5, 1))
    np.testing.assert_array_equal(read(source)[0], FLOATS[..., :1])


def test_mnist_as_published(shared, mnist):
    """The published MNIST test files open with their labels: images the released costs were computed on are found by index."""
    golden = np.load(shared / "data/golden/lenet5_mnist_official.npz")
    source = open_images(mnist / "t10k-images-idx3-ubyte", shape=(28, 28, 1))
    x, _, label, _ = read(source, 1000)
    np.testing.assert_allclose(x[golden["index"]], golden["benign"], atol=1e-7)
    np.testing.assert_array_equal(label[golden["index"]], golden["label"])


def test_digest_is_of_the_content(tmp_path):
    """The digest of a file is its SHA-256; that of a folder changes with a name."""
    path, _ = write("npz", tmp_path)
    assert open_images(path).digest() == hashlib.sha256(path.read_bytes()).hexdigest()
    folder = write_folder(tmp_path / "folder")
    before = open_images(folder).digest()
    assert open_images(folder).digest() == before
    (folder / "000.png").rename(folder / "0.png")
    assert open_images(folder).digest() != before


@pytest.mark.parametrize("kind", ["npy", "npz", "idx gz", "parquet tensor", "folder"])
def test_a_set_is_never_held_whole(kind, tmp_path):
    """Reading a set of 19 MB in pieces of 0.1 MB takes a small fraction of it, whatever the kind."""
    x = np.zeros((400, 64, 64, 3), np.uint8)
    path = tmp_path / "x-images-idx3-ubyte.gz"
    if kind == "npy":
        path = tmp_path / "x.npy"
        np.save(path, x.astype(np.float32))
    elif kind == "npz":
        path = tmp_path / "x.npz"
        np.savez_compressed(path, x=x.astype(np.float32))
    elif kind == "folder":
        path = write_folder(tmp_path / "folder", x)
    elif kind == "idx gz":
        write_idx(path, x)
    else:
        path = tmp_path / "x.parquet"
        pq.write_table(pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(x.astype(np.float32))}), path, row_group_size=20)
    source = open_images(path)
    tracemalloc.start()
    for piece in source.pieces(2):
        del piece
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


def test_one_piece_ahead():
    """While a piece is in use the next one is read, and no more; what reading raises reaches the reader at its place."""
    made = []

    def blocks(begin, end, size):
        for i in range(4):
            made.append(i)
            if i == 3:
                raise BadInput("the fourth is bad")
            yield Block(np.full((size, 2, 2, 1), i, np.uint8), None)

    pieces = replace(in_memory("x", np.zeros((40, 2, 2, 1), np.uint8), np.zeros(40, np.int64)), blocks=blocks).pieces(10)
    assert made == []
    for i in range(3):
        assert next(pieces).x[0, 0, 0, 0] == np.float32(i) / np.float32(255)
        deadline = time.monotonic() + 10
        while len(made) < i + 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        assert made == list(range(i + 2))
    with pytest.raises(BadInput, match="fourth"):
        next(pieces)


@pytest.mark.parametrize(("shape", "size"), [((28, 28, 1), 256), ((32, 32, 3), 256), ((224, 224, 3), 32), ((9000, 9000, 3), 2)])
def test_pieces_are_bounded(shape, size):
    """A piece holds 256 images or 32 MiB, whichever is less, but at least two images; always a power of two."""
    assert replace(in_memory("x", np.zeros((1, 1, 1, 1)), np.zeros(1, np.int64)), shape=shape).piece_size == size


# Bad rows: the row carries its error, the rest is done.


def test_bad_images_in_a_folder(tmp_path):
    """A truncated, a corrupt, an empty and a larger image among good ones: errors in their rows, zeros as pixels, the rest exact."""
    folder = write_folder(tmp_path / "folder")
    (folder / "001.png").write_bytes(encoded(BYTES[1])[:60])
    (folder / "002.png").write_bytes(b"no image")
    (folder / "003.png").write_bytes(b"")
    (folder / "004.png").write_bytes(encoded(np.zeros((9, 8, 3), np.uint8)))
    (folder / "notes.txt").write_text("other files are no images")
    x, ids, _, error = read(open_images(folder))
    assert ids == [f"{i:03d}.png" for i in range(N)]
    assert [e is None for e in error] == [True, False, False, False, False, True, True]
    assert "truncated" in error[1]
    assert "no known image format" in error[2]
    assert "4 x 5 x 3" in error[4]
    assert "9 x 8 x 3" in error[4]
    assert not x[1:5].any()
    np.testing.assert_array_equal(x[[0, 5, 6]], FLOATS[[0, 5, 6]])


def test_truncated_jpeg_first(tmp_path):
    """The set takes its size from the first good image, not from a broken first one."""
    folder = write_folder(tmp_path / "folder")
    (folder / "000.jpg").write_bytes(encoded(np.zeros((64, 64, 3), np.uint8), "JPEG")[:400])
    source = open_images(folder)
    assert source.shape == (4, 5, 3)
    assert [e is None for e in read(source)[3]] == [False] + [True] * N


def test_channels_follow_the_classifier(tmp_path):
    """Image files become grey or RGB when the classifier says so (as Pillow converts), and keep their channels when nobody asks."""
    folder = write_folder(tmp_path / "folder")
    (folder / "000.png").write_bytes(encoded(BYTES[0, ..., 0]))
    grey = np.stack([np.asarray(Image.fromarray(x).convert("L")) for x in BYTES])[..., None]
    grey[0] = BYTES[0, ..., :1]
    np.testing.assert_array_equal(read(open_images(folder, (4, 5, 1)))[0], grey / np.float32(255))
    np.testing.assert_array_equal(read(open_images(folder, (4, 5, 3)))[0][0], np.repeat(FLOATS[0, ..., :1], 3, -1))
    error = read(open_images(folder))[3]
    assert error[0] is None
    assert all("4 x 5 x 1" in e and "4 x 5 x 3" in e for e in error[1:])


def test_16_bit_image_is_an_error(tmp_path):
    """A 16-bit image is not squeezed into 8 bits in silence."""
    folder = write_folder(tmp_path / "folder", BYTES[:, :, :, :1])
    Image.fromarray(np.full((4, 5), 40000, np.uint16)).save(folder / "003.png")
    assert "8 bits" in read(open_images(folder))[3][3]


@pytest.mark.parametrize(("value", "text"), [(np.nan, "NaN"), (1.5, "1.5"), (-0.1, "-0.1"), (np.inf, "inf")])
def test_values_outside_the_interval(value, text, tmp_path):
    """A NaN or a value outside [0, 1] spoils its own row and no other."""
    x = FLOATS.copy()
    x[2, 1, 1, 1] = value
    np.savez(tmp_path / "x.npz", x=x)
    got, _, _, error = read(open_images(tmp_path / "x.npz"))
    assert text in error[2]
    assert [e is None for e in error] == [i != 2 for i in range(N)]
    assert not got[2].any()
    np.testing.assert_array_equal(got[3:], FLOATS[3:])


def test_bad_rows_of_a_table(tmp_path):
    """A null, a short list, a hole inside a list and a missing label are errors of their rows."""
    lists = [list(map(float, x.ravel())) for x in FLOATS[:5]]
    lists[1], lists[2], lists[3][4] = None, lists[2][:-1], None
    table = pa.table({"x": lists, "y": pa.array([0, 1, 2, 0, None]), "id": list("abcde")})
    pq.write_table(table.replace_schema_metadata({"shape": "[4, 5, 3]"}), tmp_path / "x.parquet")
    x, ids, _, error = read(open_images(tmp_path / "x.parquet"))
    assert ids == list("abcde")
    assert error[0] is None
    assert all(word in e for word, e in zip(["got none", "got 59", "got 59", "label"], error[1:], strict=True))
    np.testing.assert_array_equal(x[0], FLOATS[0])
    table = pa.table({"image": [{"bytes": encoded(BYTES[0]), "path": ""}, {"bytes": None, "path": "a.png"}, None]})
    pq.write_table(table, tmp_path / "i.parquet")
    assert [e is None for e in read(open_images(tmp_path / "i.parquet"))[3]] == [True, False, False]


@pytest.mark.parametrize("kind", ["npz", "npy", "idx", "parquet tensor", "folder"])
@pytest.mark.parametrize(
    ("largest", "words"), [(0, "nearly black"), (1, "mean 0 and 1, save them as float32"), (16, "save x / 16 as float32"), (17, None)]
)
def test_bytes_of_another_range(kind, largest, words, tmp_path):
    """Bytes whose largest value of all is tiny are read as they are, and a note says that they are nearly black and what may be meant."""
    x = (np.arange(N * 20).reshape(N, 4, 5, 1) % (largest + 1)).astype(np.uint8)
    path = tmp_path / "set-images-idx3-ubyte"
    match kind:
        case "folder":
            write_folder(path, x)
        case "idx":
            write_idx(path, x[..., 0])
        case "npy":
            np.save(path := tmp_path / "x.npy", x)
        case "npz":
            np.savez(path := tmp_path / "x.npz", x=x)
        case _:
            pq.write_table(pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(x)}), path := tmp_path / "x.parquet")
    source = open_images(path)
    got = read(source)[0]
    np.testing.assert_array_equal(got.ravel(), x.ravel() / np.float32(255))
    if words is None:
        assert source.notes == []
    else:
        (note,) = source.notes
        assert note.startswith(f"no value of any image is larger than {largest}, and bytes count from 0 to 255")
        assert words in note


def test_floats_of_another_range(tmp_path):
    """Floats that were divided by 255 twice are told; 0 and 1 as floats are black and white; NaN hides nothing."""
    bad = FLOATS / 255
    bad[2, 0, 0, 0] = np.nan
    for x, told in ((bad, 1), ((FLOATS > 0.5).astype(np.float32), 0), (FLOATS, 0)):
        np.save(tmp_path / "x.npy", x)
        source = open_images(tmp_path / "x.npy")
        read(source)
        assert len(source.notes) == told
        assert all("divided by 255 twice" in note for note in source.notes)


# Bad files: refused before the work, in one line that says what to do.


def refused(path: pathlib.Path, *words: str, shape: tuple[int, int, int] | None = None) -> None:
    with pytest.raises(BadInput) as caught:
        open_images(path, shape)
    text = str(caught.value)
    assert "\n" not in text
    assert re.match(r"expected .*, got .*; ", text) or "none of which can be used" in text
    assert str(path) in text
    for word in words:
        assert word in text


def test_refused_paths(tmp_path):
    """A missing path, an empty folder, a folder without one usable image and a file of another kind are refused."""
    refused(tmp_path / "missing", "does not exist")
    refused(tmp_path, ".png")
    (tmp_path / "a.png").write_bytes(b"no image")
    refused(tmp_path, "none of which can be used", "a.png")
    (tmp_path / "a.csv").write_text("1,2,3")
    refused(tmp_path / "a.csv", "IDX")
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"text"))
    refused(tmp_path / "a.gz", "IDX")


@pytest.mark.parametrize("kind", ["npz", "npy", "idx", "idx gz", "parquet image"])
def test_truncated_files(kind, tmp_path):
    """A file that ends too early is refused when it is opened."""
    path, _ = write(kind, tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    refused(path)


def test_truncated_cifar(tmp_path):
    """A CIFAR-10 file that is no whole number of records is refused."""
    (tmp_path / "x.bin").write_bytes(bytes(3073 + 5))
    refused(tmp_path / "x.bin", "3073")


@pytest.mark.parametrize("name", ["x.npz", "x.npy", "x.parquet", "x-images-idx3-ubyte"])
def test_garbage(name, tmp_path):
    """Bytes of another kind under a known name are refused."""
    (tmp_path / name).write_bytes(b"\0\0garbage" * 20)
    refused(tmp_path / name)


def test_refused_arrays(tmp_path):
    """Wrong key, type, order and dimensions each have their own line, and objects are never unpickled."""
    path = tmp_path / "x.npz"
    np.savez(path, images=BYTES, labels=LABELS)
    refused(path, "images, labels")
    np.savez(path, x=BYTES.astype(np.int64))
    refused(path, "int64", "divide")
    np.savez(path, x=BYTES > 3)
    refused(path, "bool")
    np.savez(path, x=np.asarray([{"a": 1}], object))
    refused(path, "never unpickled")
    np.savez(path, x=BYTES, y=np.asarray([{}] * N, object))
    refused(path, "labels")
    np.savez(path, x=BYTES, y=LABELS[:-1])
    refused(path, "6 labels for 7 images")
    np.savez(path, x=BYTES, y=LABELS + 0.5)
    refused(path, "float64")
    np.savez(path, x=BYTES, y=np.full(N, 2**63, np.uint64))
    refused(path, "below 2^63")
    np.savez(path, x=BYTES[0, 0])
    refused(path, "(5, 3)")
    np.savez(path, x=BYTES[:0])
    refused(path, "at least one image")
    np.savez(path, x=np.asfortranarray(BYTES))
    refused(path, "ascontiguousarray")


def test_labels_file_of_another_length(tmp_path):
    """IDX labels that do not belong to the images are refused."""
    path = write_idx(tmp_path / "a-images-idx3-ubyte", BYTES)
    write_idx(tmp_path / "a-labels-idx1-ubyte", LABELS[:-2])
    with pytest.raises(BadInput, match="5 labels for 7 images"):
        open_images(path)


def test_wrong_shape_for_the_classifier(tmp_path):
    """Arrays and folders of another size than the classifier's are refused with both sizes; channel-first gets its own advice."""
    np.save(tmp_path / "x.npy", BYTES)
    refused(tmp_path / "x.npy", "28 x 28 x 1", "4 x 5 x 3", shape=(28, 28, 1))
    refused(tmp_path / "x.npy", "transpose", shape=(5, 3, 4))
    refused(write_folder(tmp_path / "folder"), "28 x 28 x 1", "4 x 5 x 1", shape=(28, 28, 1))


def test_refused_tables(tmp_path):
    """Tables without an image column, without a shape, with nested or textual columns, text labels or no rows are refused."""
    path = tmp_path / "x.parquet"
    flat = pa.array(list(FLOATS.reshape(N, -1)))
    for columns, metadata, word in [
        ({"pixels": flat}, {}, "pixels"),
        ({"x": flat}, {}, "metadata"),
        ({"x": flat}, {"shape": "4x5x3"}, "4x5x3"),
        ({"x": FLOATS.tolist()}, {}, "list<"),
        ({"x": list("abc")}, {}, "string"),
        ({"x": pa.array(list(BYTES.astype(np.int32).reshape(N, -1)))}, {"shape": "[4, 5, 3]"}, "int32"),
        ({"x": flat, "y": list("abcdefg")}, {"shape": "[4, 5, 3]"}, "class numbers"),
        ({"x": flat[:0]}, {"shape": "[4, 5, 3]"}, "without rows"),
    ]:
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
        refused(path, word)
