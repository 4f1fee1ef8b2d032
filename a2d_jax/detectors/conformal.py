"""Conformal p-values of the attack cost: the false-positive rate on fresh benign images is the level asked for.

No distribution is assumed: benign calibration images and a fresh benign image are exchangeable, so the rank of the fresh image among
all is uniform. Costs are integers and tie. A jitter u from the image's own key breaks ties, so that the p-value

    p = (#{strangeness below} + u (1 + #{equal})) / (n + 1)

is exactly uniform. Strangeness is computed in the same way for the calibration images *and* the judged image (full conformal prediction).
It is the rank of the cost: low is strange. With `two_sided` it is the distance of the rank from the nearer end: full-budget attacks such as
PGD make images cost *more* than benign ones, and a one-sided test points the wrong way. With several attacks, the strangest one counts.
The guarantee needs no correction for the number of attacks, however dependent they are.

Source: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World" (smoothed and Mondrian predictors); Bates et al., "Testing
for Outliers with Conformal p-values", arXiv:2104.08279. Differs: the strangest-rank measure for several attacks is ours.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import jax
import numpy as np
from jax import Array
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from a2d_jax import inputs
from a2d_jax.detectors.base import Bounds, Detector, Fitted, Radii, Scores, Table, Verdicts, bounds_of, radii_of, read_table, rowwise
from a2d_jax.detectors.ranks import Strangeness
from a2d_jax.detectors.storage import from_fields, rows_again, rows_once
from a2d_jax.errors import BadInput, require
from a2d_jax.types import STATIC

_ROWS = ("costs", "labels")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Conformal(Detector):
    """Settings of the conformal detector; reads any number of columns and needs benign costs only.

    The rate of one fitted detector varies around the level with its calibration set: standard deviation about sqrt(level / n).

    Attributes:
      level: false-positive rate on fresh benign images.
      two_sided: unusually high costs are suspicious too.
      per_class: calibrate each predicted class by itself, so that the rate holds for each class. Classes with fewer calibration images
        than 1 / level (two-sided: 2 / level) are judged by all images together; for them the rate need not hold.
      seed: seed of the jitter.
    """

    name = "conformal"

    level: float = field(default=0.1, metadata=STATIC)
    two_sided: bool = field(default=False, metadata=STATIC)
    per_class: bool = field(default=False, metadata=STATIC)
    seed: int = field(default=0, metadata=STATIC)

    def __post_init__(self) -> None:
        require(0 < self.level < 1, "a level in (0, 1)", self.level, "0.1 flags one benign image in ten")

    @property
    def least(self) -> int:
        """Fewest calibration images with which a verdict is more than a toss of the jitter."""
        return math.ceil((2 if self.two_sided else 1) / self.level - 1e-9)

    def fit(self, benign: ArrayLike, adversarial: ArrayLike | None = None, *, labels: ArrayLike | None = None) -> "FittedConformal":
        """Keep the calibration costs; `adversarial` is not looked at.

        Args:
          benign: costs of benign images that no threshold was tuned on.
          adversarial: not used.
          labels: predicted class of each benign image; needed by `per_class`.

        Raises:
          BadInput: too few images, or labels missing or of another length.
        """
        costs = read_table(benign, least=self.least, role="benign costs")
        groups = _read_labels(labels, len(costs)) if self.per_class else np.zeros(len(costs), np.int64)
        return FittedConformal(costs, groups, self.level, self.seed, self.least, self.two_sided, self.per_class)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FittedConformal(Fitted):
    """The calibration set.

    Attributes:
      costs: benign calibration rows, `n columns`.
      labels: predicted class of each; all 0 unless `per_class`.
      level: false-positive rate asked for.
      seed: of the jitter.
      least: calibration images that a class needs for a map of its own.
      two_sided: unusually high costs are suspicious too.
      per_class: rows are judged among the calibration rows of their predicted class.
    """

    kind = "conformal"

    costs: Float[np.ndarray, "n columns"]
    labels: Int[np.ndarray, " n"]
    level: float
    seed: int
    least: int
    two_sided: bool = field(metadata=STATIC)
    per_class: bool = field(metadata=STATIC)

    @property
    def columns(self) -> int:
        """Columns of the calibration costs."""
        return self.costs.shape[1]

    @property
    def threshold(self) -> float:
        """1 - level, since the score is 1 - p."""
        return 1 - self.level

    def p_values(self, x: ArrayLike, *, labels: ArrayLike | None = None, index: ArrayLike | None = None) -> Scores:
        """Smoothed p-values, uniform on (0, 1) for benign images.

        Args:
          x: `n columns`.
          labels: predicted class of each row; needed if fitted `per_class`.
          index: number of each row's image, 0 to 2**63 - 1; its low 32 bits key the jitter. A row's p-value then does not depend on
            other rows; rows with the same number share their jitter. Without `index` rows are numbered 0, 1, 2, ..., and a p-value
            depends on the row's position in the call. `Defense` and the commands always pass the images' own numbers.

        Raises:
          BadInput: as `read_table`, or labels or index missing or of another length.
        """
        table = read_table(x, self.columns)
        rows = np.arange(len(table)) if index is None else read_integers(index, len(table), "index")
        groups = _read_labels(labels, len(table)) if self.per_class else np.zeros(len(table), np.int64)
        u, p = jitter(self.seed, rows), np.empty(len(table))
        for label, here in _by_label(groups):
            p[here] = _p_value(self._own.get(label) or self._pooled, table[here], u[here])
        return p

    def score(self, x: ArrayLike, *, labels: ArrayLike | None = None, index: ArrayLike | None = None) -> Scores:
        """1 - p; see `p_values`."""
        return 1 - self.p_values(x, labels=labels, index=index)

    def bounds(self, max_costs: Sequence[int | None]) -> Bounds:
        """Bounds for the most suspicious jitter and predicted class, because both are unknown while an attack runs."""
        return bounds_of(self.may_flag, self.columns, max_costs)

    def radii(self, farthest: Sequence[float | None]) -> Radii:
        """As `bounds`. Verdicts depend on ranks, which change only at the calibration costs."""
        return radii_of(self.may_flag, self.costs.ravel(), self.columns, farthest)

    def may_flag(self, x: ArrayLike) -> Verdicts:
        """Whether each row is flagged for some jitter and some predicted class: the most suspicious reading of its costs."""
        table = read_table(x, self.columns)
        no_jitter = np.zeros(len(table))
        lowest = [_p_value(own, table, no_jitter) for own in {id(one): one for one in (*self._own.values(), self._pooled)}.values()]
        return 1 - np.min(lowest, axis=0) > self.threshold

    def store(self) -> tuple[str, dict[str, Any]]:
        """Calibration rows that are the same are stored once, with their number."""
        rest = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in _ROWS}
        return "", rows_once({name: getattr(self, name) for name in _ROWS}) | rest

    @classmethod
    def restore(cls, of: str, params: Mapping[str, Any], plugins: Sequence[str]) -> "FittedConformal":
        """Inverse of `store`, but for the order of the rows, which no p-value depends on."""
        return from_fields(cls, rows_again(params, _ROWS))

    @functools.cached_property
    def _pooled(self) -> Strangeness:
        return Strangeness.of(self.costs, self.two_sided)

    @functools.cached_property
    def _own(self) -> dict[int, Strangeness]:
        """The classes that have enough calibration images for a map of their own."""
        if not self.per_class:
            return {}
        return {
            label: Strangeness.of(self.costs[rows], self.two_sided) for label, rows in _by_label(self.labels) if len(rows) >= self.least
        }


def _read_labels(labels: ArrayLike | None, n: int) -> Int[np.ndarray, " n"]:
    if labels is None:
        raise BadInput("expected the predicted class of each image, got none; give labels, or calibrate with per_class=False")
    return read_integers(labels, n, "labels")


def read_integers(values: ArrayLike, n: int, role: str) -> Int[np.ndarray, " n"]:
    """One integer from 0 to 2**63 - 1 for each of `n` rows; anything else is a `BadInput`."""
    array = inputs.array(values, role)
    if array.shape != (n,) or array.dtype.kind not in "iu" or (n and not 0 <= int(array.min()) <= int(array.max()) < 2**63):
        raise BadInput(
            f"expected {role} as {n} integers from 0 to 2**63 - 1, got {array.dtype} of shape {array.shape}; give one for each row of costs"
        )
    return array.astype(np.int64)


@functools.partial(rowwise, many=2**16)
def jitter(seed: Array, index: Int[Array, ""]) -> Float[Array, ""]:
    """A number in [0, 1) of each image's own, from the low 32 bits of its index."""
    return jax.random.uniform(jax.random.fold_in(jax.random.key(seed), index & 0xFFFFFFFF))


def _by_label(labels: Int[np.ndarray, " n"]) -> list[tuple[int, Int[np.ndarray, " m"]]]:
    """The rows of each label."""
    order = np.argsort(labels, kind="stable")
    different, start = np.unique(labels[order], return_index=True)
    return list(zip(different.tolist(), np.split(order, start)[1:], strict=True))


def _p_value(calibrated: Strangeness, table: Table, u: Scores) -> Scores:
    """Smoothed full-conformal p-value: the judged row joins the calibration rows, all are ranked alike."""
    below, equal = calibrated.counts(table)
    return (below + u * (1 + equal)) / (calibrated.n + 1)
