"""The pixels of one encoded image. Every change to them is noted; a change that would lose information is an error.

docs/images.md has the rules for users. The result has one frame with 8 bits per channel, grey or RGB. Transparent pixels have no colour, so
an image with transparent pixels needs a background; opaque alpha is dropped. Other changes are made and noted: colour to grey, CMYK and the
like to RGB. Colour profiles and EXIF orientation are not applied, which is noted too.
"""

import io
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageColor, UnidentifiedImageError

from a2d_jax.errors import BadInput
from a2d_jax.io.photographs import Preprocessing
from a2d_jax.io.source import Shape, text

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded. Others are refused: Pillow hands EPS to another program, for one."""

PLAIN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa")
"""Modes that become grey or RGB without a choice."""

TO_GREY = "colour was turned to grey, since the classifier takes one channel"
SRGB = "colour profiles other than sRGB were not applied"
GAMMA = "a gamma of the file's own was not applied"
TURNED = "the EXIF orientation of TIFF files was applied"
NOT_TURNED = "an EXIF orientation was not applied: pixels are taken as the file stores them"
FIRST = "further pictures in the file were left out, such as the preview of a camera"


@dataclass(frozen=True)
class Background:
    """An opaque colour behind transparent pixels.

    Attributes:
      name: as the user gave it: a grey value from 0 (black) to 255 (white), a colour name, or #rrggbb.
    """

    name: str

    def __post_init__(self) -> None:
        _ = self.colour

    @property
    def colour(self) -> tuple[int, int, int]:
        """Red, green, blue.

        Raises:
          BadInput: no such colour.
        """
        if self.name.isascii() and self.name.isdecimal() and len(self.name) < 4 and int(self.name) < 256:
            return int(self.name), int(self.name), int(self.name)
        with suppress(ValueError):
            colour = ImageColor.getrgb(self.name)
            if len(colour) == 3:  # four numbers have an alpha
                return colour[0], colour[1], colour[2]
        raise BadInput(
            f"expected a background as a grey value from 0 to 255, a colour's name or #rrggbb, got {self.name!r}; give one, such as white"
        )


def decoded(
    data: bytes, shape: Shape | None, preprocessing: Preprocessing | None, background: Background | None = None
) -> tuple[NDArray[np.uint8] | str, tuple[str, ...]]:
    """The pixels of an encoded image, or its error; and notes for the user on changes to the pixels.

    Args:
      data: the encoded image.
      shape: the wanted shape: grey or RGB (None: as the image is), and a size that the image must have.
      preprocessing: how an image of another size gets this size; an image of this size is taken as it is.
      background: colour behind transparent pixels; without it they are an error.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            unusable = _unusable(image) or _fourth(image, data)
            return (unusable, ()) if unusable else _pixels(image, shape, preprocessing, background)
    except UnidentifiedImageError:
        return f"expected an image ({', '.join(FORMATS)}), got a file of no known image format; save it again", ()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return "expected an image that fits into memory, got one of more pixels than Pillow decodes; make it smaller", ()
    except Exception as error:  # whatever a decoder raises on damaged bytes concerns this image alone
        return f"expected a readable image, got a corrupt or truncated one ({error or type(error).__name__}); save it again", ()


def _pixels(
    image: Image.Image, shape: Shape | None, preprocessing: Preprocessing | None, background: Background | None
) -> tuple[NDArray[np.uint8] | str, tuple[str, ...]]:
    own = 1 if image.mode in ("1", "L", "LA", "La") else 3
    channels = shape[2] if shape and shape[2] in (1, 3) else own
    turned = image.format == "TIFF" and _orientation(image) > 1
    width, height = image.size[::-1] if turned and _orientation(image) > 4 else image.size
    wrong = shape_error((height, width, channels), shape) if shape else None
    if wrong and (preprocessing is None or not shape or channels != shape[2]):
        return wrong, ()  # told by the header: an image that is far too large is never decoded
    image.load()
    done = _told(image, turned)
    if image.has_transparency_data:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        alpha = np.asarray(rgba)[..., 3]
        seen_through = int((alpha < 255).sum())
        if seen_through:
            if background is None:
                seen = f"{seen_through} of {alpha.size} that are not"
                return f"expected opaque pixels, got {seen}; flatten the image or choose a background (--background)", ()
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, (*background.colour, 255)), rgba).convert("RGB")
            done.append(f"transparent pixels were laid over the background {background.name}")
        image.info.pop("transparency", None)  # nothing is transparent any more
    if channels == 1 and _coloured(image):
        done.append(TO_GREY)
    pixels = image.convert("L" if channels == 1 else "RGB")
    if wrong and preprocessing:
        pixels = preprocessing(pixels)
    return np.asarray(pixels).reshape(pixels.height, pixels.width, channels), tuple(done)


def _unusable(image: Any) -> str | None:
    """What the header says that no conversion can mend."""
    if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:  # the first of MPO is the photograph
        return f"expected one image, got {frames} frames or pages in one file; save the one that is meant"
    if image.mode.startswith(("I", "F")) or _deep(image):
        return f"expected 8 bits per channel, got more in an image of mode {image.mode}; convert it to 8 bits"
    if image.mode == "LAB":
        return "expected grey or RGB, got an image of mode LAB; convert it to RGB"
    samples = image.tag_v2.get(277, 1) if image.format == "TIFF" else 0
    if samples > len(image.getbands()):
        return f"expected a channel for each of {'-'.join(image.getbands())}, got {samples} channels; save the image without the others"
    return None


def _fourth(image: Any, data: bytes) -> str | None:
    """A BMP of 32 bits per pixel, whose fourth byte Pillow passes over, is an error where that byte is more than filling."""
    if image.format != "BMP" or not image.tile or "BGRX" not in str(image.tile[0][3]):
        return None
    start = image.tile[0][2]
    if len(set(data[start + 3 : start + 4 * image.width * image.height : 4])) > 1:
        return "expected three channels, got a BMP with a fourth one that may be alpha; save the image as PNG"
    return None


def _deep(image: Any) -> bool:
    """Whether Pillow would drop the lower half of 16 bits per channel."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (1,))) > 8
    if not image.tile or image.format not in ("PNG", "PPM"):
        return False
    arguments: Any = image.tile[0][3]  # PNG: the raw mode; PPM: the same, or with the largest value
    return "16" in arguments if isinstance(arguments, str) else int(arguments[1]) > 255


def _orientation(image: Image.Image) -> int:
    """How the camera was held, 2 to 8; 1 is upright, or unknown."""
    with suppress(Exception):  # damaged EXIF is no reason to lose the image
        found = int(image.getexif().get(ExifTags.Base.Orientation, 1))
        return found if found in range(2, 9) else 1
    return 1


def _told(image: Image.Image, turned: bool) -> list[str]:
    """What is done, or left undone, on the way to grey or RGB."""
    done = [FIRST] if getattr(image, "n_frames", 1) > 1 else []
    if image.mode not in PLAIN:
        done.append(f"{image.mode} was converted to RGB by formula, without a colour profile")
    elif (profile := image.info.get("icc_profile")) and b"srgb" not in profile.replace(b"\0", b"").lower():
        done.append(SRGB)
    if "srgb" not in image.info and abs(image.info.get("gamma", 1 / 2.2) - 1 / 2.2) > 0.01:
        done.append(GAMMA)
    if turned:
        done.append(TURNED)
    elif _orientation(image) > 1:
        done.append(NOT_TURNED)
    return done


def _coloured(image: Image.Image) -> bool:
    """Whether grey would be less than what the image has."""
    if image.mode in ("1", "L", "LA", "La"):
        return False
    row = image.crop((0, image.height // 2, image.width, image.height // 2 + 1))  # nearly always enough
    for part in (row, image):
        red, green, blue = np.moveaxis(np.asarray(part.convert("RGB")), -1, 0)
        if (red != green).any() or (red != blue).any():
            return True
    return False


def shape_error(got: tuple[int, ...], shape: Shape) -> str | None:
    """The error of an image that has another shape than the set; None if the shapes are equal."""
    return None if got == shape else f"expected an image of {text(shape)} (h x w x c), got {text(got)}; resize it"
