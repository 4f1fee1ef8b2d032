"""Wald's sequential probability ratio test on label changes: it stops looking at mutants as soon as it is sure.

After n mutants, c of which changed the label of an image, the logarithm of the likelihood ratio of two change rates p1 > p0 is

    ratio = c ln(p1 / p0) + (n - c) ln((1 - p1) / (1 - p0)),     p1, p0 = (1 + width) threshold, (1 - width) threshold

The image is adversarial if ratio >= ln((1 - beta) / alpha), and normal if ratio <= ln(beta / (1 - alpha)). An image that exhausts all
mutants is normal. Among images with rate p0 the share called adversarial is at most alpha / (1 - beta); among those with rate p1 the
share called normal is at most beta / (1 - alpha), if there are mutants enough.

Source: Wald, "Sequential tests of statistical hypotheses", Ann. Math. Stat. 16 (1945); Wang et al., arXiv:1812.05793. Their code tests only
when a mutant changed the label, with the number c of before that mutant (`as_coded`). An image that no mutant changes then needs all of
them. Another state of their code adds the mutant before it tests.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from a2d_jax import inputs
from a2d_jax.errors import BadInput, require

HALF_WIDTH = 2.58  # of a 99 % interval of the mean, in standard errors


class Decisions(NamedTuple):
    """What the test says of each image."""

    adversarial: Bool[np.ndarray, " n"]
    used: Int[np.ndarray, " n"]  # mutants looked at


def threshold_of(benign_rates: ArrayLike) -> float:
    """The upper end of the 99 % interval of the mean label change rate of benign images.

    Raises:
      BadInput: no rates, or numbers outside [0, 1].
    """
    rates = inputs.array(benign_rates, "label change rates").astype(np.float64)
    good = rates.ndim == 1 and rates.size > 0 and bool(((rates >= 0) & (rates <= 1)).all())
    require(good, "label change rates in [0, 1], one for each image", f"an array of shape {rates.shape}", "take the mean of the changes")
    return float(rates.mean() + HALF_WIDTH * rates.std() / np.sqrt(rates.size))


def sprt(
    changes: Bool[Any, "n mutants"],
    threshold: float,
    *,
    width: float = 0.1,
    alpha: float = 0.05,
    beta: float = 0.05,
    as_coded: bool = False,
) -> Decisions:
    """Decide for each image, looking at the mutants in their order.

    Args:
      changes: whether a mutant changed the label of an image.
      threshold: rate of label changes between those of normal and of adversarial images.
      width: half the width of the indifference region, as a share of the threshold.
      alpha: bound on the share of normal images that are called adversarial.
      beta: bound on the share of adversarial images that are called normal.
      as_coded: test as the authors' code does. An image that exhausts all mutants then counts one more than there are.

    Raises:
      BadInput: no table of flags; a threshold or width that gives rates outside (0, 1); or bounds outside (0, 1/2).
    """
    flags = inputs.array(changes, "label changes")
    if flags.ndim != 2 or flags.dtype != np.bool_ or 0 in flags.shape:
        raise BadInput(f"expected flags, images by mutants, got {flags.dtype} of shape {flags.shape}; take them from Mutants.changes")
    p0, p1 = (1 - width) * threshold, (1 + width) * threshold
    require(0 < p0 < p1 < 1, "a threshold and a width with 0 < p0 < p1 < 1", f"p0 = {p0:g} and p1 = {p1:g}", "correct them")
    require(0 < alpha < 0.5 and 0 < beta < 0.5, "error bounds in (0, 1/2)", f"{alpha} and {beta}", "0.05 is usual")

    seen = np.arange(1, flags.shape[1] + 1)[None]
    changed = np.cumsum(flags, axis=1) - (flags if as_coded else 0)
    ratio: Float[np.ndarray, "n mutants"] = changed * np.log(p1 / p0) + (seen - changed) * np.log((1 - p1) / (1 - p0))
    above, below = ratio >= np.log((1 - beta) / alpha), ratio <= np.log(beta / (1 - alpha))
    stops = (above | below) & (flags if as_coded else True)
    first, decided = stops.argmax(1), stops.any(1)
    used = np.where(decided, first + 1, flags.shape[1] + (1 if as_coded else 0))
    return Decisions(decided & above[np.arange(len(flags)), first], used)
