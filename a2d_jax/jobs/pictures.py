"""Find the images of a table in sets of images, to show them beside their numbers.

A table may have been joined from parts, and a set may have grown since. So a set is asked for an image at the place that the table says,
and then by its name; and an image is taken only if it is the one: by its pixels where the table records fingerprints, else by the digest
of the set, else by a name that is more than a number.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from a2d_jax.costs import fingerprints
from a2d_jax.errors import BadInput
from a2d_jax.io.images import ImageSource, open_images
from a2d_jax.io.photographs import Preprocessing
from a2d_jax.io.urls import Url

ARRAYS = (".npz", ".npy")
LARGEST = 160
"""Pixels of a side that is shown; larger images are made smaller."""
NAMED = 2**20
"""Images of a set that is searched by name, at most."""


class Table(Protocol):
    """What identifies the images of a table, one by one."""

    @property
    def path(self) -> Path: ...
    @property
    def index(self) -> NDArray[np.int64]: ...
    @property
    def ids(self) -> Any: ...
    @property
    def fingerprint(self) -> NDArray[np.int64] | None: ...
    @property
    def meta(self) -> Mapping[str, Any]: ...


def pictures_of(paths: Sequence[Path], table: Table, rows: Sequence[int]) -> tuple[dict[int, NDArray[np.float32]], list[str]]:
    """The images of some rows of a table, small enough for a page, and a note on those that were not found.

    Args:
      paths: sets of images, as the user gave them; none finds nothing.
      table: the table.
      rows: of the table.

    Raises:
      BadInput: a set that does not exist or cannot be read.
    """
    if not paths:
        return {}, []
    named = [(int(table.index[row]), table.ids[row].as_py()) for row in rows]
    sets = [_Set(_opened(one, table.meta), named) for path in paths for one in _sets_of(path)]
    found = {row: x for row in rows if (x := _found(sets, table, row)) is not None}
    if len(found) == len(rows):
        return found, []
    where = ", ".join(map(str, paths))
    return found, [f"{len(rows) - len(found)} of the {len(rows)} images of {table.path} to show were not found in {where}"]


def _found(sets: "Sequence[_Set]", table: Table, row: int) -> NDArray[np.float32] | None:
    index, name = int(table.index[row]), table.ids[row].as_py()
    for one in sets:
        for place in one.places(index, name):
            x = one.x.get(place)
            if x is not None and x.shape[2] in (1, 3) and _same(one, place, x, table, row):
                return _small(x)
    return None


def _same(one: "_Set", place: int, x: NDArray[np.float32], table: Table, row: int) -> bool:
    """Whether the image at a place of a set is that of a row."""
    if table.fingerprint is not None:
        return int(fingerprints(x[None])[0]) == int(table.fingerprint[row])
    index, name = int(table.index[row]), table.ids[row].as_py()
    if table.meta.get("images_sha256") == one.digest:
        return place == index
    return name != str(index) and one.names[place] == name


def _small(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """An image of at most `LARGEST` pixels a side."""
    longest = max(x.shape[:2])
    if longest <= LARGEST:
        return x
    height, width = (max(1, round(side * LARGEST / longest)) for side in x.shape[:2])
    channels = [Image.fromarray(x[:, :, channel]).resize((width, height), Image.Resampling.BOX) for channel in range(x.shape[2])]
    return np.stack([np.asarray(channel) for channel in channels], axis=2)


class _Set:
    """A set of images, of which those with some places or names are read, in one go.

    Attributes:
      x: by place; images with an error are left out.
      names: by place.
    """

    def __init__(self, source: ImageSource, named: Sequence[tuple[int, str]]) -> None:
        self._source = source
        self.x: dict[int, NDArray[np.float32]] = {}
        self.names: dict[int, str] = {}
        for piece in source.spans([(place, place + 1) for place in sorted({place for one in named for place in self.places(*one)})], 1):
            place = int(piece.index[0])
            self.names[place] = piece.id[0]
            if piece.error[0] is None:
                self.x[place] = piece.x[0]

    def places(self, index: int, name: str) -> list[int]:
        """Where an image may be."""
        found = [index] if 0 <= index < len(self._source) else []
        named = self._by_name.get(name)
        return found if named is None or named in found else [*found, named]

    @cached_property
    def digest(self) -> str:
        return self._source.digest()

    @cached_property
    def _by_name(self) -> dict[str, int]:
        known = self._source.known
        if known is None or len(self._source) > NAMED:
            return {}
        return {known(place)[0]: place for place in reversed(range(len(self._source)))}


def _sets_of(path: Path) -> list[Path]:
    """The sets that a path of the user names: itself, or the arrays in a folder."""
    if isinstance(path, Url) or not path.is_dir():
        return [path]
    return sorted(one for one in path.iterdir() if one.suffix.lower() in ARRAYS and not one.name.startswith(".")) or [path]


def _opened(path: Path, meta: Mapping[str, Any]) -> ImageSource:
    """A set, prepared as the table says; one of another shape cannot hold its images but may hold those of another table."""
    shape, prepared, background = meta.get("shape"), meta.get("photographs"), meta.get("background")
    preprocessing = None
    with suppress(BadInput, TypeError):  # a record of another form
        preprocessing = Preprocessing(**prepared) if prepared else None
    wanted: Any = {"preprocessing": preprocessing, "background": background if isinstance(background, str) else None}
    try:
        source = open_images(path, shape=tuple(shape) if shape else None, **wanted)
    except BadInput:
        if not shape:
            raise
        source = open_images(path, **wanted)
    return source
