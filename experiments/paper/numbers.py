"""Numbers with their published neighbours, intervals and bands."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest, spearmanr

from a2d_jax.metrics import auroc, auroc_interval
from experiments.pages.blocks import Number
from experiments.paper.networks import ROLES, Subject

NEAR = 0.03
"""How near to the published AUROC a number is expected, where the paper's shape says nothing narrower."""


def area(
    subject: Subject,
    benign: np.ndarray,
    adversarial: np.ndarray,
    published: float | None = None,
    band: tuple[float, float] | None = None,
    reason: str = "",
) -> Number:
    """The AUROC of costs: the chance that an adversarial image costs less than a benign one.

    Args:
      subject: the network.
      benign: costs of benign images.
      adversarial: costs of adversarial ones.
      published: the paper's number.
      band: where it is expected; default `NEAR` the published number.
      reason: why it lies elsewhere, if it does.
    """
    found = auroc(-benign, -adversarial)
    band = _band(subject, published) if band is None else band
    return placed(subject, found, published, (len(benign), len(adversarial)), auroc_interval(-benign, -adversarial), band, reason)


def share(subject: Subject, hits: np.ndarray, published: float | None = None, *, scale: float = 1.0, reason: str = "") -> Number:
    """A share of images with its 95 % interval (Wilson).

    Args:
      subject: the network.
      hits: one truth value for each image.
      published: the paper's number, in the same unit.
      scale: 100 gives percent.
      reason: why it lies outside its band, if it does.
    """
    ends = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    interval = (float(ends.low) * scale, float(ends.high) * scale)
    return placed(subject, float(hits.mean()) * scale, published, (len(hits),), interval, None, reason)


def mean(subject: Subject, values: np.ndarray, published: float | None = None, reason: str = "") -> Number:
    """A mean with its 95 % interval (normal approximation)."""
    half = 1.96 * float(values.std(ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else float("inf")
    middle = float(values.mean())
    interval = (middle - half, middle + half) if np.isfinite(half) else None
    return placed(subject, middle, published, (len(values),), interval, None, reason)


def correlation(subject: Subject, points: np.ndarray) -> Number:
    """Spearman's rank correlation of points `n 2`; none where a coordinate is the same for all."""
    if len(points) < 3 or (np.ptp(points, axis=0) == 0).any():
        return Number(None, n=(len(points),), reason="too few different points for a rank correlation")
    return placed(subject, float(spearmanr(*points.T).statistic), None, (len(points),), None, None, "")


def placed(
    subject: Subject,
    ours: float,
    published: float | None,
    n: Sequence[int],
    interval: tuple[float, float] | None,
    band: tuple[float, float] | None,
    reason: str,
) -> Number:
    """A number in its band; a stand-in has its own reason to lie elsewhere, and digits have no band."""
    band = None if subject.stands_in else band
    outside = band is not None and not band[0] <= ours <= band[1]
    why = ROLES[subject.role].why
    return Number(ours, published, n, interval, band, (reason or why) if outside else "")


def _band(subject: Subject, published: float | None) -> tuple[float, float] | None:
    return None if published is None or subject.stands_in else (published - NEAR, min(published + NEAR, 1.0))
