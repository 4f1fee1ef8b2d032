"""A two-sample test for each column: does fresh benign traffic still look like the images that a detector was calibrated on?

A detector flags what is unusual, not only what is attacked: darker photographs or a new camera change costs too. Each image, old or new,
gets its conformal p-value among all others

    p = (#{cost below} + u (1 + #{equal})) / (old + new)

with its own jitter u. If old and new images are exchangeable, so are their p-values, whatever the costs and however many tie. The
two-sample Kolmogorov-Smirnov test compares the p-values of the old images with those of the new images, and its level is exact. Holm's
method corrects its p-values for the number of columns, so that the chance of any false warning is at most the level.

The result also tells the effect of a shift: the share of new images flagged by a conformal detector that was calibrated on the old images.

Source: Smirnov, Ann. Math. Stat. 19 (1948); Holm, Scand. J. Stat. 6 (1979); Clopper and Pearson, Biometrika 26 (1934); Vovk, Gammerman
and Shafer, "Algorithmic Learning in a Random World", for smoothed p-values.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.stats import binomtest, ks_2samp, rankdata

from a2d_jax.detectors.base import Scores, read_table
from a2d_jax.detectors.conformal import Conformal, jitter, read_integers
from a2d_jax.errors import require


class Shift(NamedTuple):
    """What is found out of one column."""

    statistic: float  # largest distance between the two distributions of p-values, in [0, 1]
    lower: bool  # new images are lower where they are farthest from old ones: they look more adversarial
    p_value: float
    adjusted: float  # p-value after Holm's correction over all columns
    shifted: bool  # adjusted <= significance
    flagged: float  # share of new images that a detector at the level flags
    flagged_low: float  # ends of its 95 % interval
    flagged_high: float
    p_values: Scores  # of the new images, by the old ones alone: uniform if nothing has shifted


def shift(
    old: ArrayLike,
    new: ArrayLike,
    *,
    old_index: ArrayLike | None = None,
    new_index: ArrayLike | None = None,
    level: float = 0.05,
    significance: float = 0.05,
    seed: int = 0,
) -> list[Shift]:
    """Test each column for a shift.

    Args:
      old: numbers of the benign images that a detector was calibrated on, `n columns`; low is suspicious.
      new: numbers of fresh benign images, `m columns`.
      old_index: number of each old image, which keys its jitter; default 0, 1, 2, ...
      new_index: number of each new image; default the numbers that follow.
      level: rate of false alarms of the detector for the share of new images flagged.
      significance: chance of any warning if nothing has shifted, in (0, 1).
      seed: seed of the jitter.

    Raises:
      BadInput: no tables of numbers of the same columns, fewer old images than 1 / level, no new image, or a level outside (0, 1).
    """
    require(0 < significance < 1, "a significance in (0, 1)", significance, "0.05 warns once in 20 sets that have not shifted")
    conformal = Conformal(level=level, seed=seed)
    before = read_table(old, least=conformal.least, role="numbers of old benign images")
    after = read_table(new, before.shape[1], least=1, role="numbers of new benign images")
    n, m = len(before), len(after)
    whose = read_integers(np.arange(n) if old_index is None else old_index, n, "old_index")
    theirs = read_integers(np.arange(n, n + m) if new_index is None else new_index, m, "new_index")
    u = jitter(seed, np.concatenate([whose, theirs]))
    tests = []
    for column in range(before.shape[1]):
        p = _among_all(np.concatenate([before[:, column], after[:, column]]), u)
        tests.append(ks_2samp(p[:n], p[n:]))
    adjusted = holm([float(test.pvalue) for test in tests])
    found: list[Shift] = []
    for column, (test, p_adjusted) in enumerate(zip(tests, adjusted, strict=True)):
        fitted = conformal.fit(before[:, column])
        p_values = fitted.p_values(after[:, column], index=theirs)
        flagged = int((1 - p_values > fitted.threshold).sum())
        ends = binomtest(flagged, m).proportion_ci(0.95, method="exact")
        found.append(
            Shift(
                statistic=float(test.statistic),
                lower=bool(test.statistic_sign < 0),
                p_value=float(test.pvalue),
                adjusted=p_adjusted,
                shifted=p_adjusted <= significance,
                flagged=flagged / m,
                flagged_low=float(ends.low),
                flagged_high=float(ends.high),
                p_values=p_values,
            )
        )
    return found


def holm(p_values: list[float]) -> list[float]:
    """P-values that hold for all tests together, by Holm's step-down method.

    The k-th smallest of n is multiplied by n + 1 - k; none is smaller than one before it, and none larger than 1.
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.maximum.accumulate(np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(steps, 1)
    return adjusted.tolist()


def _among_all(values: Float[np.ndarray, " n"], u: Scores) -> Scores:
    """Smoothed p-value of each value among all others: ties share an interval, in which the jitter draws."""
    below, up_to = rankdata(values, "min") - 1, rankdata(values, "max")
    return (below + u * (up_to - below)) / len(values)
