"""Metrics: how well scores separate adversarial from benign inputs, and how well a classifier withstands an attack.

Label 1 is adversarial and a higher score is more adversarial, everywhere. The score of a cost is its negative: a low cost is suspicious.
Operating points are thresholds that a user could set, without interpolation between them.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from scipy.stats import binomtest, norm, rankdata
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from a2d_jax import inputs
from a2d_jax.errors import BadInput, require


class DetectionReport(NamedTuple):
    """All metrics of one benign and one adversarial set."""

    auroc: float  # P(adversarial above benign) + P(equal) / 2
    auroc_low: float  # ends of its 95 % interval
    auroc_high: float
    average_precision: float  # depends on the sizes of the two sets
    tpr_at_fpr_1: float  # share of adversarial inputs caught with at most 1 % false alarms
    tpr_at_fpr_5: float
    fpr_at_tpr_95: float  # share of false alarms when at least 95 % are caught


def detection_report(benign_scores: ArrayLike, adversarial_scores: ArrayLike) -> DetectionReport:
    """All detection metrics at once."""
    low, high = auroc_interval(benign_scores, adversarial_scores)
    return DetectionReport(
        auroc=auroc(benign_scores, adversarial_scores),
        auroc_low=low,
        auroc_high=high,
        average_precision=average_precision(benign_scores, adversarial_scores),
        tpr_at_fpr_1=tpr_at_fpr(benign_scores, adversarial_scores, 0.01),
        tpr_at_fpr_5=tpr_at_fpr(benign_scores, adversarial_scores, 0.05),
        fpr_at_tpr_95=fpr_at_tpr(benign_scores, adversarial_scores, 0.95),
    )


def auroc(benign_scores: ArrayLike, adversarial_scores: ArrayLike) -> float:
    """P(an adversarial score is above a benign one), ties counted half."""
    return float(roc_auc_score(*_labelled(benign_scores, adversarial_scores)))


def auroc_interval(benign_scores: ArrayLike, adversarial_scores: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the AUROC by the method of DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988).

    The AUROC is a mean over pairs. Its variance follows from the means per adversarial and per benign input, which ranks give directly.
    With fewer than two inputs of a kind the interval is (0, 1). At an AUROC of exactly 0 or 1 the interval has no width.
    """
    benign, adversarial = _scores(benign_scores, "benign"), _scores(adversarial_scores, "adversarial")
    if min(len(benign), len(adversarial)) < 2:
        return 0.0, 1.0
    rank = rankdata(np.concatenate([benign, adversarial]))
    per_adversarial = (rank[len(benign) :] - rankdata(adversarial)) / len(benign)
    per_benign = 1 - (rank[: len(benign)] - rankdata(benign)) / len(adversarial)
    error = np.sqrt(per_adversarial.var(ddof=1) / len(adversarial) + per_benign.var(ddof=1) / len(benign))
    half = norm.ppf((1 + confidence) / 2) * error
    middle = per_adversarial.mean()
    return float(max(middle - half, 0)), float(min(middle + half, 1))


def average_precision(benign_scores: ArrayLike, adversarial_scores: ArrayLike) -> float:
    """Mean precision over the recall of adversarial inputs, in steps (no interpolation)."""
    return float(average_precision_score(*_labelled(benign_scores, adversarial_scores)))


def tpr_at_fpr(benign_scores: ArrayLike, adversarial_scores: ArrayLike, fpr: float) -> float:
    """Largest share of adversarial inputs caught by a threshold with a false-positive rate of at most `fpr`."""
    require(0 <= fpr <= 1, "a rate in [0, 1]", fpr, "0.05 allows one false alarm in twenty")
    fprs, tprs, _ = roc_curve(*_labelled(benign_scores, adversarial_scores), drop_intermediate=False)
    return float(tprs[fprs <= fpr].max())


def fpr_at_tpr(benign_scores: ArrayLike, adversarial_scores: ArrayLike, tpr: float) -> float:
    """Smallest false-positive rate of a threshold that catches at least the share `tpr` of adversarial inputs."""
    require(0 <= tpr <= 1, "a rate in [0, 1]", tpr, "0.95 catches nineteen in twenty")
    fprs, tprs, _ = roc_curve(*_labelled(benign_scores, adversarial_scores), drop_intermediate=False)
    return float(fprs[tprs >= tpr].min())


def attack_success_rate(success: ArrayLike) -> float:
    """Share of attacked inputs for which the attack met its criterion."""
    return float(_flags(success, "success").mean())


def robust_accuracy(correct: ArrayLike, success: ArrayLike) -> float:
    """Share of inputs classified correctly that also withstood the attack.

    Args:
      correct: the clean input is classified correctly.
      success: the attack on it met its criterion.
    """
    right, broken = _flags(correct, "correct"), _flags(success, "success")
    if right.shape != broken.shape:
        raise BadInput(f"expected as many flags correct as success, got {len(right)} and {len(broken)}; give both for each input")
    return float((right & ~broken).mean())


def rate_interval(flags: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a rate, by the method of Clopper and Pearson (Biometrika 26, 1934): it errs on the wide side.

    Args:
      flags: one true or false per input.
      confidence: chance that the interval covers the rate, at least.
    """
    require(0 < confidence < 1, "a confidence in (0, 1)", confidence, "0.95 is usual")
    read = _flags(flags, "of a rate")
    ends = binomtest(int(read.sum()), len(read)).proportion_ci(confidence, method="exact")
    return float(ends.low), float(ends.high)


def _scores(scores: ArrayLike, role: str) -> Float[np.ndarray, " n"]:
    array = inputs.array(scores, f"finite {role} scores")
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise BadInput(f"expected finite {role} scores, one per input, got {array.dtype} of shape {array.shape}; give at least one, no NaN")
    return array.astype(np.float64)


def _labelled(benign_scores: ArrayLike, adversarial_scores: ArrayLike) -> tuple[np.ndarray, Float[np.ndarray, " n"]]:
    benign, adversarial = _scores(benign_scores, "benign"), _scores(adversarial_scores, "adversarial")
    return np.repeat([0, 1], [len(benign), len(adversarial)]), np.concatenate([benign, adversarial])


def _flags(flags: ArrayLike, role: str) -> Bool[np.ndarray, " n"]:
    array = inputs.array(flags, f"flags {role}")
    if array.ndim != 1 or array.size == 0 or array.dtype != np.bool_:
        raise BadInput(f"expected flags {role}, one true or false per input, got {array.dtype} of shape {array.shape}; give at least one")
    return array
