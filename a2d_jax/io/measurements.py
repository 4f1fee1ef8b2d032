"""Read tables of measurements: long tables of costs and of CLEVER scores become columns of numbers, one row per image.

A table is a parquet file, or a folder of such files. The files of a folder are parts of one table: other images, other attacks on the same
images, or both. An image is identified by its index, its id and its fingerprint. If each part counts from 0, the parts are renumbered one
after the other. All of this is done by columns, since a table may have millions of rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from a2d_jax.errors import BadInput
from a2d_jax.io.joining import Joining
from a2d_jax.io.provenance import MIXED, Meeting, Origin, same_origins
from a2d_jax.io.rows import LENGTHS, Records, Rows, files_of, read_rows
from a2d_jax.io.store import each
from a2d_jax.io.tables import Meta
from a2d_jax.io.urls import as_path
from a2d_jax.measurements import CLEVER, Column, farthest, honest, same_rows
from a2d_jax.norms import NORMS


@dataclass(frozen=True)
class Measurements:
    """Numbers of images under several measurements, one row per image; images with an error are left out.

    Attributes:
      path: the file or folder it was read from.
      names: the measurements: attacks, or `clever:` and a target.
      index: position of each image in its set.
      ids: name of each image, as an Arrow array.
      fingerprint: of each image's pixels; None in a table that does not have them.
      label: the class that was attacked; -1 if it is not known.
      numbers: by measurement and number, each `n`, exact in half the bits where these suffice; NaN where a row has no value.
      success: by measurement, `n`; all true if the table has no such column.
      censored: by measurement, `n`: the budget ended before the attack did; all false if the table has no such column.
      errors: index, id and error of the images left out.
      meta: settings of the run; empty if the table was not written by this project.
      meeting: notes on the files it was read from, and the differences between their origins.
    """

    path: Path
    names: tuple[str, ...]
    index: NDArray[np.int64]
    ids: Any
    fingerprint: NDArray[np.int64] | None
    label: NDArray[np.int64]
    numbers: Mapping[str, Mapping[str, NDArray[Any]]]
    success: Mapping[str, NDArray[np.bool_]]
    censored: Mapping[str, NDArray[np.bool_]]
    errors: list[tuple[int, str, str]]
    meta: Meta
    meeting: Meeting = field(default_factory=Meeting)

    @cached_property
    def id(self) -> list[str]:
        """Name of each image."""
        return self.ids.to_pylist()

    @property
    def key(self) -> NDArray[np.int64]:
        """A number for each image: its fingerprint, or its position in the set if the table is older than fingerprints."""
        return self.index if self.fingerprint is None else self.fingerprint

    @property
    def origin(self) -> Origin:
        """The origin of its numbers."""
        return Origin(str(self.path), self.meta)

    def columns(self, texts: Sequence[str]) -> tuple[Column, ...]:
        """Columns as typed, such as `bim` or `fmn.distance`.

        Raises:
          BadInput: the table lacks one of them.
        """
        if not all({text, text.rpartition(".")[0]} & set(self.names) for text in texts):
            have = ", ".join(self.names)
            raise BadInput(f"expected {', '.join(texts)}, got a table of {have} in {self.path}; measure all of them, or name others")
        found = Column.all_named(texts, self.names)
        for column in found:
            if column.number not in self.numbers[column.measurement]:
                raise BadInput(
                    f"expected the column {column.number} of {column.measurement} in {self.path}, got a table without it; measure again"
                )
        return found

    def select(self, columns: Sequence[Column]) -> NDArray[Any]:
        """The numbers of these columns, in this order, `n columns`; whole where all of them are.

        Raises:
          BadInput: the table lacks one of them, or some images do.
        """
        if missing := [str(column) for column in columns if column.number not in self.numbers.get(column.measurement, ())]:
            raise BadInput(f"expected {', '.join(missing)}, got a table of {', '.join(self.names)} in {self.path}; measure all of them")
        return np.stack([self._read(column) for column in columns], axis=1)

    def _read(self, column: Column) -> NDArray[Any]:
        values, success = self.numbers[column.measurement][column.number], self.success[column.measurement]
        values = values.astype(np.int64 if values.dtype.kind == "i" else np.float64)
        unknown = ~np.isfinite(values)
        if column.number in LENGTHS:  # where the attack failed, another number is read
            values, unknown = np.where(unknown.any() and not unknown.all() and ~success, 0, values), unknown & success
        if unknown.any() and not (column.number == "crossing" and unknown.all()):
            first = self.ids[int(np.flatnonzero(unknown)[0])].as_py()
            raise BadInput(
                f"expected {column.measurement}.{column.number} of every image, got {int(unknown.sum())} without it in {self.path}, "
                f"the first is {first}; leave these images out, or read another number"
            )
        return honest(column, values, success, self._farthest(column))

    def _farthest(self, column: Column) -> float | None:
        norm, shape = self.meta.get("norms", {}).get(column.measurement), self.meta.get("shape")
        return farthest(norm, tuple(shape)) if norm in NORMS and shape else None


def read_measurements(path: str | Path, *, mixed_origins: bool = False, how: str = MIXED) -> Measurements:
    """Read a long table of costs, or of CLEVER scores, and make it wide.

    Args:
      path: a parquet file, or a folder of parquet files, which lie in it or one level down; also by URL.
      mixed_origins: accept files of a folder that were measured in different ways.
      how: the option that the user must pass for this, for the error.

    Raises:
      BadInput: no such file, no such table, no good image, an image with a measurement missing or given twice, or files of a folder that
        were measured in different ways.
    """
    path = as_path(path)
    rows, origins = _rows_of(path)
    meeting = Meeting()
    if len(origins) > 1:
        names = list(dict.fromkeys(name for origin in origins for name in origin.meta.get("attacks", {})))
        meeting = same_origins(names, origins, mixed_origins, how)
    images, renumbered = _images(rows)
    notes = [f"images of {path} were renumbered, one file after the other: some had the same index"] if renumbered else []
    return _wide(rows, images, path, _merged(path, origins, meeting), meeting + Meeting(notes))


def _rows_of(path: Path) -> tuple[Rows, list[Origin]]:
    """The rows of all files of a table, and the origin of each file."""
    records, origins, joining, kinds = Records(), list[Origin](), Joining(), set[bool]()
    files = files_of(path)
    for file, (rows, meta) in zip(files, each(lambda file: read_rows(file, records), files), strict=True):
        kinds.add(rows.clever)
        if len(kinds) > 1:
            raise BadInput(
                f"expected files of one kind, got costs and CLEVER scores in the folder {path}; give each kind a folder of its own"
            )
        origins.append(Origin(str(file), meta, rows.names))
        joining.add(rows)
    return joining.joined(kinds.pop()), origins


@dataclass(frozen=True)
class _Images:
    """The images of a table, by rising index.

    Attributes:
      index: of each image.
      first: the first row of each image.
      row: the image of each row, a place in `index`.
    """

    index: NDArray[np.int64]
    first: NDArray[np.int64]
    row: NDArray[np.int64]


def _images(rows: Rows) -> tuple[_Images, bool]:
    """The images, numbered so that an index names one image, and whether that needed other numbers.

    An image that cannot be used has no pixels to know it by: each mention of it is another one.
    """
    named = rows.id.indices.to_numpy()
    pixels = rows.index if rows.fingerprint is None else rows.fingerprint
    index, first, row = np.unique(rows.index, return_index=True, return_inverse=True)
    bad = np.fromiter(rows.reason, np.int64, len(rows.reason))
    mention = _mentions(same_rows(row[bad], named[bad], pixels[bad], rows.name[bad]))
    if not mention.any() and all((column == column[first][row]).all() for column in (named, pixels)):
        return _Images(index, first, row), False
    mentions = np.zeros(len(row), np.int64)
    mentions[bad] = mention
    _, first, row = np.unique(same_rows(row, named, pixels, mentions), return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return _Images(np.arange(len(order)), first[order], rank[row]), True


def _mentions(code: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many rows before it have the same number."""
    order = np.argsort(code, kind="stable")
    _, start, count = np.unique(code[order], return_index=True, return_counts=True)
    found = np.empty_like(code)
    found[order] = np.arange(len(code)) - np.repeat(start, count)
    return found


def _merged(path: Path, origins: Sequence[Origin], meeting: Meeting) -> Meta:
    """What all files say of their run, as one; the sets of images are those of each file, or of each subfolder."""
    if len(origins) == 1:
        return origins[0].meta
    own = ("images", "images_sha256", "count", "spec")
    whole: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {"attacks": {}, "norms": {}}
    for meta in {id(origin.meta): origin.meta for origin in origins}.values():
        whole = {**meta, **whole}
        for name, table in tables.items():
            tables[name] = {**table, **{key: value for key, value in meta.get(name, {}).items() if key not in table}}
    places = {(Path(origin.name).relative_to(path).parts[0], id(origin.meta)): origin.meta for origin in origins}
    parts = [{"file": place} | {key: meta[key] for key in own if key in meta} for (place, _), meta in places.items()]
    kept = {key: value for key, value in whole.items() if key not in own}
    return {**kept, **{name: table for name, table in tables.items() if table}, "parts": parts, **meeting.as_meta}


def _wide(rows: Rows, images: _Images, path: Path, meta: Meta, meeting: Meeting) -> Measurements:
    """One row for each image."""
    ordered = tuple(meta.get("attacks", ()))
    names = ordered if set(ordered) == set(rows.names) else rows.names
    place = np.asarray([names.index(name) for name in rows.names])[rows.name]
    index, first, row = images.index, images.first, images.row

    def called(image: NDArray[np.int64]) -> Any:
        return rows.id.dictionary.take(rows.id.indices.take(first[image]))

    bad = np.fromiter(rows.reason, np.int64, len(rows.reason))
    failed, at = np.unique(row[bad], return_index=True)  # at: the first error of an image
    good = np.ones(len(index), bool)
    good[failed] = False
    reasons = [rows.reason[i] for i in bad[at].tolist()]
    errors = list(zip(index[failed].tolist(), called(failed).to_pylist(), reasons, strict=True))
    if not good.any():
        raise BadInput(
            f"expected costs of at least one image, got errors in all {len(index)} images of {path}; the first is: {errors[0][2]}"
        )
    cell = place * len(index) + row
    times = np.bincount(cell, minlength=len(index) * len(names)).reshape(len(names), len(index))
    if (holes := (times != 1) & good).any():
        image, column = np.argwhere(holes.T)[0]
        found = f"{times[column, image]} of {names[column]} for image {index[image]} ({called(np.asarray([image]))[0]})"
        remedy = (
            "leave out the rows given twice; to merge tables, put their files into a folder, each image in one of them, and give the folder"
            if times[column, image]
            else "measure every attack on every image; files of the same images in one folder are taken together"
        )
        raise BadInput(f"expected one row per image and attack, got {found} in {path}; {remedy}")

    def wide(values: NDArray[Any]) -> dict[str, NDArray[Any]]:
        table = np.zeros(times.size, values.dtype)
        table[cell] = values
        return dict(zip(measurements, table.reshape(times.shape)[:, good], strict=True))

    measurements = tuple(f"{CLEVER}{name}" if rows.clever else name for name in names)
    numbers = {number: wide(values) for number, values in rows.numbers.items()}
    here = np.flatnonzero(good)
    found = Measurements(
        path=path,
        names=measurements,
        index=index[good],
        ids=called(here),
        fingerprint=None if rows.fingerprint is None else rows.fingerprint[first[good]],
        label=rows.label[first[good]],
        numbers={name: {number: values[name] for number, values in numbers.items()} for name in measurements},
        success=wide(rows.success),
        censored=wide(rows.censored),
        errors=errors,
        meta=meta,
        meeting=meeting,
    )
    pa.default_memory_pool().release_unused()
    return found
