"""The rows of several files, one after the other, in arrays that grow in place: a copy of all rows at the end would double the memory."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from a2d_jax.io.rows import Rows

GROWTH = 1.25
"""By how much an array grows that is full."""
OF_ROWS = ("index", "label", "success", "censored")


class Joining:
    """Takes the rows of one file after the other. Numbers that a file lacks are NaN; fingerprints are kept only if all files have them."""

    def __init__(self) -> None:
        self._count = 0
        self._columns: dict[str, NDArray[Any]] = {}
        self._ids: list[Any] = []
        self._names: dict[str, int] = {}
        self._known = True
        self._reason: dict[int, str] = {}

    def add(self, rows: Rows) -> None:
        """Append the rows of a file."""
        for name in rows.names:
            self._names.setdefault(name, len(self._names))
        start, self._count = self._count, self._count + len(rows.index)
        self._known &= rows.fingerprint is not None
        self._ids.append(rows.id)
        self._reason |= {row + start: text for row, text in rows.reason.items()}
        self._put("name", start, np.asarray([self._names[name] for name in rows.names], np.int32)[rows.name])
        self._put("fingerprint", start, rows.index if rows.fingerprint is None else rows.fingerprint)
        for name in OF_ROWS:
            self._put(name, start, getattr(rows, name))
        numbers = {_numbers(name): values for name, values in rows.numbers.items()}
        for name in dict.fromkeys([*filter(_is_number, self._columns), *numbers]):
            self._put(name, start, numbers.get(name, np.broadcast_to(np.nan, len(rows.index))))

    def joined(self, clever: bool) -> Rows:
        """All rows. Nothing can be added afterwards."""
        ids = pa.chunked_array(self._ids).dictionary_encode()
        self._ids.clear()
        pa.default_memory_pool().release_unused()  # what the files took on the way
        whole = {name: values[: self._count] for name, values in self._columns.items()}
        return Rows(
            clever=clever,
            id=pa.DictionaryArray.from_arrays(np.concatenate([one.indices for one in ids.chunks]), ids.chunk(0).dictionary),
            fingerprint=whole["fingerprint"] if self._known else None,
            names=tuple(self._names),
            name=whole["name"],
            numbers={name[1:]: values for name, values in whole.items() if _is_number(name)},
            reason=self._reason,
            **{name: whole[name] for name in OF_ROWS},
        )

    def _put(self, name: str, start: int, values: NDArray[Any]) -> None:
        column, end = self._columns.pop(name, None), start + len(values)
        if column is None:
            column = np.full(start, np.nan) if start else values
        if (kind := np.result_type(column, values)) != column.dtype:
            column = column.astype(kind)
        if end > len(column):
            column = column if column.flags.owndata else column.copy()
            column.resize(max(end, int(GROWTH * start)), refcheck=False)
        if column is not values:
            column[start:end] = values
        self._columns[name] = column


def _numbers(name: str) -> str:
    return f".{name}"


def _is_number(name: str) -> bool:
    return name.startswith(".")
