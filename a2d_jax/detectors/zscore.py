"""Z-score of the attack cost: adversarial if the cost lies far below those of benign images.

Benign costs are skewed. If D'Agostino and Pearson's K^2 test rejects that they are normal, the Box-Cox transform
y = (a^power - 1) / power (log a for power 0) is applied, with the power by maximum likelihood. Then z = (y - mean) / std, and a cost with
z < h is adversarial. Costs are in units of the benign geometric mean; this changes no z and keeps every power in range. Normal costs keep
power 1: this transform is a shift, so one formula serves both cases.

Source: Zhao et al., "Attack as Defense", ISSTA 2021, section 4.2; Box and Cox, J. R. Stat. Soc. B 26 (1964); D'Agostino, Biometrika
57 (1970) and Anscombe and Glynn, Biometrika 70 (1983) for the test. The released code does something else: `as_released`.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float
from numpy.typing import ArrayLike

from a2d_jax.detectors.base import Detector, Fitted, Radii, Scores, in_float64, radii_of, read_table, rowwise
from a2d_jax.errors import BadInput, require
from a2d_jax.types import STATIC

LEAST = 20
"""Fewest benign images: the kurtosis half of the K^2 test is an approximation that its authors and SciPy trust from 20 on."""

_MARGIN = 1e-9  # around a cost threshold, as a share of it: rounding decides there

_FARTHEST = 1e9  # bound of a score, in standard deviations: costs of zero lie infinitely far out when power <= 0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ZScore(Detector):
    """Settings of the Z-score detector; reads one column and needs benign costs only.

    Attributes:
      h: a cost is adversarial if its z is below h; -1.281552 is the 10 % quantile of a normal distribution (the paper's).
      normality: level of the K^2 test; costs with a smaller p-value are transformed.
      as_released: use the rule of the released code, for comparison (see `FittedReleased`).
    """

    name = "zscore"
    single_column = True

    h: float = field(default=-1.281552, metadata=STATIC)
    normality: float = field(default=0.05, metadata=STATIC)
    as_released: bool = field(default=False, metadata=STATIC)

    def __post_init__(self) -> None:
        require(self.h <= 0, "a threshold h of at most 0", self.h, "-1.281552 flags about one benign image in ten")
        require(0 <= self.normality <= 1, "a level of the normality test in [0, 1]", self.normality, "0.05 is the paper's")

    def fit(
        self, benign: ArrayLike, adversarial: ArrayLike | None = None, *, labels: ArrayLike | None = None
    ) -> "FittedZScore | FittedReleased":
        """Fit to the costs of at least 20 benign images under one attack; `adversarial` and `labels` are not looked at.

        Raises:
          BadInput: too few images, several columns, or costs without spread.
        """
        costs = read_table(benign, least=LEAST, role="benign costs")
        if costs.shape[1] != 1:
            raise BadInput(f"expected benign costs of one column for a Z-score, got {costs.shape[1]}; pick one, or use vote")
        if np.ptp(costs) == 0:
            raise BadInput(
                f"expected benign costs that differ, got {costs[0, 0]:g} for all {len(costs)}; raise max_steps or leave this attack out"
            )
        if self.as_released:
            return _fit_released(costs[:, 0], self.h, self.normality)
        return FittedZScore(self.h, *map(float, _fit(costs[:, 0], self.h, self.normality)))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FittedZScore(Fitted):
    """y = ((a / scale)^power - 1) / power with a = cost + shift; z = (y - mean) / std; adversarial iff z < h.

    Attributes:
      h: threshold of z.
      shift: added to costs so that all benign ones are positive; 0 if they are.
      scale: geometric mean of the shifted benign costs.
      power: Box-Cox lambda; 1 if the benign costs passed as normal.
      mean: of the transformed benign costs.
      std: of the transformed benign costs (population form, as maximum likelihood has it).
      cost_threshold: the same verdict in iterations: adversarial iff cost < cost_threshold; -shift if no cost can be adversarial.
    """

    kind = "zscore"

    h: float
    shift: float
    scale: float
    power: float
    mean: float
    std: float
    cost_threshold: float

    @property
    def columns(self) -> int:
        """One: a Z-score reads a single column."""
        return 1

    @property
    def threshold(self) -> float:
        """-h, since the score is -z."""
        return -self.h

    def score(self, x: ArrayLike, *, labels: ArrayLike | None = None, index: ArrayLike | None = None) -> Scores:
        """-z, limited to 1e9. A cost of -shift or less has no transform; it gets the limit from above, the most adversarial score."""
        return _score(self, read_table(x, 1)[:, 0])

    def radii(self, farthest: Sequence[float | None]) -> Radii:
        """The cost threshold, a little rounded up."""
        return radii_of(self.predict, _around(self.cost_threshold), 1, farthest)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FittedReleased(Fitted):
    """The released code's rule: adversarial iff cost < inverse Box-Cox of (mean + h * std) of the *untransformed* costs.

    This threshold is not valid, because the moments and the transform do not belong together. It is kept to compare with published runs. If
    the inverse does not exist, nothing is flagged; the original does the same, because its comparison with NaN is false.

    Attributes:
      cost_threshold: adversarial iff cost < cost_threshold (0: nothing is flagged).
      std: of the untransformed benign costs, population form; the unit of the score.
    """

    kind = "zscore-as-released"

    cost_threshold: float
    std: float

    @property
    def columns(self) -> int:
        """One: a Z-score reads a single column."""
        return 1

    @property
    def threshold(self) -> float:
        """0, since the score is the distance below the cost threshold."""
        return 0.0

    def score(self, x: ArrayLike, *, labels: ArrayLike | None = None, index: ArrayLike | None = None) -> Scores:
        """How far each cost lies below the cost threshold, in standard deviations of benign costs."""
        return (self.cost_threshold - read_table(x, 1)[:, 0]) / self.std

    def radii(self, farthest: Sequence[float | None]) -> Radii:
        """The cost threshold, a little rounded up."""
        return radii_of(self.predict, _around(self.cost_threshold), 1, farthest)


def _around(threshold: float) -> Float[np.ndarray, " 2"]:
    return threshold * np.array([1 - _MARGIN, 1 + _MARGIN])


def _fit_released(costs: Float[np.ndarray, " n"], h: float, normality: float) -> FittedReleased:
    """Integer zeros stay zero there (0.01 is written into an integer array) and Box-Cox refuses them: an error here too."""
    bound = float(np.mean(costs) + h * np.std(costs))
    if normality_p(costs) < normality:
        if costs.min() <= 0:
            raise BadInput(f"expected positive benign costs (as released), got {costs.min():g}; use as_released=False, which shifts them")
        power = float(box_cox_power(costs))
        base = power * bound + 1
        with np.errstate(over="ignore"):
            bound = 0.0 if base <= 0 else float(np.exp(np.log1p(power * bound) / power if power else bound))
    return FittedReleased(min(bound, 1e12), float(np.std(costs)))  # finite, so that scores are; beyond every budget


@in_float64
def _fit(costs: Float[Array, " n"], h: Array, normality: Array) -> tuple[Array, ...]:
    """Shift, test, transform and moments: everything after `h` in `FittedZScore`."""
    least = jnp.min(costs)
    shift = jnp.where(least > 0, 0.0, 1 - least)  # the smallest benign cost becomes 1
    scale = jnp.exp(jnp.mean(jnp.log(costs + shift)))
    log = jnp.log((costs + shift) / scale)
    power = jnp.where(_normality_p(costs) < normality, _box_cox_power(log), 1.0)
    y = _transform(log, power)
    mean, std = jnp.mean(y), jnp.std(y)
    edge = mean + h * std
    root = jnp.log1p(jnp.maximum(power * edge, -1)) / jnp.where(power == 0, 1, power)  # -inf: z = h lies below every positive cost
    inverse = scale * jnp.exp(jnp.where(power == 0, edge, root))
    return shift, scale, power, mean, std, inverse - shift


@functools.partial(rowwise, many=2**16)
def _score(fitted: FittedZScore, cost: Float[Array, ""]) -> Float[Array, ""]:
    positive = jnp.maximum(cost + fitted.shift, 0) / fitted.scale
    z = (_transform(jnp.log(positive), fitted.power) - fitted.mean) / fitted.std
    return jnp.clip(-z, -_FARTHEST, _FARTHEST)


def _transform(log: Float[Array, "*n"], power: float | Array) -> Float[Array, "*n"]:
    """Box-Cox of exp(log); -inf, the logarithm of zero, has a limit for every power."""
    return jnp.where(power == 0, log, jnp.expm1(power * log) / jnp.where(power == 0, 1, power))


def _box_cox_power(log: Float[Array, " n"]) -> Float[Array, ""]:
    """The Box-Cox power of maximum likelihood, given logarithms that sum to zero (costs over their geometric mean).

    In that unit the likelihood is -n/2 log var(w), w = expm1(power * log) / power, and it is concave in power (Kouider and Chen,
    Stat. Probab. Lett. 25, 1995): its derivative has one zero, found by bisection. The bracket is safe: with m the largest
    logarithm, var(w) >= (expm1(power m) / power)^2 / 4n and var(w) <= n m^2 at power 0, so that beyond 32 / m the likelihood is
    below that of power 0 for every n < 1e12; likewise to the left.
    """

    def rises(power: Array) -> Array:
        """Variance grows with power: the maximum of the likelihood lies to the left."""
        t = power * log
        small = jnp.abs(t) < 1e-2
        safe = jnp.where(small, 1.0, t)
        w = log * jnp.where(small, _series(t, 1), jnp.expm1(safe) / safe)
        slope = log**2 * jnp.where(small, _series(t, 2), (safe * jnp.exp(safe) - jnp.expm1(safe)) / safe**2)
        return jnp.sum((w - jnp.mean(w)) * (slope - jnp.mean(slope))) > 0

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        left = rises(middle)
        return jnp.where(left, low, middle), jnp.where(left, middle, high)

    low, high = jax.lax.fori_loop(0, 100, halve, (32 / jnp.min(log), 32 / jnp.max(log)))
    return (low + high) / 2


def _series(t: Float[Array, " n"], order: int) -> Float[Array, " n"]:
    """Near zero: expm1(t) / t = sum t^i / (i + 1)! (order 1) and its derivative, sum t^i (i + 1) / (i + 2)! (order 2)."""
    coefficients = {1: (1, 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720), 2: (1 / 2, 1 / 3, 1 / 8, 1 / 30, 1 / 144, 1 / 840)}[order]
    return jnp.polyval(jnp.asarray(coefficients[::-1], t.dtype), t)


def _normality_p(costs: Float[Array, " n"]) -> Float[Array, ""]:
    """p-value of the K^2 test: the squares of a normalised skewness and a normalised kurtosis, chi-squared with 2 degrees."""
    n = jnp.asarray(costs.shape[0], costs.dtype)
    centred = costs - jnp.mean(costs)
    variance = jnp.mean(centred**2)
    skewness = jnp.mean(centred**3) / variance**1.5
    kurtosis = jnp.mean(centred**4) / variance**2

    y = skewness * jnp.sqrt((n + 1) * (n + 3) / (6 * (n - 2)))
    beta = 3 * (n**2 + 27 * n - 70) * (n + 1) * (n + 3) / ((n - 2) * (n + 5) * (n + 7) * (n + 9))
    w = jnp.sqrt(2 * (beta - 1)) - 1
    z_skewness = jnp.arcsinh(y / jnp.sqrt(2 / (w - 1))) / jnp.sqrt(jnp.log(w) / 2)

    spread = jnp.sqrt(24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5)))
    x = (kurtosis - 3 * (n - 1) / (n + 1)) / spread
    root = 6 * (n**2 - 5 * n + 2) / ((n + 7) * (n + 9)) * jnp.sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    a = 6 + 8 / root * (2 / root + jnp.sqrt(1 + 4 / root**2))
    z_kurtosis = (1 - 2 / (9 * a) - jnp.cbrt((1 - 2 / a) / (1 + x * jnp.sqrt(2 / (a - 4))))) / jnp.sqrt(2 / (9 * a))

    return jnp.exp(-(z_skewness**2 + z_kurtosis**2) / 2)


@in_float64
def normality_p(costs: Float[Array, " n"]) -> Float[Array, ""]:
    """p-value of D'Agostino and Pearson's K^2 test that `costs` are normal."""
    return _normality_p(costs)


@in_float64
def box_cox_power(costs: Float[Array, " n"]) -> Float[Array, ""]:
    """Box-Cox power of maximum likelihood of positive, differing `costs`."""
    log = jnp.log(costs)
    return _box_cox_power(log - jnp.mean(log))
