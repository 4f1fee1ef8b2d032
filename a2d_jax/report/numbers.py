"""Tables of a report: detection, verdicts against the truth, thresholds, classes; and shares along an index or a time.

A score is adversarial above a threshold, as in every detector. Rates of sets have exact intervals (`a2d_jax.metrics.rate_interval`).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from a2d_jax.metrics import DetectionReport, rate_interval
from a2d_jax.report.pages import Table

RATES = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2)
"""False positives at most, of the thresholds that a report offers."""
CLASSES = 100
"""Classes of a table, at most: those with the most images."""
BINS, FILLED = 40, 25
"""Bins along an index or a time, at most, and the images that each has on average, at least."""

Scores = Mapping[str, Float[np.ndarray, " n"]]


def detection_table(found: Mapping[tuple[str, str], tuple[int, DetectionReport]]) -> Table:
    """The metrics of each set under each number; `found` has the number of images and the metrics by set and number."""
    several = len({number for _, number in found}) > 1
    rows = [
        [
            name,
            *([number] if several else []),
            f"{images}",
            f"{one.auroc:.4f}",
            f"{one.auroc_low:.4f} to {one.auroc_high:.4f}",
            f"{one.tpr_at_fpr_1:.2%}",
            f"{one.tpr_at_fpr_5:.2%}",
            f"{one.fpr_at_tpr_95:.2%}",
        ]
        for (name, number), (images, one) in found.items()
    ]
    columns = [
        "set",
        *(["by"] if several else []),
        "images",
        "AUROC",
        "95 % interval",
        "TPR at 1 % FPR",
        "TPR at 5 % FPR",
        "FPR at 95 % TPR",
    ]
    note = (
        "TPR: share of adversarial images caught. FPR: share of benign images flagged. Rates are those of thresholds that can be set, "
        "without interpolation. An AUROC of 1 is perfect, and 0.5 is chance; its interval is that of DeLong."
    )
    return Table("", columns, rows, note)


def verdict_table(scores: Scores, threshold: float) -> Table:
    """The confusion of the detector: verdicts by truth. The first set is the benign one."""
    (benign, of_benign), *others = scores.items()
    kinds: list[tuple[str, Bool[np.ndarray, " n"], bool]] = [(benign, of_benign > threshold, False)]
    kinds += [(name, values > threshold, True) for name, values in others]
    if len(others) > 1:
        kinds.append(("all adversarial sets", np.concatenate([values for _, values in others]) > threshold, True))
    rows: list[list[str]] = []
    for name, flagged, adversarial in kinds:
        right = flagged if adversarial else ~flagged
        low, high = rate_interval(right)
        wrong = int((~right).sum())
        rows.append(
            [
                name,
                f"{len(flagged)}",
                f"{int((~flagged).sum())}",
                f"{int(flagged.sum())}",
                f"{right.mean():.2%}",
                f"{low:.2%} to {high:.2%}",
                f"{wrong} {'missed' if adversarial else 'false alarms'}",
            ]
        )
    return Table(
        "",
        ["truth", "images", "judged benign", "judged adversarial", "right", "95 % interval", "wrong"],
        rows,
        f"An image is judged adversarial if its score is above {threshold:.6g}.",
    )


def threshold_table(scores: Scores, own: float, note: str = "") -> Table:
    """Detections against false positives: the detector's threshold, and for each rate the lowest that keeps to it."""
    (_, benign), *others = scores.items()
    known = np.unique(np.concatenate(list(scores.values())))
    lowest = [(f"at most {100 * rate:.3g} %", lowest_threshold(benign, rate)) for rate in RATES]
    named = [(name, threshold, _short(threshold, known)) for name, threshold in lowest]
    rows = [
        [
            name,
            text,
            f"{int((benign > threshold).sum())} of {len(benign)} ({(benign > threshold).mean():.2%})",
            *(f"{(values > threshold).mean():.2%}" for _, values in others),
        ]
        for name, threshold, text in [("the detector's own", own, f"{own:.6g}"), *named]
    ]
    return Table("", ["false positives", "threshold of the score", "benign flagged", *(f"{name} caught" for name, _ in others)], rows, note)


def lowest_threshold(benign: Float[np.ndarray, " n"], rate: float) -> float:
    """The lowest score of a benign image above which at most this share of the benign images lies."""
    rising = np.sort(benign)
    allowed = int(np.searchsorted(np.arange(len(rising)) / len(rising), rate, side="right")) - 1
    return float(rising[len(rising) - 1 - allowed])


def _short(threshold: float, known: Float[np.ndarray, " n"]) -> str:
    """A threshold with the same verdicts on all known scores, in few digits, so that a user can type it."""
    place = int(np.searchsorted(known, threshold, side="right"))
    above = float(known[place]) if place < len(known) else np.inf
    middle = (threshold + above) / 2 if np.isfinite(above) else threshold
    texts = (f"{middle:.{digits}g}" for digits in range(4, 18))
    return next((text for text in texts if threshold <= float(text) < above), f"{threshold:.17g}")


def class_table(
    labels: Mapping[str, Int[np.ndarray, " n"]], flagged: Mapping[str, Bool[np.ndarray, " n"]], truth: bool = True
) -> Table | None:
    """Share flagged of each set, by class; None if no image has a class. The class is unknown where it is negative.

    Args:
      labels: by set.
      flagged: by set.
      truth: the first set is known to be benign, and the others to be adversarial.
    """
    known = np.concatenate([one[one >= 0] for one in labels.values()])
    classes, counts = np.unique(known, return_counts=True)
    if not len(classes):
        return None
    kept = np.sort(classes[np.argsort(-counts, kind="stable")[:CLASSES]])
    columns: list[list[str]] = []
    for name, label in labels.items():
        place = np.searchsorted(kept, label).clip(max=len(kept) - 1)
        here = kept[place] == label
        images = np.bincount(place[here], minlength=len(kept))
        hits = np.bincount(place[here & flagged[name]], minlength=len(kept))
        columns.append([f"{images_}" for images_ in images])
        columns.append([f"{hit / images_:.1%}" if images_ else "\N{EN DASH}" for hit, images_ in zip(hits, images, strict=True)])
    heads = [head for place, name in enumerate(labels) for head in (name, "flagged" if not place or not truth else "caught")]
    rows = [[str(one), *cells] for one, *cells in zip(kept.tolist(), *columns, strict=True)]
    left = f" The {len(kept)} classes with the most images of {len(classes)} are shown." if len(kept) < len(classes) else ""
    return Table("", ["class", *heads], rows, "The class is the label in the table: for costs of a2d cost, the predicted one." + left)


class Along(NamedTuple):
    """Shares along an index or a time."""

    edges: np.ndarray
    share: Float[np.ndarray, " bins"]
    low: Float[np.ndarray, " bins"]
    high: Float[np.ndarray, " bins"]
    images: Int[np.ndarray, " bins"]


def along(place: np.ndarray, flagged: Bool[np.ndarray, " n"]) -> Along:
    """Share flagged in bins of equal width along a place, numbers or datetime64, with 95 % intervals; NaN in a bin without images."""
    timed = place.dtype.kind == "M"
    number = place.astype("datetime64[us]").astype(np.int64) if timed else place.astype(np.int64)
    low, high = int(number.min()), int(number.max())
    bins = max(1, min(BINS, len(number) // FILLED, high - low + 1))
    edges = np.asarray([min(low + (high + 1 - low) * step // bins, 2**63 - 1) for step in range(bins + 1)])
    where = (np.searchsorted(edges, number, side="right") - 1).clip(max=bins - 1)
    images, hits = np.bincount(where, minlength=bins), np.bincount(where[flagged], minlength=bins)
    ends = [rate_interval(np.arange(n) < k) if n else (np.nan, np.nan) for n, k in zip(images.tolist(), hits.tolist(), strict=True)]
    share = np.divide(hits, images, out=np.full(bins, np.nan), where=images > 0)
    lows, highs = np.asarray(ends).T
    return Along(edges.astype("datetime64[us]") if timed else edges, share, lows, highs, images)
