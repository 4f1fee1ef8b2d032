"""The measurements of a set, or of one part of it, put together from their units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from a2d_jax.console import Report, silent
from a2d_jax.costs.lanes import Lanes
from a2d_jax.costs.measuring import NOT_FINITE, ImageSet, NothingUsable, Plan, planned, work
from a2d_jax.costs.notes import Seen, unmoved
from a2d_jax.costs.targets import Target
from a2d_jax.costs.units import PREDICT, Cut, Ledger, Memory, joined
from a2d_jax.drivers import Stats
from a2d_jax.errors import BadInput
from a2d_jax.io.seen import notes as pixel_notes
from a2d_jax.types import Attack, AttackResult, Classifier

PART = 256
"""Images of a part of a set in a store."""


@dataclass(frozen=True)
class Told:
    """What is to say of the measurements of a set, or of some of its parts, as a whole.

    Attributes:
      stats: statistics of the lanes by attack.
      seconds: of the work, by measurement, in all processes together.
      notes: notes for the caller on the pixels, the network, the labels and the attacks.
      images: images that can be predicted.
      wrong: how many of them are not predicted as their labels say; None for a set without labels.
    """

    stats: dict[str, Stats]
    seconds: dict[str, float]
    notes: list[str]
    images: int
    wrong: int | None


@dataclass(frozen=True)
class Measured:
    """The results of attacks on every image of a set, or of a part; rows with an error have no result.

    Attributes:
      index: position in the set.
      id: name of each image.
      fingerprint: fingerprint of its pixels.
      label: class that untargeted attacks started from.
      target: class that targeted attacks tried to reach; None without targets.
      error: why an image has no result.
      good: images with a result.
      results: results by attack; every field has the leading axis `n`; `x_adv` is None unless it was kept.
      told: what is to say of these images as a whole.
    """

    index: NDArray[np.int64]
    id: list[str]
    fingerprint: NDArray[np.int64]
    label: NDArray[np.int64]
    target: NDArray[np.int64] | None
    error: list[str | None]
    good: NDArray[np.bool_]
    results: dict[str, AttackResult]
    told: Told

    @property
    def failed(self) -> int:
        """Number of images without a result."""
        return int((~self.good).sum())


def measure(
    classifier: Classifier,
    source: ImageSet,
    attacks: Mapping[str, Attack],
    *,
    seed: int = 0,
    lanes: Lanes = None,
    devices: Sequence[Any] | None = None,
    report: Report = silent,
    labels: str = "prediction",
    target: Target | str | None = None,
    keep_x_adv: bool = False,
) -> Measured:
    """Run every attack on every image, with all results in memory. See `Plan` for the arguments.

    Raises:
      BadInput: as `planned`.
      NothingUsable: no image that can be attacked.
    """
    if not attacks:
        raise BadInput("expected at least one attack, got none; name one")
    how: dict[str, Any] = {"seed": seed, "lanes": lanes, "devices": devices, "report": report, "labels": labels, "target": target}
    plan = planned(classifier, source, attacks, keep_x_adv=keep_x_adv, **how)
    several = getattr(source, "fetching", None) is not None  # parts, so that they can be measured in groups
    ledger = Memory(Cut(len(source), PART if several else len(source)))
    work(plan, ledger)
    found = measured(plan, ledger, ledger.cut.parts)
    if not found.good.any():
        raise nothing(plan, next(error for error in found.error if error))
    return found


def measured(plan: Plan, ledger: Ledger, parts: Sequence[int]) -> Measured:
    """The measurements of some parts of which all units are there."""
    units = {name: [ledger.read(name, part) for part in parts] for name in plan.measurements}
    known = joined(units[PREDICT])
    error, results = list(known["error"]), dict[str, AttackResult]()
    broken: dict[int, list[str]] = {}
    for name in plan.attacks:
        columns = joined(units[name])
        for row, one in enumerate(columns["error"]):
            if one == NOT_FINITE.format(name):
                broken.setdefault(row, []).append(name)
            else:
                error[row] = error[row] or one
        fields: Any = {field: columns.get(field) for field in AttackResult._fields}
        results[name] = AttackResult(**fields)
    for row, names in broken.items():
        error[row] = error[row] or NOT_FINITE.format(" and ".join(names))
    good = np.asarray([one is None for one in error])
    identity = (known["index"], known["id"], known["fingerprint"], plan.start(known), known.get("target"))
    return Measured(
        *identity, error, good, results, _told(plan, {name: [unit.facts for unit in some] for name, some in units.items()}, len(good))
    )


def told(plan: Plan, ledger: Ledger, parts: Sequence[int]) -> Told:
    """What the units of some parts say as a whole."""
    facts = {name: [ledger.facts(name, part) for part in parts] for name in plan.measurements}
    return _told(plan, facts, ledger.cut.length(parts))


def _told(plan: Plan, of_units: Mapping[str, Sequence[Mapping[str, Any]]], count: int) -> Told:
    """What the facts of units say as a whole, by measurement, of `count` images."""
    seen = Seen()
    stats = {name: Stats() for name in plan.attacks}
    seconds, still = dict.fromkeys(plan.measurements, 0.0), dict.fromkeys(plan.attacks, (0, 0))
    images, wrong, pixels = 0, 0, list[Mapping[str, Any]]()
    for facts in of_units[PREDICT]:
        images += facts["good"]
        pixels += [facts["pixels"]] if "pixels" in facts else []
        wrong = None if wrong is None or facts["wrong"] is None else wrong + facts["wrong"]
        seconds[PREDICT] += facts["seconds"]
        seen.merge(Seen.of_json(facts["seen"]))
    for name, one in stats.items():
        for facts in of_units[name]:
            seconds[name] += facts["seconds"]
            one.lanes = max(one.lanes, facts["lanes"])
            one.finished += facts["good"]
            one.useful_steps += facts["useful_steps"]
            one.lane_steps += facts["lane_steps"]
            still[name] = still[name][0] + facts["still"], still[name][1] + facts["good"]
    notes = (
        pixel_notes(pixels, count) + seen.notes() + [note for name, (count, good) in still.items() for note in unmoved(name, count, good)]
    )
    return Told(stats, seconds, notes, images, wrong)


def nothing(plan: Plan, first: str) -> NothingUsable:
    """The error for a set in which no image could be measured."""
    return NothingUsable(f"expected at least one image that can be attacked in {plan.source.path}, got errors in all; the first is {first}")
