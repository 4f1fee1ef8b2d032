"""Fitted detectors as JSON: kind, parameters, the columns they read and the settings of their attacks. There is no pickle."""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from a2d_jax.detectors import FittedDetector, from_params, to_params
from a2d_jax.errors import BadInput
from a2d_jax.io.files import atomic
from a2d_jax.io.provenance import Origin, checked_meta
from a2d_jax.io.store import store_of
from a2d_jax.io.urls import as_path

FORMAT = "a2d detector 1"


@dataclass(frozen=True)
class StoredDetector:
    """A fitted detector and the origin that its costs must have.

    Attributes:
      fitted: the detector.
      columns: the columns it reads, in order. The name of an attack means its cost; other numbers are named like `fmn.distance`.
      meta: the run that measured the benign costs: settings of each attack, preset, versions, hashes.
    """

    fitted: FittedDetector
    columns: tuple[str, ...]
    meta: Mapping[str, Any]

    def origin(self, name: str) -> Origin:
        """Where the benign costs come from that it was fitted to."""
        return Origin(name, self.meta.get("costs", {}))


def write_detector(path: str | Path, stored: StoredDetector, force: bool = True) -> None:
    """Write a fitted detector; `force` replaces an existing file. Infinite numbers become text, because JSON lacks them."""
    kind, params = to_params(stored.fitted)
    content = {
        "format": FORMAT,
        "kind": kind,
        "columns": list(stored.columns),
        "params": {name: _plain(value) for name, value in params.items()},
        "meta": dict(stored.meta),
    }
    with atomic(path, force) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, allow_nan=False)  # piece by piece: a detector may hold millions of rows
        file.write("\n")


def read_detector(path: str | Path, plugins: Sequence[str] = ()) -> StoredDetector:
    """Read a file of `write_detector`.

    Args:
      path: a file of `write_detector`.
      plugins: names of modules that may be imported if the detector comes from one of them. A file alone never imports code.

    Raises:
      BadInput: no such file, not JSON, not a detector, another version, a module that is not among the plugins, or parameters that do not
        belong together.
    """
    path = as_path(path)
    try:
        with store_of(path).local(path) as here:
            content = json.loads(here.read_text(encoding="utf-8"), parse_constant=_no_number)
    except FileNotFoundError as error:
        raise BadInput(f"expected a detector, got {path}, which does not exist; check the path or run `a2d fit`") from error
    except BadInput:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"expected a detector as JSON, got {path}, which cannot be read as such; give a file of `a2d fit`") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise BadInput(f"expected a detector of the format {FORMAT!r}, got {found!r} in {path}; give a file of `a2d fit` of this version")
    try:
        fitted = from_params(content["kind"], {name: _number(value) for name, value in content["params"].items()}, plugins)
        names = content["columns"] if "columns" in content else content["attacks"]  # as the first version called them
        columns, meta = tuple(names), dict(content["meta"])
        if not (all(isinstance(name, str) for name in columns) and isinstance(meta.get("costs", {}), dict)):
            raise TypeError
        checked_meta(meta.get("costs", {}), path)
    except BadInput as error:
        raise BadInput(f"{error} (in {path})") from error
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise BadInput(f"expected a whole detector, got one with missing or changed parts in {path}; fit it again") from error
    if len(columns) != (own := _tried(fitted, path)):
        raise BadInput(f"expected the names of {own} columns, got {len(columns)} in {path}; fit the detector again")
    return StoredDetector(fitted, columns, meta)


def _tried(fitted: FittedDetector, path: Path) -> int:
    """The number of columns of a detector that can judge a row of them: its parameters belong together."""
    one = np.zeros(1, np.int64)
    try:
        score = np.asarray(fitted.score(np.ones((1, fitted.columns)), labels=one, index=one))
        if score.shape == (1,) and not np.isnan(score).any() and not np.isnan(fitted.threshold):
            return fitted.columns
    except Exception as error:  # of many kinds, whatever does not fit
        raise BadInput(f"expected a whole detector, got one whose parts do not belong together in {path}; fit it again") from error
    raise BadInput(f"expected a detector whose scores are numbers, got other scores from {path}; fit it again")


def _plain(value: Any) -> Any:
    """Numbers and nested lists as JSON has them."""
    if isinstance(value, np.ndarray | np.generic):
        whole = value.dtype.kind != "f" or np.isfinite(value).all()
        value = value.tolist()
        if whole:
            return value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number that a detector may hold")


def _number(value: Any) -> Any:
    if isinstance(value, list):
        with suppress(ValueError, OverflowError):
            if (array := np.asarray(value)).dtype.kind in "biuf":
                return array
        return [_number(one) for one in value]
    return float(value) if value in ("inf", "-inf") else value
