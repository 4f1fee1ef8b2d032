"""Tables of measurements back in: long tables of costs and of CLEVER scores become columns of numbers, one row per image."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from a2d_jax.errors import BadInput
from a2d_jax.io.tables import Meta
from a2d_jax.measurements import ATTACK_NUMBERS, CLEVER, CLEVER_NUMBERS, Column, farthest, honest
from a2d_jax.norms import NORMS

FLOATS = {"distance", "crossing", *CLEVER_NUMBERS}


@dataclass(frozen=True)
class Measurements:
    """Numbers of images under several measurements, one row per image; images with an error are left out.

    Attributes:
      path: the file it was read from.
      names: the measurements: attacks, or `clever:` and a target.
      index: place of each image in its set.
      id: name of each image.
      fingerprint: of each image's pixels; None in a table that does not have them.
      label: the class that was attacked.
      numbers: by measurement and number, each `n`.
      success: by measurement, `n`; all true in a table that does not tell.
      censored: by measurement, `n`: the budget ended before the attack did; all false in a table that does not tell.
      errors: index, id and error of the images left out.
      meta: settings of the run; empty if the table was not written by this project.
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

    @property
    def key(self) -> NDArray[np.int64]:
        """A number that belongs to each image: its fingerprint, or its place in the set where the table is older than these."""
        return self.index if self.fingerprint is None else self.fingerprint

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
                    f"expected the column {column.number} of {column.measurement} in {self.path}, got a table without; measure again"
                )
        return found

    def select(self, columns: Sequence[Column]) -> NDArray[Any]:
        """The numbers of these columns, in this order, `n columns`; whole where all of them are.

        Raises:
          BadInput: the table lacks one of them.
        """
        if missing := [str(column) for column in columns if column.number not in self.numbers.get(column.measurement, ())]:
            raise BadInput(f"expected {', '.join(missing)}, got a table of {', '.join(self.names)} in {self.path}; measure all of them")
        return np.stack([self._read(column) for column in columns], axis=1)

    def _read(self, column: Column) -> NDArray[Any]:
        return honest(column, self.numbers[column.measurement][column.number], self.success[column.measurement], self._farthest(column))

    def _farthest(self, column: Column) -> float | None:
        norm, shape = self.meta.get("norms", {}).get(column.measurement), self.meta.get("shape")
        return farthest(norm, tuple(shape)) if norm in NORMS and shape else None


def read_measurements(path: str | Path) -> Measurements:
    """Read a long table of costs, or of CLEVER scores, and turn it wide.

    Raises:
      BadInput: no such file, no such table, no good image, or an image with a measurement missing or given twice.
    """
    path = Path(path)
    schema = _schema(path)
    clever = "attack" not in schema.names and {"target", "score"} <= set(schema.names)
    by, usual = ("target", "score") if clever else ("attack", "cost")
    table = _read(path, schema, ["index", "id", by, "label", usual, *([] if clever else ["censored"])])
    if not len(table):
        raise BadInput(f"expected a table of costs, got one without rows in {path}; run `a2d cost` on some images")
    texts = table["error"].to_pylist() if "error" in table.column_names else [None] * len(table)
    bad = table[usual].is_null().to_numpy() | np.asarray([text is not None for text in texts])
    meta = _meta(table.schema.metadata, path)
    long = table[by].to_pylist()
    names = tuple(dict.fromkeys(long))
    ordered = tuple(meta.get("attacks", ()))
    names = ordered if set(ordered) == set(names) else names
    place = np.asarray([names.index(name) for name in long])
    index, first, row = np.unique(table["index"].to_numpy(), return_index=True, return_inverse=True)
    times = np.zeros((len(index), len(names)), np.int64)
    np.add.at(times, (row, place), 1)
    if (times != 1).any():
        image, column = np.argwhere(times != 1)[0]
        found = f"{times[image, column]} of {names[column]} for image {index[image]}"
        raise BadInput(f"expected one cost per image and attack, got {found} in {path}; run `a2d cost` again")
    good = np.ones(len(index), bool)
    good[row[bad]] = False
    ids, reasons = table["id"].take(first).to_pylist(), {row[i]: texts[i] for i in np.flatnonzero(bad)}
    if not good.any():
        raise BadInput(f"expected costs of at least one image, got errors in all {len(index)} images of {path}; see its column error")

    def wide(name: str, kind: type[np.generic], missing: Any) -> NDArray[Any]:
        values = np.zeros(times.shape, kind)
        values[row, place] = pc.fill_null(table[name], missing).to_numpy()
        return values[good]

    present = [name for name in (CLEVER_NUMBERS if clever else ATTACK_NUMBERS) if name in table.column_names]
    numbers = {name: wide(name, np.float64, np.nan) if name in FLOATS else wide(name, np.int64, 0) for name in present}
    flags = {
        name: wide(name, np.bool_, False) if name in table.column_names else np.full((int(good.sum()), len(names)), usually)
        for name, usually in (("success", True), ("censored", False))
    }
    prints = table["fingerprint"].take(first[good]) if "fingerprint" in table.column_names else None
    called = [f"{CLEVER}{name}" if clever else name for name in names]
    return Measurements(
        path=path,
        names=tuple(called),
        index=index[good],
        id=[ids[i] for i in np.flatnonzero(good)],
        fingerprint=None if prints is None or prints.null_count else prints.to_numpy(),
        label=pc.fill_null(table["label"].take(first[good]), -1).to_numpy(),
        numbers={name: {number: values[:, i] for number, values in numbers.items()} for i, name in enumerate(called)},
        success={name: flags["success"][:, i] for i, name in enumerate(called)},
        censored={name: flags["censored"][:, i] for i, name in enumerate(called)},
        errors=[(int(index[i]), ids[i], reasons[i] or "no cost") for i in np.flatnonzero(~good)],
        meta=meta,
    )


def _schema(path: Path) -> Any:
    if not path.is_file():
        raise BadInput(f"expected a parquet table of costs, got {path}, which is no file; check the path")
    try:
        with pa.OSFile(os.fsencode(path)) as file:  # PyArrow takes names that are not UTF-8 as bytes only
            return pq.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path) from error


def _read(path: Path, schema: Any, columns: Sequence[str]) -> Any:
    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise BadInput(f"expected a table of costs, got one without the columns {', '.join(missing)} in {path}; give a table of `a2d cost`")
    more = [name for name in ("success", "censored", "fingerprint", "error", *ATTACK_NUMBERS, *CLEVER_NUMBERS) if name in schema.names]
    try:
        with pa.OSFile(os.fsencode(path)) as file:
            return pq.read_table(file, columns=list(dict.fromkeys([*columns, *more])))
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> BadInput:
    return BadInput(f"expected a parquet table of costs, got {path}, which is damaged or of another kind; write it again")


def _meta(metadata: Mapping[bytes, bytes] | None, path: Path) -> Meta:
    try:
        found = json.loads((metadata or {}).get(b"a2d", b"{}"))
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    settings = found.get("attacks", {})
    tables = [settings, found.get("norms", {}), found.get("clever", {}), *(settings.values() if isinstance(settings, dict) else ())]
    if not all(isinstance(one, dict) for one in tables):
        raise BadInput(f"expected settings of the run as `a2d cost` writes them, got others in the metadata of {path}; measure again")
    return found
