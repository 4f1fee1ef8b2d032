"""The evaluation that a reviewer would ask for, of any detector and any attackers, from plain tables of results.

An attacker *wins* an image at a budget if one of its images within the budget is misclassified and the detector accepts it ("joint
success"), at a threshold that was fixed on held-out benign images for a false-positive rate of 1, 5 or 10 %. Every curve goes out to the
budget at which everything is won. The worst case of an image is the best of all attackers (MEAD). More budget never hurts: an image that
was won at a smaller distance stays won.

Beside every curve stands the ceiling

    joint(epsilon) <= fooled(epsilon - rho)                rho: the radius that the threshold asks for

by the triangle inequality. A detector that accepts an image only if its class is constant within rho also protects the last rho of the way
to it: on the line from the input, the point rho before the accepted image is misclassified already. So an attacker pays the toll rho.
The law is exact for an exact detector in the norm of the budget. `fooled` is a lower bound from attacks; a curve above the ceiling
says that these attacks are too weak, or that the detector does not measure what it claims.

Source: Carlini et al., "On Evaluating Adversarial Robustness", arXiv:1902.06705 (curves); MEAD, arXiv:2206.15415 (worst case per image);
Bates et al., arXiv:2104.08279 (the threshold as a rank). The ceiling is ours; it is near Tramer, arXiv:2107.11630.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from a2d_jax import inputs
from a2d_jax.adaptive.audited import WORST, Audit, Curve, Point
from a2d_jax.adaptive.indicators import Finding, found, gained
from a2d_jax.errors import BadInput, require
from a2d_jax.metrics import rate_interval

LEVELS = (0.01, 0.05, 0.1)


def operating_point(
    benign: ArrayLike, level: float, *, fresh: ArrayLike | None = None, radius: Callable[[float], float] | None = None
) -> Point:
    """The threshold whose false-positive rate on fresh benign images is at most `level`, in expectation over calibration sets.

    It is the ceil((n + 1) (1 - level))-th smallest of n scores. A fresh image ranks above it with a probability of at most `level`,
    whatever the distribution. An image is flagged above the threshold, not on it: ties make the rate smaller, never larger.

    Args:
      benign: scores of held-out benign images, high for adversarial ones. The score of a cost is its negative.
      level: false-positive rate.
      fresh: scores of further benign images, on which the rate is checked.
      radius: `(threshold) -> rho`, see the module.

    Raises:
      BadInput: no scores, NaN, or a level outside (0, 1).
    """
    require(0 < level < 1, "a level in (0, 1)", level, "0.05 allows one false alarm in twenty")
    ordered = np.sort(_benign(benign, "held-out benign scores"))
    rank = math.ceil((len(ordered) + 1) * (1 - level) - 1e-9)
    threshold = float(ordered[rank - 1]) if rank <= len(ordered) else math.inf
    rate = None
    if fresh is not None:
        alarms = _benign(fresh, "fresh benign scores") > threshold
        rate = (float(alarms.mean()), *rate_interval(alarms))
    asked = None if radius is None else max(float(radius(threshold)), 0.0) if math.isfinite(threshold) else 0.0
    if asked is not None and not math.isfinite(asked):
        raise BadInput(f"expected a finite radius for the threshold {threshold}, got {asked}; give radius in the units of the distances")
    return Point(level, threshold if math.isfinite(threshold) else None, float((ordered > threshold).mean()), rate, asked)


def audit(
    name: str,
    benign: ArrayLike,
    fooled: ArrayLike,
    score: ArrayLike,
    distance: ArrayLike,
    *,
    attackers: Sequence[str],
    budgets: Sequence[float],
    levels: Sequence[float] = LEVELS,
    fresh: ArrayLike | None = None,
    radius: Callable[[float], float] | None = None,
) -> Audit:
    """Judge the results of attackers who know the detector.

    Leave out images that are misclassified without an attack. Give every image that an attacker made as a try of its own: one for each
    budget that it was run with, each restart, each gain. Add an attack on the classifier alone that looks for the nearest misclassified
    image, such as FMN: the ceiling needs it.

    Args:
      name: of what is evaluated, for people.
      benign: scores `m` of held-out benign images, high for adversarial ones; the thresholds are taken from them.
      fooled: flags `n attackers tries` (`n attackers` for one try each): the image is misclassified.
      score: the detector's score of each of these images, from the detector itself and not from a stand-in. Looked at where fooled.
      distance: of each image from its input, in the norm of the budgets. Looked at where fooled.
      attackers: a name for each attacker.
      budgets: largest distances, rising; the last one should be that at which everything is won.
      levels: false-positive rates.
      fresh: scores of further benign images, on which the rates are checked.
      radius: `(threshold) -> rho`, the radius within which the class of an accepted image is constant. For the crossing of `newton` it is
        the negative threshold; for a count of BIM it is (-threshold - 1) * step_size, since the class may change within the last step. None
        where it is not known: then there is no ceiling.

    Raises:
      BadInput: arrays of different shapes, NaN where an image is fooled, names or budgets that do not fit.
    """
    won = _tries(fooled, "fooled")
    scores, distances = (_like(values, what, won) for values, what in ((score, "score"), (distance, "distance")))
    grid, names = tuple(float(budget) for budget in budgets), tuple(attackers)
    if len(names) != won.shape[1] or len(set(names)) != len(names) or WORST in names:
        raise BadInput(f"expected {won.shape[1]} different names of attackers, got {', '.join(names)}; give one for each column of fooled")
    if not grid or grid[0] < 0 or any(b <= a for a, b in itertools.pairwise(grid)) or not all(map(math.isfinite, grid)):
        raise BadInput(f"expected finite budgets that rise, got {list(grid)}; sort them and leave out what comes twice")
    points = tuple(operating_point(benign, level, fresh=fresh, radius=radius) for level in levels)

    plain = np.where(won, distances, np.inf).min(axis=2)
    curves, findings = _curves(names, None, plain, grid, None), []
    for point in points:
        limit = math.inf if point.threshold is None else point.threshold
        joint = np.where(won & (scores <= limit), distances, np.inf).min(axis=2)
        bound = None if point.rho is None else within(plain.min(axis=1), tuple(budget - point.rho for budget in grid))
        curves += _curves(names, point.level, joint, grid, bound)
        wins = within(joint.min(axis=1), grid)
        if bound is not None:
            findings.append(_under_the_ceiling(point, wins, bound, grid))
        findings.append(_to_the_end(point, wins, grid))
    findings += [_rate_kept(point) for point in points if point.fpr is not None]
    return Audit(name, len(won), grid, points, tuple(curves), tuple(findings))


def _curves(
    names: tuple[str, ...], level: float | None, nearest: Float[np.ndarray, "n a"], grid: tuple[float, ...], bound: Any
) -> list[Curve]:
    """One for each attacker, and that of the worst case, from the distance at which each first wins each image."""
    ceiling = None if bound is None else tuple(bound.mean(axis=0).tolist())
    made: list[Curve] = []
    for attacker, distances in zip((*names, WORST), (*nearest.T, nearest.min(axis=1)), strict=True):
        wins = within(distances, grid)
        low, high = zip(*(rate_interval(column) for column in wins.T), strict=True)
        made.append(Curve(attacker, level, tuple(wins.mean(axis=0).tolist()), low, high, ceiling))
    return made


def within(nearest: Float[np.ndarray, " n"], grid: tuple[float, ...]) -> Bool[np.ndarray, "n budgets"]:
    """Which images are won within each budget, but for rounding of pixels in float32."""
    limits = np.asarray(grid)
    return (nearest[:, None] <= (limits + 1e-5 * np.abs(limits) + 1e-6)[None]) & (limits >= 0)[None]


def _under_the_ceiling(point: Point, wins: np.ndarray, bound: np.ndarray, grid: tuple[float, ...]) -> Finding:
    over = [gained(wins[:, k], bound[:, k]) for k in range(len(grid))]
    worst = max(range(len(grid)), key=lambda k: (over[k][0] - over[k][1], wins[:, k].mean()))
    excess, allowed = over[worst]
    at = f"At {point.level:.0%} false positives and budget {grid[worst]:.4g} the worst case is {wins[:, worst].mean():.3f}"
    ceiling = f"the ceiling {bound[:, worst].mean():.3f}"
    return found(
        f"ceiling at {point.level:g}",
        excess,
        allowed,
        f"{at} and {ceiling}: no curve is above by more than two standard errors.",
        f"{at}, above {ceiling}: the attacks without a detector are too weak, or the detector does not measure this radius.",
    )


def _to_the_end(point: Point, wins: np.ndarray, grid: tuple[float, ...]) -> Finding:
    last = float(wins[:, -1].mean())
    at = f"At {point.level:.0%} false positives the worst case reaches {last:.3f} at budget {grid[-1]:.4g}"
    return found(
        f"out to 100 % at {point.level:g}", 1 - last, 0.0, f"{at}.", f"{at}: go on until every image is won, or the attacks are too weak."
    )


def _rate_kept(point: Point) -> Finding:
    """The level against the interval of the rate on fresh images: it fires if even the lower end is above."""
    rate, low, high = point.fpr or (0.0, 0.0, 1.0)
    seen = f"{rate:.1%} [{low:.1%}, {high:.1%}] of fresh benign images are flagged, where {point.level:.0%} were asked for"
    return found(
        f"false positives at {point.level:g}", low, point.level, f"{seen}.", f"{seen}: these images are not like those of the threshold."
    )


def _benign(scores: ArrayLike, what: str) -> Float[np.ndarray, " n"]:
    read = inputs.array(scores, what)
    if read.ndim != 1 or read.size == 0 or read.dtype.kind not in "iuf" or np.isnan(read).any():
        raise BadInput(f"expected {what}, one per image, got {read.dtype} of shape {read.shape}; give at least one, no NaN")
    return read.astype(np.float64)


def _tries(fooled: ArrayLike, what: str) -> Bool[np.ndarray, "n attackers tries"]:
    read = inputs.array(fooled, what)
    if read.dtype != np.bool_ or read.ndim not in (2, 3) or read.size == 0:
        raise BadInput(
            f"expected {what} as true or false, n attackers tries, got {read.dtype} of shape {read.shape}; give at least one image"
        )
    return read.reshape(*read.shape[:2], -1)


def _like(values: ArrayLike, what: str, won: np.ndarray) -> Float[np.ndarray, "n attackers tries"]:
    read = inputs.array(values, what)
    read = read.reshape(*read.shape[:2], -1) if read.ndim in (2, 3) else read
    if read.shape != won.shape or read.dtype.kind not in "iuf":
        raise BadInput(
            f"expected {what} for every entry of fooled {won.shape}, got {read.dtype} of shape {read.shape}; give numbers in its order"
        )
    if np.isnan(read[won]).any():
        raise BadInput(
            f"expected {what} of every misclassified image, got NaN; leave out tries that were not judged, or call them not fooled"
        )
    if what == "distance" and (read[won] < 0).any():
        raise BadInput(f"expected distances of at least 0, got {read[won].min()}; give lengths")
    return read.astype(np.float64)
