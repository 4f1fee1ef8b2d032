"""From images to verdicts: attacks stop as soon as the verdict is certain, and a detector judges their costs."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from a2d_jax.costs.measured import Measured, measure
from a2d_jax.costs.measuring import ImageSet
from a2d_jax.detectors import FittedDetector
from a2d_jax.measurements import Column, farthest, honest
from a2d_jax.types import Attack, Classifier, can_be_shortened


@dataclass(frozen=True)
class Judged:
    """The measurements of a set and the verdicts of a detector.

    Attributes:
      measured: results of the attacks, some of which may have been stopped early.
      columns: the numbers that the detector reads.
      stops: for each column the cost (for a crossing: the radius) at which its attack was stopped, or None.
      table: the numbers read, `n columns`; rows with an error have no meaning.
      score: `n`, higher is more adversarial; 0 for rows with an error. If attacks were stopped, scores of benign images are cut off too.
      adversarial: the verdicts, `n`.
    """

    measured: Measured
    columns: tuple[Column, ...]
    stops: tuple[float | None, ...]
    table: Float[np.ndarray, "n columns"]
    score: Float[np.ndarray, " n"]
    adversarial: Bool[np.ndarray, " n"]


def judge_images(
    classifier: Classifier,
    source: ImageSet,
    attacks: Mapping[str, Attack],
    columns: Sequence[Column],
    detector: FittedDetector,
    *,
    bound: bool = True,
    stops: Sequence[float | None] | None = None,
    **how: Any,
) -> Judged:
    """Measure the numbers that a detector reads and judge them.

    Args:
      classifier: one image to logits.
      source: the images.
      attacks: the attacks that the columns name, with the settings that the detector was fitted with.
      columns: the numbers that the detector reads, in its order.
      detector: the fitted detector.
      bound: stop each attack as soon as its cost, or its crossing, makes the verdict certainly benign; the verdicts are the same.
      stops: result of `stops_of`, if the caller has it already.
      **how: seed, lanes, devices, report, as for `measure`.
    """
    columns = tuple(columns)
    attacks = {name: attacks[name] for name in dict.fromkeys(column.measurement for column in columns)}
    stops = stops_of(attacks, columns, detector, source.shape) if bound and stops is None else stops
    at = tuple(stops) if bound and stops is not None else (None,) * len(columns)
    measured = measure(classifier, source, stopped(attacks, columns, at), **how)
    return judged(measured, attacks, columns, detector, at, source.shape)


def judged(
    measured: Measured,
    attacks: Mapping[str, Attack],
    columns: Sequence[Column],
    detector: FittedDetector,
    stops: Sequence[float | None],
    shape: tuple[int, ...],
) -> Judged:
    """The verdicts on images that are measured."""
    table = read_columns(measured, attacks, columns, shape)
    good = measured.good
    score, adversarial = np.zeros(len(good)), np.zeros(len(good), bool)
    if good.any():
        known = {"labels": measured.label[good], "index": measured.fingerprint[good]}
        score[good] = detector.score(table[good], **known)
        adversarial[good] = score[good] > detector.threshold
    return Judged(measured, tuple(columns), tuple(stops), table, score, adversarial)


def stopped(attacks: Mapping[str, Attack], columns: Sequence[Column], stops: Sequence[float | None]) -> dict[str, Attack]:
    """The attacks that columns read, each stopped where its column says."""
    at = {column.measurement: stop for column, stop in zip(columns, stops, strict=True)}
    return bounded({name: attacks[name] for name in at}, at.values())


def stops_of(
    attacks: Mapping[str, Attack], columns: Sequence[Column], detector: FittedDetector, shape: Sequence[int]
) -> tuple[float | None, ...]:
    """For each column the cost, or the radius, from which on the verdict is always benign; None if its attack must not stop there."""
    of_columns = [(column, attacks[column.measurement]) for column in columns]
    most = [int(attack.max_steps) + 1 if column.is_cost else None for column, attack in of_columns]
    ends = [farthest(attack.norm, tuple(shape)) if stoppable(column, attack) else None for column, attack in of_columns]
    costs, radii = detector.bounds(most), detector.radii(ends) if hasattr(detector, "radii") else (None,) * len(columns)
    return _possible(attacks, columns, [radius if cost is None else cost for cost, radius in zip(costs, radii, strict=True)])


def read_columns(
    measured: Measured, attacks: Mapping[str, Attack], columns: Sequence[Column], shape: tuple[int, ...]
) -> Float[np.ndarray, "n columns"]:
    """The numbers that columns name; whole where all of them are."""

    def read(column: Column) -> np.ndarray:
        result = measured.results[column.measurement]
        values, success = np.asarray(getattr(result, column.number)), np.asarray(result.success) | ~measured.good
        return honest(column, values, success, farthest(attacks[column.measurement].norm, shape))

    return np.stack([read(column) for column in columns], axis=1)


def stoppable(column: Column, attack: Attack) -> bool:
    """Whether a radius can end the attack before its budget does, because the column reads its crossing."""
    return column.number == "crossing" and hasattr(attack, "max_radius")


def bounded(attacks: Mapping[str, Attack], bounds: Iterable[float | None]) -> dict[str, Attack]:
    """The same attacks, stopped where the verdict is certainly benign: at a number of updates, or at a radius.

    The cost of a success at `bound` updates or later is then `bound`, as for a failure. A crossing beyond the radius equals that of a
    failure. All of them are benign.
    """
    pairs = zip(attacks.items(), bounds, strict=True)
    return {name: attack if bound is None else _shorten(attack, bound) for (name, attack), bound in pairs}


def _possible(attacks: Mapping[str, Attack], columns: Sequence[Column], stops: Sequence[float | None]) -> tuple[float | None, ...]:
    """The stops that change nothing: not of an attack of which another number is read too, nor of one whose path hangs on its budget."""
    read = Counter(column.measurement for column in columns)
    whole = {name for name, attack in attacks.items() if read[name] > 1 or not can_be_shortened(attack)}
    return tuple(None if column.measurement in whole else stop for column, stop in zip(columns, stops, strict=True))


def _shorten(attack: Any, bound: float) -> Attack:
    if isinstance(bound, float):
        radius = np.float32(bound)  # as the attack computes: rounded up, so that no point ends it too early
        return replace(attack, max_radius=float(radius if radius >= bound else np.nextafter(radius, np.float32(np.inf))))
    return replace(attack, max_steps=min(int(attack.max_steps), max(bound - 1, 0)))
