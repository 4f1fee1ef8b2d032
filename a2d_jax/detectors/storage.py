"""Fitted detectors as a kind and plain values, for a JSON or npz file. There is no pickle, and a file alone never imports a module.

Each detector of this package has its own `kind`. The kind of a user's detector is its import string, `my.module:FittedMine`. Parameters
are the fields of the dataclass: numbers, flags and arrays. A class with other parameters has a method `store` or a classmethod `restore`,
its inverse. `store` returns the end of the kind (empty, or the kind of its members after `-of-`) and the parameters.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from a2d_jax.detectors.base import FittedDetector
from a2d_jax.detectors.registry import classes_with
from a2d_jax.errors import BadInput, require
from a2d_jax.imports import plugged
from a2d_jax.measurements import same_rows

COUNT = "count"
MANY = 100_000
"""From so many rows on, those that repeat are stored once."""
MOST = 10**8
"""No detector has more rows: a damaged file that asks for more would fill the memory."""


def to_params(fitted: FittedDetector) -> tuple[str, dict[str, Any]]:
    """The kind of a fitted detector and its parameters: numbers, flags and arrays.

    Raises:
      BadInput: a detector that could not be read again.
    """
    known: Any = type(fitted)
    kind = known.kind if known in classes_with("kind").values() else _import_string(known)
    if hasattr(known, "store"):
        of, params = known.store(fitted)
        return kind + of, params
    params = {name: getattr(fitted, name) for name in _names(known)}
    _numbers(params)
    return kind, params


def from_params(kind: str, params: Mapping[str, Any], plugins: Sequence[str] = ()) -> FittedDetector:
    """Inverse of `to_params`; lists, as JSON has them, count as arrays.

    Args:
      kind: as stored.
      params: as stored.
      plugins: names of modules that may be imported if the detector is one of theirs.

    Raises:
      BadInput: unknown kind, a module that is not among the plugins, or parameters that are missing, unknown or not numbers.
    """
    known, of = _class_of(kind, plugins)
    if hasattr(known, "restore"):
        return known.restore(of, params, plugins)
    return from_fields(known, params)


def from_fields(known: Any, params: Mapping[str, Any]) -> Any:
    """A dataclass from the values of its fields.

    Raises:
      BadInput: parameters that are missing, unknown, not numbers, or of shapes that the class does not say of them.
    """
    if set(params) != set(_names(known)):
        raise BadInput(f"expected the parameters {', '.join(_names(known))}, got {', '.join(params)}; fit the detector again")
    values = _numbers(params)
    _check_shapes(known, values)
    return known(**{name: value if value.ndim else value.item() for name, value in values.items()})


def rows_once(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with one entry for each row: where millions of rows repeat, each different one with its `count`.

    Fewer than 100,000 rows, and rows that hardly repeat, stay as they are.
    """
    arrays = {name: np.asarray(values) for name, values in params.items()}
    columns = [column for array in arrays.values() for column in array.reshape(len(array), -1).T]
    if len(columns[0]) < MANY:
        return arrays
    _, first, count = np.unique(same_rows(*columns), return_index=True, return_counts=True)
    return {name: array[first] for name, array in arrays.items()} | {COUNT: count} if len(first) < len(columns[0]) / 2 else arrays


def rows_again(params: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Inverse of `rows_once`, but for the order of the rows.

    Raises:
      BadInput: counts that do not belong to the rows.
    """
    if COUNT not in params:
        return dict(params)
    count, rest = np.asarray(params[COUNT]), {name: value for name, value in params.items() if name != COUNT}
    rows = {name: np.asarray(rest.get(name)) for name in names}
    if (
        count.ndim != 1
        or count.dtype.kind not in "iu"
        or (count < 1).any()
        or any(array.shape[:1] != count.shape for array in rows.values())
    ):
        raise BadInput(f"expected a count of at least 1 for each row, got others as parameter {COUNT}; fit the detector again")
    if count.sum(dtype=float) > MOST:
        raise BadInput(
            f"expected at most {MOST:g} rows in all, got {count.sum(dtype=float):g} by parameter {COUNT}; fit the detector again"
        )
    return rest | {name: np.repeat(array, count, axis=0) for name, array in rows.items()}


def _class_of(kind: str, plugins: Sequence[str]) -> tuple[Any, str]:
    """The class of a stored kind, and the kind of its members."""
    kinds = classes_with("kind")
    for own, known in kinds.items():
        if kind == own or (own.endswith("-of-") and kind.startswith(own)):
            return known, kind.removeprefix(own)
    if ":" in kind:
        return _plugin(kind, plugins), ""
    raise BadInput(f"expected a detector among {', '.join(sorted(kinds))}, got {kind!r}; fit it again with this version")


def _plugin(kind: str, plugins: Sequence[str]) -> Any:
    """The class that an import string names. A file chooses among fitted detectors made in that module, and nothing else of it."""
    module, _, name = kind.partition(":")
    known = plugged(kind, "the detector", plugins)
    its_own = inspect.isclass(known) and (known.__module__, known.__qualname__) == (module, name)
    if not (its_own and is_dataclass(known) and all(hasattr(known, part) for part in ("score", "predict", "bounds"))):
        raise BadInput(f"expected {kind} to be the dataclass of a fitted detector, got {known!r}; fit the detector again")
    return known


def _import_string(known: Any) -> str:
    module, name = known.__module__, known.__qualname__
    importable = module != "__main__" and "<locals>" not in name
    require(importable, "a detector whose class can be imported", f"{module}:{name}", "move the class to the top level of a module")
    require(
        is_dataclass(known), "a fitted detector that is a dataclass", f"{module}:{name}", "make the class a dataclass of numbers and arrays"
    )
    return f"{module}:{name}"


def _numbers(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    values = {name: np.asarray(value) for name, value in params.items()}
    for name, value in values.items():
        if value.dtype.kind not in "biuf":
            raise BadInput(f"expected numbers as parameter {name}, got {value.dtype}; fit the detector again")
    return values


def _check_shapes(known: Any, values: Mapping[str, np.ndarray]) -> None:
    """Arrays whose shapes are annotated (`Float[np.ndarray, "n columns"]`) have these axes, and an axis has one length everywhere."""
    lengths: dict[str, int] = {}
    for one in fields(known):
        if (dims := getattr(one.type, "dim_str", None)) is not None:
            axes, shape = dims.split(), values[one.name].shape
            fits = len(axes) == len(shape) and all(lengths.setdefault(axis, size) == size for axis, size in zip(axes, shape, strict=True))
            if not fits:
                raise BadInput(f"expected parameter {one.name} of shape ({dims.strip()}), got {shape}; fit the detector again")


def _names(known: Any) -> list[str]:
    return [one.name for one in fields(known)]
