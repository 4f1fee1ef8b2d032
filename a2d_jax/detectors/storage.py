"""Fitted detectors as a kind and plain values, for a file of JSON or npz; never pickle."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from a2d_jax.detectors.base import FittedDetector
from a2d_jax.detectors.conformal import FittedConformal
from a2d_jax.detectors.knn import FittedKNN
from a2d_jax.detectors.learned import FittedSVM, FittedTrees
from a2d_jax.detectors.vote import FittedVote
from a2d_jax.detectors.zscore import FittedReleased, FittedZScore
from a2d_jax.errors import BadInput

_KINDS: dict[str, type] = {
    "zscore": FittedZScore,
    "zscore-as-released": FittedReleased,
    "knn": FittedKNN,
    "conformal": FittedConformal,
    "svm": FittedSVM,
    "trees": FittedTrees,
}
_VOTE = "vote-of-"  # a vote stores each field of its members as an array, one entry per attack, beside its own k


def to_params(fitted: FittedDetector) -> tuple[str, dict[str, Any]]:
    """The kind of a fitted detector and its parameters: numbers, flags and arrays."""
    if isinstance(fitted, FittedVote):
        kinds, params = zip(*map(to_params, fitted.members), strict=True)
        return _VOTE + kinds[0], {"k": fitted.k} | {name: np.array([member[name] for member in params]) for name in params[0]}
    kind = next(kind for kind, known in _KINDS.items() if isinstance(fitted, known))
    return kind, {name: getattr(fitted, name) for name in _names(type(fitted))}


def from_params(kind: str, params: Mapping[str, Any]) -> FittedDetector:
    """Inverse of `to_params`; lists, as JSON has them, count as arrays.

    Raises:
      BadInput: unknown kind, or parameters that are missing, unknown or not numbers.
    """
    if kind.startswith(_VOTE) and "k" in params:
        columns = {name: np.asarray(column).tolist() for name, column in params.items() if name != "k"}
        lengths = {len(column) if isinstance(column, list) else 0 for column in columns.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise BadInput("expected one value for each member of a vote, got columns of different lengths; fit the detector again")
        members = [
            from_params(kind.removeprefix(_VOTE), {name: column[i] for name, column in columns.items()}) for i in range(lengths.pop())
        ]
        return FittedVote(tuple(members), int(params["k"]))  # pyright: ignore[reportArgumentType]
    if kind not in _KINDS:
        raise BadInput(f"expected a detector among {', '.join([*_KINDS, _VOTE + 'zscore'])}, got {kind!r}; fit it again with this version")
    known = _KINDS[kind]
    if set(params) != set(_names(known)):
        raise BadInput(f"expected the parameters {', '.join(_names(known))}, got {', '.join(params)}; fit the detector again")
    values = {name: np.asarray(value) for name, value in params.items()}
    for name, value in values.items():
        if value.dtype.kind not in "biuf":
            raise BadInput(f"expected numbers as parameter {name}, got {value.dtype}; fit the detector again")
    return known(**{name: value.item() if value.ndim == 0 else value for name, value in values.items()})


def _names(known: type) -> list[str]:
    return [one.name for one in fields(known)]
