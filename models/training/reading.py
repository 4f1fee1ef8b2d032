"""Batches for training from a set of images: good images only, in a new order for every epoch."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from a2d_jax.errors import BadInput
from a2d_jax.io.source import ImageSource, Piece
from models.training.loop import Batch

HELD = 4 << 30  # bytes of images in memory at a time, as float32


def good(source: ImageSource, piece: Piece) -> Batch:
    """Images `n h w c` and labels `n` of a piece.

    Raises:
      BadInput: one of the images carries an error.
    """
    for name, error in zip(piece.id, piece.error, strict=True):
        if error:
            raise BadInput(f"expected good images in {source.path}, got the image {name}: {error}")
    return piece.x, np.asarray(piece.label, np.int32)


def whole(source: ImageSource) -> Batch:
    """All images and labels of a set that fits into memory."""
    batches = [good(source, piece) for piece in source.pieces()]
    return np.concatenate([x for x, _ in batches]), np.concatenate([label for _, label in batches])


def shuffled(x: np.ndarray, label: np.ndarray, size: int, seed: tuple[int, ...]) -> Iterator[Batch]:
    """All images once in random order, `size` at a time; those that do not fill a batch are left out."""
    order = np.random.default_rng(seed).permutation(len(x))
    for rows in order[: len(x) // size * size].reshape(-1, size):
        yield x[rows], label[rows]


def reader(source: ImageSource, size: int, seed: int) -> tuple[Callable[[int], Iterator[Batch]], int]:
    """Batches by epoch, and how many an epoch has.

    A set of up to 4 GiB is read once and shuffled as a whole. A larger one is read again for every epoch, in its own order, through a
    window of 4 GiB that is shuffled each time it is full: such a set must not be sorted by class.
    """
    if not source.labels:
        raise BadInput(f"expected labelled images, got {source.path} without labels; choose another data set")
    if size > len(source):
        raise BadInput(f"expected a batch size of at most {len(source)}, the number of images, got {size}; choose a smaller one")
    window = max(HELD // (4 * math.prod(source.shape)) // size, 1) * size
    if len(source) <= window:
        (held,) = _windows(source, window, size)
        return lambda epoch: shuffled(*held, size, (seed, epoch)), len(source) // size

    def batches(epoch: int) -> Iterator[Batch]:
        for number, (x, label) in enumerate(_windows(source, window, size)):
            if number == 0 and (np.diff(label) >= 0).all():
                raise BadInput(f"expected images in random order, got {source.path}, sorted by class and too large to hold; shuffle it")
            yield from shuffled(x, label, size, (seed, epoch, number))

    return batches, len(source) // size


def _windows(source: ImageSource, count: int, size: int) -> Iterator[Batch]:
    """The set in order, `count` images at a time (a multiple of `size`); each is valid until the next is asked for."""
    x, label = np.empty((min(count, len(source)), *source.shape), np.float32), np.empty(min(count, len(source)), np.int32)
    filled = 0
    for piece in source.pieces(size):
        here = slice(filled, filled + len(piece.x))
        x[here], label[here] = good(source, piece)
        filled = here.stop
        if filled == len(x):
            yield x, label
            filled = 0
    if filled:
        yield x[:filled], label[:filled]
