"""Data sets that TensorFlow Datasets prepared: they are read without TensorFlow and without a download."""

import io
import pathlib
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from a2d_jax.errors import BadInput
from a2d_jax.io.images import open_images
from a2d_jax.io.photographs import Preprocessing
from a2d_jax.io.prepared import open_prepared
from tests.io.photographs_torchvision import photograph
from tests.io.test_tfrecord import framed

GREY = np.random.default_rng(0).integers(0, 256, (150, 28, 28, 1), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of TensorFlow Datasets; TensorFlow itself must not be imported by a test that uses it, installed or not."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    yield tmp_path
    assert "tensorflow" not in sys.modules


def prepare(folder, name, examples, features, version="1.0.0", file_format="array_record"):
    """Prepare a data set whose builder hands over encoded images, which needs no TensorFlow."""

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: enumerate(found) for split, found in examples.items()}

        def _generate_examples(self):
            raise NotImplementedError

    Builder.name = name
    Builder(data_dir=folder, file_format=file_format).download_and_prepare()


def as_tfrecord(version: pathlib.Path) -> None:
    """Turn a prepared version into what `download_and_prepare` writes by default: the same records in files of the other format."""
    for file in version.glob("*.array_record-*"):
        reader = ArrayRecordReader(str(file))
        name = file.name.replace("array_record", "tfrecord")
        (version / name).write_bytes(b"".join(map(framed, reader.read_all())))
        reader.close()
        file.unlink()
    info = version / "dataset_info.json"
    info.write_text(info.read_text().replace('"fileFormat": "array_record"', '"fileFormat": "tfrecord"'))


def png(x: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(x.squeeze()).save(file, "PNG")
    file.seek(0)
    return file


def grey(rows: slice) -> list[dict]:
    return [{"image": png(x), "label": int(x[0, 0, 0]) % 10} for x in GREY[rows]]


DIGITS = {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(num_classes=10)}


def test_prepared_digits(folder):
    """Records come back with the pixels and labels that went in (TFDS shuffles them), the same order every time, newest version first."""
    prepare(folder, "mnist", {"train": grey(slice(5))}, DIGITS, version="1.9.0")
    prepare(folder, "mnist", {"train": grey(slice(100)), "test": grey(slice(100, 150))}, DIGITS, version="1.10.0")
    source = open_prepared("mnist", "train", (28, 28, 1))
    assert (len(source), source.shape, source.path) == (100, (28, 28, 1), folder / "mnist" / "1.10.0")
    read = [list(source.pieces(64)) for _ in range(2)]
    assert [len(piece.x) for piece in read[0]] == [64, 36]
    x, label = (np.concatenate([getattr(piece, field) for piece in read[0]]) for field in ("x", "label"))
    np.testing.assert_array_equal(x, np.concatenate([piece.x for piece in read[1]]))
    assert sorted(image.tobytes() for image in x) == sorted((image / np.float32(255)).tobytes() for image in GREY[:100])
    np.testing.assert_array_equal(label, np.rint(x[:, 0, 0, 0] * 255).astype(int) % 10)
    assert len(open_prepared("mnist", "test")) == 50
    assert open_prepared("mnist", "test").digest() != source.digest() == open_prepared("mnist", "train").digest()


def test_prepared_photographs(folder):
    """Photographs of ImageNet's form (JPEG of any size, a file name) are preprocessed like those of a folder."""
    images = [photograph(300, 400), photograph(100, 80)]
    files = []
    for image in images:
        file = io.BytesIO()
        image.save(file, "JPEG")
        file.seek(0)
        files.append(file)
    features = {"image": tfds.features.Image(encoding_format="jpeg"), "label": tfds.features.ClassLabel(num_classes=1000)}
    examples = [{"image": file, "label": 7 + i, "file_name": f"{i}.JPEG"} for i, file in enumerate(files)]
    prepare(folder, "imagenet2012", {"validation": examples}, {**features, "file_name": tfds.features.Text()})
    wanted = Preprocessing(40, 32, "bilinear")
    (piece,) = open_prepared("imagenet2012", "validation", (32, 32, 3), wanted).pieces()
    assert sorted(piece.id) == ["0.JPEG", "1.JPEG"]
    for x, label, name in zip(piece.x, piece.label, piece.id, strict=True):
        number = int(name[0])
        assert label == 7 + number
        files[number].seek(0)
        np.testing.assert_array_equal(x, np.asarray(wanted(Image.open(files[number]))) / np.float32(255))


def test_what_is_prepared_by_default(folder):
    """TFRecord files give the same images, labels and ids as array_record files of the same set, from any place, by name and by path."""
    examples = {"train": grey(slice(100)), "test": grey(slice(100, 110))}
    prepare(folder, "mnist", examples, DIGITS)
    (before,) = open_prepared("mnist", "train").pieces(100)
    version = folder / "mnist" / "1.0.0"
    as_tfrecord(version)
    assert not list(version.glob("*array_record*"))
    with pytest.raises(BadInput, match=r"^expected shards of one split in .*, got test and train; name those you want, such as .*\*$"):
        open_images(version)
    by_path = open_images(version / "mnist-train.tfrecord*")
    for source in (open_prepared("mnist", "train"), by_path, open_images(version / "mnist-train.tfrecord-00000-of-00001")):
        (piece,) = source.pieces(100)
        np.testing.assert_array_equal(piece.x, before.x)
        np.testing.assert_array_equal(piece.label, before.label)
        assert (piece.id, piece.error) == (before.id, before.error)
        np.testing.assert_array_equal(source.rows(97, 99).x, before.x[97:99])
    assert by_path.digest() == open_prepared("mnist", "train").digest() != open_prepared("mnist", "test").digest()


def test_damaged_records(folder):
    """A flipped bit, a file that breaks off, a missing file and missing records are refused; nothing is read past them."""
    prepare(folder, "mnist", {"train": grey(slice(20))}, DIGITS)
    version = folder / "mnist" / "1.0.0"
    as_tfrecord(version)
    (file,) = version.glob("*.tfrecord-*")
    data = file.read_bytes()
    for bad, word in [
        (data[:-1], "fewer bytes"),
        (data[:-30], "fewer bytes"),
        (data[:8] + b"\0" + data[9:], "checksum"),
        (data[:3] + b"\1" + data[4:], "checksum"),
        (b"", "got 0"),
        (data + data, "got 40"),
    ]:
        file.write_bytes(bad)
        refused("train", word, "1.0.0")
    file.write_bytes(data[:-200] + bytes([data[-200] ^ 1]) + data[-199:])
    source = open_prepared("mnist", "train")
    source.rows(0, 2)
    with pytest.raises(BadInput, match="checksum of record 19"):
        list(source.pieces())
    file.write_bytes(b"".join(framed(b"\x0a\x02\x08\x01") for _ in range(20)))
    refused("train", "features.json")
    file.unlink()
    refused("train", file.name)


def test_leavings_are_no_versions(folder):
    """What systems and interrupted copies leave beside the versions is none of them."""
    prepare(folder, "mnist", {"train": grey(slice(3))}, DIGITS)
    for name in (".snapshot", "9.0.0.part", "__MACOSX"):
        shutil.copytree(folder / "mnist" / "1.0.0", folder / "mnist" / name)
    assert open_prepared("mnist", "train").path == folder / "mnist" / "1.0.0"


def test_nothing_prepared(folder):
    """What was not prepared is None, and nothing appears on disk in the attempt."""
    assert open_prepared("mnist", "train") is None
    assert list(folder.iterdir()) == []


def refused(split: str, *words: str) -> None:
    with pytest.raises(BadInput, match=r"expected .*, got .*; ") as caught:
        open_prepared("mnist", split)
    for word in words:
        assert word in str(caught.value)


def test_refused_sets(folder):
    """Another split, another file format, and sets without labels are refused with what to do."""
    prepare(folder, "mnist", {"train": grey(slice(3))}, DIGITS)
    refused("test", "train", "'test'")
    prepare(folder, "mnist", {"train": [{"label": 1}]}, {"label": DIGITS["label"]}, version="2.0.0")
    refused("train", "labelled images")
    info = folder / "mnist" / "1.0.0" / "dataset_info.json"
    (folder / "mnist" / "3.0.0").mkdir()
    (folder / "mnist" / "3.0.0" / "features.json").write_text((info.parent / "features.json").read_text())
    text = info.read_text()
    assert '"fileFormat": "array_record"' in text
    (folder / "mnist" / "3.0.0" / "dataset_info.json").write_text(
        text.replace('"fileFormat": "array_record"', '"fileFormat": "riegeli"').replace("1.0.0", "3.0.0")
    )
    refused("train", "riegeli", "tfds build mnist --file_format=array_record")
    (folder / "mnist" / "3.0.0" / "dataset_info.json").write_text("{")
    refused("train", "prepare")
