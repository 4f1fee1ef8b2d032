"""The files of a long table of measurements: which files a table has, and the rows of one file, checked and cast.

A table is a parquet file, or a folder of such files: parts of one table, which lie in the folder itself or one level down, as a large job
leaves them (`costs/bim/part-000123.parquet`). Names that begin with a dot or an underscore are not parts.
"""

import json
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from a2d_jax.errors import BadInput
from a2d_jax.io.casting import EXACT, Cast, Texts, flags, real_numbers, texts, whole_numbers
from a2d_jax.io.parts import units_missing
from a2d_jax.io.provenance import checked_meta
from a2d_jax.io.store import store_of
from a2d_jax.io.tables import Meta
from a2d_jax.measurements import ATTACK_NUMBERS, CLEVER_NUMBERS

LENGTHS = ("distance", "crossing")
MOST = 2**31 - 1
"""No attack counts further."""
PARTS = ".parquet"
"""How the parts of a table that is a folder end."""
OURS = ("index", "id", "attack", "target", "label", "success", "censored", "fingerprint", "error", *ATTACK_NUMBERS, *CLEVER_NUMBERS)


@dataclass(frozen=True)
class Rows:
    """The rows of one file, or of several.

    Attributes:
      clever: they hold CLEVER scores; otherwise costs.
      index: position of each image in its set, `n`.
      id: name of each image, an Arrow array `n`; of several files, with categories.
      fingerprint: of each image's pixels, `n`; None in a table that does not have them.
      names: the attacks or targets, in the order in which they appear.
      name: the place of each row's attack or target in `names`, `n`.
      label: the class that was attacked, `n`; -1 if it is not known.
      numbers: by name, each `n`, exact in half the bits where these suffice; NaN where a row has no value.
      success: `n`; all true if the table has no such column.
      censored: `n`; all false if the table has no such column.
      reason: by row, what is wrong with it, rows rising; rows without an error are absent.
    """

    clever: bool
    index: NDArray[np.int64]
    id: Any
    fingerprint: NDArray[np.int64] | None
    names: tuple[str, ...]
    name: NDArray[np.int32]
    label: NDArray[np.int64]
    numbers: Mapping[str, NDArray[Any]]
    success: NDArray[np.bool_]
    censored: NDArray[np.bool_]
    reason: Mapping[int, str]


def files_of(path: Path, what: str = "costs") -> list[Path]:
    """The files of a table of costs, or of what it is said to be.

    Raises:
      BadInput: a folder without any, or one of a job that is not finished.
    """
    store = store_of(path)
    if not store.is_dir(path):
        return [path]
    if missing := units_missing(path):
        raise BadInput(f"expected a finished job in {path}, got one that is not (units missing: {missing}); give the same command again")
    found = sorted(file for file in store.below(path, PARTS) if not _hidden(file.relative_to(path)))
    if not found:
        raise BadInput(f"expected a parquet table of {what}, or a folder of such files, got {path}, a folder without any; check the path")
    return found


def _hidden(part: Path) -> bool:
    return any(name.startswith((".", "_")) for name in part.parts)


class Records:
    """What files say of their runs. The parts of one job say the same, and this is read once."""

    def __init__(self) -> None:
        self._known: dict[bytes, Meta] = {}

    def read(self, metadata: Mapping[bytes, bytes] | None, path: Path) -> Meta:
        """The record of a run in the metadata of a file; empty if there is none.

        Raises:
          BadInput: as `checked_meta`.
        """
        text = (metadata or {}).get(b"a2d", b"{}")
        if text not in self._known:
            try:
                found = json.loads(text)
            except (ValueError, RecursionError):
                found = {}
            self._known[text] = checked_meta(found, path)
        return self._known[text]


def read_rows(path: Path, records: Records) -> tuple[Rows, Meta]:
    """The rows of a file, cast, and what it says of its run.

    Raises:
      BadInput: no such file, or no such table.
    """
    columns, count, metadata = _columns(path)
    clever = "attack" not in columns and {"target", "score"} <= set(columns)
    by, usual = ("target", "score") if clever else ("attack", "cost")
    needed = ["index", "id", by, "label", usual, *([] if clever else ["censored"])]
    if missing := [name for name in needed if name not in columns]:
        raise BadInput(f"expected a table of costs, got one without the columns {', '.join(missing)} in {path}; give a table of `a2d cost`")
    if not count:
        raise BadInput(f"expected a table of costs, got one without rows in {path}; run `a2d cost` on some images")
    meta = records.read(metadata, path)
    index, named = whole_numbers(columns.pop("index"), "index", path), texts(columns.pop(by), by, path)
    _refuse_gaps(index.unreadable, index.wrong, "an index", path)
    _refuse_gaps(named.missing, {}, f"the name of {'a' if clever else 'an'} {by}", path)
    coded = named.values.dictionary_encode()
    names, name = tuple(coded.dictionary.to_pylist()), coded.indices.to_numpy()
    id_ = _called(texts(columns.pop("id"), "id", path, numbers=True), index.values)
    label = whole_numbers(columns.pop("label"), "label", path, least=-1)
    read = {one: _number(columns.pop(one), one, path) for one in (CLEVER_NUMBERS if clever else ATTACK_NUMBERS) if one in columns}
    told = {one: flags(columns.pop(one), one, path) for one in ("success", "censored") if one in columns}
    reason = _written(texts(columns.pop("error"), "error", path)) if "error" in columns else {}
    reason = {int(row): f"no {usual}" for row in np.flatnonzero(read[usual].missing)} | reason
    if not clever:
        read[usual].wrong.update(_too_high(read[usual], names, name, meta))
    for column in (label, *read.values(), *told.values()):
        reason = column.wrong | reason
    for one, column in told.items():
        if not column.absent:
            reason = {int(row): f"expected {one} as true or false, got none" for row in np.flatnonzero(column.missing)} | reason
    numbers = {
        one: _narrow(column.values)
        if one == usual or not column.unreadable.any()
        else _narrow(np.where(column.unreadable, np.nan, column.values))
        for one, column in read.items()
        if one == usual or not column.absent
    }
    nothing = np.zeros(count, bool)
    return Rows(
        clever=clever,
        index=index.values,
        id=id_,
        fingerprint=_fingerprint(columns["fingerprint"], path) if "fingerprint" in columns else None,
        names=names,
        name=name,
        label=np.where(label.missing, -1, label.values),
        numbers=numbers,
        success=told["success"].values if "success" in told and not told["success"].absent else ~nothing,
        censored=told["censored"].values if "censored" in told else nothing,
        reason={row: reason[row] for row in sorted(reason)},
    ), meta


def _refuse_gaps(gaps: NDArray[np.bool_], wrong: Mapping[int, str], what: str, path: Path) -> None:
    if gaps.any():
        row = int(np.flatnonzero(gaps)[0])
        raise BadInput(
            f"expected {what} in every row, got {'another value' if row in wrong else 'none'} in row {row} of {path}; fill it in"
        )


def _called(written: Texts, index: NDArray[np.int64]) -> Any:
    """Names of images; an image without one is called by its index."""
    if not written.missing.any():
        return written.values
    return pc.call_function("if_else", [pa.array(written.missing), pa.array(index).cast(pa.large_string()), written.values])


def _written(error: Texts) -> dict[int, str]:
    """Errors that the table itself has."""
    rows = np.flatnonzero(~error.missing)
    return dict(zip(rows.tolist(), error.values.take(pa.array(rows)).to_pylist(), strict=True))


def _number(column: Any, name: str, path: Path) -> Cast:
    if name == "cost":
        return whole_numbers(column, name, path, most=MOST)
    if name in ATTACK_NUMBERS and name not in LENGTHS:
        return whole_numbers(column, name, path, most=EXACT)
    return real_numbers(column, name, path, least=0 if name in (*LENGTHS, "score") else -np.inf)


def _narrow(values: NDArray[Any]) -> NDArray[Any]:
    """The same numbers as int32 or float32, if no bit is lost: a table has millions of them."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = values.astype(np.int32 if values.dtype.kind == "i" else np.float32)
    return narrow if ((narrow == values) | (values != values)).all() else values


def _too_high(cost: Cast, names: tuple[str, ...], name: NDArray[np.int32], meta: Meta) -> dict[int, str]:
    """Costs that the budget, where it is recorded, does not allow."""
    most = [meta.get("attacks", {}).get(one, {}).get("max_steps") for one in names]
    limit = np.asarray([steps + 1 if type(steps) is int else MOST for steps in most])
    above = np.flatnonzero(cost.values > limit[name])
    return {int(row): f"expected a cost of {names[name[row]]} of at most {limit[name[row]]}, got {cost.values[row]}" for row in above}


def _fingerprint(column: Any, path: Path) -> NDArray[np.int64] | None:
    """None where some image has none, or where a tool has turned them into floats, which round them."""
    try:
        found = whole_numbers(column, "fingerprint", path)
    except BadInput:
        return None
    return None if found.unreadable.any() else found.values


def _columns(path: Path) -> tuple[dict[str, Any], int, Mapping[bytes, bytes] | None]:
    """The columns of a parquet file that are ours, its number of rows and its metadata."""
    table = read_parquet(path, lambda schema: [name for name in dict.fromkeys(OURS) if name in schema.names])
    return {name: table[name] for name in table.column_names}, len(table), table.schema.metadata


def read_parquet(path: Path, wanted: Callable[[Any], Sequence[str]], what: str = "costs") -> Any:
    """Some columns of a parquet file, with its metadata.

    Args:
      path: the file.
      wanted: takes the Arrow schema of all columns and returns the names of those to read.
      what: it is a table of, for the error.

    Raises:
      BadInput: no such file, a file of another kind, or a wanted column that is there twice.
    """
    store = store_of(path)
    if not store.is_file(path):
        raise BadInput(f"expected a parquet table of {what}, got {path}, which is not a file; check the path")
    try:
        # PyArrow takes names that are not UTF-8 as bytes only
        with store.local(path) as here, _parquet(here, path, what) as parquet:
            schema = parquet.schema_arrow
            names = list(wanted(schema))
            if twice := [name for name in names if schema.names.count(name) > 1]:
                raise BadInput(f"expected each column once, got {', '.join(twice)} more than once in {path}; leave one out")
            return parquet.read(names).replace_schema_metadata(schema.metadata)
    except BadInput:
        raise
    except (OSError, pa.ArrowException, ValueError, KeyError, OverflowError) as error:
        raise BadInput(f"expected a parquet table of {what}, got {path}, which is damaged or of another kind; write it again") from error


@contextmanager
def _parquet(here: Path, path: Path, what: str) -> Generator[Any]:
    """A parquet file, of which there is a copy `here`."""
    if kind := _other_kind(here):
        raise BadInput(f"expected a parquet table of {what}, got {path}, which is {kind}; write it as parquet (pandas: to_parquet)")
    with pa.OSFile(os.fsencode(here)) as file, pq.ParquetFile(file) as parquet:
        yield parquet


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
