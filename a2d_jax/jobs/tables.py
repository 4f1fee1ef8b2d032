"""The common parts of jobs that read several tables: read them, refuse mixed origins, and note which images are left out."""

from collections.abc import Sequence
from pathlib import Path

from a2d_jax.io.measurements import Measurements, read_measurements
from a2d_jax.io.provenance import Meeting, Origin, same_origins
from a2d_jax.jobs.spec import TablesSpec
from a2d_jax.measurements import Column

MIX = "--mixed-origins"


def read_table(path: Path, spec: TablesSpec) -> Measurements:
    """A table that a job was given."""
    return read_measurements(path, mixed_origins=spec.mixed_origins, how=MIX)


def meet(columns: Sequence[Column], origins: Sequence[Origin], spec: TablesSpec) -> Meeting:
    """Refuse numbers of different origins unless the user allows them."""
    return same_origins([column.measurement for column in columns], origins, spec.mixed_origins, MIX)


def left_out(*tables: Measurements) -> list[str]:
    """Notes on images that are left out."""
    notes: list[str] = []
    for table in tables:
        if table.errors:
            _, name, error = table.errors[0]
            notes.append(f"{len(table.errors)} images of {table.path} carry an error and are left out; the first is {name}: {error}")
    return notes
