"""Encoded images (JPEG, PNG, ...) decoded on threads, ahead of whoever reads them; what readers of single images share.

Pillow decodes and resizes without Python's lock, so threads are enough. Pixels are those of a full decoding: JPEG's cheap way to a
smaller image (draft mode) would change them.
"""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from a2d_jax.errors import BadInput
from a2d_jax.io.photographs import Preprocessing
from a2d_jax.io.source import Block, ImageSource, Shape, image_shape, text

DEPTH = 64
"""Images decoded before they are asked for, at most."""

T = TypeVar("T")


class Row(NamedTuple):
    """One image as a reader found it: an array of any allowed type, or why there is none."""

    id: str
    image: NDArray[Any] | str
    label: int | None


def decoded(data: bytes, shape: Shape | None, preprocessing: Preprocessing | None) -> NDArray[np.uint8] | str:
    """The pixels of an encoded image, or what is wrong with it.

    Args:
      data: the encoded image.
      shape: what is wanted: grey or RGB (None: as the image is), and a size that the image must have.
      preprocessing: how an image of another size gets it; one that has the size is taken as it is.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith(("I", "F")):
                return f"expected 8 bits per channel, got an image of mode {image.mode}; convert it to 8 bits"
            own = 1 if image.mode in ("1", "L", "LA") else 3
            channels = shape[2] if shape and shape[2] in (1, 3) else own
            size = (image.height, image.width, channels)
            wrong = _shape_error(size, shape) if shape else None
            if wrong and (preprocessing is None or not shape or channels != shape[2]):
                return wrong  # told by the header: an image that is far too large is never decoded
            pixels = image.convert("L" if channels == 1 else "RGB")
            if wrong and preprocessing:
                pixels = preprocessing(pixels)
            return np.asarray(pixels).reshape(pixels.height, pixels.width, channels)
    except UnidentifiedImageError:
        return "expected an image, got a file of no known image format; save it again"
    except Exception as error:  # whatever a decoder raises on damaged bytes concerns this image alone
        return f"expected a readable image, got a corrupt or truncated one ({error or type(error).__name__}); save it again"


def source_of_rows(
    path: Path,
    files: Sequence[Path],
    count: int,
    items: Callable[[int, int], Iterable[T]],
    row: Callable[[T], Row],
    digest: Callable[[], str],
    *,
    labels: bool,
    shape: Shape | None,
    preprocessing: Preprocessing | None = None,
    note: str | None = None,
) -> ImageSource:
    """A source over images that are decoded one by one, all of the shape of the first good one.

    Args:
      path: see `ImageSource`, as for `files`, `count`, `digest`, `labels`, `preprocessing` and `note`.
      items: `(begin, end)` gives what to decode, from place `begin` to `end - 1`.
      row: decodes an item; called on several threads.
      shape: the shape asked for.

    Raises:
      BadInput: there is no good image.
    """
    wanted = _first_good(map(row, items(0, count)), path, shape)

    def blocks(begin: int, end: int, size: int) -> Iterator[Block]:
        return _collected(_ahead(row, items(begin, end)), size, wanted)

    return ImageSource(path, files, count, wanted, labels, blocks, digest, preprocessing, note)


def _ahead(function: Callable[[T], Row], items: Iterable[T]) -> Iterator[Row]:
    """`map` on threads, in order, at most `DEPTH` results ahead of the reader."""
    with ThreadPoolExecutor() as pool:
        waiting: deque[Future[Row]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) == DEPTH:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # the reader has enough
                future.cancel()


def _first_good(rows: Iterable[Row], path: Path, shape: Shape | None) -> Shape:
    """The shape of the first image that can be used; none at all is an error of the whole set."""
    first: str | None = None
    count = 0
    for row in rows:
        if not isinstance(row.image, str):
            return image_shape((1, *row.image.shape), path)
        first = first or f"{row.id}: {row.image}"
        count += 1
    wanted = f" of {text(shape)} (h x w x c)" if shape else ""
    raise BadInput(f"expected images{wanted} in {path}, got {count} of which none can be used; the first is {first}")


def _collected(rows: Iterable[Row], size: int, shape: Shape) -> Iterator[Block]:
    """Rows gathered into blocks; an image of another shape or type becomes an error."""
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield _block(batch, shape)
            batch = []
    if batch:
        yield _block(batch, shape)


def _block(rows: list[Row], shape: Shape) -> Block:
    images = [row.image for row in rows]
    error = [image if isinstance(image, str) else _shape_error(image.shape, shape) for image in images]
    good = [image for image, wrong in zip(images, error, strict=True) if wrong is None and not isinstance(image, str)]
    x = np.zeros((len(rows), *shape), good[0].dtype if good else np.uint8)
    for place, image in zip((i for i, wrong in enumerate(error) if wrong is None), good, strict=True):
        x[place] = image
    labels = [row.label for row in rows]
    label = None if None in labels else np.asarray(labels, np.int64)
    return Block(x, label, [row.id for row in rows], error)


def _shape_error(got: tuple[int, ...], shape: Shape) -> str | None:
    return None if got == shape else f"expected an image of {text(shape)} (h x w x c), got {text(got)}; resize it"
