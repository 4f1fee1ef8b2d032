"""Detection metrics: hand-made cases with ties, direction, and formulas that share no code with the library."""

import numpy as np
import pytest
import scipy.stats

from a2d_jax.errors import BadInput
from a2d_jax.metrics import (
    DetectionReport,
    attack_success_rate,
    auroc,
    auroc_interval,
    average_precision,
    detection_report,
    fpr_at_tpr,
    robust_accuracy,
    tpr_at_fpr,
)

RANDOM = np.random.default_rng(0)
BENIGN, ADVERSARIAL = RANDOM.integers(0, 12, 300), RANDOM.integers(4, 16, 200)


def test_auroc_by_hand():
    """Higher is more adversarial, a tie counts half: three wins, one loss and two ties of six pairs are 4 of 6."""
    assert auroc([1, 2, 4], [2, 4]) == pytest.approx(4 / 6)
    assert auroc([0, 1], [2, 3]) == 1
    assert auroc([2, 3], [0, 1]) == 0
    assert auroc([5, 5], [5]) == 0.5


def test_auroc_counts_pairs():
    """On heavy ties the AUROC is the share of pairs won plus half of those tied, and the Mann-Whitney statistic over all pairs."""
    difference = np.subtract.outer(ADVERSARIAL, BENIGN)
    assert auroc(BENIGN, ADVERSARIAL) == pytest.approx((difference > 0).mean() + (difference == 0).mean() / 2)
    statistic = scipy.stats.mannwhitneyu(ADVERSARIAL, BENIGN).statistic
    assert auroc(BENIGN, ADVERSARIAL) == pytest.approx(statistic / difference.size)


def test_auroc_of_costs():
    """Costs enter with a minus sign: the AUROC is P(adversarial cost below benign), as the released code computes it."""
    costs_benign, costs_adversarial = BENIGN[::-1] + 10, ADVERSARIAL
    below = np.less.outer(costs_adversarial, costs_benign).mean() + np.equal.outer(costs_adversarial, costs_benign).mean() / 2
    assert auroc(-costs_benign, -costs_adversarial) == pytest.approx(below)


def test_auroc_of_gaussians():
    """Two unit Gaussians a distance d apart have AUROC Phi(d / sqrt 2), inside the interval."""
    benign, adversarial = RANDOM.normal(0, 1, 20000), RANDOM.normal(1, 1, 20000)
    low, high = auroc_interval(benign, adversarial, 0.999)
    assert low < scipy.stats.norm.cdf(1 / np.sqrt(2)) < high
    assert high - low < 0.02


def test_interval_covers():
    """The 95 % interval holds the true AUROC in 95 % of 400 draws, within three standard errors."""
    truth, hits = scipy.stats.norm.cdf(1 / np.sqrt(2)), 0
    for seed in range(400):
        random = np.random.default_rng(seed)
        low, high = auroc_interval(random.normal(0, 1, 80), random.normal(1, 1, 120))
        hits += low <= truth <= high
    assert abs(hits / 400 - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 400)


def test_interval_agrees_with_the_bootstrap():
    """On tied scores the interval's width is that of SciPy's bootstrap, within a tenth."""
    result = scipy.stats.bootstrap(
        (BENIGN, ADVERSARIAL), auroc, vectorized=False, n_resamples=500, method="basic", rng=np.random.default_rng(1)
    )
    low, high = auroc_interval(BENIGN, ADVERSARIAL)
    assert high - low == pytest.approx(2 * scipy.stats.norm.ppf(0.975) * result.standard_error, rel=0.1)
    assert (low + high) / 2 == pytest.approx(auroc(BENIGN, ADVERSARIAL))


def test_interval_at_the_edges():
    """Perfect separation has no width, a single input says nothing, ends stay within [0, 1]."""
    assert auroc_interval([0, 1], [2, 3]) == (1, 1)
    assert auroc_interval([0], [2, 3]) == (0, 1)
    low, high = auroc_interval([0, 0, 0, 5], [1, 2, 6])
    assert 0 <= low <= high <= 1


def test_average_precision_by_hand():
    """Ranked adversarial, benign, adversarial: precision 1 at the first, 2/3 at the second; benign costs precision, not the reverse."""
    assert average_precision([2], [3, 1]) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision([0, 0], [1, 1]) == 1
    assert average_precision([1, 1], [0, 0]) == pytest.approx(0.5)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_tpr_at_fpr_tries_every_threshold(rate: float):
    """The best threshold among all that exist, found by trying each one."""
    thresholds = np.r_[np.inf, np.unique(np.r_[BENIGN, ADVERSARIAL])]
    best = max(np.mean(threshold <= ADVERSARIAL) for threshold in thresholds if np.mean(threshold <= BENIGN) <= rate)
    assert tpr_at_fpr(BENIGN, ADVERSARIAL, rate) == pytest.approx(best)


def test_fpr_at_tpr_tries_every_threshold():
    """The least false alarms among all thresholds that catch 95 %, found by trying each one."""
    least = min(np.mean(threshold <= BENIGN) for threshold in range(-1, 17) if np.mean(threshold <= ADVERSARIAL) >= 0.95)
    assert fpr_at_tpr(BENIGN, ADVERSARIAL, 0.95) == pytest.approx(least)


def test_operating_points_by_hand():
    """Ties are taken together: one benign input at the top score costs 1 % with 100 inputs and forbids a rate below."""
    benign, adversarial = np.r_[np.zeros(99), 9.0], np.array([9, 9, 9, 1.0])
    assert tpr_at_fpr(benign, adversarial, 0.01) == 1
    assert tpr_at_fpr(benign, adversarial, 0.009) == 0
    assert fpr_at_tpr(benign, adversarial, 0.75) == 0.01
    assert fpr_at_tpr(np.zeros(3), np.zeros(3), 0.95) == 1


def test_report():
    """The report holds the single metrics under their names, all of them different here."""
    scores = np.random.default_rng(2).normal(0, 1, 500), np.random.default_rng(3).normal(1, 1, 300)
    low, high = auroc_interval(*scores)
    report = detection_report(*scores)
    assert report == DetectionReport(
        auroc=auroc(*scores),
        auroc_low=low,
        auroc_high=high,
        average_precision=average_precision(*scores),
        tpr_at_fpr_1=tpr_at_fpr(*scores, 0.01),
        tpr_at_fpr_5=tpr_at_fpr(*scores, 0.05),
        fpr_at_tpr_95=fpr_at_tpr(*scores, 0.95),
    )
    assert len(set(report)) == len(report)


def test_robustness():
    """An input counts as robust only if it was right before and withstood the attack."""
    assert attack_success_rate([True, False, False, True]) == 0.5
    assert robust_accuracy([True, True, False, False], [True, False, False, True]) == 0.25


@pytest.mark.parametrize(
    ("benign", "adversarial"), [([], [1.0]), ([1.0], []), ([np.nan], [1.0]), ([1.0], [np.inf]), ([[1.0]], [1.0]), (["a"], [1.0])]
)
def test_bad_scores(benign: list[float], adversarial: list[float]):
    """Scores that are missing, not finite, not numbers or not one per input are refused by name of the set."""
    for metric in (auroc, auroc_interval, average_precision, detection_report):
        with pytest.raises(BadInput, match=r"expected finite (benign|adversarial) scores"):
            metric(benign, adversarial)


def test_bad_flags():
    """Flags must be flags, at least one, and as many of each kind."""
    with pytest.raises(BadInput, match="flags success"):
        attack_success_rate([])
    with pytest.raises(BadInput, match="flags success"):
        attack_success_rate([0, 1])
    with pytest.raises(BadInput, match="as many flags correct as success, got 1 and 2"):
        robust_accuracy([True], [True, False])
