"""The layout of a folder in which a large job keeps its parts; `a2d_jax.scale.runs` describes it."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from a2d_jax.errors import BadInput
from a2d_jax.io.store import store_of

RECORDS = ".a2d"
"""The folder of what only the job itself needs: tools that read parquet data sets leave out hidden names."""
JOB = "job.json"
UNIT = re.compile(r"part-(\d{6,})\.parquet")


@dataclass(frozen=True)
class Cut:
    """How a set is cut into parts.

    Attributes:
      count: images of the set.
      size: images of a part; the last part may have fewer.
    """

    count: int
    size: int

    @property
    def parts(self) -> range:
        """Numbers of all parts."""
        return range(-(-self.count // self.size))

    def span(self, part: int) -> tuple[int, int]:
        """Places in the set of a part's images: the first, and one behind the last."""
        return part * self.size, min((part + 1) * self.size, self.count)

    def length(self, parts: Collection[int]) -> int:
        """Images of some parts together."""
        return sum(end - begin for begin, end in map(self.span, parts))


def measurement_folder(folder: Path, measurement: str, kept: bool) -> Path:
    """Where the units of a measurement are."""
    return (folder if kept else folder / RECORDS) / quote(measurement, safe=" ,=+-")


def unit_path(folder: Path, part: int) -> Path:
    """The file of a unit, in the folder of its measurement."""
    return folder / f"part-{part:06}.parquet"


def units(folder: Path) -> set[int]:
    """Numbers of the units in a folder."""
    return {int(found[1]) for name in store_of(folder).names(folder) if (found := UNIT.fullmatch(name))}


def read_job(folder: Path) -> dict[str, Any]:
    """What the folder of a job says of it. A job whose images are not counted has steps instead of measurements.

    Raises:
      BadInput: no folder of a job, or a damaged one.
    """
    path = folder / RECORDS / JOB
    try:
        with store_of(path).local(path) as here:
            job = json.loads(here.read_text(encoding="utf-8"))
        cut = "count" not in job or (isinstance(job["measurements"], dict) and job["size"] > 0 and job["count"] >= 0)
        if not (isinstance(job["identity"], dict) and cut):
            raise TypeError
    except FileNotFoundError as error:
        raise BadInput(f"expected the folder of a job, got {folder}, which has no {RECORDS}/{JOB}; check the path") from error
    except BadInput:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"expected {path} as a job writes it, got something else; pass --restart to begin anew") from error
    return job


def units_missing(folder: Path) -> int:
    """Units of the result that are missing in a folder; 0 for a folder in which no job works.

    Raises:
      BadInput: as `read_job`.
    """
    if not store_of(folder).is_file(folder / RECORDS / JOB):
        return 0
    job = read_job(folder)
    if "count" not in job:
        return 0
    parts = len(Cut(job["count"], job["size"]).parts)
    return sum(parts - len(units(measurement_folder(folder, name, True))) for name, kept in job["measurements"].items() if kept)
