"""A run folder: the units of a large job, one file for each measurement of each part of a set.

    RUN/.a2d/job.json                     what the job is: its identity, the number of images, the size of a part
    RUN/MEASUREMENT/part-000123.parquet   a unit of the result
    RUN/.a2d/MEASUREMENT/part-...         a unit that only the job itself needs

A unit is done if and only if its file is there; no second record says what is done, so none can disagree. Files appear by rename, so that
several processes may work in one folder: a unit that two of them measure is written twice with the same content. What is in flight at a
kill is done again by the next process that opens the folder with the same identity. The folder may be in an object store, by URL; there a
file appears by one put (`a2d_jax.io.store`).
"""

import json
import os
import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from a2d_jax import supervision
from a2d_jax.costs.units import Unit
from a2d_jax.errors import BadInput
from a2d_jax.io.files import atomic, hidden_name
from a2d_jax.io.parts import JOB, RECORDS, Cut, measurement_folder, read_job, unit_path, units
from a2d_jax.io.store import DISK, Store, each, store_of
from a2d_jax.io.tables import columns_of, table_of
from a2d_jax.io.urls import as_path

LARGEST = 4096
"""Images of a part, at most."""
PARTS = 160
"""Parts of a set of middle size: a kill costs about one part, and a part some milliseconds."""
PART_BYTES = 64 << 20
"""Size of a part of images that are written, at most."""
LONGEST = 255
"""Bytes of a name, on most file systems."""


@dataclass(frozen=True)
class Kind:
    """How the units of a measurement are written.

    Attributes:
      schema: columns of the file.
      names: columns that have other names in the file, by the name that they have in memory.
      constants: columns with one value in all rows.
      kept: the units belong to the result.
      meta: what each file says of its origin.
      change: is applied to each unit before it is written.
    """

    schema: Any
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    constants: Mapping[str, Any] = field(default_factory=dict[str, Any])
    kept: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])
    change: Callable[[Unit], Unit] | None = None


@dataclass(frozen=True)
class Run:
    """A run folder that is open; see `a2d_jax.costs.units.Ledger`.

    Attributes:
      folder: where it is.
      cut: the parts of the set.
      kinds: all measurements, and how their units are written.
      only: the parts that this process does, in ascending order; None means all.
    """

    folder: Path
    cut: Cut
    kinds: Mapping[str, Kind]
    only: Sequence[int] | None = None

    @property
    def own(self) -> Sequence[int]:
        """Parts that this process does."""
        return self.cut.parts if self.only is None else self.only

    def done(self, measurement: str) -> set[int]:
        """Parts of which the measurement is there."""
        return units(self._folder(measurement))

    def missing(self, measurement: str) -> list[int]:
        done = self.done(measurement)
        return [part for part in self.own if part not in done]

    @property
    def left(self) -> int:
        """Units of all processes that are not there."""
        return sum(len(self.cut.parts) - len(self.done(name)) for name in self.kinds)

    def commit(self, measurement: str, part: int, unit: Unit) -> None:
        kind, path = self.kinds[measurement], self._unit(measurement, part)
        unit = unit if kind.change is None else kind.change(unit)
        store_of(path).make(path.parent)
        names = {kind.names.get(name, name): values for name, values in unit.columns.items()}
        rows = len(unit.columns["error"])
        good = sum(error is None for error in unit.columns["error"])
        facts = {"good": good, **unit.facts, "machine": socket.gethostname(), "time": datetime.now(UTC).isoformat(timespec="seconds")}
        table = table_of({**names, **{name: [value] * rows for name, value in kind.constants.items()}}, kind.schema)
        with atomic(path) as temporary, temporary.open("wb") as file:
            pq.write_table(table.replace_schema_metadata({"a2d": json.dumps(kind.meta), "unit": json.dumps(facts)}), file)
        supervision.progressed()

    def read(self, measurement: str, part: int) -> Unit:
        """A unit that is there.

        Raises:
          BadInput: it is damaged.
        """
        kind, path = self.kinds[measurement], self._unit(measurement, part)
        with _opened(path) as here, pa.OSFile(os.fsencode(here)) as file:
            table = pq.read_table(file)
            facts = json.loads(table.schema.metadata[b"unit"])
        old = {there: name for name, there in kind.names.items()}
        return Unit({old.get(name, name): values for name, values in columns_of(table).items()}, facts)

    def facts(self, measurement: str, part: int) -> Mapping[str, Any]:
        return unit_facts(self._unit(measurement, part))

    def all_facts(self, measurement: str) -> list[Mapping[str, Any]]:
        """The facts of all units of a measurement, which are there."""
        return units_facts([self._unit(measurement, part) for part in self.cut.parts])

    @property
    def there(self) -> bool:
        """The folder has not been removed, as it is when the result of the job is written as one file."""
        return self._store.is_file(self.folder / RECORDS / JOB)

    def discard(self, part: int) -> None:
        """Forget what was measured of a part."""
        for name in self.kinds:
            self._store.remove(self._unit(name, part))

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        self._store.remove_folder(self.folder, self.folder / RECORDS / JOB)

    def remove_empty(self) -> None:
        """Remove the folder if hardly anything was done, so that another job may have its name."""
        first, *others = self.kinds
        with suppress(OSError, BadInput):
            if len(self.done(first)) <= 1 and not any(self.done(name) for name in others):
                self.remove()

    @property
    def _store(self) -> Store:
        return store_of(self.folder)

    def _folder(self, measurement: str) -> Path:
        return measurement_folder(self.folder, measurement, self.kinds[measurement].kept)

    def _unit(self, measurement: str, part: int) -> Path:
        return unit_path(self._folder(measurement), part)


def unit_facts(path: Path) -> Mapping[str, Any]:
    """The facts of a unit.

    Raises:
      BadInput: it is damaged.
    """
    with _readable(path), store_of(path).footer(path) as file:
        return json.loads(pq.read_schema(file).metadata[b"unit"])


def units_facts(paths: Sequence[Path]) -> list[Mapping[str, Any]]:
    """The facts of some units.

    Raises:
      BadInput: as `unit_facts`.
    """
    return list(each(unit_facts, paths))


def run_folder(out: Path) -> Path:
    """Where a job works that writes the file `out`: beside it."""
    beside = f"{out.name}.run"
    return out.with_name(beside if len(os.fsencode(beside)) <= LONGEST else f"{hidden_name(out)}.run")


def part_size(count: int, piece: int, image_bytes: int = 0) -> int:
    """Images of a part: a power of two, so that small sets have some parts too.

    Args:
      count: images of the set.
      piece: images that a reader takes at a time: many small ones, few large ones.
      image_bytes: size of an image, if images are written.
    """
    size = max(1, piece // 4)
    while size < LARGEST and size * PARTS < count:
        size *= 2
    while image_bytes and size > 1 and size * image_bytes > PART_BYTES:
        size //= 2
    return size


def open_run(
    folder: Path,
    identity: Mapping[str, Any],
    cut: Cut,
    kinds: Mapping[str, Kind],
    *,
    restart: bool = False,
    job: Mapping[str, Any] | None = None,
) -> Run:
    """Open a run folder; make it if it is not there.

    Args:
      folder: the folder.
      identity: everything on which the numbers depend, as JSON can say it.
      cut: the parts, for a new folder; one that is there keeps the size of its parts.
      kinds: all measurements.
      restart: remove what is there and begin anew.
      job: what the folder tells people of the job.

    Raises:
      BadInput: the folder is that of another job, naming what differs, or no run folder at all.
    """
    kept = {name: kind.kept for name, kind in kinds.items()}
    there = open_job(folder, {"identity": identity, "count": cut.count, "size": cut.size, "measurements": kept, **(job or {})}, restart)
    return Run(as_path(folder), Cut(cut.count, there["size"]), kinds)


def open_job(folder: Path, job: Mapping[str, Any], restart: bool = False) -> dict[str, Any]:
    """Begin a folder for a job, or find the one that the same job began.

    Args:
      folder: the folder.
      job: what a new folder says of its job. What is there must have the same `identity`, and the same `count` of images.
      restart: remove what is there and begin anew.

    Returns:
      What the folder says of its job.

    Raises:
      BadInput: the folder is that of another job, naming what differs, or no folder of a job at all.
    """
    folder = as_path(folder)
    path, store = folder / RECORDS / JOB, store_of(folder)
    try:
        if restart and store.is_file(path):
            store.remove_folder(folder, path)
        if store is DISK:
            folder.mkdir(exist_ok=True)
        if not store.is_file(path):
            if any(name != RECORDS for name in store.names(folder)):
                raise BadInput(f"expected a new folder, or the folder of this job, got {folder}, which holds other files; choose another")
            store.make(path.parent)
            store.create(path, json.dumps(job, indent=1).encode())  # unless another process was first: then its file stays
    except OSError as error:
        raise BadInput(f"expected a folder for the parts of the job, got {folder} ({error.strerror}); choose another place") from error
    there = read_job(folder)
    differs = _difference(*({**one["identity"], "number of images": one.get("count")} for one in (there, job)))
    if differs:
        raise BadInput(f"expected the job that {folder} was begun with, {differs}; pass --restart to begin anew, or choose another place")
    return there


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The first fact that differs, in words; empty if none does."""
    old, new = _flat(json.loads(json.dumps(there))), _flat(json.loads(json.dumps(here)))
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            return f"whose {name} is {_short(old.get(name))}, got {_short(new.get(name))}"
    return ""


def _flat(facts: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in facts.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@contextmanager
def _opened(path: Path) -> Generator[Path]:
    """A unit to read, on this machine. PyArrow takes names that are not UTF-8 as bytes only.

    Raises:
      BadInput: it is damaged.
    """
    with _readable(path), store_of(path).local(path) as here:
        yield here


@contextmanager
def _readable(path: Path) -> Generator[None]:
    try:
        yield
    except BadInput:
        raise
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"expected a unit of the job, got {path}, which is damaged; remove it and run the command again") from error
