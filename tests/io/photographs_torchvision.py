"""The results of torchvision on photographs, for `test_photographs.py`. This script needs torchvision, the tests do not.

    python -m tests.io.photographs_torchvision        writes tests/golden/photographs.npz

The photographs are drawn by a formula. torchvision's `Resize` and `CenterCrop` resize and crop each of them. The golden file contains the
pixels, or for large crops their SHA-256. It was made with torchvision 0.28.0 and Pillow 13.0.0.
"""

import hashlib
import pathlib

import numpy as np
from PIL import Image

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "photographs.npz"
SIZES = [(40, 40), (33, 50), (50, 37), (32, 57), (31, 33), (20, 15), (101, 67), (300, 34), (28, 28), (64, 129)]  # height, width
LARGE = [(256, 341), (375, 500), (500, 333), (333, 500), (150, 120), (256, 256)]
SMALL_CROPS = [(32, 28), (33, 28)]  # resize, crop: even and odd margins
LARGE_CROPS = [(256, 224), (232, 224)]
FILTERS = ["bilinear", "bicubic"]


def photograph(height: int, width: int) -> Image.Image:
    """Waves with edges, different in each channel."""
    y, x, c = np.ogrid[:height, :width, :3]
    waves = 128 + 80 * np.sin(x * (0.31 + 0.1 * c) + 0.01 * y * y) + 60 * ((x // 7 + y // 5 + c) % 2)
    return Image.fromarray(np.clip(waves, 0, 255).astype(np.uint8))


def cases():
    """Name, photograph, resize, crop, filter, and whether its pixels are kept or their hash."""
    for sizes, crops, whole in ((SIZES, SMALL_CROPS, True), (LARGE, LARGE_CROPS, False)):
        for height, width in sizes:
            for resize, crop in crops:
                for name in FILTERS:
                    yield f"{height}x{width} {resize} {crop} {name}", photograph(height, width), resize, crop, name, whole


def digest(pixels: np.ndarray) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).digest(), np.uint8)


def main() -> None:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    golden = {}
    for case, image, resize, crop, name, whole in cases():
        pixels = np.asarray(Compose([Resize(resize, InterpolationMode(name)), CenterCrop(crop)])(image))
        golden[case] = pixels if whole else digest(pixels)
    np.savez_compressed(GOLDEN, **golden)


if __name__ == "__main__":
    main()
