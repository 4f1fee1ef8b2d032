"""The fit of the reverse Weibull distribution, against SciPy's."""

import pathlib

import numpy as np
import pytest
from scipy import optimize, stats

from a2d_jax.robustness import weibull

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def cost(maxima, parameters, penalty=0.0):
    """What the fit minimises, in SciPy's words."""
    return stats.weibull_max.nnlf(parameters, maxima) + penalty * parameters[0] ** 2


def by_scipy(maxima, penalty):
    """The penalised fit by SciPy's own optimiser, from several shapes."""
    spread = np.std(maxima)

    def parameters(v):
        shape, gap, scale = np.exp(v)
        return shape + 1, maxima.max() + gap, scale

    options = {"maxiter": 20000, "maxfev": 20000, "xatol": 1e-9, "fatol": 1e-11}
    starts = [np.log([shape, spread * shape, spread * shape]) for shape in (1.5, 5, 15)]
    found = [optimize.minimize(lambda v: cost(maxima, parameters(v), penalty), s, method="Nelder-Mead", options=options) for s in starts]
    return parameters(min(found, key=lambda one: one.fun).x)


@pytest.mark.parametrize("shape", [1.5, 2.0, 3.0, 6.0, 12.0])
def test_simulated_maxima(shape):
    """Plain maximum likelihood: as likely as SciPy's fit, and with its parameters, for several samples at once."""
    samples = stats.weibull_max.rvs(shape, 7, 2, size=(3, 500), random_state=1)
    ours = weibull.fit(samples, penalty=0)
    for i, sample in enumerate(samples):
        theirs = stats.weibull_max.fit(sample, shape, loc=7.0, scale=2.0)
        mine = ours.shape[i], ours.location[i], ours.scale[i]
        assert cost(sample, mine) < cost(sample, theirs) + 1e-6
        np.testing.assert_allclose(mine, theirs, rtol=2e-3)
        assert ours.fitted[i]


def test_real_maxima():
    """Slopes of LeNet-5: the penalised fit is SciPy's optimum of the same function, and its test the one of SciPy."""
    maxima = np.load(GOLDEN / "clever.npz", allow_pickle=False)["maxima"].astype(np.float64)[:, 0]
    assert len(maxima) == 4
    ours = weibull.fit(maxima)
    for i, sample in enumerate(maxima):
        mine = ours.shape[i], ours.location[i], ours.scale[i]
        theirs = by_scipy(sample, weibull.PENALTY)
        assert cost(sample, mine, weibull.PENALTY) < cost(sample, theirs, weibull.PENALTY) + 1e-6
        np.testing.assert_allclose(ours.location[i], theirs[1], rtol=1e-4)
        if ours.fitted[i]:
            test = stats.kstest(sample, "weibull_max", (mine[0], mine[1], mine[2]))
            np.testing.assert_allclose(ours.p_value[i], test.pvalue, atol=0.03)


def test_skewed_maxima():
    """Maxima without an end point send the plain fit to infinity, SciPy's too: the penalised one stays near, the plain one gives up."""
    sample = stats.genextreme.rvs(-0.1, 5.0, 0.2, size=500, random_state=1)
    assert stats.weibull_max.fit(sample)[1] > 1e6
    penalised, plain = weibull.fit(sample), weibull.fit(sample, penalty=0)
    assert penalised.fitted
    assert sample.max() < penalised.location < sample.max() + 2 * np.ptp(sample)
    np.testing.assert_allclose(penalised.location, by_scipy(sample, weibull.PENALTY)[1], rtol=1e-4)
    assert not plain.fitted
    assert plain.location == sample.max()


def test_shape_below_one():
    """Where the likelihood has no maximum at all, the end point stays beside the largest maximum, as that of an exponential would."""
    sample = stats.weibull_max.rvs(0.5, 7, 2, size=500, random_state=3)
    fit = weibull.fit(sample)
    assert sample.max() <= fit.location < sample.max() + 1e-3 * np.ptp(sample)
    assert fit.shape >= 1


def test_samples_without_a_fit():
    """Equal maxima and two clusters: the location is the largest maximum; maxima that are not finite give NaN; others are unharmed."""
    good = stats.weibull_max.rvs(4, 7, 2, size=200, random_state=4)
    clusters = np.r_[np.full(100, 1.0), np.full(100, 2.0)]
    broken = np.where(np.arange(200) == 7, np.nan, good)
    fit = weibull.fit(np.stack([np.full(200, 3.0), np.zeros(200), clusters, broken, good]))
    np.testing.assert_array_equal(fit.fitted, [False, False, False, False, True])
    np.testing.assert_array_equal(fit.location[:3], [3, 0, 2])
    assert np.isnan(fit.location[3])
    np.testing.assert_allclose(fit.location[4], weibull.fit(good).location, rtol=1e-9)


def test_units():
    """A change of scale and origin of the maxima is that of the location."""
    sample = stats.weibull_max.rvs(4, 7, 2, size=200, random_state=6)
    np.testing.assert_allclose(weibull.fit(1e-20 * sample).location, 1e-20 * weibull.fit(sample).location, rtol=1e-6)
    np.testing.assert_allclose(weibull.fit(sample - 6.5).location, weibull.fit(sample).location - 6.5, rtol=1e-6)
