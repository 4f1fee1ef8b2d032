"""Conformal p-values: uniform on fresh benign costs whatever the ties, the number of attacks and the sides."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from a2d_jax.detectors import Conformal, ZScore
from a2d_jax.detectors.conformal import jitter
from a2d_jax.errors import BadInput


def tied(random: np.random.Generator, n: int, attacks: int = 1) -> np.ndarray:
    """Costs as they are: integers with massive ties, a spike at the cap, and attacks that agree with each other."""
    margin = random.gamma(0.7, 4, (n, 1))
    return np.minimum((margin * np.array([1, 1.5, 3, 9])[:attacks] * random.uniform(0.8, 1.2, (n, attacks))).astype(int) + 1, 30)


def false_positive_rates(detector: Conformal, attacks: int, runs: int, n: int) -> list[float]:
    """Share of fresh benign costs flagged, each time with a fresh calibration set."""
    rates: list[float] = []
    for run in range(runs):
        random = np.random.default_rng([run, attacks])
        fitted = detector.fit(tied(random, n, attacks))
        rates.append(float(fitted.predict(tied(random, n, attacks), index=np.arange(n) + n * run).mean()))  # fresh rows, fresh jitter
    return rates


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("attacks", [1, 4])
@pytest.mark.parametrize("level", [0.01, 0.05, 0.1])
def test_false_positive_rate(level: float, attacks: int, two_sided: bool):
    """The mean rate over 20 calibrations lies in the band of binomial counts, and 19 of 20 single rates in their 99.9 % band.

    Single rates are beta-binomial: with as many calibration as fresh images, twice the variance of the binomial.
    """
    n, runs = 500, 20
    rates = false_positive_rates(Conformal(level, two_sided), attacks, runs, n)
    assert abs(np.mean(rates) - level) < 3 * np.sqrt(2 * level * (1 - level) / (n * runs))
    low, high = scipy.stats.betabinom.ppf([0.0005, 0.9995], n, level * (n + 1), (1 - level) * (n + 1)) / n
    assert sum(low <= rate <= high for rate in rates) >= runs - 1


def test_z_score_misses_its_level():
    """On the same costs the Z-score's nominal 10 % lies outside the binomial band, which the conformal detector keeps."""
    random = np.random.default_rng(0)
    benign, fresh = tied(random, 10000), tied(random, 2000)
    low, high = scipy.stats.binom.ppf([0.005, 0.995], 2000, 0.1) / 2000
    assert not low <= ZScore().fit(benign).predict(fresh).mean() <= high
    assert low <= Conformal(0.1).fit(benign).predict(fresh).mean() <= high


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("attacks", [1, 3])
def test_p_values_are_uniform(attacks: int, two_sided: bool):
    """Pooled over many small calibration sets, p-values of fresh benign costs pass a Kolmogorov-Smirnov test of uniformity."""
    detector = Conformal(0.2, two_sided)
    p = []
    for run in range(200):
        random = np.random.default_rng([run, 9])
        p.extend(detector.fit(tied(random, 20, attacks)).p_values(tied(random, 3, attacks), index=np.arange(3) + 3 * run))
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_one_attack_by_its_formula():
    """For one attack, one-sided, p is (number below + u (1 + number equal)) / (n + 1): between the two ends, and falling in cost."""
    benign, queries = tied(np.random.default_rng(1), 500)[:, 0], np.arange(0, 35)
    p = Conformal().fit(benign).p_values(queries)
    below = np.array([(benign < query).sum() for query in queries])
    equal = np.array([(benign == query).sum() for query in queries])
    u = (p * 501 - below) / (1 + equal)
    assert ((u > 0) & (u < 1)).all()
    assert len(np.unique(u)) == len(u)


def test_full_budget_attack():
    """Costs far *above* benign ones: one-sided points the wrong way, two-sided catches them and keeps its level."""
    random = np.random.default_rng(2)
    benign, fresh, full_budget = (random.lognormal(3, 0.5, n).astype(int) + 1 for n in (1000, 1000, 1000))
    full_budget += 150
    truth = np.repeat([0, 1], 1000)
    score = {sides: Conformal(0.1, sides).fit(benign).score(np.r_[fresh, full_budget]) for sides in (False, True)}
    assert roc_auc_score(truth, score[False]) < 0.1
    assert roc_auc_score(truth, score[True]) > 0.95
    assert Conformal(0.1, two_sided=True).fit(benign).predict(full_budget).mean() > 0.95


def test_several_attacks_see_what_one_sees():
    """Costs that only one of four attacks finds low are still flagged: the strangest attack speaks."""
    random = np.random.default_rng(3)
    benign, strange = tied(random, 1000, 4), tied(random, 500, 4) + 5
    strange[:, 2] = 0
    assert Conformal(0.1).fit(benign).predict(strange).mean() > 0.95


def test_per_class():
    """Two classes with different costs: pooled calibration misses the level class by class, per-class calibration keeps it."""
    n = 2000

    def sample(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        labels = random.integers(0, 2, n)
        return (random.lognormal(2 + 1.5 * labels, 0.6).astype(int) + 1), labels

    rates: dict[bool, list[list[float]]] = {False: [], True: []}
    for run in range(5):
        random = np.random.default_rng(run)
        (benign, labels), (fresh, fresh_labels) = sample(random), sample(random)
        for per_class in rates:
            flagged = Conformal(0.1, per_class=per_class).fit(benign, labels=labels).predict(fresh, labels=fresh_labels)
            rates[per_class].append([flagged[fresh_labels == label].mean() for label in (0, 1)])
    np.testing.assert_allclose(np.mean(rates[True], axis=0), 0.1, atol=3 * np.sqrt(2 * 0.09 / (1000 * 5)))
    assert np.mean(rates[False], axis=0)[0] > 0.15


def test_small_class_falls_back():
    """A class with fewer than 1 / level calibration images, or none, is judged by all images together."""
    benign, labels = tied(np.random.default_rng(5), 300), np.r_[np.zeros(291, int), np.full(9, 7)]
    queries = np.arange(1, 31)
    pooled = Conformal(0.1).fit(benign).p_values(queries)
    mondrian = Conformal(0.1, per_class=True).fit(benign, labels=labels)
    for label in (7, 3):
        np.testing.assert_array_equal(mondrian.p_values(queries, labels=np.full(30, label)), pooled)
    only_zeros = Conformal(0.1).fit(benign[:291]).p_values(queries)
    np.testing.assert_array_equal(mondrian.p_values(queries, labels=np.zeros(30, int)), only_zeros)


def test_jitter_belongs_to_the_row():
    """With its index given, a row's p-value does not depend on the rows around it; another seed gives another jitter."""
    random = np.random.default_rng(6)
    benign, queries = tied(random, 100, 2), tied(random, 600, 2)
    fitted, order = Conformal().fit(benign), random.permutation(600)
    p = fitted.p_values(queries)
    np.testing.assert_array_equal(fitted.p_values(queries[order], index=order), p[order])
    np.testing.assert_array_equal(fitted.p_values(queries[:1], index=[0]), p[:1])
    assert (Conformal(seed=1).fit(benign).p_values(queries) != p).all()


def test_numbers_of_63_bits():
    """Any number up to 2**63 - 1 keys a jitter, by its low 32 bits: small numbers keep theirs, and numbers beyond are refused."""
    benign, queries = tied(np.random.default_rng(7), 100), np.full(4, 5)
    fitted, small = Conformal().fit(benign), np.array([0, 1, 2, 2**32 - 1])
    np.testing.assert_array_equal(fitted.p_values(queries, index=small + 2**32 * 77), fitted.p_values(queries, index=small))
    largest = fitted.p_values(queries, index=np.full(4, 2**63 - 1))
    np.testing.assert_array_equal(largest, fitted.p_values(queries, index=np.full(4, 2**63 - 1, np.uint64)))
    assert len(np.unique(np.r_[fitted.p_values(queries, index=small), largest])) == 4
    with pytest.raises(BadInput, match=r"index as 4 integers from 0 to 2\*\*63 - 1"):
        fitted.p_values(queries, index=np.full(4, 2**63, np.uint64))


def test_what_cannot_be_used():
    """Too few images for the level, labels and index that do not fit."""
    with pytest.raises(BadInput, match="at least 100 rows of benign costs, got 99"):
        Conformal(0.01).fit(np.arange(99))
    with pytest.raises(BadInput, match="at least 200 rows"):
        Conformal(0.01, two_sided=True).fit(np.arange(199))
    with pytest.raises(BadInput, match="predicted class of each image, got none"):
        Conformal(per_class=True).fit(np.arange(100))
    fitted = Conformal(per_class=True).fit(np.arange(100), labels=np.zeros(100, int))
    with pytest.raises(BadInput, match="labels as 2 integers"):
        fitted.score([1, 2], labels=[0])
    with pytest.raises(BadInput, match="index as 2 integers"):
        fitted.score([1, 2], labels=[0, 0], index=[0.5, 1.5])
    with pytest.raises(ValueError, match="level in"):
        Conformal(level=1.0)


def by_hand(calibration: np.ndarray, row: np.ndarray, two_sided: bool) -> tuple[int, int]:
    """Full conformal prediction as it is defined: the row joins, all are ranked alike, and the strangest column of each counts."""
    joined = np.concatenate([calibration, row[None]])
    doubled = np.stack([[2 * (column < v).sum() + (column == v).sum() for v in column] for column in joined.T], axis=1)
    strangeness = (np.minimum(doubled, 2 * len(joined) - doubled) if two_sided else doubled).min(axis=1)
    return int((strangeness[:-1] < strangeness[-1]).sum()), int((strangeness[:-1] == strangeness[-1]).sum())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 30), st.booleans(), st.booleans())
def test_sorted_ranks_count_as_the_definition_does(seed: int, columns: int, top: int, two_sided: bool, per_class: bool):
    """Protects p-values: sorted ranks give those of the definition, for any ties, columns, sides and classes."""
    random = np.random.default_rng(seed)
    costs, queries = random.integers(0, top + 1, (40, columns)), random.integers(-1, top + 2, (10, columns))
    labels, classes = random.integers(0, 3, 40) * per_class, random.integers(0, 4, 10) * per_class
    fitted = Conformal(0.2, two_sided, per_class).fit(costs, labels=labels)
    found = fitted.p_values(queries, labels=classes)
    for row, label, u, p in zip(queries, classes, jitter(0, np.arange(10)), found, strict=True):
        mine = costs[labels == label]
        below, equal = by_hand(mine if len(mine) >= fitted.least else costs, row, two_sided)
        n = len(mine) if len(mine) >= fitted.least else len(costs)
        assert p == pytest.approx((below + u * (1 + equal)) / (n + 1), abs=1e-14)


def test_half_a_million_rows():
    """Protects large tables: work grows as the rows do, not as their square; a rate of 1 % is kept."""
    random = np.random.default_rng(8)
    benign, fresh = tied(random, 500_000, 3), tied(random, 500_000, 3)
    assert Conformal(0.01, two_sided=True).fit(benign).predict(fresh).mean() == pytest.approx(0.01, rel=0.05)
