"""Data sets by name: every standard form gives the same pixels, and a missing set gives a one-line error."""

import gzip
import importlib.util
import pathlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from a2d_jax.errors import BadInput
from a2d_jax.io.class_names import IMAGENET_CLASSES
from a2d_jax.io.datasets import load
from a2d_jax.io.photographs import Preprocessing
from tests.io.photographs_torchvision import photograph
from tests.io.test_cifar import IMAGES, LABELS, write_binary, write_python
from tests.io.test_images import write_idx
from tests.io.test_prepared import DIGITS, grey, prepare


def read(source) -> tuple[np.ndarray, np.ndarray]:
    pieces = list(source.pieces(7))
    assert all(len(piece.x) == 7 for piece in pieces[:-1])
    return np.concatenate([piece.x for piece in pieces]), np.concatenate([piece.label for piece in pieces])


def refused(name: str, split: str, *words: str, **options) -> None:
    with pytest.raises(BadInput, match=r"expected .*, got .*; ") as caught:
        load(name, split, **options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.fixture
def root(tmp_path, monkeypatch) -> pathlib.Path:
    """An empty A2D_DATA, and nothing prepared."""
    monkeypatch.setenv("A2D_DATA", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    return tmp_path


@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_files(folder, suffix, root):
    """IDX files under either usual folder, packed or not, give the pixels and labels that NumPy wrote."""
    (root / folder).mkdir(parents=True)
    for split, n in (("train", 9), ("t10k", 4)):
        write_idx(root / folder / f"{split}-images-idx3-ubyte{suffix}", np.full((n, 28, 28), n, np.uint8))
        write_idx(root / folder / f"{split}-labels-idx1-ubyte{suffix}", np.arange(n))
    for split, n in (("train", 9), ("test", 4)):
        x, label = read(load("mnist", split, shape=(28, 28, 1)))
        np.testing.assert_array_equal(x, np.full((n, 28, 28, 1), np.float32(n) / np.float32(255)))
        np.testing.assert_array_equal(label, np.arange(n))


@pytest.mark.parametrize(("folder", "write", "suffix"), [("bin", write_binary, ".bin"), ("py", write_python, "")])
def test_cifar_files(folder, write, suffix, root):
    """Five training batches are one set in their order, in both versions of CIFAR-10; the test batch is another."""
    folder = root / f"cifar-10-batches-{folder}"
    folder.mkdir()
    for i in range(5):
        write(folder / f"data_batch_{i + 1}{suffix}", IMAGES[4 * i : 4 * i + 4], LABELS[4 * i : 4 * i + 4])
    write(folder / f"test_batch{suffix}", IMAGES[:3], LABELS[:3])
    source = load("cifar10", "train", shape=(32, 32, 3))
    for _ in range(2):
        x, label = read(source)
        np.testing.assert_array_equal(x, IMAGES / np.float32(255))
        np.testing.assert_array_equal(label, LABELS)
    assert len(load("cifar10", "test")) == 3
    before = source.digest()
    write(folder / f"data_batch_5{suffix}", IMAGES[:4], LABELS[:4])
    assert source.digest() != before


def test_digits_are_scikit_learns():
    """Train and test digits together are scikit-learn's, each once, the same every time."""
    (x, label), (x_test, label_test) = read(load("digits", "train", shape=(8, 8, 1))), read(load("digits", "test"))
    theirs = load_digits()
    ours = np.concatenate([x, x_test]).reshape(-1, 64) * 16
    order, their_order = np.lexsort(ours.T), np.lexsort(theirs.data.T)
    np.testing.assert_array_equal(ours[order], theirs.data[their_order])
    np.testing.assert_array_equal(np.concatenate([label, label_test])[order], theirs.target[their_order])
    assert load("digits", "train").digest() == load("digits", "train").digest() != load("digits", "test").digest()


def test_published_files(mnist, cifar10):
    """The published files give the published numbers of images, every class of the test sets about a tenth (CIFAR-10: exactly)."""
    assert [len(load("mnist", split)) for split in ("train", "test")] == [60_000, 10_000]
    assert [len(load("cifar10", split)) for split in ("train", "test")] == [50_000, 10_000]
    counts = sum(np.bincount(piece.label, minlength=10) for piece in load("cifar10", "train").pieces(1024))
    np.testing.assert_array_equal(counts, 5000)


@pytest.mark.parametrize("folder", ["validation", "val"])
def test_imagenet_folder(folder, root):
    """Folders named by WordNet, also a few of the thousand, are ImageNet's classes; photographs are preprocessed as asked."""
    images = {}
    for number in (999, 3, 500):
        path = root / "imagenet" / folder / IMAGENET_CLASSES[number]
        path.mkdir(parents=True)
        images[number] = photograph(40 + number // 20, 60)
        images[number].save(path / "ILSVRC2012_val_1.JPEG", "PNG")
    wanted = Preprocessing(36, 32, "bicubic")
    (piece,) = load("imagenet", "validation", shape=(32, 32, 3), preprocessing=wanted).pieces()
    assert piece.label.tolist() == [3, 500, 999]
    for x, number in zip(piece.x, piece.label, strict=True):
        np.testing.assert_array_equal(x, np.asarray(wanted(images[number])) / np.float32(255))
    (piece,) = load("imagenet", "validation", shape=(40, 60, 3)).pieces()
    assert [error is None for error in piece.error] == [True, False, False]


def test_imagenet_classes(shared):
    """The 1000 classes are those of TensorFlow Datasets, in the order that the labelled photographs have."""
    package = pathlib.Path(importlib.util.find_spec("tensorflow_datasets").origin).parent
    assert list(IMAGENET_CLASSES) == (package / "datasets" / "imagenet2012" / "labels.txt").read_text().split()
    files = list((shared / "data" / "imagenet_samples").glob("*.jpg"))
    assert len(files) == 250
    for file in files:
        number, wordnet = file.name.split("_")[:2]
        assert IMAGENET_CLASSES[int(number)] == wordnet


def test_prepared_sets_come_second(root, monkeypatch):
    """What TensorFlow Datasets prepared is taken where the standard files are missing, and only there."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(root / "tfds"))
    prepare(root / "tfds", "mnist", {"test": grey(slice(6))}, DIGITS)
    assert load("mnist", "test", shape=(28, 28, 1)).path == root / "tfds" / "mnist" / "1.0.0"
    (root / "mnist").mkdir()
    write_idx(root / "mnist" / "t10k-images-idx3-ubyte", np.zeros((2, 28, 28)))
    write_idx(root / "mnist" / "t10k-labels-idx1-ubyte", np.zeros(2))
    assert len(load("mnist", "test")) == 2


def test_refused_names(root):
    """Unknown data sets, splits a set does not have, and other shapes are refused with what there is."""
    refused("svhn", "train", "mnist, cifar10")
    refused("mnist", "validation", "train or test")
    refused("imagenet", "test", "train or validation")
    refused("digits", "test", "28 x 28 x 1", "8 x 8 x 1", shape=(28, 28, 1))


def test_refused_folders(root):
    """What is not there is named file by file; half a set is refused when it is opened; so are damaged files."""
    refused("mnist", "train", str(root / "mnist"), "train-images-idx3-ubyte, train-labels-idx1-ubyte", "A2D_DATA")
    refused("cifar10", "test", "cifar-10-batches-bin", "test_batch.bin", "cifar-10-batches-py")
    refused("imagenet", "train", str(root / "imagenet" / "train"), "n01440764", "tfds build imagenet2012 --file_format=array_record")
    (root / "imagenet" / "train" / "tench").mkdir(parents=True)
    photograph(9, 9).save(root / "imagenet" / "train" / "tench" / "0.png")
    refused("imagenet", "train", "n01440764")
    (root / "mnist").mkdir()
    write_idx(root / "mnist" / "train-images-idx3-ubyte", np.zeros((2, 28, 28)))
    refused("mnist", "train", "train-labels-idx1-ubyte")
    write_idx(root / "mnist" / "train-labels-idx1-ubyte", np.zeros(2))
    assert len(load("mnist", "train")) == 2
    (root / "mnist" / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03")[:-4])
    (root / "mnist" / "t10k-labels-idx1-ubyte").write_bytes(b"")
    refused("mnist", "test", "t10k-images-idx3-ubyte.gz")
    (root / "cifar-10-batches-bin").mkdir()
    write_binary(root / "cifar-10-batches-bin" / "data_batch_1.bin", IMAGES, LABELS)
    refused("cifar10", "train", "got no data_batch_2.bin, data_batch_3.bin")
