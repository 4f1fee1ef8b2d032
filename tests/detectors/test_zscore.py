"""Z-score: every stage against SciPy, the verdict against its definition, the released rule against the steps it takes."""

import dataclasses

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats

from a2d_jax.detectors import FittedReleased, ZScore
from a2d_jax.detectors.zscore import LEAST, box_cox_power, normality_p
from a2d_jax.errors import BadInput

RANDOM = np.random.default_rng(0)
SAMPLES = {
    "log-normal": RANDOM.lognormal(3, 1, 1000),
    "gamma": RANDOM.gamma(2, 30, 1000),
    "geometric": RANDOM.geometric(0.02, 1000),
    "heavy ties": RANDOM.integers(1, 6, 1000),
    "censored": np.minimum(RANDOM.lognormal(6, 1, 1000).astype(int) + 1, 501),
    "wide": np.minimum(RANDOM.lognormal(7, 2, 1000).astype(int) + 1, 5001),
    "normal": RANDOM.normal(100, 5, 1000),
    "left-skewed": 501 - RANDOM.geometric(0.05, 1000),
    "twenty": RANDOM.integers(1, 50, 20),
    "tiny unit": RANDOM.lognormal(-8, 0.5, 300),
}
EXTREME = {  # SciPy's unbounded search wanders off on these
    "all but one at the cap": np.r_[np.full(999, 501), 10],
    "all but one at the floor": np.r_[np.full(999, 2), 5001],
    "most at the cap": np.where(RANDOM.random(1000) < 0.02, RANDOM.integers(5, 400, 1000), 501),
}
every_sample = pytest.mark.parametrize("name", SAMPLES)


@every_sample
def test_normality(name: str):
    """The K^2 p-value is SciPy's."""
    np.testing.assert_allclose(
        normality_p(SAMPLES[name].astype(float)), scipy.stats.normaltest(SAMPLES[name]).pvalue, rtol=1e-6, atol=1e-290
    )


@every_sample
def test_power(name: str):
    """The Box-Cox power is SciPy's maximum-likelihood one, up to the tolerance of SciPy's search."""
    np.testing.assert_allclose(
        box_cox_power(SAMPLES[name].astype(float)), scipy.stats.boxcox_normmax(SAMPLES[name], method="mle"), atol=1e-6
    )


@pytest.mark.parametrize("name", [*SAMPLES, *EXTREME])
def test_power_is_the_maximum(name: str):
    """No other power has a larger likelihood, by SciPy's likelihood; also where SciPy's own search fails."""
    costs = (SAMPLES | EXTREME)[name].astype(float)
    power = float(box_cox_power(costs))
    best = scipy.stats.boxcox_llf(power, costs)
    for step in (1e-3, 1e-2, 0.1, 1.0):
        for other in (power * (1 - step), power * (1 + step), power - step, power + step):
            assert scipy.stats.boxcox_llf(other, costs) < best


@every_sample
def test_steps_of_the_paper(name: str):
    """z, verdict and cost threshold are those of spec D3 written with SciPy: normality, Box-Cox, moments of the transformed."""
    costs = SAMPLES[name].astype(float)
    fitted = ZScore().fit(costs)
    if scipy.stats.normaltest(costs).pvalue < 0.05:
        y, power = scipy.stats.boxcox(costs)
        mean, std = y.mean(), y.std()
        threshold = scipy.special.inv_boxcox(mean - 1.281552 * std, power)
        z = (scipy.special.boxcox(costs, power) - mean) / std
    else:
        threshold = costs.mean() - 1.281552 * costs.std()
        z = (costs - costs.mean()) / costs.std()
    np.testing.assert_allclose(fitted.score(costs), -z, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fitted.cost_threshold, threshold, rtol=1e-5)
    clear = abs(costs - threshold) > 1e-4 * threshold
    np.testing.assert_array_equal(fitted.predict(costs)[clear], (costs < threshold)[clear])


def test_nominal_rate():
    """On costs that Box-Cox can make normal, fresh benign costs are flagged at the nominal 10 %, inside the binomial band."""
    rates = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        rates.append(ZScore().fit(random.lognormal(4, 0.7, 2000)).predict(random.lognormal(4, 0.7, 2000)).mean())
    assert abs(np.mean(rates) - 0.1) < 3 * np.sqrt(0.1 * 0.9 / 2000 / 20 * 2)  # twice: the threshold is estimated too


def test_zero_and_negative_costs_are_shifted():
    """A benign sample with zeros is shifted to start at 1, as if one had been added by hand; z does not change."""
    costs = RANDOM.geometric(0.05, 500) - 1
    shifted, by_hand = ZScore().fit(costs), ZScore().fit(costs + 1)
    assert shifted.shift == 1
    assert by_hand.shift == 0
    np.testing.assert_allclose(shifted.score(costs), by_hand.score(costs + 1), rtol=1e-9)
    np.testing.assert_allclose(shifted.cost_threshold, by_hand.cost_threshold - 1)


@pytest.mark.parametrize("name", [*SAMPLES, *EXTREME])
def test_finite_and_decreasing(name: str):
    """Scores are finite and fall with the cost from below zero to far beyond the budget, so that AUROC can read them."""
    score = ZScore().fit((SAMPLES | EXTREME)[name]).score(np.arange(-5, 6001))
    assert np.isfinite(score).all()
    assert (np.diff(score) <= 0).all()


def test_no_cost_can_be_flagged():
    """Where z = h lies below every positive cost nothing is flagged, and the cost threshold says so."""
    fitted = ZScore(h=-4).fit(np.arange(1, 1000))
    assert fitted.power > 0
    assert fitted.cost_threshold == 0
    assert not fitted.predict(np.arange(0, 2000)).any()


def test_power_next_to_zero():
    """A power that is zero up to rounding gives the threshold of the logarithm, exp(mean + h std)."""
    costs = np.r_[np.full(500, 1.0), np.full(500, 1000.0)]  # symmetric in the logarithm
    fitted = ZScore().fit(costs)
    assert abs(fitted.power) < 1e-9
    np.testing.assert_allclose(fitted.cost_threshold, np.exp(np.log(costs).mean() - 1.281552 * np.log(costs).std()), rtol=1e-6)


def test_precision_does_not_depend_on_jax():
    """Arithmetic is float64 although JAX is set to 32 bits, and JAX is still set to 32 bits afterwards."""
    costs = SAMPLES["wide"]
    assert ZScore().fit(costs).score(costs).dtype == np.float64
    assert jax.numpy.ones(()).dtype == np.float32


def released(costs: np.ndarray) -> float:
    """The released code's threshold, by its own steps with SciPy."""
    bound = costs.mean() - 1.281552 * costs.std()
    if scipy.stats.normaltest(costs).pvalue >= 0.05:
        return bound
    _, power = scipy.stats.boxcox(costs)
    return scipy.special.inv_boxcox(bound, power)


@every_sample
def test_as_released(name: str):
    """as_released takes the released steps: untransformed moments through the inverse Box-Cox, strict comparison, nothing if NaN."""
    costs = SAMPLES[name].astype(float)
    fitted, threshold = ZScore(as_released=True).fit(costs), released(costs)
    assert isinstance(fitted, FittedReleased)
    queries = np.arange(0, 6000)
    clear = abs(queries - np.nan_to_num(threshold)) > 1e-3
    np.testing.assert_array_equal(fitted.predict(queries)[clear], (queries < threshold)[clear])
    assert np.isfinite(fitted.score(queries)).all()


def test_as_released_beyond_all_costs():
    """Where the inverse runs to infinity everything is flagged, as in the released code, and scores still rank the costs."""
    costs = np.exp(8 + 0.3 * scipy.stats.norm.ppf((np.arange(500) + 0.5) / 500))  # symmetric in the logarithm: power next to zero
    with np.errstate(over="ignore"):
        assert released(costs) > 1e300
    fitted, queries = ZScore(as_released=True).fit(costs), np.arange(1, 6000)
    assert fitted.predict(queries).all()
    assert np.isfinite(fitted.score(queries)).all()
    assert (np.diff(fitted.score(queries)) < 0).all()


def test_as_released_is_strict():
    """A cost equal to the threshold is benign."""
    fitted = dataclasses.replace(ZScore(as_released=True).fit(SAMPLES["normal"]), cost_threshold=90.0)
    assert fitted.predict([89, 90, 91]).tolist() == [True, False, False]


def test_as_released_refuses_zeros():
    """Zeros stay zeros in the released code's integer array and Box-Cox refuses them; SciPy does too."""
    costs = RANDOM.geometric(0.05, 500) - 1
    with pytest.raises(ValueError, match="positive"):
        scipy.stats.boxcox(costs)
    with pytest.raises(BadInput, match="expected positive benign costs"):
        ZScore(as_released=True).fit(costs)


@pytest.mark.parametrize("as_released", [False, True])
def test_what_cannot_be_fitted(as_released: bool):
    """Too few images, no spread and several attacks are refused in one line each."""
    detector = ZScore(as_released=as_released)
    with pytest.raises(BadInput, match=f"at least {LEAST} rows of benign costs, got 19"):
        detector.fit(np.arange(1, 20))
    with pytest.raises(BadInput, match="costs that differ, got 501 for all 50"):
        detector.fit(np.full(50, 501))
    with pytest.raises(BadInput, match="one column for a Z-score, got 2"):
        detector.fit(np.ones((50, 2)))


def test_settings_are_checked():
    """A setting that means nothing is refused where it is written."""
    with pytest.raises(ValueError, match="at most 0"):
        ZScore(h=1.28)
    with pytest.raises(ValueError, match="normality test"):
        ZScore(normality=2)
