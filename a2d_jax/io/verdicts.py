"""Read tables of verdicts, as `a2d detect` writes them: a parquet file, or a folder of such files, which are parts of one table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from a2d_jax.errors import BadInput
from a2d_jax.io.casting import Cast, flags, real_numbers, texts, whole_numbers
from a2d_jax.io.rows import Records, files_of, read_parquet
from a2d_jax.io.tables import Meta
from a2d_jax.io.urls import as_path

NEEDED = ("index", "id", "score", "adversarial")
OURS = (*NEEDED, "label", "error")
LIKE = "2026-11-27T08:30"
TIME = "time"
"""The column that is taken for the time of an image if the user names no other."""


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on images, one row per image; images with an error are left out.

    Attributes:
      path: the file or folder it was read from.
      index: position of each image in its set.
      ids: name of each image, as an Arrow array.
      label: its class; -1 if it is not known.
      score: higher is more adversarial.
      adversarial: the verdict.
      numbers: the other columns that hold numbers, by name, NaN where a row has none: what the detector read.
      time: of each image, datetime64[us] in UTC, NaT where it is not known; None in a table without times.
      errors: index, id and error of the images left out.
      meta: settings of the run; empty if the table was not written by this project.
    """

    path: Path
    index: NDArray[np.int64]
    ids: Any
    label: NDArray[np.int64]
    score: NDArray[np.float64]
    adversarial: NDArray[np.bool_]
    numbers: Mapping[str, NDArray[np.float64]]
    time: NDArray[np.datetime64] | None
    errors: list[tuple[int, str, str]]
    meta: Meta
    fingerprint: None = None  # such a table has none

    @property
    def threshold(self) -> tuple[float, float] | None:
        """The highest score that was judged benign, and the lowest that was judged adversarial. The threshold is the first or between them.

        None if no threshold explains the verdicts. Infinite where all verdicts are the same.
        """
        low = float(self.score[~self.adversarial].max(initial=-np.inf))
        high = float(self.score[self.adversarial].min(initial=np.inf))
        return (low, high) if low < high else None


def read_verdicts(path: str | Path, time: str | None = None) -> Verdicts:
    """Read a table of verdicts.

    Args:
      path: a parquet file, or a folder of parquet files; also by URL.
      time: the column with the time of each image: timestamps, dates, or texts of ISO 8601. Default: the column `time`, if there is one.

    Raises:
      BadInput: no such file, no such table, no such column, files of different runs, or no image with a verdict.
    """
    path = as_path(path)
    records, files = Records(), files_of(path, "verdicts")
    tables = [_read(file, time) for file in files]
    metas = [records.read(table.schema.metadata, file) for table, file in zip(tables, files, strict=True)]
    detectors = {json.dumps([meta.get("detector_sha256"), meta.get("detector_meta")], sort_keys=True, default=str) for meta in metas}
    if len(detectors) > 1:
        raise BadInput(
            f"expected verdicts of one detector, got those of {len(detectors)} in the folder {path}; give each a folder of its own"
        )
    whole = pa.concat_tables([table.replace_schema_metadata(None) for table in tables], promote_options="permissive")
    if not len(whole):
        raise BadInput(f"expected a table of verdicts, got one without rows in {path}; run `a2d detect` on some images")
    return _verdicts(whole, path, time, metas[0])


def _read(path: Path, time: str | None) -> Any:
    def wanted(schema: Any) -> list[Any]:
        known: list[Any] = [field.name for field in schema if field.name in (*OURS, time, TIME) or _number(field.type)]
        return list(dict.fromkeys(known))

    table = read_parquet(path, wanted, "verdicts")
    if missing := [name for name in (*NEEDED, *([time] if time else [])) if name not in table.column_names]:
        raise BadInput(
            f"expected a table of verdicts, got one without the columns {', '.join(missing)} in {path}; give a table of `a2d detect`"
            + (" with this column added" if missing == [time] else "")
        )
    return table


def _number(kind: Any) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _verdicts(table: Any, path: Path, time: str | None, meta: Meta) -> Verdicts:
    columns = {name: table[name] for name in table.column_names}
    count = len(table)
    index = whole_numbers(columns["index"], "index", path)
    score = real_numbers(columns["score"], "score", path)
    verdict = flags(columns["adversarial"], "adversarial", path)
    label = whole_numbers(columns["label"], "label", path, least=-1) if "label" in columns else None
    ids = texts(columns["id"], "id", path, numbers=True)
    reason: dict[int, str] = {}
    if "error" in columns:
        error = texts(columns["error"], "error", path)
        rows = np.flatnonzero(~error.missing)
        reason = dict(zip(rows.tolist(), error.values.take(pa.array(rows)).to_pylist(), strict=True))
    for column, name in ((index, "index"), (score, "score"), (verdict, "verdict")):
        reason = column.wrong | {int(row): f"no {name}" for row in np.flatnonzero(column.missing)} | reason
    good = np.ones(count, bool)
    good[list(reason)] = False
    bad = np.asarray(sorted(reason), np.int64)
    errors = list(
        zip(index.values[bad].tolist(), ids.values.take(pa.array(bad)).to_pylist(), [reason[row] for row in sorted(reason)], strict=True)
    )
    if not good.any():
        raise BadInput(f"expected a verdict on at least one image, got errors in all {count} rows of {path}; the first is: {errors[0][2]}")
    named = time or (TIME if TIME in columns else None)
    others = [name for name in columns if name not in (*OURS, named) and _number(columns[name].type)]
    return Verdicts(
        path=path,
        index=index.values[good],
        ids=ids.values.take(pa.array(np.flatnonzero(good))),
        label=np.full(int(good.sum()), -1) if label is None else _known(label)[good],
        score=score.values[good],
        adversarial=verdict.values[good].astype(bool),
        numbers={name: real_numbers(columns[name], name, path).values[good] for name in others},
        time=None if named is None else _times(columns[named], named, path)[good],
        errors=errors,
        meta=meta,
    )


def _known(label: Cast) -> NDArray[np.int64]:
    return np.where(label.unreadable, -1, label.values)


def _times(column: Any, name: str, path: Path) -> NDArray[np.datetime64]:
    """As datetime64[us] in UTC; NaT where there is none."""
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    kind = array.type
    try:
        if pa.types.is_dictionary(kind):
            array = array.cast(kind.value_type)
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            return _of_texts(array.to_pylist())
        if not (pa.types.is_timestamp(array.type) or pa.types.is_date(array.type)):
            raise BadInput(
                f"expected times in the column {name}, got {str(kind)[:60]} in {path}; write timestamps, dates, or texts like {LIKE}"
            )
        return np.array(array.cast(pa.timestamp("us"), safe=False).to_numpy(zero_copy_only=False), "datetime64[us]")
    except (pa.ArrowException, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(
            f"expected times in the column {name}, got a text that is none in {path} ({' '.join(str(error).split())[:80]}); "
            f"write texts like {LIKE}"
        ) from error


def _of_texts(values: Sequence[str | None]) -> NDArray[np.datetime64]:
    """Texts of ISO 8601; those with an offset are moved to UTC."""
    read = [None if not value else datetime.fromisoformat(value) for value in values]
    plain = [one if one is None or one.tzinfo is None else one.astimezone(UTC).replace(tzinfo=None) for one in read]
    return np.array(plain, "datetime64[us]")
