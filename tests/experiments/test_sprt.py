"""Wald's sequential test: a case counted by hand, a loop that follows the definition, and closed forms on simulated streams."""

import math

import numpy as np
import pytest

from a2d_jax.errors import BadInput
from experiments.baselines.sprt import sprt, threshold_of


def by_definition(flags, threshold, width, alpha, beta, as_coded):
    """One image, mutant by mutant."""
    p0, p1 = (1 - width) * threshold, (1 + width) * threshold
    changed = 0
    for n, flag in enumerate(flags, 1):
        if not as_coded:
            changed += flag
        ratio = changed * math.log(p1 / p0) + (n - changed) * math.log((1 - p1) / (1 - p0))
        if flag or not as_coded:
            if ratio >= math.log((1 - beta) / alpha):
                return True, n
            if ratio <= math.log(beta / (1 - alpha)):
                return False, n
        if as_coded:
            changed += flag
    return False, len(flags) + as_coded


def test_counted_by_hand():
    """Protects the test itself: a change is worth +ln 3, none is worth -ln 3, and the bounds lie between 1 and 2 of them."""
    flags = np.array([[1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 0, 0], [0, 1, 0, 1, 0, 1], [1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]], bool)
    right = sprt(flags, 0.5, width=0.5, alpha=0.15, beta=0.15)  # p0 = 1/4, p1 = 3/4, ln(0.85 / 0.15) = 1.58 ln 3
    assert right.adversarial.tolist() == [True, False, False, True, False]
    assert right.used.tolist() == [2, 4, 6, 4, 2]
    coded = sprt(flags, 0.5, width=0.5, alpha=0.15, beta=0.15, as_coded=True)
    # Before its own change is counted: row 0 has +2 ln 3 - ln 3 at the third, +2 ln 3 at the fourth; row 1 has -2 ln 3 at the second;
    # so has row 2; row 3 never decides at a change; row 4 has no change to test at.
    assert coded.adversarial.tolist() == [True, False, False, False, False]
    assert coded.used.tolist() == [4, 2, 2, 7, 7]


@pytest.mark.parametrize("as_coded", [False, True])
def test_same_as_one_by_one(as_coded):
    """Protects the vectorised form: every image has the verdict and the count of a plain loop."""
    random = np.random.default_rng(0)
    flags = random.random((300, 500)) < random.choice([0.0, 0.02, 0.044, 0.2, 0.6], (300, 1))
    found = sprt(flags, 0.0441, as_coded=as_coded)
    expected = [by_definition(row, 0.0441, 0.1, 0.05, 0.05, as_coded) for row in flags]
    assert list(zip(found.adversarial.tolist(), found.used.tolist(), strict=True)) == expected


def test_a_stable_image_needs_all_mutants_as_coded():
    """Protects the published counts: without a change the code never tests, and counts 501 of 500; the test itself stops early."""
    stable = np.zeros((1, 500), bool)
    assert sprt(stable, 0.2, as_coded=True).used.tolist() == [501]
    assert sprt(stable, 0.2).used.tolist() == [math.ceil(math.log(0.05 / 0.95) / math.log(0.78 / 0.82))]
    assert sprt(stable, 0.01).used.tolist() == [500], "too few mutants to be sure"


@pytest.mark.parametrize(("threshold", "width", "alpha", "beta"), [(0.2, 0.5, 0.05, 0.05), (0.3, 0.3, 0.02, 0.1), (0.5, 0.4, 0.1, 0.02)])
def test_error_rates_and_sample_numbers_are_walds(threshold, width, alpha, beta):
    """Protects the statistics: rates of error within Wald's bounds, and his formula for the expected number of mutants, by simulation."""
    p0, p1, streams = (1 - width) * threshold, (1 + width) * threshold, 4000
    low, high = math.log(beta / (1 - alpha)), math.log((1 - beta) / alpha)
    random = np.random.default_rng(1)
    step = (math.log(p1 / p0), math.log((1 - p1) / (1 - p0)))
    for p, wrong, bound in ((p0, True, alpha / (1 - beta)), (p1, False, beta / (1 - alpha))):
        found = sprt(random.random((streams, 2000)) < p, threshold, width=width, alpha=alpha, beta=beta)
        assert found.used.max() < 2000, "every stream has decided"
        errors = (found.adversarial == wrong).mean()
        assert errors <= bound + 3 * math.sqrt(bound / streams)
        drift = p * step[0] + (1 - p) * step[1]
        share = found.adversarial.mean()
        # Wald's identity, E[N] drift = E[ratio at the stop]: exact up to the overshoot, which is less than one step.
        expected = (share * high + (1 - share) * low) / drift
        overshoot = max(abs(one) for one in step) / abs(drift)
        assert expected - 4 * found.used.std() / math.sqrt(streams) <= found.used.mean() <= expected + overshoot


def test_threshold():
    """Protects the threshold: mean plus 2.58 standard errors, by hand."""
    assert threshold_of([0.0, 0.0, 0.1, 0.1]) == pytest.approx(0.05 + 2.58 * 0.05 / 2)


def test_refusals():
    """Protects messages: rates are no flags, and settings without two rates or with useless bounds are refused."""
    flags = np.zeros((2, 3), bool)
    for bad in (np.zeros((2, 3)), flags[0], flags[:0], flags[:, :0]):
        with pytest.raises(BadInput, match="expected flags, images by mutants"):
            sprt(bad, 0.1)
    for settings in ({"threshold": 0.0}, {"threshold": 0.95}, {"threshold": 0.1, "width": 0.0}, {"threshold": float("nan")}):
        with pytest.raises(BadInput, match="0 < p0 < p1 < 1"):
            sprt(flags, **settings)
    for settings in ({"alpha": 0.0}, {"beta": 0.5}, {"alpha": float("nan")}):
        with pytest.raises(BadInput, match="error bounds"):
            sprt(flags, 0.1, **settings)
    for rates in ([], [1.5], [[0.1]], [float("nan")]):
        with pytest.raises(BadInput, match="label change rates"):
            threshold_of(rates)
