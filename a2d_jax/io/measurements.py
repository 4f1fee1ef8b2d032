"""Read tables of measurements: long tables of costs and of CLEVER scores become columns of numbers, one row per image.

A table is a parquet file, or a folder of such files. The files of a folder are parts of one table: other images, other attacks on the same
images, or both. An image is identified by its index, its id and its fingerprint. If each part counts from 0, the parts are renumbered one
after the other.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from a2d_jax.errors import BadInput
from a2d_jax.io.casting import EXACT, Cast, flags, real_numbers, texts, whole_numbers
from a2d_jax.io.provenance import MIXED, Meeting, Origin, checked_meta, same_origins
from a2d_jax.io.tables import Meta
from a2d_jax.measurements import ATTACK_NUMBERS, CLEVER, CLEVER_NUMBERS, Column, farthest, honest
from a2d_jax.norms import NORMS

LENGTHS = ("distance", "crossing")
MOST = 2**31 - 1
"""No attack counts further."""
FILES = "*.parquet"
"""The parts of a table that is a folder."""


@dataclass(frozen=True)
class Measurements:
    """Numbers of images under several measurements, one row per image; images with an error are left out.

    Attributes:
      path: the file or folder it was read from.
      names: the measurements: attacks, or `clever:` and a target.
      index: position of each image in its set.
      id: name of each image.
      fingerprint: of each image's pixels; None in a table that does not have them.
      label: the class that was attacked; -1 if it is not known.
      numbers: by measurement and number, each `n`; NaN where a row has no value.
      success: by measurement, `n`; all true if the table has no such column.
      censored: by measurement, `n`: the budget ended before the attack did; all false if the table has no such column.
      errors: index, id and error of the images left out.
      meta: settings of the run; empty if the table was not written by this project.
      meeting: notes on the files it was read from, and the differences between their origins.
    """

    path: Path
    names: tuple[str, ...]
    index: NDArray[np.int64]
    id: list[str]
    fingerprint: NDArray[np.int64] | None
    label: NDArray[np.int64]
    numbers: Mapping[str, Mapping[str, NDArray[Any]]]
    success: Mapping[str, NDArray[np.bool_]]
    censored: Mapping[str, NDArray[np.bool_]]
    errors: list[tuple[int, str, str]]
    meta: Meta
    meeting: Meeting = field(default_factory=Meeting)

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
        unknown = ~np.isfinite(values)
        if column.number in LENGTHS:  # where the attack failed, another number is read
            values, unknown = np.where(unknown.any() and not unknown.all() and ~success, 0, values), unknown & success
        if unknown.any() and not (column.number == "crossing" and unknown.all()):
            first = self.id[int(np.flatnonzero(unknown)[0])]
            raise BadInput(
                f"expected {column.measurement}.{column.number} of every image, got {int(unknown.sum())} without it in {self.path}, "
                f"the first is {first}; leave these images out, or read another number"
            )
        return honest(column, values, success, self._farthest(column))

    def _farthest(self, column: Column) -> float | None:
        norm, shape = self.meta.get("norms", {}).get(column.measurement), self.meta.get("shape")
        return farthest(norm, tuple(shape)) if norm in NORMS and shape else None


@dataclass(frozen=True)
class _Long:
    """The rows of one file, or of all of them."""

    clever: bool
    index: NDArray[np.int64]
    id: NDArray[Any]
    fingerprint: NDArray[np.int64] | None
    name: NDArray[Any]
    label: NDArray[np.int64]
    numbers: Mapping[str, NDArray[Any]]
    success: NDArray[np.bool_]
    censored: NDArray[np.bool_]
    reason: NDArray[Any]  # what is wrong with a row, or None


def read_measurements(path: str | Path, *, mixed_origins: bool = False, how: str = MIXED) -> Measurements:
    """Read a long table of costs, or of CLEVER scores, and make it wide.

    Args:
      path: a parquet file, or a folder of parquet files.
      mixed_origins: accept files of a folder that were measured in different ways.
      how: the option that the user must pass for this, for the error.

    Raises:
      BadInput: no such file, no such table, no good image, an image with a measurement missing or given twice, or files of a folder that
        were measured in different ways.
    """
    path = Path(path)
    files = _files(path)
    parts, metas = zip(*[_read(file) for file in files], strict=True)
    if len({part.clever for part in parts}) > 1:
        raise BadInput(f"expected files of one kind, got costs and CLEVER scores in the folder {path}; give each kind a folder of its own")
    names = list(dict.fromkeys(name for meta in metas for name in meta.get("attacks", {})))
    meeting = Meeting()
    if len(files) > 1:
        meeting = same_origins(names, [Origin(str(file), meta) for file, meta in zip(files, metas, strict=True)], mixed_origins, how)
    whole, renumbered = _numbered(_joined(parts))
    notes = [f"images of {path} were renumbered, one file after the other: some had the same index"] if renumbered else []
    return _wide(whole, path, _merged(files, metas, meeting), meeting + Meeting(notes))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.glob(FILES) if file.is_file() and not file.name.startswith("."))
    if not found:
        raise BadInput(f"expected a parquet table of costs, or a folder of such files, got {path}, a folder without any; check the path")
    return found


def _read(path: Path) -> tuple[_Long, Meta]:
    """The rows of a file, cast, and what it says of its run."""
    table = _table(path)
    names = table.column_names
    clever = "attack" not in names and {"target", "score"} <= set(names)
    by, usual = ("target", "score") if clever else ("attack", "cost")
    needed = ["index", "id", by, "label", usual, *([] if clever else ["censored"])]
    if missing := [name for name in needed if name not in names]:
        raise BadInput(f"expected a table of costs, got one without the columns {', '.join(missing)} in {path}; give a table of `a2d cost`")
    if not len(table):
        raise BadInput(f"expected a table of costs, got one without rows in {path}; run `a2d cost` on some images")
    meta = _meta(table.schema.metadata, path)
    index, name = whole_numbers(table["index"], "index", path), texts(table[by], by, path)
    for column, what in ((index, "an index"), (name, f"the name of {'a' if clever else 'an'} {by}")):
        if column.unreadable.any():
            row = int(np.flatnonzero(column.unreadable)[0])
            raise BadInput(
                f"expected {what} in every row, got {'another value' if row in column.wrong else 'none'} in row {row} of {path}; fill it in"
            )
    id_ = texts(table["id"], "id", path, numbers=True)
    label = whole_numbers(table["label"], "label", path, least=-1)
    read = {one: _number(table, one, path) for one in (CLEVER_NUMBERS if clever else ATTACK_NUMBERS) if one in names}
    told = {one: flags(table[one], one, path) for one in ("success", "censored") if one in names}
    reason = _reasons(table, path)
    for one, column in read.items():
        if one == usual:
            reason = {int(row): f"no {usual}" for row in np.flatnonzero(column.missing)} | reason
            column.wrong.update(_too_high(column, name, meta) if one == "cost" else {})
    for column in (label, *read.values(), *told.values()):
        reason = column.wrong | reason
    for one, column in told.items():
        if not column.absent:
            reason = {int(row): f"expected {one} as true or false, got none" for row in np.flatnonzero(column.missing)} | reason
    prints = _fingerprint(table, path) if "fingerprint" in names else None
    rows = np.full(len(table), None, object)
    rows[list(reason)] = list(reason.values())
    numbers = {
        one: column.values if not column.unreadable.any() or one == usual else np.where(column.unreadable, np.nan, column.values)
        for one, column in read.items()
        if not column.absent
    }
    nothing = np.zeros(len(table), bool)
    success = told["success"].values if "success" in told and not told["success"].absent else ~nothing
    return _Long(
        clever=clever,
        index=index.values,
        id=np.where(id_.missing, index.values.astype(str).astype(object), id_.values),
        fingerprint=prints,
        name=name.values,
        label=np.where(label.missing, -1, label.values),
        numbers=numbers,
        success=success,
        censored=told["censored"].values if "censored" in told else nothing,
        reason=rows,
    ), meta


def _number(table: Any, name: str, path: Path) -> Cast:
    if name == "cost":
        return whole_numbers(table[name], name, path, most=MOST)
    if name in ATTACK_NUMBERS and name not in LENGTHS:
        return whole_numbers(table[name], name, path, most=EXACT)
    return real_numbers(table[name], name, path, least=0 if name in (*LENGTHS, "score") else -np.inf)


def _reasons(table: Any, path: Path) -> dict[int, str]:
    """Errors that the table itself has."""
    if "error" not in table.column_names:
        return {}
    written = texts(table["error"], "error", path)
    return {int(row): written.values[row] for row in np.flatnonzero(~written.missing)}


def _too_high(cost: Cast, name: Cast, meta: Meta) -> dict[int, str]:
    """Costs that the budget, where it is recorded, does not allow."""
    most = {one: settings.get("max_steps") for one, settings in meta.get("attacks", {}).items()}
    limit = {one: steps + 1 for one, steps in most.items() if type(steps) is int}
    above = np.flatnonzero(cost.values > np.asarray([limit.get(one, MOST) for one in name.values]))
    return {
        int(row): f"expected a cost of {name.values[row]} of at most {limit[name.values[row]]}, got {cost.values[row]}" for row in above
    }


def _fingerprint(table: Any, path: Path) -> NDArray[np.int64] | None:
    """None where some image has none, or where a tool has turned them into floats, which round them."""
    try:
        column = whole_numbers(table["fingerprint"], "fingerprint", path)
    except BadInput:
        return None
    return None if column.unreadable.any() else column.values


def _joined(parts: Sequence[_Long]) -> _Long:
    """The rows of all files, one after the other."""
    if len(parts) == 1:
        return parts[0]

    def each(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])

    def number(name: str) -> NDArray[Any]:
        return np.concatenate([part.numbers.get(name, np.full(len(part.index), np.nan)) for part in parts])

    columns = {name: each(name) for name in ("index", "id", "name", "label", "success", "censored", "reason")}
    numbers = {name: number(name) for name in dict.fromkeys(name for part in parts for name in part.numbers)}
    known = all(part.fingerprint is not None for part in parts)
    return _Long(parts[0].clever, numbers=numbers, fingerprint=each("fingerprint") if known else None, **columns)


def _numbered(long: _Long) -> tuple[_Long, bool]:
    """The same rows, numbered so that an index names one image, and whether that needed other numbers."""
    pixels = long.index if long.fingerprint is None else long.fingerprint
    images = [(*image, 0) for image in zip(long.index.tolist(), long.id.tolist(), pixels.tolist(), strict=True)]
    seen: Counter[object] = Counter()
    for row in np.flatnonzero(_given(long.reason)):  # an image that cannot be used has no pixels to know it by: each mention is another one
        mention = images[row], long.name[row]
        images[row] = (*images[row][:3], seen[mention])
        seen[mention] += 1
    different = dict.fromkeys(images)
    if len(different) == len({index for index, *_ in different}):
        return long, False
    place = {image: number for number, image in enumerate(different)}
    return replace(long, index=np.asarray([place[image] for image in images], np.int64)), True


def _given(reason: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray([one is not None for one in reason], bool)


def _merged(files: Sequence[Path], metas: Sequence[Meta], meeting: Meeting) -> Meta:
    """What all files say of their run, as one; the sets of images are those of each file."""
    if len(files) == 1:
        return metas[0]
    whole: dict[str, Any] = {}
    for meta in reversed(metas):
        whole |= meta
    own = ("images", "images_sha256", "count", "spec")
    tables = {name: {key: value for meta in reversed(metas) for key, value in meta.get(name, {}).items()} for name in ("attacks", "norms")}
    parts = [{"file": file.name} | {key: meta[key] for key in own if key in meta} for file, meta in zip(files, metas, strict=True)]
    kept = {key: value for key, value in whole.items() if key not in own}
    return {**kept, **{name: table for name, table in tables.items() if table}, "parts": parts, **meeting.as_meta}


def _wide(long: _Long, path: Path, meta: Meta, meeting: Meeting) -> Measurements:
    """One row for each image."""
    names = tuple(dict.fromkeys(long.name))
    ordered = tuple(meta.get("attacks", ()))
    names = ordered if set(ordered) == set(names) else names
    number = {name: i for i, name in enumerate(names)}
    place = np.asarray([number[name] for name in long.name])
    index, first, row = np.unique(long.index, return_index=True, return_inverse=True)
    bad = np.flatnonzero(_given(long.reason))
    reasons = {int(row[i]): long.reason[i] for i in bad[::-1]}  # the first one of an image
    good = np.ones(len(index), bool)
    good[list(reasons)] = False
    errors = [(int(index[i]), str(long.id[first[i]]), str(reasons[i])) for i in sorted(reasons)]
    if not good.any():
        raise BadInput(
            f"expected costs of at least one image, got errors in all {len(index)} images of {path}; the first is: {errors[0][2]}"
        )
    times = np.zeros((len(index), len(names)), np.int64)
    np.add.at(times, (row, place), 1)
    if (times[good] != 1).any():
        image, column = np.argwhere((times != 1) & good[:, None])[0]
        found = f"{times[image, column]} of {names[column]} for image {index[image]} ({long.id[first[image]]})"
        remedy = (
            "leave out the rows given twice; to merge tables, put their files into a folder, each image in one of them, and give the folder"
            if times[image, column]
            else "measure every attack on every image; files of the same images in one folder are taken together"
        )
        raise BadInput(f"expected one row per image and attack, got {found} in {path}; {remedy}")

    def wide(values: NDArray[Any]) -> NDArray[Any]:
        table = np.zeros(times.shape, values.dtype)
        table[row, place] = values
        return table[good]

    numbers = {name: wide(values) for name, values in long.numbers.items()}
    success, censored = wide(long.success), wide(long.censored)
    called = [f"{CLEVER}{name}" if long.clever else name for name in names]
    return Measurements(
        path=path,
        names=tuple(called),
        index=index[good],
        id=[str(name) for name in long.id[first[good]]],
        fingerprint=None if long.fingerprint is None else long.fingerprint[first[good]],
        label=long.label[first[good]],
        numbers={name: {number: values[:, i] for number, values in numbers.items()} for i, name in enumerate(called)},
        success={name: success[:, i] for i, name in enumerate(called)},
        censored={name: censored[:, i] for i, name in enumerate(called)},
        errors=errors,
        meta=meta,
        meeting=meeting,
    )


def _table(path: Path) -> Any:
    """The columns of a parquet file that are ours."""
    if not path.is_file():
        raise BadInput(f"expected a parquet table of costs, got {path}, which is not a file; check the path")
    ours = ("index", "id", "attack", "target", "label", "success", "censored", "fingerprint", "error", *ATTACK_NUMBERS, *CLEVER_NUMBERS)
    try:
        if kind := _other_kind(path):
            raise BadInput(f"expected a parquet table of costs, got {path}, which is {kind}; write it as parquet (pandas: to_parquet)")
        with pa.OSFile(os.fsencode(path)) as file:  # PyArrow takes names that are not UTF-8 as bytes only
            names = pq.read_schema(file).names
        if twice := [name for name in ours if names.count(name) > 1]:
            raise BadInput(f"expected each column once, got {', '.join(twice)} more than once in {path}; leave one out")
        wanted = [name for name in dict.fromkeys(ours) if name in names]
        with pa.OSFile(os.fsencode(path)) as file:
            return pq.read_table(file, columns=wanted)
    except BadInput:
        raise
    except (OSError, pa.ArrowException, ValueError, KeyError, OverflowError) as error:
        raise BadInput(f"expected a parquet table of costs, got {path}, which is damaged or of another kind; write it again") from error


def _other_kind(path: Path) -> str:
    """What a file is that people give for a parquet table; empty for one that begins as parquet does, or as nothing known."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith((b"ARROW1", b"FEA1")):
        return "Feather, or an Arrow file"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        return "JSON"
    comma = any(mark in start.split(b"\n")[0] for mark in (b",", b";", b"\t"))
    return "CSV" if b"\0" not in start and not start.startswith(b"PAR1") and comma and b"\n" in start else ""


def _meta(metadata: Mapping[bytes, bytes] | None, path: Path) -> Meta:
    try:
        found = json.loads((metadata or {}).get(b"a2d", b"{}"))
    except (ValueError, RecursionError):
        return {}
    return checked_meta(found, path)
