"""How strange rows are among calibration rows, counted without comparing every row with every other.

A row's strangeness is its lowest rank over all columns, where the judged row joins the calibration rows. The doubled rank of a value v in a
column, r(v) = 2 #{below} + #{equal}, tells values apart: equal ranks mean equal values. A calibration row of rank r_i gets the rank
r_i + 1 + sign(v_i - x) once the judged row of value x has joined, and that row itself r(x) + 1. With s the lowest r(x) over the columns, a
calibration row whose lowest rank S lies in the columns M is

    stranger   if S < s, or S = s and some column of M is none of those in which r(x) = s,
    equal      if S = s otherwise, or if S = s + 1 and in some column of M r(x) > s + 1.

So two numbers of each calibration row decide, S and M. They are sorted once, and a judged row needs a few binary searches.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Values = Float[np.ndarray, "n columns"]
Ranks = Int[np.ndarray, "n columns"]


class Strangeness(NamedTuple):
    """The calibration rows, as far as they matter.

    A high value is as strange as a low one if the column is there twice, the second time negated.
    """

    n: int
    two_sided: bool
    columns: list[tuple[Float[np.ndarray, " k"], Int[np.ndarray, " k1"]]]  # different values, rising; rows below each, and all rows
    lowest: Bool[np.ndarray, "g columns"]  # the different M
    ranks: list[Int[np.ndarray, " m"]]  # by M, every S, rising

    @classmethod
    def of(cls, costs: Values, two_sided: bool) -> "Strangeness":
        """The map of calibration rows, `n columns`; low is strange, and with `two_sided` high as well."""
        costs = _sides(costs, two_sided)
        columns = [
            (values, np.concatenate([[0], np.cumsum(counts)])) for values, counts in (np.unique(c, return_counts=True) for c in costs.T)
        ]
        ranks = _doubled(costs, columns)
        least = ranks.min(axis=1)
        lowest, which = np.unique(ranks == least[:, None], axis=0, return_inverse=True)
        return cls(len(costs), two_sided, columns, lowest, [np.sort(least[which.ravel() == number]) for number in range(len(lowest))])

    def counts(self, x: Values) -> tuple[Int[np.ndarray, " q"], Int[np.ndarray, " q"]]:
        """For each judged row the number of calibration rows that are stranger, and of those equally strange."""
        ranks = _doubled(_sides(x, self.two_sided), self.columns)
        least = ranks.min(axis=1, initial=2 * self.n + 1)
        different, which = np.unique(least, return_inverse=True)
        mine, above = ranks == least[:, None], ranks > least[:, None] + 1
        below, equal = np.zeros(len(x), np.int64), np.zeros(len(x), np.int64)
        for lowest, sorted_ranks in zip(self.lowest, self.ranks, strict=True):
            under, up_to, after = (np.searchsorted(sorted_ranks, different + more)[which] for more in (0, 1, 2))
            other = (lowest & ~mine).any(axis=1)
            below += np.where(other, up_to, under)
            equal += np.where(other, 0, up_to - under) + np.where((lowest & above).any(axis=1), after - up_to, 0)
        return below, equal


def _sides(costs: Values, two_sided: bool) -> Values:
    return np.concatenate([costs, -costs], axis=1) if two_sided else costs


def _doubled(costs: Values, columns: list[tuple[Float[np.ndarray, " k"], Int[np.ndarray, " k1"]]]) -> Ranks:
    """Twice the number of calibration rows below, plus the number equal: a rank that ties leave whole."""
    ranks = np.empty(costs.shape, np.int64)
    for number, (values, below) in enumerate(columns):
        start, end = (below[np.searchsorted(values, costs[:, number], side)] for side in ("left", "right"))
        ranks[:, number] = start + end
    return ranks
