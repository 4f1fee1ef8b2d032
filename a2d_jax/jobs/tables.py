"""The common parts of jobs that read several tables: read them, refuse mixed origins, and note which images are left out."""

from collections.abc import Sequence
from pathlib import Path

from a2d_jax import specs
from a2d_jax.errors import BadInput
from a2d_jax.io.detectors import StoredDetector
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


def shared_columns(attacks: str | None, table: Measurements, path: Path, other: Measurements, other_path: Path) -> tuple[Column, ...]:
    """The columns that two tables are compared by: those that the user names, default the measurements that both have.

    Raises:
      BadInput: they have none in common, or the first lacks one that is named.
    """
    texts = specs.names_of(attacks) if attacks else [name for name in table.names if name in other.names]
    if not texts:
        raise BadInput(
            f"expected costs of the same attacks, got {', '.join(table.names)} in {path} "
            f"and {', '.join(other.names)} in {other_path}; run `a2d cost` on both sets with the same --attacks"
        )
    return table.columns(texts)


def fitted_to(stored: StoredDetector, path: object) -> Meeting:
    """What to tell of a detector that was fitted to mixed origins."""
    mixed = stored.meta.get("mixed_origins") or stored.meta.get("costs", {}).get("mixed_origins")
    return Meeting([f"{path} was fitted to costs of mixed origins, which differ in {', '.join(mixed)}"] if mixed else [])


def left_out(*tables: Measurements) -> list[str]:
    """Notes on images that are left out."""
    notes: list[str] = []
    for table in tables:
        if table.errors:
            _, name, error = table.errors[0]
            notes.append(f"{len(table.errors)} images of {table.path} carry an error and are left out; the first is {name}: {error}")
    return notes
