"""Encoded images (JPEG, PNG, ...) decoded on threads, before they are needed. All readers of single images use this file.

Pillow decodes and resizes without Python's lock, so threads are enough. Images are decoded in full: JPEG's fast way to a smaller image
(draft mode) would change the pixels. `a2d_jax.io.pixels` treats the pixels of one image.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from a2d_jax.errors import BadInput
from a2d_jax.io.photographs import Preprocessing
from a2d_jax.io.pixels import Background, shape_error
from a2d_jax.io.source import Block, ImageSource, Shape, image_shape, text

DEPTH = 64
"""Images decoded before they are asked for, at most."""
first_place: ContextVar[int] = ContextVar("first_place", default=0)
"""Where a set that is opened begins to look for its first good image: behind those that end the process (`a2d_jax.io.probe`)."""

T = TypeVar("T")


class Row(NamedTuple):
    """One image as read: an array of any allowed type, or the reason why there is none; and the changes made to it."""

    id: str
    label: int | None
    image: NDArray[Any] | str
    done: tuple[str, ...] = ()


def source_of_rows(
    path: Path,
    count: int,
    items: Callable[[int, int], Iterable[T]],
    row: Callable[[T], Row],
    digest: Callable[[], str],
    *,
    labels: bool,
    shape: Shape | None,
    preprocessing: Preprocessing | None = None,
    background: Background | None = None,
    choices: Sequence[str] = (),
    sequential: str | None = None,
    known: Callable[[T], tuple[str, int | None]] | None = None,
) -> ImageSource:
    """A source over images that are decoded one by one, all of the shape of the first good one.

    Args:
      path: see `ImageSource`, as for `count`, `digest`, `labels`, `preprocessing`, `background`, `choices` and `sequential`.
      items: `(begin, end)` gives what to decode, from place `begin` to `end - 1`.
      row: decodes an item; called on several threads.
      shape: the shape asked for.
      known: id and label of an item, without decoding it.

    Raises:
      BadInput: there is no good image.
    """
    wanted = _first_good(map(row, items(min(first_place.get(), count), count)), path, shape)

    def blocks(begin: int, end: int, size: int) -> Iterator[Block]:
        return _collected(_ahead(row, items(begin, end)), size, wanted)

    place = background and background.name
    source = ImageSource(path, count, wanted, labels, blocks, digest, preprocessing, place, choices, sequential)
    return source if known is None else replace(source, known=lambda place: known(next(iter(items(place, place + 1)))))


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
    raise BadInput(f"expected images{wanted} in {path}, got {count}, none of which can be used; the first error is {first}")


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
    error = [image if isinstance(image, str) else shape_error(image.shape, shape) for image in images]
    good = [image for image, wrong in zip(images, error, strict=True) if wrong is None and not isinstance(image, str)]
    x = np.zeros((len(rows), *shape), good[0].dtype if good else np.uint8)
    for place, image in zip((i for i, wrong in enumerate(error) if wrong is None), good, strict=True):
        x[place] = image
    labels = [row.label for row in rows]
    label = None if None in labels else np.asarray(labels, np.int64)
    return Block(x, label, [row.id for row in rows], error, [row.done for row in rows])
