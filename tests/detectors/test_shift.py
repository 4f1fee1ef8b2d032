"""The test of a shift: SciPy's numbers without ties, closed forms, and the promised level with ties and several columns."""

import math

import numpy as np
import pytest
import scipy.stats

from a2d_jax.detectors import Conformal, shift
from a2d_jax.detectors.shift import holm
from a2d_jax.errors import BadInput
from tests.detectors.test_conformal import tied


def test_without_ties_it_is_scipys_test():
    """Protects the statistic: where no two numbers are equal, it and its p-value are those of SciPy on the numbers themselves."""
    random = np.random.default_rng(0)
    old, new = random.normal(0, 1, (80, 2)), random.normal([0, 0.4], 1, (60, 2))
    found = shift(old, new)
    for column, one in enumerate(found):
        expected = scipy.stats.ks_2samp(old[:, column], new[:, column])
        assert one.statistic == pytest.approx(expected.statistic, abs=1e-12)
        assert one.p_value == pytest.approx(expected.pvalue, rel=1e-9)
        assert one.lower == (expected.statistic_sign < 0)
    assert [one.adjusted for one in found] == holm([one.p_value for one in found])


@pytest.mark.parametrize("n", [4, 7])
def test_all_below(n):
    """Protects the exact distribution: new numbers all below n old ones have statistic 1 and p-value 2 / C(2n, n)."""
    (one,) = shift(np.arange(n) + 100, np.arange(n), level=0.5)
    assert (one.statistic, one.lower) == (1, True)
    assert one.p_value == pytest.approx(2 / math.comb(2 * n, n))
    (other,) = shift(np.arange(n), np.arange(n) + 100, level=0.5)
    assert not other.lower
    assert other.p_value == pytest.approx(one.p_value)


def test_holm():
    """Protects the correction: Holm's own step-down numbers, in any order; one test alone is left as it is."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9, 0.6]) == [1, 1, 1]
    assert holm([0.2]) == [0.2]


@pytest.mark.parametrize("columns", [1, 3])
def test_level(columns):
    """Protects against false warnings: with massive ties and columns that agree, 400 sets without a shift warn at their level or below.

    One column warns at its level to within the 99.9 % band of binomial counts; of several, Holm's method warns no more often.
    """
    runs, warned = 400, 0
    for run in range(runs):
        benign = tied(np.random.default_rng([run, columns, 5]), 120, columns)
        warned += any(one.shifted for one in shift(benign[:70], benign[70:], significance=0.1, level=0.1, seed=run))
    low, high = scipy.stats.binom.ppf([0.0005, 0.9995], runs, 0.1)
    assert warned <= high
    assert columns > 1 or warned >= low


def test_share_flagged():
    """Protects what is told of false alarms: the conformal detector's own share, with the interval of Clopper and Pearson."""
    random = np.random.default_rng(1)
    old, new = tied(random, 300), tied(random, 200)
    index = random.integers(0, 2**63, 200)
    (one,) = shift(old, new, new_index=index, level=0.1, seed=3)
    fitted = Conformal(0.1, seed=3).fit(old)
    k = int(fitted.predict(new, index=index).sum())
    assert one.flagged == k / 200
    ends = scipy.stats.beta.ppf(0.025, k, 201 - k), scipy.stats.beta.ppf(0.975, k + 1, 200 - k)
    assert (one.flagged_low, one.flagged_high) == pytest.approx(ends)
    np.testing.assert_array_equal(one.p_values, fitted.p_values(new, index=index))


def test_the_same_images_have_not_shifted():
    """Protects jitter by image: a set beside itself has statistic 0, however many costs tie."""
    costs, index = tied(np.random.default_rng(2), 100), np.arange(100)
    (one,) = shift(costs, costs, old_index=index, new_index=index)
    assert (one.statistic, one.p_value, one.shifted) == (0, 1, False)


def test_a_shift_is_found():
    """Protects the purpose: costs of half the size are told, and told as lower; the column beside them that has not moved is not."""
    random = np.random.default_rng(3)
    old, new = tied(random, 400, 1), tied(random, 400, 1)
    same = random.normal(0, 1, (800, 1))
    moved, still = shift(np.hstack([old, same[:400]]), np.hstack([new // 2, same[400:]]))
    assert moved.shifted
    assert moved.lower
    assert moved.flagged_low > 0.05
    assert not still.shifted


@pytest.mark.parametrize(
    ("old", "new", "options", "words"),
    [
        (np.ones(5), np.ones(5), {}, "at least 20 rows"),
        (np.ones(30), np.ones(0), {}, "at least 1 rows of numbers of new"),
        (np.ones(30), np.full(5, np.nan), {}, "finite numbers of new"),
        (np.ones((30, 2)), np.ones((5, 3)), {}, "of 2 column"),
        (np.ones(30), np.ones(5), {"level": 1.0}, "level in"),
        (np.ones(30), np.ones(5), {"significance": 0.0}, "significance in"),
        (np.ones(30), np.ones(5), {"new_index": np.arange(4)}, "new_index as 5 integers"),
    ],
)
def test_refused(old, new, options, words):
    """Protects users: tables that cannot be compared are refused in one line."""
    with pytest.raises(BadInput, match=words):
        shift(old, new, **options)
