"""Photographs of any size: the pixels equal torchvision's, and nothing is resized unless the classifier says so."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from a2d_jax.errors import BadInput
from a2d_jax.io.images import open_images
from a2d_jax.io.photographs import Preprocessing, preprocessing_from
from tests.io.photographs_torchvision import GOLDEN, cases, digest, photograph

LITE0 = Preprocessing(resize=256, crop=224, interpolation="bicubic")
SHAPE = (224, 224, 3)


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def read(source) -> tuple[np.ndarray, list[str | None]]:
    pieces = list(source.pieces())
    return np.concatenate([piece.x for piece in pieces]), [error for piece in pieces for error in piece.error]


def test_pixels_of_torchvision():
    """Every pixel is the one torchvision's Resize and CenterCrop give: sides of every parity, larger and smaller, two filters."""
    golden = np.load(GOLDEN)
    names = []
    for case, image, resize, crop, name, whole in cases():
        pixels = np.asarray(Preprocessing(resize, crop, name)(image))
        assert pixels.shape == (crop, crop, 3)
        np.testing.assert_array_equal(pixels if whole else digest(pixels), golden[case], err_msg=case)
        names.append(case)
    assert sorted(names) == sorted(golden.files)


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_sets_of_photographs(kind, tmp_path):
    """JPEG and PNG photographs of many sizes become the classifier's shape, as when each is decoded in full; one that fits stays."""
    images = [photograph(*size) for size in [(375, 500), (300, 260), (100, 90), (224, 224), (1200, 900)]]
    # the last one is large enough for JPEG's draft mode, which would decode a quarter of its pixels
    data = [encoded(images[0], "JPEG", quality=90), *map(encoded, images[1:4]), encoded(images[4], "JPEG", quality=90)]
    if kind == "folder":
        path = tmp_path / "photographs"
        path.mkdir()
        for i, content in enumerate(data):
            (path / f"{i}.jpg").write_bytes(content)
    else:
        path = tmp_path / "x.parquet"
        pq.write_table(pa.table({"image": [{"bytes": content, "path": None} for content in data]}), path)
    source = open_images(path, SHAPE, preprocessing=LITE0)
    x, error = read(source)
    assert error == [None] * 5
    for pixels, content in zip(x, data, strict=True):
        full = Image.open(io.BytesIO(content))
        expected = full if full.size == (224, 224) else LITE0(Image.fromarray(np.asarray(full)))
        np.testing.assert_array_equal(pixels, np.asarray(expected) / np.float32(255))
    assert source.preprocessing == LITE0


def test_colours_come_first(tmp_path):
    """Grey, palette and transparent photographs are RGB before they are resized, as loaders of ImageNet do it."""
    colour = photograph(300, 400)
    modes = [colour.convert("L"), colour.convert("P"), colour.convert("RGBA")]
    for i, image in enumerate(modes):
        image.save(tmp_path / f"{i}.png")
    x, error = read(open_images(tmp_path, SHAPE, preprocessing=LITE0))
    assert error == [None] * 3
    for pixels, image in zip(x, modes, strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(LITE0(image.convert("RGB"))) / np.float32(255))


def test_nothing_is_resized_unasked(tmp_path):
    """Without a declaration a photograph of another size is an error of its row; damaged ones are errors either way."""
    photograph(224, 224).save(tmp_path / "0.png")
    photograph(300, 400).save(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(encoded(photograph(300, 400))[:5000])
    _, error = read(open_images(tmp_path, SHAPE))
    assert error[0] is None
    assert "300 x 400 x 3" in error[1]
    assert "300 x 400 x 3" in error[2]
    _, error = read(open_images(tmp_path, SHAPE, preprocessing=LITE0))
    assert error[:2] == [None, None]
    assert "truncated" in error[2]


def test_arrays_are_never_resized(tmp_path):
    """An array of another size is refused whatever the classifier declares: it is no photograph any more."""
    np.save(tmp_path / "x.npy", np.zeros((2, 256, 256, 3), np.uint8))
    with pytest.raises(BadInput, match="256 x 256 x 3"):
        open_images(tmp_path / "x.npy", SHAPE, preprocessing=LITE0)


def test_declarations():
    """What a module declares becomes the settings; nothing declared is nothing done."""
    declared = {"resize": 256, "crop": 224, "interpolation": "bicubic"}
    assert preprocessing_from(declared, SHAPE) == LITE0
    assert preprocessing_from(None, SHAPE) is None


@pytest.mark.parametrize(
    ("declared", "shape", "word"),
    [
        ("256 bicubic", SHAPE, "resize, crop and interpolation"),
        ({"resize": 256, "crop": 224}, SHAPE, "resize, crop and interpolation"),
        ({"resize": 256.0, "crop": 224, "interpolation": "bicubic"}, SHAPE, "whole numbers"),
        ({"resize": 200, "crop": 224, "interpolation": "bicubic"}, SHAPE, "crop 224 and resize 200"),
        ({"resize": 256, "crop": 0, "interpolation": "bicubic"}, SHAPE, "crop 0"),
        ({"resize": 256, "crop": 224, "interpolation": "cubic"}, SHAPE, "'cubic'"),
        ({"resize": 256, "crop": 224, "interpolation": "bicubic"}, (32, 32, 3), "(32, 32, 3)"),
        ({"resize": 256, "crop": 224, "interpolation": "bicubic"}, None, "None"),
    ],
)
def test_refused_declarations(declared, shape, word):
    """Each kind of wrong declaration has its own line."""
    with pytest.raises(BadInput, match=r"expected .*, got .*; ") as caught:
        preprocessing_from(declared, shape)
    assert word in str(caught.value)
