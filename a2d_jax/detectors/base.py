"""What every detector shares: the contract, the check of its input, and 64-bit arithmetic.

A detector is an immutable record of settings; `fit` returns a *new* fitted pytree with `score` and `predict`. A table of costs has
one row per image and one column per attack; detectors know neither images nor the names of attacks. Costs come from tables and
verdicts go into tables, so both sides are NumPy; the arithmetic between is jitted, in float64 whatever JAX is set to: costs
reach 5001, whose squares and powers float32 cannot tell apart.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from jax import Array
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from a2d_jax.errors import BadInput

Costs = Float[np.ndarray, "n attacks"]
Scores = Float[np.ndarray, " n"]
Verdicts = Bool[np.ndarray, " n"]

_CHUNK = 256  # rows


class FittedDetector(Protocol):
    """Judges costs; every method takes `n attacks` numbers (a 1-D array is one attack)."""

    @property
    def attacks(self) -> int:
        """Columns of the table of costs it was fitted to."""
        ...

    @property
    def threshold(self) -> float:
        """`predict` is `score > threshold`, nothing else."""
        ...

    def score(self, costs: ArrayLike) -> Scores:
        """How adversarial each row looks: higher is more adversarial."""
        ...

    def predict(self, costs: ArrayLike) -> Verdicts:
        """True for each row judged adversarial."""
        ...


class Detector(Protocol):
    """Settings of a detector, not yet fitted."""

    def fit(self, benign: ArrayLike, adversarial: ArrayLike | None = None) -> FittedDetector:
        """Learn from costs of benign images and, for detectors that use them, of adversarial ones."""
        ...


def read_costs(costs: ArrayLike, attacks: int | None = None, *, least: int = 0, role: str = "costs") -> Costs:
    """Read a table of costs as float64, `n attacks`.

    Args:
      costs: numbers, `n attacks` or `n` (one attack).
      attacks: columns it must have, if known.
      least: rows it must have.
      role: what the table is, for the error text.

    Raises:
      BadInput: not numbers, not finite, not a table, too few rows, or another number of attacks.
    """
    table = np.asarray(costs)
    if table.dtype.kind not in "iuf":
        raise BadInput(f"expected {role} as numbers, got an array of {table.dtype}; pass one count per image and attack")
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2 or table.shape[1] == 0:
        raise BadInput(f"expected {role} of shape (images, attacks), got {table.shape}; pass one row per image, one column per attack")
    table = table.astype(np.float64)
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
        raise BadInput(f"expected finite {role}, got {table[row].tolist()} in row {row}; leave out images whose attack failed to run")
    if attacks is not None and table.shape[1] != attacks:
        raise BadInput(f"expected {role} of {attacks} attack(s), got {table.shape[1]}; use the attacks that the detector was fitted with")
    if len(table) < least:
        raise BadInput(f"expected at least {least} rows of {role}, got {len(table)}; give more images")
    return table


def read_both(benign: ArrayLike, adversarial: ArrayLike | None) -> tuple[Costs, Bool[np.ndarray, " n"]]:
    """Both training tables as one, and which rows are adversarial.

    Raises:
      BadInput: as `read_costs`, or no adversarial table.
    """
    if adversarial is None:
        raise BadInput(
            "expected adversarial costs beside the benign ones, got none; give some, or use a detector that needs none (zscore, vote)"
        )
    first = read_costs(benign, least=1, role="benign costs")
    second = read_costs(adversarial, first.shape[1], least=1, role="adversarial costs")
    return np.concatenate([first, second]), np.arange(len(first) + len(second)) >= len(first)


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """Jit `function` with 64-bit types, whatever JAX is set to; arrays go in and come out as NumPy, so that nothing else turns 64-bit."""
    jitted = jax.jit(function)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, jitted(*args))

    return call


def rowwise(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make `function(fitted, *row)` read whole columns, jitted in float64.

    Rows go through in chunks of one size, the last one filled up: any number of rows runs the one compiled program, and no more than
    a chunk is compared with a training set at once.
    """

    @in_float64
    def chunk(fitted: Any, *columns: Array) -> Any:
        return jax.vmap(functools.partial(function, fitted))(*columns)

    @functools.wraps(function)
    def call(fitted: Any, *columns: np.ndarray) -> Any:
        n = len(columns[0])
        chunks = max(-(-n // _CHUNK), 1)
        full = [np.concatenate([column, np.zeros((chunks * _CHUNK - n, *column.shape[1:]), column.dtype)]) for column in columns]
        results = [chunk(fitted, *(column[i * _CHUNK : (i + 1) * _CHUNK] for column in full)) for i in range(chunks)]
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *results)

    return call
