"""Jobs that know costs: fit a detector, judge images with it, and measure how well costs separate two kinds of images."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from a2d_jax.costs import bounded, judge
from a2d_jax.detectors import Detector, by_name, maker
from a2d_jax.errors import BadInput
from a2d_jax.io.detectors import StoredDetector, read_detector, write_detector
from a2d_jax.io.files import refuse_existing
from a2d_jax.io.tables import CostTable, read_costs, table_writer, verdicts_schema
from a2d_jax.jobs.common import Done, Report, attacks_from, names_of, record, same_settings, silent, versions
from a2d_jax.jobs.images import open_both
from a2d_jax.jobs.lanes import Lanes
from a2d_jax.jobs.measure import measure
from a2d_jax.metrics import detection_report


def fit(
    *,
    benign: Path,
    detector: str,
    out: Path,
    adversarial: Sequence[Path] = (),
    attacks: str | None = None,
    h: float | None = None,
    k: int | None = None,
    level: float | None = None,
    two_sided: bool = False,
    per_class: bool = False,
    as_released: bool = False,
    seed: int = 0,
    force: bool = False,
) -> Done:
    """Fit a detector to tables of costs and write it as JSON."""
    refuse_existing(out, force)
    settings = {"h": h, "k": k, "level": level, "two_sided": two_sided, "per_class": per_class, "as_released": as_released}
    unfitted = _unfitted(detector, {name: value for name, value in settings.items() if value not in (None, False)}, seed)
    if unfitted.needs_adversarial and not adversarial:
        raise BadInput(
            f"expected costs of adversarial images for {detector}, got none; pass --adversarial, or take zscore, vote or conformal"
        )
    table, others = read_costs(benign), [read_costs(path) for path in adversarial]
    names, notes = _names_for(unfitted, attacks, table)
    negative = table.select(names)
    for other in others:
        same_settings(names, table.meta, str(benign), other.meta, str(other.path))
    positive = np.concatenate([other.select(names) for other in others]) if others else None
    fitted = unfitted.fit(negative, positive, labels=table.label)
    meta = {"versions": versions(), "detector": detector, "settings": settings, "seed": seed, "benign": str(benign), "costs": table.meta}
    write_detector(out, StoredDetector(fitted, tuple(names), meta))
    flagged = [
        {
            "set": one.path.stem,
            "images": len(one.index),
            "flagged": float(judge(fitted, one.select(names), one.label, one.index)[1].mean()),
        }
        for one in (table, *others)
    ]
    summary = {"out": str(out), "detector": detector, "attacks": ", ".join(names), "flagged": flagged}
    return Done(summary, notes=notes + _left_out(table, *others))


def detect(
    *,
    detector: Path,
    out: Path,
    costs: Path | None = None,
    classifier: str | None = None,
    checkpoint: Path | None = None,
    images: Path | None = None,
    no_bound: bool = False,
    lanes: Lanes = None,
    limit: int | None = None,
    seed: int = 0,
    force: bool = False,
    report: Report = silent,
) -> Done:
    """Write verdicts on images, from their costs or from the images themselves."""
    refuse_existing(out, force)
    if (costs is None) == (images is None) or (images is None) != (classifier is None):
        raise BadInput("expected either --costs, or --classifier with --images, got something between; give one or the other")
    stored = read_detector(detector)
    meta = {"versions": versions(), "detector": str(detector), "detector_meta": stored.meta}
    if costs is not None:
        return _detect_costs(stored, detector, costs, out, meta)
    fitted_on = stored.meta.get("costs", {})
    attacks, precision = attacks_from(fitted_on.get("attacks", {}), stored.attacks, detector), fitted_on.get("precision", "float32")
    most = [int(attack.max_steps) + 1 for attack in attacks.values()]
    stops = (None,) * len(most) if no_bound else stored.fitted.bounds(most)
    model, source = open_both(str(classifier), checkpoint, Path(str(images)), limit, precision)
    measured = measure(model, source, bounded(attacks, stops), seed, lanes, report)
    good = measured.good
    table = np.stack([np.asarray(result.cost) for result in measured.results.values()], axis=1)
    score, adversarial = np.zeros(len(source)), np.zeros(len(source), bool)
    score[good], adversarial[good] = judge(stored.fitted, table[good], measured.label[good], measured.index[good])
    stops_at = dict(zip(stored.attacks, stops, strict=True))
    meta |= record(model, source, classifier=classifier, precision=precision, seed=seed, bounds=stops_at)
    images_of = {"index": measured.index, "id": measured.id, "label": measured.label, "error": measured.error}
    _write_verdicts(out, stored.attacks, meta, {**images_of, "score": score, "adversarial": adversarial}, table)
    steps = [
        {
            "attack": name,
            "stops at cost": stop,
            "images stopped": int((table[good, column] >= stop).sum()) if stop is not None else 0,
            "steps": int(np.sum(result.iterations)),
            "steps saved, at most": int((table[good, column] >= stop).sum()) * (last - stop) if stop is not None else 0,
        }
        for column, ((name, result), stop, last) in enumerate(zip(measured.results.items(), stops, most, strict=True))
    ]
    summary = {"out": str(out), "images": len(source), "failed": measured.failed, "adversarial": int(adversarial.sum()), "steps": steps}
    return Done(summary, measured.failed)


def evaluate(*, benign: Path, adversarial: Sequence[Path]) -> Done:
    """How well low costs tell adversarial from benign images, for every attack and adversarial set."""
    table = read_costs(benign)
    rows: list[dict[str, Any]] = []
    notes = _left_out(table)
    for path in adversarial:
        other = read_costs(path)
        notes += _left_out(other)
        names = [name for name in table.attacks if name in other.attacks]
        if not names:
            raise BadInput(
                f"expected costs of the same attacks, got {', '.join(table.attacks)} in {benign} and {', '.join(other.attacks)} in {path}; "
                "run `a2d cost` on both sets with the same --attacks"
            )
        same_settings(names, table.meta, str(benign), other.meta, str(path))
        for name in names:
            found = detection_report(-table.select([name])[:, 0], -other.select([name])[:, 0])
            rows.append({"set": path.stem, "attack": name, "images": len(other.index), **found._asdict()})
    return Done({"benign": str(benign), "benign images": len(table.index), "sets": rows}, notes=notes)


def _left_out(*tables: CostTable) -> list[str]:
    return [f"{len(table.errors)} images of {table.path} carry an error and are left out" for table in tables if table.errors]


def _unfitted(name: str, settings: Mapping[str, Any], seed: int) -> Detector:
    """A detector by name; all `settings` must be its own, the seed goes to those that have one.

    Raises:
      BadInput: an unknown name, a setting of another detector, or a value that the detector refuses.
    """
    known = by_name()
    if name not in known:
        raise BadInput(f"expected a detector among {', '.join(known)}, got {name!r}; pass one of them")
    make = maker(known[name])
    own = set(inspect.signature(make).parameters)
    if foreign := sorted(set(settings) - own):
        flags = ", ".join("--" + setting.replace("_", "-") for setting in foreign)
        raise BadInput(f"expected settings of {name} ({', '.join(sorted(own)) or 'none'}), got {flags}; leave it out")
    try:
        return make(**settings, **({"seed": seed} if "seed" in own else {}))
    except ValueError as error:
        raise BadInput(f"detector {name}: {error}") from error


def _names_for(detector: Detector, attacks: str | None, table: CostTable) -> tuple[list[str], list[str]]:
    """The attacks a detector shall read, and what to tell the user about the choice."""
    names = names_of(attacks) if attacks else list(table.attacks)
    if not detector.single_column or len(names) == 1:
        return names, []
    if attacks:
        raise BadInput(f"expected one attack for {detector.name}, got {attacks}; name one, or take vote")
    return names[:1], [f"{detector.name} reads one attack: took {names[0]} of {', '.join(names)}; choose another with --attack"]


def _detect_costs(stored: StoredDetector, detector: Path, path: Path, out: Path, meta: dict[str, Any]) -> Done:
    table = read_costs(path)
    costs = table.select(stored.attacks)
    same_settings(stored.attacks, stored.meta.get("costs", {}), str(detector), table.meta, str(path))
    score, adversarial = judge(stored.fitted, costs, table.label, table.index)
    missing = len(table.errors)
    rows = {
        "index": np.append(table.index, [index for index, _, _ in table.errors]).astype(np.int64),
        "id": table.id + [name for _, name, _ in table.errors],
        "label": np.append(table.label, np.full(missing, -1)),
        "score": np.append(score, np.zeros(missing)),
        "adversarial": np.append(adversarial, np.zeros(missing, bool)),
        "error": [None] * len(costs) + [error for _, _, error in table.errors],
    }
    table_of_costs = np.concatenate([costs, np.zeros((missing, costs.shape[1]), np.int64)])
    _write_verdicts(out, stored.attacks, meta | {"costs": table.meta}, rows, table_of_costs)
    summary = {"out": str(out), "images": len(costs) + missing, "failed": missing, "adversarial": int(adversarial.sum())}
    return Done(summary, missing)


def _write_verdicts(out: Path, attacks: Sequence[str], meta: Mapping[str, Any], rows: Mapping[str, Any], costs: NDArray[np.int64]) -> None:
    """Write all images in the order of their set, with the costs that decided."""
    order = np.argsort(rows["index"])
    columns = dict(rows) | {f"cost_{name}": column for name, column in zip(attacks, costs.T, strict=True)}
    with table_writer(out, verdicts_schema(attacks), meta) as write:
        write({name: [values[i] for i in order] for name, values in columns.items()})
