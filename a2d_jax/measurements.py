"""Measurements of images, and the names of the columns that a detector reads.

A measurement is an attack, or a CLEVER target (`clever:target-2`), by its name in a table; each has several numbers. A *column* is one
number of one measurement: `fmn.distance`, `bim.forward_queries`, `clever:target-2.score`. The name of a measurement alone means its main
number: the cost of an attack, the score of CLEVER.

An image on which an attack fails has no distance and no crossing: the point where the attack stopped is not on the boundary, and its
distance would make the boundary look near. A failure therefore counts as the largest possible distance, the diameter of the pixel box in
the attack's norm. No success can be farther, so a failure never ties with a success, and every detector can read it (docs/decisions/0044,
0051).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from a2d_jax.errors import BadInput
from a2d_jax.types import Norm

ATTACK_NUMBERS = ("cost", "iterations", "forward_queries", "backward_queries", "distance", "crossing")
CLEVER_NUMBERS = ("score", "margin", "lipschitz", "largest", "shape", "p_value")
CLEVER = "clever:"
"""In front of the name of a CLEVER target."""
FEW = 4
"""Values at most, over all benign images, that make a number too coarse to be read without a word."""


class Column(NamedTuple):
    """One number of one measurement."""

    measurement: str
    number: str

    @classmethod
    def named(cls, text: str, measurements: Collection[str]) -> "Column":
        """Read `measurement` or `measurement.number`.

        Args:
          text: the user's text.
          measurements: the available measurements; a name may itself contain dots.

        Raises:
          BadInput: no such measurement, or no such number of it.
        """
        if text in measurements:
            return cls(text, usual_number(text))
        measurement, _, number = text.rpartition(".")
        if measurement not in measurements:
            raise BadInput(f"expected a measurement among {', '.join(measurements)}, got {text}; name one of them")
        if number not in numbers_of(measurement):
            raise BadInput(
                f"expected a number of {measurement} among {', '.join(numbers_of(measurement))}, got {number!r}; name one of them"
            )
        return cls(measurement, number)

    @classmethod
    def all_named(cls, texts: Sequence[str], measurements: Collection[str]) -> "tuple[Column, ...]":
        """Columns as typed, each once.

        Raises:
          BadInput: as `named`, none at all, or one of them twice.
        """
        found = tuple(cls.named(text, measurements) for text in texts)
        if not found or len(set(found)) < len(found):
            raise BadInput(f"expected at least one column and each once, got {', '.join(texts) or 'none'}; name each number once")
        return found

    @property
    def is_effort(self) -> bool:
        """The number is an effort until the attack ended. It does not tell how far from success the attack was."""
        return self.number in ("iterations", "forward_queries", "backward_queries")

    @property
    def is_cost(self) -> bool:
        """Whole numbers that an iteration bound may cut off."""
        return self.number == "cost"

    def __str__(self) -> str:
        """The shortest form that a user can type."""
        return self.measurement if self.number == usual_number(self.measurement) else f"{self.measurement}.{self.number}"


def numbers_of(measurement: str) -> tuple[str, ...]:
    """The numbers that a measurement has."""
    return CLEVER_NUMBERS if measurement.startswith(CLEVER) else ATTACK_NUMBERS


def usual_number(measurement: str) -> str:
    """The number that the name of a measurement alone means."""
    return numbers_of(measurement)[0]


def farthest(norm: Norm, shape: tuple[int, ...]) -> float:
    """The diameter of the box of pixels in [0, 1]: no image of this shape is farther from another."""
    scalars = math.prod(shape)
    return {"linf": 1.0, "rms": 1.0, "l2": math.sqrt(scalars), "l1": float(scalars), "l0": float(scalars)}[norm]


def honest(column: Column, values: NDArray[np.generic], success: NDArray[np.bool_], farthest: float | None) -> NDArray[np.generic]:
    """The values of a column, corrected for images on which the attack failed.

    Args:
      column: the column.
      values: the values that the attack returned, `n`.
      success: the attack succeeded, `n`.
      farthest: diameter of the pixel box in the attack's norm; None if it is not known.

    Raises:
      BadInput: the column is a crossing and the attack has none, or the distance of a failure is needed and `farthest` is not known.
    """
    if column.number not in ("distance", "crossing"):
        return values
    values = values.astype(np.float64)  # a failure reads the same number wherever it is read
    if np.isnan(values).any():
        raise BadInput(
            f"expected an attack that walks from the image across the boundary, got {column.measurement}, which has no crossing; "
            f"name another, such as newton or bim, or read {column.measurement}.distance"
        )
    if success.all():
        return values
    if farthest is None:
        raise BadInput(
            f"expected a table that records the norm of {column.measurement} and the shape of the images, since the attack failed on "
            f"{int((~success).sum())} of them, got a table without; run `a2d cost` again with this version"
        )
    return np.where(success, values, farthest)


def coarse(columns: Mapping[Column, NDArray[np.generic]]) -> list[str]:
    """Notes on columns that have few different values on benign images."""
    notes: list[str] = []
    for column, values in columns.items():
        if len(values) > FEW and len(different := np.unique(values)) <= FEW:
            shown = ", ".join(f"{value:g}" for value in different.tolist())
            others = f"; another number may tell more, such as {column.measurement}.distance, or its crossing if it has one"
            more = others if column.is_cost else ""
            notes.append(
                f"{column} takes {len(different)} values on {len(values)} benign images ({shown}), too few to tell images apart{more}"
            )
    return notes


def same_rows(*columns: NDArray[Any]) -> NDArray[np.int64]:
    """A number from 0 for each row; rows have the same one if they are the same in all columns, each `n`."""
    code = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values, part = np.unique(column, return_inverse=True)
        code = np.unique(code * len(values) + part, return_inverse=True)[1]
    return code
