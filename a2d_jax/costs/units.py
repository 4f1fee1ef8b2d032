"""Units of work and where they are kept: a unit is one measurement of one part of a set.

A part is a number of consecutive images. It decides what is kept together, never what is computed together. A ledger says which units are
missing and takes those that are done. `Memory` is the ledger of arrays; the run folder of a large job is another one
(`a2d_jax.scale.runs`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from a2d_jax.io.parts import Cut

PREDICT = "predict"
"""The measurement that all others need: what the classifier predicts."""


@dataclass(frozen=True)
class Unit:
    """One measurement of one part.

    Attributes:
      columns: one value for each image of the part, by name.
      facts: about the unit as a whole, as JSON can say them.
    """

    columns: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Ledger(Protocol):
    """Where units are kept. Several processes may work on one ledger: a unit that is committed twice has the same content twice."""

    @property
    def cut(self) -> Cut: ...
    def missing(self, measurement: str) -> list[int]:
        """Parts of which the measurement is not there, in order, as far as this process shall do them."""
        ...

    def commit(self, measurement: str, part: int, unit: Unit) -> None:
        """Keep a unit."""
        ...

    def read(self, measurement: str, part: int) -> Unit:
        """A unit that is there."""
        ...

    def facts(self, measurement: str, part: int) -> Mapping[str, Any]:
        """The facts of a unit that is there."""
        ...


@dataclass(frozen=True)
class Memory:
    """A ledger in memory; a set of arrays is one part."""

    cut: Cut
    _units: dict[tuple[str, int], Unit] = field(default_factory=dict[tuple[str, int], Unit])

    def missing(self, measurement: str) -> list[int]:
        return [part for part in self.cut.parts if (measurement, part) not in self._units]

    def commit(self, measurement: str, part: int, unit: Unit) -> None:
        self._units[measurement, part] = unit

    def read(self, measurement: str, part: int) -> Unit:
        return self._units[measurement, part]

    def facts(self, measurement: str, part: int) -> Mapping[str, Any]:
        return self._units[measurement, part].facts


class Filling:
    """The parts in work: rows come in any order, and a part is handed on when its last row is there."""

    def __init__(self, cut: Cut) -> None:
        self._cut = cut
        self._open: dict[int, tuple[dict[str, NDArray[Any]], int]] = {}

    def expect(self, part: int, columns: dict[str, NDArray[Any]], rows: int) -> None:
        """Begin a part.

        Args:
          part: its number.
          columns: its columns, with the values of images for which no row will come.
          rows: rows that will come.
        """
        self._open[part] = columns, rows

    def add(self, places: NDArray[np.int64], columns: Mapping[str, NDArray[Any]]) -> None:
        """Put rows in their places.

        Args:
          places: in the set, of parts that were begun.
          columns: values, one for each row.
        """
        part_of = places // self._cut.size
        for part in np.unique(part_of).tolist():
            filled, left = self._open[part]
            mine = slice(None) if len(self._open) == 1 else part_of == part
            rows = places[mine] - part * self._cut.size
            for name, values in columns.items():
                filled[name][rows] = values[mine]
            self._open[part] = filled, left - len(rows)

    def whole(self) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Take the parts that are complete, and their columns."""
        for part in [part for part, (_, left) in self._open.items() if not left]:
            yield part, self._open.pop(part)[0]


def joined(units: Sequence[Unit]) -> dict[str, Any]:
    """The columns of consecutive parts as one; a column that one of them lacks is left out."""
    if len(units) == 1:
        return dict(units[0].columns)
    names = [name for name in units[0].columns if all(name in unit.columns for unit in units)]
    return {name: _concatenated([unit.columns[name] for unit in units]) for name in names}


def _concatenated(columns: Sequence[Any]) -> Any:
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns)
    return [value for column in columns for value in column]
