"""The common parts of detectors: the protocol, the check of the input, verdicts and bounds from scores, and 64-bit arithmetic.

A detector is an immutable record of settings; `fit` returns a *new* fitted pytree with `score` and `predict`. A table `x` has one row
per image and one column per measurement: the cost of an attack, a distance, any number. Detectors know neither images nor the names
of columns. Inputs and outputs are NumPy arrays, because they come from tables and go into tables. The arithmetic between them is jitted,
in float64 whatever JAX is set to: costs reach 5001, and float32 cannot tell apart the squares and powers of such numbers.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import jax
import numpy as np
from jax import Array
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from a2d_jax import inputs
from a2d_jax.errors import BadInput

Table = Float[np.ndarray, "n columns"]
Scores = Float[np.ndarray, " n"]
Verdicts = Bool[np.ndarray, " n"]
Bounds = tuple[int | None, ...]
Radii = tuple[float | None, ...]

_CHUNK = 256  # rows


class FittedDetector(Protocol):
    """A detector that judges tables of numbers; every method takes a table `n columns` (a 1-D array is one column).

    Every method takes `labels` (the predicted class of each row) and `index` (the number of each row's image, 0 to 2**63 - 1), so that
    callers need not know which detector uses them. The verdict on a row does not depend on other rows.
    """

    @property
    def columns(self) -> int:
        """Columns of the table it was fitted to."""
        ...

    @property
    def threshold(self) -> float:
        """`predict` is exactly `score > threshold`."""
        ...

    def score(self, x: ArrayLike, *, labels: ArrayLike | None = None, index: ArrayLike | None = None) -> Scores:
        """How adversarial each row looks: higher is more adversarial."""
        ...

    def predict(self, x: ArrayLike, *, labels: ArrayLike | None = None, index: ArrayLike | None = None) -> Verdicts:
        """True for each row judged adversarial."""
        ...

    def bounds(self, max_costs: Sequence[int | None]) -> Bounds:
        """For each column the smallest integer cost from which on every cost is judged benign; see `Fitted.bounds`."""
        ...

    def radii(self, farthest: Sequence[float | None]) -> Radii:
        """For each column a real number from which on every number is judged benign; see `Fitted.radii`."""
        ...


class Detector(Protocol):
    """Settings of a detector, not yet fitted.

    A class whose flat settings (those of a command line) are not its fields has a classmethod `with_settings` that takes them.
    """

    name: ClassVar[str]
    """By which commands know it."""
    needs_adversarial: ClassVar[bool] = False
    """It learns from adversarial rows too."""
    single_column: ClassVar[bool] = False
    """It reads one column alone."""

    def fit(self, benign: ArrayLike, adversarial: ArrayLike | None = None, *, labels: ArrayLike | None = None) -> FittedDetector:
        """Learn from rows of benign images and, for detectors that use them, of adversarial ones.

        Args:
          benign: `n columns`.
          adversarial: `m columns`; not looked at unless `needs_adversarial`.
          labels: predicted class of each benign row; not looked at unless the detector reads classes.

        Raises:
          BadInput: what cannot be fitted.
        """
        ...


def whole_detector(fitted: Any, name: str) -> FittedDetector:
    """Check that a fitted detector has all parts that files and commands need, and return it.

    Raises:
      BadInput: a part is missing.
    """
    lacks = [part for part in ("columns", "threshold", "score", "predict", "bounds") if not hasattr(fitted, part)]
    if lacks:
        raise BadInput(f"expected {name} to fit a detector, got a {type(fitted).__name__} without {', '.join(lacks)}; see `FittedDetector`")
    return fitted


class Fitted:
    """The common methods of the fitted detectors in this package. A user's own detector may inherit them or write its own."""

    kind: ClassVar[str]
    """By which storage knows it."""

    def predict(self: FittedDetector, x: ArrayLike, *, labels: ArrayLike | None = None, index: ArrayLike | None = None) -> Verdicts:
        """`score > threshold`."""
        return self.score(x, labels=labels, index=index) > self.threshold

    def bounds(self: FittedDetector, max_costs: Sequence[int | None]) -> Bounds:
        """For each column the smallest integer cost from which on every cost is judged benign: the attack may stop there.

        Replacing a cost c by min(c, bound) then changes no verdict. The bound is found by asking for the verdict on every cost from 0 to
        the largest. This is exact for any detector of one column, monotone or not.

        Source: Zhao et al., "Attack as Defense", ISSTA 2021, section 4.3 (upper bound on the iterations).

        Args:
          max_costs: largest cost that each column can have: max_steps + 1, the cost of a failed attack; None for a column that is not an
            integer cost.

        Returns:
          A bound for each column. It is None if the column is not an integer cost, if its largest cost is itself suspicious (a two-sided
          detector), or if the detector reads several columns jointly.

        Raises:
          BadInput: not one largest cost for each column.
        """
        return bounds_of(self.predict, self.columns, max_costs)

    def radii(self: FittedDetector, farthest: Sequence[float | None]) -> Radii:
        """`bounds` for columns of real numbers from 0 to `farthest`, such as crossings; None if no bound is known.

        Replacing a number above the bound by any number from the bound to `farthest` then changes no verdict. A detector can give such a
        bound if it knows all numbers at which its verdict may change. This default returns None for every column.

        Args:
          farthest: largest number that each column can have, the number of a failure; None for a column that shall have no bound.

        Raises:
          BadInput: not one largest number for each column.
        """
        check_max_costs(farthest, self.columns)
        return (None,) * self.columns


def bounds_of(suspects: Callable[[Table], Verdicts], columns: int, max_costs: Sequence[int | None]) -> Bounds:
    """`Fitted.bounds` of a detector that may flag a row if `suspects` does."""
    check_max_costs(max_costs, columns)
    (most, *others) = max_costs
    if others or most is None:
        return (None,) * columns
    flagged = np.flatnonzero(suspects(np.arange(most + 1.0)[:, None]))
    bound = int(flagged[-1]) + 1 if len(flagged) else 0
    return (bound if bound <= most else None,)


def radii_of(
    suspects: Callable[[Table], Verdicts], turns: Float[np.ndarray, " n"], columns: int, farthest: Sequence[float | None]
) -> Radii:
    """`Fitted.radii` of a detector that may flag a row if `suspects` does, whose verdict turns nowhere but at `turns`."""
    check_max_costs(farthest, columns)
    (most, *others) = farthest
    if others or most is None:
        return (None,) * columns
    knots = np.unique(np.concatenate([[0.0, most], turns[(turns > 0) & (turns < most)]]))
    asked = np.sort(np.concatenate([knots, (knots[1:] + knots[:-1]) / 2]))  # every turn, and one number between every two
    flagged = asked[suspects(asked[:, None])]
    above = knots[knots > flagged[-1]] if len(flagged) else knots
    return (float(above[0]) if len(above) else None,)


def check_max_costs(max_costs: Sequence[float | None], columns: int) -> None:
    """Raise `BadInput` unless there is one largest cost for each column."""
    if len(max_costs) != columns:
        raise BadInput(f"expected {columns} largest cost(s), got {len(max_costs)}; give one for each column of the detector")


def read_table(x: ArrayLike, columns: int | None = None, *, least: int = 0, role: str = "costs") -> Table:
    """Read a table of numbers as float64, `n columns`.

    Args:
      x: numbers, `n columns` or `n` (one column).
      columns: how many it must have, if known.
      least: rows it must have.
      role: what the table is, for the error text.

    Raises:
      BadInput: not numbers, not finite, not a table, too few rows, or another number of columns.
    """
    table = inputs.array(x, role)
    if table.dtype.kind not in "iuf":
        raise BadInput(f"expected {role} as numbers, got an array of {table.dtype}; pass one count per image and column")
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2 or table.shape[1] == 0:
        raise BadInput(f"expected {role} of shape (images, columns), got {table.shape}; pass one row per image, one column per attack")
    table = table.astype(np.float64)
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
        raise BadInput(f"expected finite {role}, got {table[row].tolist()} in row {row}; leave out images whose attack failed to run")
    if columns is not None and table.shape[1] != columns:
        raise BadInput(f"expected {role} of {columns} column(s), got {table.shape[1]}; give the columns that the detector was fitted to")
    if len(table) < least:
        raise BadInput(f"expected at least {least} rows of {role}, got {len(table)}; give more images")
    return table


def read_both(benign: ArrayLike, adversarial: ArrayLike | None) -> tuple[Table, Bool[np.ndarray, " n"]]:
    """Both training tables as one, and which rows are adversarial.

    Raises:
      BadInput: as `read_table`, or no adversarial table.
    """
    if adversarial is None:
        raise BadInput(
            "expected adversarial costs beside the benign ones, got none; give some, or use a detector that needs none, such as zscore"
        )
    first = read_table(benign, least=1, role="benign costs")
    second = read_table(adversarial, first.shape[1], least=1, role="adversarial costs")
    return np.concatenate([first, second]), np.arange(len(first) + len(second)) >= len(first)


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """Jit `function` with 64-bit types, whatever JAX is set to. It takes and returns NumPy arrays, so that nothing else becomes 64-bit."""
    jitted = jax.jit(function)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, jitted(*args))

    return call


def rowwise(function: Callable[..., Any], many: int = _CHUNK) -> Callable[..., Any]:
    """Make `function(fitted, *row)` read whole columns, jitted in float64.

    Rows are processed in chunks of one size, and the last chunk is padded. So one compiled program serves any number of rows, and at most
    one chunk is compared with a training set at a time.

    Args:
      function: of one row.
      many: rows of a chunk where there are at least so many; for functions that compare a row with nothing else.
    """

    @in_float64
    def chunk(fitted: Any, *columns: Array) -> Any:
        return jax.vmap(functools.partial(function, fitted))(*columns)

    @functools.wraps(function)
    def call(fitted: Any, *columns: np.ndarray) -> Any:
        n = len(columns[0])
        size = many if n >= many else _CHUNK
        chunks = [[_padded(column[i : i + size], size) for column in columns] for i in range(0, max(n, 1), size)]
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *[chunk(fitted, *rows) for rows in chunks])

    return call


def _padded(column: np.ndarray, size: int) -> np.ndarray:
    short = size - len(column)
    return np.concatenate([column, np.zeros((short, *column.shape[1:]), column.dtype)]) if short else column
