"""Pixels of encoded images: a conversion with a loss is a row error or a note, one note for each kind with a count."""

import io
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from a2d_jax.errors import BadInput
from a2d_jax.io.images import open_images, reopen
from a2d_jax.io.photographs import Preprocessing
from a2d_jax.io.pixels import Background, decoded

RGB = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
GREY = RGB[..., 0]
SOLID = np.full((6, 6), 255, np.uint8)
ALPHA = SOLID.copy()
ALPHA[2, 3], ALPHA[0, 1] = 0, 254
TO_GREY = "colour was turned to grey, since the classifier takes one channel"


def encoded(pixels: np.ndarray | Image.Image, form: str = "PNG", mode: str | None = None, **options) -> bytes:
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes()) if mode else None
    (image or Image.fromarray(pixels)).save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(kind: int, bits: int, size: int, rows: list[bytes]) -> bytes:
    """A PNG by hand: Pillow writes no 16 bits per channel."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b"")


def sixteen(kind: int, pixels: np.ndarray) -> bytes:
    return png(kind, 16, len(pixels), [(row.astype(">u2") * 257).tobytes() for row in pixels])


def pixels_of(data: bytes, channels: int = 3, background: str | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    pixels, done = decoded(data, (6, 6, channels), None, Background(background) if background else None)
    assert not isinstance(pixels, str), pixels
    return pixels, done


def error_of(data: bytes, background: str | None = None) -> str:
    (one, done), (other, _) = (decoded(data, (6, 6, channels), None, Background(background) if background else None) for channels in (1, 3))
    assert isinstance(one, str)
    assert one == other or "6 x 6" in one
    assert done == ()
    return one


PALETTE = Image.fromarray(RGB).quantize(16)
USED = int(np.asarray(PALETTE)[2, 3])
TRANSPARENT = {
    "RGBA": encoded(np.dstack([RGB, ALPHA])),
    "grey and alpha": encoded(np.dstack([GREY, ALPHA]), mode="LA"),
    "one colour of RGB": encoded(RGB, transparency=tuple(map(int, RGB[2, 3]))),
    "one value of grey": encoded(GREY, transparency=int(GREY[2, 3])),
    "black of black and white": encoded(GREY > 128, transparency=int(GREY[2, 3] > 128) * 255),
    "one colour of a palette": encoded(PALETTE, transparency=USED),
    "alpha of a palette": encoded(PALETTE, transparency=bytes(0 if i == USED else 255 for i in range(16))),
    "GIF": encoded(PALETTE, "GIF", transparency=USED),
    "WebP": encoded(np.dstack([RGB, ALPHA]), "WEBP", lossless=True),
    "TIFF": encoded(np.dstack([RGB, ALPHA]), "TIFF"),
    "grey TIFF": encoded(np.dstack([GREY, ALPHA]), "TIFF", mode="LA"),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparent_pixels(kind):
    """A pixel that is seen through is an error of the row; over a declared background it takes that colour, others stay as they are."""
    assert error_of(TRANSPARENT[kind]).startswith("expected opaque pixels, got ")
    over_white, done = pixels_of(TRANSPARENT[kind], background="white")
    assert done == ("transparent pixels were laid over the background white",)
    assert over_white[2, 3].tolist() == [255] * 3
    over_red, _ = pixels_of(TRANSPARENT[kind], background="#ff0000")
    assert over_red[2, 3].tolist() == [255, 0, 0]
    solid = Image.open(io.BytesIO(TRANSPARENT[kind])).convert("RGBA")
    opaque = np.asarray(solid)[..., 3] == 255
    np.testing.assert_array_equal(over_red[opaque], np.asarray(solid)[opaque][:, :3])
    assert pixels_of(TRANSPARENT[kind], 1, "100")[0][2, 3] == [100]


def test_ink_in_alpha():
    """A drawing whose ink lies in alpha alone is an error, not a black image; over white it is the drawing."""
    ink = np.zeros((6, 6), np.uint8)
    ink[2] = 255
    for data in (encoded(np.dstack([0 * ink] * 3 + [ink])), encoded(np.dstack([0 * ink, ink]), mode="LA")):
        assert (
            error_of(data) == "expected opaque pixels, got 30 of 36 that are not; flatten the image or choose a background (--background)"
        )
        np.testing.assert_array_equal(pixels_of(data, 1, "white")[0][..., 0], 255 - ink)


@pytest.mark.parametrize(
    "data",
    [
        encoded(np.dstack([RGB, SOLID])),
        encoded(RGB, transparency=(1, 2, 3)),
        encoded(np.dstack([RGB, SOLID]), "WEBP", lossless=True),
        encoded(np.dstack([RGB, SOLID]), "TIFF"),
        encoded(np.dstack([RGB, SOLID]), "BMP"),
        encoded(RGB, "TIFF", compression="tiff_lzw"),
        encoded(RGB, "PPM"),
        b"P6 6 6 255\n" + RGB.tobytes(),
    ],
)
def test_nothing_is_lost(data):
    """Opaque alpha, and colours that no pixel has, are dropped without a word, with and without a background."""
    for background in (None, "white"):
        pixels, done = pixels_of(data, background=background)
        np.testing.assert_array_equal(pixels, RGB)
        assert done == ()
    np.testing.assert_array_equal(pixels_of(data, 1)[0][..., 0], np.asarray(Image.fromarray(RGB).convert("L")))
    assert pixels_of(data, 1)[1] == (TO_GREY,)


def test_grey_in_any_form():
    """What has no colour loses none: grey as RGB, as RGBA, as a palette, black and white."""
    same = np.dstack([GREY] * 3)
    for data in (
        encoded(same),
        encoded(np.dstack([same, SOLID])),
        encoded(Image.fromarray(GREY).convert("P")),
        encoded(same, "WEBP", lossless=True),
    ):
        pixels, done = pixels_of(data, 1)
        np.testing.assert_array_equal(pixels[..., 0], GREY)
        assert done == ()
    pixels, done = pixels_of(encoded(GREY > 128), 1)
    np.testing.assert_array_equal(pixels[..., 0], (GREY > 128) * 255)
    assert done == ()


@pytest.mark.parametrize(
    "data",
    [
        sixteen(2, RGB),
        sixteen(6, np.dstack([RGB, SOLID])),
        sixteen(4, np.dstack([GREY, SOLID])),
        sixteen(0, GREY[..., None]),
        encoded(GREY.astype(np.uint16), "TIFF"),
        encoded(GREY.astype(np.int32), "TIFF"),
        encoded(GREY.astype(np.float32), "TIFF"),
        b"P6 6 6 65535\n" + (RGB.astype(">u2") * 257).tobytes(),
        b"P6 6 6 1023\n" + (RGB.astype(">u2") * 4).tobytes(),
        b"P3 6 6 65535\n" + b" ".join(b"%d" % (257 * int(value)) for value in RGB.ravel()),
        b"P5 6 6 65535\n" + (GREY.astype(">u2") * 257).tobytes(),
        b"Pf\n6 6\n-1.0\n" + GREY.astype("<f4").tobytes(),
    ],
)
def test_more_than_8_bits(data):
    """16 bits per channel, whole numbers and floats are errors of their rows, in colour too, where Pillow drops half of them."""
    assert error_of(data).startswith("expected 8 bits per channel, got more in an image of mode ")


def two(form: str, **options) -> bytes:
    """Two pictures in one file; the second is a new one each time, since Pillow leaves settings in what it saves."""
    return encoded(RGB, form, save_all=True, append_images=[Image.fromarray(RGB[::-1].copy())], **options)


@pytest.mark.parametrize(("form", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_more_than_one_frame(form, options):
    """Animations and files of several pages are errors of their rows: nobody knows which one is meant."""
    assert error_of(two(form, **options)) == ("expected one image, got 2 frames or pages in one file; save the one that is meant")


def test_pictures_of_a_camera():
    """The first picture of a camera's JPEG is the photograph; previews behind it are left out and told."""
    _, done = pixels_of(two("MPO"))
    assert done == ("further pictures in the file were left out, such as the preview of a camera",)


def test_channels_of_no_meaning():
    """Channels that Pillow passes over, and colours that it cannot convert, are errors."""
    more = np.dstack([RGB, SOLID])
    assert error_of(encoded(more, "TIFF", mode="RGBX")).startswith("expected a channel for each of R-G-B, got 4 channels")
    assert error_of(encoded(np.dstack([RGB, ALPHA]), "BMP")).startswith("expected three channels, got a BMP with a fourth")
    assert error_of(encoded(RGB, "TIFF", mode="LAB")).startswith("expected grey or RGB, got an image of mode LAB")


@pytest.mark.parametrize(("mode", "form"), [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF")])
def test_other_colours(mode, form):
    """Colours that are converted by formula alone are told."""
    data = encoded(Image.fromarray(RGB).convert(mode), form)
    pixels, done = pixels_of(data)
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert done == (f"{mode} was converted to RGB by formula, without a colour profile",)


def test_profiles_and_gamma():
    """A colour profile or gamma that is not applied is told, unless it is what everybody takes for granted."""
    profiles = {name: ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes() for name in ("sRGB", "XYZ")}
    assert pixels_of(encoded(RGB, icc_profile=profiles["sRGB"]))[1] == ()
    assert pixels_of(encoded(RGB, icc_profile=profiles["XYZ"]))[1] == ("colour profiles other than sRGB were not applied",)
    for gamma, told in ((45455, ()), (100000, ("a gamma of the file's own was not applied",))):
        info = PngImagePlugin.PngInfo()
        info.add(b"gAMA", struct.pack(">I", gamma))
        pixels, done = pixels_of(encoded(RGB, pnginfo=info))
        np.testing.assert_array_equal(pixels, RGB)
        assert done == told


@pytest.mark.parametrize(
    ("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})]
)
def test_orientation(form, options):
    """How the camera was held is told, and what was done: TIFF is turned by Pillow, other files are taken as they are stored."""
    exif = Image.Exif()
    exif[274] = 6
    pixels, done = pixels_of(encoded(RGB, form, exif=exif, **options))
    np.testing.assert_array_equal(pixels, np.rot90(RGB, -1) if form == "TIFF" else RGB)
    assert len(done) == 1
    assert "EXIF orientation" in done[0]
    assert ("not applied" in done[0]) == (form != "TIFF")
    wide = decoded(encoded(RGB[:4], form, exif=exif, **options), None, None)[0]
    assert wide.shape == ((6, 4, 3) if form == "TIFF" else (4, 6, 3))
    for upright in (1,) if options.get("compression") else (1, 0, 9):  # the last two mean nothing, and libtiff does not write them
        exif[274] = upright
        pixels, done = pixels_of(encoded(RGB, form, exif=exif, **options))
        np.testing.assert_array_equal(pixels, RGB)
        assert done == ()


def test_damaged_exif():
    """Damaged notes about an image are no reason to lose the image."""
    assert pixels_of(encoded(RGB, "JPEG", exif=b"Exif\0\0garbage"))[1] == ()


def test_bombs():
    """An image that claims a size beyond all reason is never decoded, and its line does not call it corrupt."""
    assert error_of(png(2, 8, 60_000, [])).startswith("expected an image that fits into memory")
    assert "6 x 6" in error_of(png(2, 8, 9_000, []))


@pytest.mark.parametrize(
    "data", [b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\nshowpage\n", encoded(RGB, "ICO"), encoded(RGB, "TGA")]
)
def test_other_formats(data):
    """Only formats that are named are decoded: Pillow would hand some of the others to another program."""
    assert "no known image format" in error_of(data)


@pytest.mark.parametrize("name", ["0", "128", "255", "white", "#808080", "#fff", "rgb(1,2,3)", "hsl(0,0%,50%)"])
def test_backgrounds(name):
    """A grey value, a name or numbers are a colour."""
    assert len(Background(name).colour) == 3


@pytest.mark.parametrize("name", ["", "0.5", "256", "-1", "transparent", "#ff000080", "rgba(1,2,3,4)", "1,2,3", "\u0664", "١٢"])
def test_refused_backgrounds(name, tmp_path):
    """Anything else is refused before images are read."""
    (tmp_path / "a.png").write_bytes(encoded(RGB))
    with pytest.raises(BadInput, match=r"^expected a background as .*, got .*; give one"):
        open_images(tmp_path, background=name)


def test_told_once_with_a_count(tmp_path):
    """However often a set is read, each kind of thing is one line with the number of images, of those that are wanted."""
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(encoded(RGB if i < 3 else GREY))
    source = open_images(tmp_path, (6, 6, 1))
    assert source.notes == []
    for _ in range(2):
        list(source.pieces(2))
        source.rows(1, 4)
        assert source.notes == [f"{TO_GREY}: 3 of 5 images"]


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_a_background_belongs_to_the_set(kind, tmp_path):
    """Readers of encoded images take a background, say so, and have it again when the set is opened from its description."""
    data = [encoded(np.dstack([RGB, ALPHA])), encoded(RGB)]
    path = tmp_path / ("set" if kind == "folder" else "x.parquet")
    if kind == "folder":
        path.mkdir()
        for i, one in enumerate(data):
            (path / f"{i}.png").write_bytes(one)
    else:
        pq.write_table(pa.table({"image": data}), path)
    (piece,) = open_images(path).pieces()
    assert [error is None for error in piece.error] == [False, True]
    source = open_images(path, background="red")
    (piece,) = source.pieces()
    assert piece.error == [None, None]
    assert piece.x[0, 2, 3].tolist() == [1, 0, 0]
    assert source.background == "red"
    assert source.notes == ["transparent pixels were laid over the background red: 1 of 2 images"]
    again = reopen(source.description)
    np.testing.assert_array_equal(next(again.pieces()).x, piece.x)
    older = {name: value for name, value in source.description.items() if name != "background"}
    assert next(reopen(older).pieces()).error[0] is not None


def test_background_before_resizing():
    """Transparent pixels get their colour before an image is resized, so that edges mix with the background and not with black."""
    big = np.zeros((12, 12, 4), np.uint8)
    big[:6, :, 3] = 255
    pixels, _ = decoded(encoded(big), (6, 6, 3), Preprocessing(6, 6, "bilinear"), Background("white"))
    expected = np.full((12, 12, 3), 255, np.uint8)
    expected[:6] = 0
    np.testing.assert_array_equal(pixels, np.asarray(Preprocessing(6, 6, "bilinear")(Image.fromarray(expected))))
