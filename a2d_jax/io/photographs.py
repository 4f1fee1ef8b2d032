"""Resize and crop photographs of any size to the size that a classifier takes.

A classifier declares this with an attribute `photographs`, plain data that its card repeats:

    photographs = {"resize": 256, "crop": 224, "interpolation": "bicubic"}

The result equals torchvision's `Resize` and `CenterCrop` of a Pillow image in every pixel, because published weights were measured with
them. Scaling to [0, 1] follows; the module normalises by itself. Without this attribute no image is resized.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from a2d_jax.errors import BadInput

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


@dataclass(frozen=True)
class Preprocessing:
    """Resize, then crop the middle.

    Attributes:
      resize: length of the shorter side after resizing, in pixels; the sides keep their ratio.
      crop: height and width of the middle that is kept; at most `resize`.
      interpolation: bilinear, bicubic or lanczos, always with the filter widened when shrinking (antialias).
    """

    resize: int
    crop: int
    interpolation: str

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.resize:
            raise BadInput(f"expected 0 < crop <= resize, got crop {self.crop} and resize {self.resize}; correct `photographs`")
        if self.interpolation not in FILTERS:
            raise BadInput(f"expected an interpolation among {', '.join(FILTERS)}, got {self.interpolation!r}; correct `photographs`")

    def __call__(self, image: Image.Image) -> Image.Image:
        """A new image of `crop` by `crop` pixels in the mode of the old one."""
        short = min(image.size)
        width, height = (int(self.resize * side / short) for side in image.size)  # the longer side is rounded down
        if (width, height) != image.size:
            image = image.resize((width, height), FILTERS[self.interpolation])
        left, top = round((width - self.crop) / 2), round((height - self.crop) / 2)  # halves go to the even number
        return image.crop((left, top, left + self.crop, top + self.crop))


def preprocessing_from(declared: Any, shape: tuple[int, int, int] | None) -> Preprocessing | None:
    """Read what a module or a card declares under `photographs`.

    Args:
      declared: a mapping of the fields of `Preprocessing`, or None.
      shape: height, width, channels that the classifier takes.

    Raises:
      BadInput: other fields or values, or a crop that is not of this shape.
    """
    if declared is None:
        return None
    if not (isinstance(declared, Mapping) and set(declared) == {"resize", "crop", "interpolation"}):
        raise BadInput(f"expected `photographs` with resize, crop and interpolation, got {declared!r}; correct the module or its card")
    if not all(type(declared[name]) is int for name in ("resize", "crop")):
        raise BadInput(f"expected whole numbers of pixels for resize and crop, got {declared!r}; correct `photographs`")
    found = Preprocessing(**declared)
    if shape is None or shape[:2] != (found.crop, found.crop):
        raise BadInput(f"expected a crop of the classifier's input_shape, got crop {found.crop} and {shape}; correct `photographs`")
    return found
