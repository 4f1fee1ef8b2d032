"""Cast the columns that other tools write to our types, once, on reading.

A column is cast if nothing is lost: other widths of numbers, floats and decimals that are whole, 0 and 1 for flags, categories, long and
short texts. A value that does not fit is an error of its row. A column of a different kind (texts for numbers, dates, lists) is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from a2d_jax.errors import BadInput

EXACT = 2**53
"""Whole numbers below this are the same as floats; a float above it may have been rounded."""


@dataclass(frozen=True)
class Cast:
    """A column in our type.

    Attributes:
      values: `n`; 0, NaN or False where nothing can be read.
      missing: `n`; true where the value is null or NaN.
      wrong: by row, the value that does not fit.
    """

    values: NDArray[Any]
    missing: NDArray[np.bool_]
    wrong: dict[int, str]

    @property
    def absent(self) -> bool:
        """The column has no value in any row."""
        return bool(self.missing.all())

    @property
    def unreadable(self) -> NDArray[np.bool_]:
        """Rows without a usable value, `n`."""
        found = self.missing.copy()
        found[list(self.wrong)] = True
        return found


@dataclass(frozen=True)
class Texts:
    """A column of texts.

    Attributes:
      values: `n`, an Arrow array without nulls; "" where nothing can be read.
      missing: `n`; true where the value is null, NaN or empty.
    """

    values: Any
    missing: NDArray[np.bool_]


def whole_numbers(column: Any, name: str, path: Path, least: int = 0, most: int = 2**63 - 1) -> Cast:
    """Whole numbers as int64.

    Raises:
      BadInput: the column holds something else than numbers.
    """
    array = _plain(column)
    kind = array.type
    missing, given = _nulls(array), array
    if pa.types.is_null(kind):
        return Cast(np.zeros(len(array), np.int64), missing, {})
    if pa.types.is_decimal(kind):
        given = np.asarray([0 if value is None else value for value in array.to_pylist()], object)
        fits = np.asarray([value == value.to_integral_value() if missing[i] == 0 else True for i, value in enumerate(given)], bool)
    elif pa.types.is_integer(kind):
        given = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
        fits = np.ones(len(given), bool)
    elif pa.types.is_floating(kind):
        given = _floats(array)
        missing |= np.isnan(given)
        fits = np.isfinite(given) & (np.abs(given) < EXACT) & (np.floor(np.where(np.isfinite(given), given, 0)) == given)
    else:
        raise _another("whole numbers", kind, name, path)
    fits &= (given >= least) & (given <= most)
    values = np.where(fits & ~missing, given, 0).astype(np.int64)
    bounds = f"from {least} to {most}" if most < 2**63 - 1 else f"of at least {least}"
    said = f"expected a whole number {bounds} as {name}"
    return Cast(values, missing, {int(i): f"{said}, got {_shown(given[i])}" for i in np.flatnonzero(~fits & ~missing)})


def real_numbers(column: Any, name: str, path: Path, least: float = -np.inf) -> Cast:
    """Finite numbers as float64.

    Raises:
      BadInput: the column holds something else than numbers.
    """
    array = _plain(column)
    kind = array.type
    if not (pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise _another("numbers", kind, name, path)
    values = np.full(len(array), np.nan) if pa.types.is_null(kind) else _floats(array)
    missing = np.isnan(values)
    fits = missing | (np.isfinite(values) & (values >= least))
    bounds = "a finite number" if least == -np.inf else f"a finite number of at least {least:g}"
    wrong = {int(i): f"expected {bounds} as {name}, got {_shown(values[i])}" for i in np.flatnonzero(~fits)}
    return Cast(np.where(fits, values, np.nan), missing, wrong)


def flags(column: Any, name: str, path: Path) -> Cast:
    """True and false, or 1 and 0.

    Raises:
      BadInput: the column holds something else.
    """
    array = _plain(column)
    if pa.types.is_boolean(array.type):
        return Cast(pc.fill_null(array, False).to_numpy(zero_copy_only=False), _nulls(array), {})
    try:
        found = whole_numbers(array, name, path, most=1)
    except BadInput as error:
        raise _another("true and false", array.type, name, path) from error
    return Cast(
        found.values.astype(bool),
        found.missing,
        {i: text.replace("a whole number from 0 to 1", "0 or 1") for i, text in found.wrong.items()},
    )


def texts(column: Any, name: str, path: Path, numbers: bool = False) -> Texts:
    """Texts as Arrow has them; bytes that are no UTF-8 are shown as escapes.

    Args:
      column: of an Arrow table.
      name: what it is called.
      path: of the file, for the error.
      numbers: bytes and numbers are taken as the text that shows them.

    Raises:
      BadInput: the column holds something else.
    """
    array = _plain(column)
    kind = array.type
    empty = pa.types.is_null(kind) or (pa.types.is_floating(kind) and bool(np.isnan(_floats(array)).all()))
    written = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not (empty or written or (numbers and (binary or number))):
        raise _another("texts", kind, name, path)
    if empty:
        return Texts(pa.array([""] * len(array), pa.large_string()), np.ones(len(array), bool))
    if written or binary:
        array = array.cast(pa.large_binary())
        try:
            found = array.cast(pa.large_string())
        except pa.ArrowInvalid:
            found = _each(array, lambda value: value.decode("utf-8", "backslashreplace"))
    else:
        found = array.cast(pa.large_string()) if pa.types.is_integer(kind) else _each(array, _shown)
    found = pc.fill_null(found, "")
    return Texts(found, np.array(pc.call_function("equal", [found, ""]).to_numpy(zero_copy_only=False), bool))


def _each(array: Any, show: Callable[[Any], str]) -> Any:
    """The text of each value; null for null and NaN."""
    return pa.array([None if value is None or value != value else show(value) for value in array.to_pylist()], pa.large_string())


def _plain(column: Any) -> Any:
    """One array without categories and extensions."""
    kind = column.type
    while isinstance(kind, pa.DictionaryType | pa.BaseExtensionType):
        kind = kind.value_type if isinstance(kind, pa.DictionaryType) else kind.storage_type
        column = column.cast(kind)
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], kind)
    return column


def _nulls(array: Any) -> NDArray[np.bool_]:
    return np.array(array.is_null().to_numpy(zero_copy_only=False), bool)


def _floats(array: Any) -> NDArray[np.float64]:
    """As float64; null becomes NaN."""
    return np.array(pc.fill_null(array.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False), np.float64)


def _shown(value: Any) -> str:
    """A value in an error; whole floats without their point."""
    return (
        f"{value:g}"
        if isinstance(value, float) and not (value.is_integer() and abs(value) < EXACT)
        else str(int(value) if isinstance(value, float) else value)
    )


def _another(expected: str, kind: Any, name: str, path: Path) -> BadInput:
    return BadInput(f"expected {expected} in the column {name}, got {str(kind)[:60]} in {path}; write the column as {expected}")
