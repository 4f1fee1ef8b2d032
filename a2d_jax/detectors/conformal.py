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
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from a2d_jax import inputs
from a2d_jax.detectors.base import Bounds, Detector, Fitted, Radii, Scores, Verdicts, bounds_of, radii_of, read_table, rowwise
from a2d_jax.errors import BadInput, require
from a2d_jax.types import STATIC


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
        return _p_value(self._calibrated, table, groups, jitter(self.seed, rows))

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
        calibrated, no_jitter = self._calibrated, np.zeros(len(table))
        lowest = [_p_value(calibrated, table, np.full(len(table), group), no_jitter) for group in (*np.unique(self.labels), -1)]
        return 1 - np.min(lowest, axis=0) > self.threshold

    @functools.cached_property
    def _calibrated(self) -> tuple["FittedConformal", np.ndarray, np.ndarray]:
        return self, *_calibration_ranks(self, self.costs, self.labels)


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


@rowwise
def jitter(seed: Array, index: Int[Array, ""]) -> Float[Array, ""]:
    """A number in [0, 1) of each image's own, from the low 32 bits of its index."""
    return jax.random.uniform(jax.random.fold_in(jax.random.key(seed), index & 0xFFFFFFFF))


def _doubled_rank(fitted: FittedConformal, row: Float[Array, " columns"], among: Bool[Array, " n"]) -> Float[Array, " columns"]:
    """Twice the number of calibration costs below, plus the number equal: a rank that ties leave whole."""
    return jnp.sum(jnp.where(among[:, None], 1 + jnp.sign(row[None] - fitted.costs), 0), axis=0)


@rowwise
def _calibration_ranks(fitted: FittedConformal, row: Float[Array, " columns"], label: Int[Array, ""]) -> tuple[Array, Array]:
    """Of a calibration row: among all of them, and among those of its class."""
    mine = fitted.labels == label
    return _doubled_rank(fitted, row, jnp.ones_like(mine)), _doubled_rank(fitted, row, mine)


@rowwise
def _p_value(
    calibrated: tuple[FittedConformal, Array, Array], row: Float[Array, " columns"], label: Int[Array, ""], u: Float[Array, ""]
) -> Float[Array, ""]:
    """Smoothed full-conformal p-value: the judged row joins the calibration rows, all are ranked alike."""
    fitted, pooled, within = calibrated
    count = functools.partial(jnp.sum, dtype=float)
    mine = fitted.labels == label
    own_map = count(mine) >= fitted.least
    among = mine | ~own_map
    n = count(among)

    def strangeness(doubled: Array) -> Array:
        """Small is strange; every row counts itself once, so that ranks run from 1 to 2n + 1."""
        return jnp.min(jnp.minimum(doubled, 2 * (n + 1) - doubled) if fitted.two_sided else doubled, axis=-1)

    theirs = strangeness(jnp.where(own_map, within, pooled) + 1 + jnp.sign(fitted.costs - row[None]))
    ours = strangeness(_doubled_rank(fitted, row, among) + 1)
    return (count(among & (theirs < ours)) + u * (1 + count(among & (theirs == ours)))) / (n + 1)
