"""A set of images as checked pieces, in order or from any position: all readers return it and all commands read it."""

import hashlib
import math
import os
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from a2d_jax.errors import BadInput
from a2d_jax.io.here import Fetching
from a2d_jax.io.photographs import Preprocessing
from a2d_jax.io.seen import Seen

Shape = tuple[int, int, int]
"""Height, width, channels."""

PIECE_BYTES = 32 << 20
"""Size of a piece at most: small enough that the first one comes soon, large enough for any device (32 images of 224 x 224 x 3)."""


@dataclass(frozen=True)
class Piece:
    """Some consecutive images. Rows with an error have zeros in `x`."""

    index: NDArray[np.int64]  # place in the set, from 0
    id: list[str]  # file name, id column, or the index as text
    x: NDArray[np.float32]  # n h w c, in [0, 1]
    label: NDArray[np.int64] | None
    error: list[str | None]


Description = dict[str, Any]
"""Plain data, as JSON can hold, from which `a2d_jax.io.images.reopen` opens a set again, here or on another machine."""


class Block(NamedTuple):
    """A piece as a reader returns it, not yet checked or scaled."""

    x: NDArray[Any]
    label: NDArray[np.int64] | None
    id: list[str] | None = None
    error: list[str | None] | None = None
    done: list[tuple[str, ...]] | None = None  # to each image, see `Seen`


@dataclass(frozen=True)
class ImageSource:
    """A set of images that can be read many times: in pieces from its start, or from any position.

    `dataclasses.replace(source, count=n)` is the set of its first `n` images.

    Attributes:
      path: path or name of the set; of a set by URL, where it lies in the cache.
      count: number of images, bad ones included; smaller than the set if only the first images are wanted.
      shape: height, width, channels of every good image.
      labels: the set has labels.
      blocks: `(begin, end, size)` reads the images from position `begin` to `end - 1`, `size` at a time.
      digest: returns the SHA-256 that identifies the set, see `content_digest`, `names_digest`.
      preprocessing: how images of another size were resized and cropped.
      background: colour behind transparent pixels.
      choices: decisions made for the user when the set was opened, such as which files to leave out.
      sequential: why the set can be read only from its start, and what to do about it; None for sets that are read from any position.
      url: where the set is, if it is in a store.
      known: id and label of the image at a place, without decoding it; None if the reader cannot tell.
      fetching: what it takes to read images of a set in a store in several files; None for other sets.
      origin: how it was opened, see `description`; None for sets in memory.
      seen: findings of the reader.
    """

    path: Path
    count: int
    shape: Shape
    labels: bool
    blocks: Callable[[int, int, int], Iterator[Block]]
    digest: Callable[[], str]
    preprocessing: Preprocessing | None = None
    background: str | None = None
    choices: Sequence[str] = ()
    sequential: str | None = None
    url: str | None = None
    known: Callable[[int], tuple[str, int | None]] | None = None
    fetching: Fetching | None = None
    origin: Description | None = None
    seen: Seen = field(default_factory=Seen, repr=False, compare=False)

    def __len__(self) -> int:
        return self.count

    @property
    def random_access(self) -> bool:
        """`rows` can be used."""
        return self.sequential is None

    @property
    def description(self) -> Description | None:
        """The argument of `a2d_jax.io.images.reopen`; None for a set in memory, which cannot be reopened."""
        return None if self.origin is None else {**self.origin, "count": self.count}

    @property
    def notes(self) -> list[str]:
        """Notes for the user on this set, one line each. Notes on pixels are complete only after the set was read."""
        return [*self.choices, *self.seen.lines(self.count)]

    @property
    def piece_size(self) -> int:
        """Images to take at a time: 256, or the power of two that keeps a piece below `PIECE_BYTES`, but at least 2."""
        fit = PIECE_BYTES // (4 * math.prod(self.shape))
        return max(2, min(256, 1 << max(fit, 1).bit_length() - 1))

    def pieces(self, size: int | None = None) -> Iterator[Piece]:
        """The set in order, `size` images (default `piece_size`) at a time; the last piece may be shorter.

        While a piece is in use, a thread reads the next one. So two pieces are in memory, and the caller seldom waits.
        """
        return self.spans([(0, self.count)], size)

    def spans(self, spans: Sequence[tuple[int, int]], size: int | None = None) -> Iterator[Piece]:
        """The images of several ranges of places, at most `size` (default `piece_size`) at a time, read one piece ahead like `pieces`.

        No piece reaches across a border between two ranges. Ranges that touch are read in one go. A set that can be read only from its
        start (`sequential`) is read once, up to the last image asked for.

        Args:
          spans: ranges `(begin, end)` of the places `begin` to `end - 1`, in ascending order and apart; they may be empty.
          size: images in a piece at most.

        Raises:
          BadInput: at once, if the ranges are not in ascending order or not in the set.
        """
        last = 0
        for begin, end in spans:
            if not last <= begin <= end <= self.count:
                raise BadInput(
                    f"expected ranges in ascending order from 0 to {self.count} in {self.path}, got {begin} to {end} after {last}; "
                    "sort them and ask for images that are there"
                )
            last = end
        return _one_ahead(self._spans([(begin, end) for begin, end in spans if begin < end], size or self.piece_size))

    def rows(self, begin: int, end: int) -> Piece:
        """The images from position `begin` to `end - 1` as one piece. The time depends on their number, not on the size of the set.

        Raises:
          BadInput: positions that are not in the set, or a set that can be read only from its start (`sequential`).
        """
        if not 0 <= begin <= end <= self.count:
            raise BadInput(f"expected places from 0 to {self.count} in {self.path}, got {begin} to {end}; ask for images that are there")
        if self.sequential is not None:
            raise BadInput(self.sequential)
        if begin == end:
            label = np.zeros(0, np.int64) if self.labels else None
            return Piece(np.arange(0), [], np.zeros((0, *self.shape), np.float32), label, [])
        (piece,) = self._spans([(begin, end)], end - begin)
        return piece

    def _spans(self, spans: Sequence[tuple[int, int]], size: int) -> Iterator[Piece]:
        """The pieces of ranges that are not empty; what lies between the ranges of one run is read and dropped."""
        for run in _runs(spans, self.sequential is not None):
            here, place = deque(run), run[0][0]
            for block in self.blocks(place, run[-1][1], size):
                begin, place = place, place + len(block.x)
                while here and here[0][0] < place:
                    first, end = here[0]
                    first = max(first, begin)
                    yield self._piece(first, _cut(block, first - begin, min(end, place) - begin))
                    if end > place:
                        break
                    here.popleft()

    def _piece(self, begin: int, block: Block) -> Piece:
        self.seen.add(begin, block.x, block.done)
        x, error = _checked(block.x, block.error)
        index = np.arange(begin, begin + len(x))
        return Piece(index, block.id or [str(i) for i in index], x, block.label, error)


def _runs(spans: Sequence[tuple[int, int]], one: bool) -> list[list[tuple[int, int]]]:
    """Ranges that are read in one go: those that touch each other, or all of them if there must be `one` run."""
    runs: list[list[tuple[int, int]]] = []
    for span in spans:
        if runs and (one or runs[-1][-1][1] == span[0]):
            runs[-1].append(span)
        else:
            runs.append([span])
    return runs


def _cut(block: Block, begin: int, end: int) -> Block:
    """Some rows of a block."""
    if (begin, end) == (0, len(block.x)):
        return block
    here = slice(begin, end)
    return Block(
        block.x[here],
        None if block.label is None else block.label[here],
        block.id and block.id[here],
        block.error and block.error[here],
        block.done and block.done[here],
    )


def _one_ahead(pieces: Iterator[Piece]) -> Iterator[Piece]:
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, pieces, None)
        while (piece := following.result()) is not None:
            following = pool.submit(next, pieces, None)
            yield piece


def content_digest(*files: Path) -> str:
    """SHA-256 of one file after the other."""
    hashed = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                hashed.update(block)
    return hashed.hexdigest()


def names_digest(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 of names, as bytes, and sizes only: hashing a million photographs would take as long as reading them.

    Args:
      folder: where the files are.
      names: their names, relative to the folder, with slashes.
    """
    hashed, root = hashlib.sha256(), os.fspath(folder)
    for name in names:
        try:
            size = os.stat(f"{root}/{name}").st_size
        except OSError:  # a link that leads nowhere; its row has the error
            size = -1
        hashed.update(os.fsencode(name) + f" {size}\n".encode())
    return hashed.hexdigest()


def joined(path: Path, sources: Sequence[ImageSource]) -> ImageSource:
    """Join labelled sets of the same shape, each a file, one after the other, into one set; the ids of its images are numbers.

    Args:
      path: name of the joined set, for instance the folder of its files.
      sources: at least one.
    """
    starts = [0, *accumulate(source.count for source in sources)]

    def found(begin: int, end: int, size: int) -> Iterator[Block]:
        for source, start in zip(sources, starts, strict=False):
            first, last = max(begin - start, 0), min(end - start, source.count)
            if first < last:
                yield from source.blocks(first, last, size)

    def blocks(begin: int, end: int, size: int) -> Iterator[Block]:
        waiting: list[Block] = []
        missing = size
        for block in found(begin, end, size):
            while len(block.x) >= missing:
                yield _one_block([*waiting, Block(block.x[:missing], _labels(block)[:missing])])
                block = Block(block.x[missing:], _labels(block)[missing:])
                waiting, missing = [], size
            if len(block.x):
                waiting.append(block)
                missing -= len(block.x)
        if waiting:
            yield _one_block(waiting)

    sequential = next((source.sequential for source in sources if source.sequential), None)

    def digest() -> str:
        return content_digest(*(source.path for source in sources))

    return ImageSource(path, starts[-1], sources[0].shape, True, blocks, digest, sequential=sequential)


def _labels(block: Block) -> NDArray[np.int64]:
    assert block.label is not None  # `joined` takes labelled sets
    return block.label


def _one_block(blocks: Sequence[Block]) -> Block:
    return Block(np.concatenate([block.x for block in blocks]), np.concatenate([_labels(block) for block in blocks]))


def in_memory(name: str, x: NDArray[Any], label: NDArray[np.int64] | None = None) -> ImageSource:
    """A set of arrays in memory.

    Args:
      name: name of the set, in place of a path.
      x: images `n h w c`, uint8 or floating point in [0, 1].
      label: classes `n`, if they are known.
    """

    def blocks(begin: int, end: int, size: int) -> Iterator[Block]:
        for start in range(begin, end, size):
            here = slice(start, min(start + size, end))
            yield Block(x[here], None if label is None else label[here])

    def digest() -> str:
        hashed = hashlib.sha256(x.tobytes())
        hashed.update(b"" if label is None else label.tobytes())
        return hashed.hexdigest()

    return ImageSource(Path(name), len(x), image_shape(x.shape, Path(name)), label is not None, blocks, digest)


def _checked(x: NDArray[Any], error: list[str | None] | None) -> tuple[NDArray[np.float32], list[str | None]]:
    errors: list[str | None] = list(error) if error else [None] * len(x)
    if x.dtype == np.uint8:
        return x.astype(np.float32) / np.float32(255), errors
    good = ((x >= 0) & (x <= 1)).all(axis=(1, 2, 3))  # NaN is in no interval
    for row in np.flatnonzero(~good):
        errors[row] = errors[row] or _range_error(x[row])
    x = x.astype(np.float32)
    x[~good] = 0
    return x, errors


def _range_error(x: NDArray[Any]) -> str:
    if np.isnan(x).any():
        return f"expected values in [0, 1], got NaN in {np.isnan(x).sum()} of {x.size}; repair the image"
    return f"expected values in [0, 1], got {x.min():g} to {x.max():g}; scale the image"


def image_type(dtype: np.dtype[Any], path: Path) -> None:
    """Refuse what is neither uint8 nor floating point."""
    if dtype.hasobject:
        raise BadInput(f"expected uint8 or floating point images, got Python objects in {path}, which are never unpickled; save numbers")
    if dtype != np.uint8 and dtype.kind != "f":
        remedy = "divide by the largest possible value and save as float32" if dtype.kind in "iu" else "save as float32"
        raise BadInput(f"expected images as uint8, or floating point in [0, 1], got {dtype} in {path}; {remedy}")


def image_shape(dims: tuple[int, ...], path: Path) -> Shape:
    """The shape of one image from the dimensions of the set: `n h w c`, or `n h w` for one channel."""
    if len(dims) not in (3, 4) or 0 in dims[1:]:
        raise BadInput(f"expected images as n h w c (or n h w), got an array of shape {dims} in {path}; reshape it")
    return (dims[1], dims[2], dims[3] if len(dims) == 4 else 1)


def check_shape(source: ImageSource, shape: Shape | None) -> None:
    """Refuse a set of images of another shape than the one asked for."""
    if shape is not None and source.shape != shape:
        h, w, c = shape
        remedy = "transpose to n h w c" if source.shape == (c, h, w) else "resize the images or take another classifier"
        raise BadInput(f"expected images of {text(shape)} (h x w x c), got {text(source.shape)} in {source.path}; {remedy}")


def integer_labels(y: NDArray[Any], count: int, path: Path) -> NDArray[np.int64]:
    """Labels as int64 `n` from integers of shape `n` or `n 1`."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise BadInput(f"expected labels as one integer per image, got {y.dtype} of shape {y.shape} in {path}; save class numbers")
    if len(y) != count:
        raise BadInput(f"expected as many labels as images, got {len(y)} labels for {count} images in {path}; save them together")
    if y.dtype == np.uint64 and y.max(initial=0) > np.iinfo(np.int64).max:
        raise BadInput(f"expected class numbers below 2^63, got {y.max()} in {path}; correct the labels")
    return y.astype(np.int64)


def text(shape: tuple[int, ...]) -> str:
    """A shape as people write it: 28 x 28 x 1."""
    return " x ".join(map(str, shape))


@contextmanager
def readable(path: Path) -> Generator[None]:
    """Turn the exceptions of decoders on a damaged file into an error of this file."""
    try:
        yield
    except (OSError, EOFError, RuntimeError, UnicodeDecodeError, zlib.error, zipfile.BadZipFile, pa.ArrowException) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> BadInput:
    """The error for a file that breaks off or is not what its name says."""
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    return BadInput(
        f"expected a readable {path.suffix or 'IDX'} file, got {path}, which is damaged or of another kind ({why}); save it again"
    )
