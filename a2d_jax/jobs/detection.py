"""Jobs that use costs: fit a detector, judge images with it, and measure how well costs separate two kinds of images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from a2d_jax import specs
from a2d_jax.console import Done, Report, silent
from a2d_jax.costs import Judged, Plan, Unit, judged, measured, planned, stopped, stops_of, told, work
from a2d_jax.costs.stored import reading
from a2d_jax.detectors import Detector, whole_detector
from a2d_jax.errors import BadInput
from a2d_jax.io.detectors import StoredDetector, read_detector, write_detector
from a2d_jax.io.files import refuse_existing
from a2d_jax.io.measurements import Measurements
from a2d_jax.io.provenance import Origin, record, versions
from a2d_jax.io.source import content_digest
from a2d_jax.io.store import store_of
from a2d_jax.io.tables import RESULTS, table_writer, verdict_columns, verdicts_schema, without
from a2d_jax.jobs.drawing import BENIGN, panel_of, refuse_other_figures, refuse_without_extra, set_names, write_figure
from a2d_jax.jobs.images import flag, open_both
from a2d_jax.jobs.large import Job, in_parts, predictions, refuse_nothing, refuse_output, result
from a2d_jax.jobs.spec import DetectSpec, EvaluateSpec, FitSpec
from a2d_jax.jobs.tables import fitted_to, left_out, meet, read_table, shared_columns
from a2d_jax.measurements import CLEVER, Column, coarse
from a2d_jax.metrics import detection_report
from a2d_jax.scale.runs import Kind, Run
from a2d_jax.specs import settings_of
from a2d_jax.types import Attack, AttackResult

FLAGS = ("h", "k", "level", "two_sided", "per_class", "as_released")
"""Settings of detectors that have a flag of their own."""
VERDICTS = "verdicts"
"""The measurement of a job that judges images."""
PIECE = 2**17
"""Verdicts that are written at a time."""


def fit(spec: FitSpec, report: Report = silent) -> Done:
    """Fit a detector to tables of costs and write it as JSON."""
    refuse_existing(spec.out, spec.force, "--force", inputs=spec.inputs())
    settings = {name: getattr(spec, name) for name in FLAGS}
    given = {name: value for name, value in settings.items() if value not in (None, False)}
    seed = {"seed": spec.seed} if specs.has_setting(spec.detector, "seed") else {}
    unfitted = specs.detector(spec.detector, flag, **seed, **given)
    if getattr(unfitted, "needs_adversarial", False) and not spec.adversarial:
        raise BadInput(
            f"expected costs of adversarial images for {spec.detector}, got none; pass --adversarial, or take zscore, vote or conformal"
        )
    table, *others = (read_table(path, spec) for path in (spec.benign, *spec.adversarial))
    columns, notes = _columns_for(unfitted, spec, table)
    meeting = sum((one.meeting for one in (table, *others)), meet(columns, [one.origin for one in (table, *others)], spec))
    negative = table.select(columns)
    positive = np.concatenate([other.select(columns) for other in others]) if others else None
    fitted = whole_detector(unfitted.fit(negative, positive, labels=table.label), spec.detector)
    names = [str(column) for column in columns]
    meta = {"versions": versions(), "detector": spec.detector, "settings": settings, "seed": spec.seed, "benign": str(spec.benign)}
    meta |= {"spec": spec.as_json(), "costs": table.meta, **meeting.as_meta}
    write_detector(spec.out, StoredDetector(fitted, tuple(names), meta), spec.force)
    flagged = [
        {
            "set": one.path.stem,
            "images": len(one.index),
            "flagged": float(fitted.predict(one.select(columns), labels=one.label, index=one.key).mean()),
        }
        for one in (table, *others)
    ]
    summary = {"out": str(spec.out), "detector": spec.detector, "attacks": ", ".join(names), "flagged": flagged}
    if not all(column.measurement in table.meta.get("attacks", {}) or column.measurement.startswith(CLEVER) for column in columns):
        notes.append(f"{spec.out} can judge tables of costs but no images: {spec.benign} does not record the settings of its attacks")
    notes += coarse(dict(zip(columns, negative.T, strict=True))) + _efforts(columns, table)
    return Done(summary, notes=notes + meeting.notes + left_out(table, *others))


@in_parts
def detect(spec: DetectSpec, report: Report) -> Job | Done:
    """Write verdicts on images, from their costs or from the images themselves."""
    if spec.costs is None:
        refuse_output(spec)
    else:
        refuse_existing(spec.out, spec.force, "--force", inputs=spec.inputs())
    if (spec.costs is None) == (spec.images is None) or (spec.images is None) != (spec.classifier is None):
        raise BadInput("expected either --costs, or --classifier with --images, got another combination; give one or the other")
    stored = read_detector(spec.detector, spec.plugin)
    meta = {"versions": versions(), "detector": str(spec.detector), "detector_meta": stored.meta, "spec": spec.as_json()}
    if spec.costs is not None:
        return _detect_costs(stored, spec.costs, spec, meta)
    return _detect_images(stored, spec, meta, report)


def evaluate(spec: EvaluateSpec, report: Report = silent) -> Done:
    """How well low numbers tell adversarial from benign images, for every attack and adversarial set."""
    if spec.out is not None:
        refuse_other_figures(spec.out)
        refuse_existing(spec.out, spec.force, "--force", inputs=spec.inputs())
        refuse_without_extra()
    table = read_table(spec.benign, spec)
    rows: list[dict[str, Any]] = []
    meeting, notes = table.meeting, left_out(table)
    sets: dict[Column, dict[str, NDArray[Any]]] = {}
    tables = [table]
    for path, name in zip(spec.adversarial, set_names(spec.adversarial), strict=True):
        other = read_table(path, spec)
        tables.append(other)
        notes += left_out(other)
        columns = shared_columns(spec.attacks, table, spec.benign, other, path)
        meeting = meeting + other.meeting + meet(columns, [table.origin, other.origin], spec)
        for column in columns:
            benign, adversarial = table.select([column])[:, 0], other.select([column])[:, 0]
            sets.setdefault(column, {BENIGN: benign})[name] = adversarial
            found = detection_report(-benign, -adversarial)
            rows.append({"set": path.stem, "attack": str(column), "images": len(other.index), **found._asdict()})
    drawn = {} if spec.out is None else {"out": str(spec.out)}
    if spec.out is not None:
        from a2d_jax.report import overview  # here: it needs an extra

        panels = [panel_of(column, values, [one for one in tables if column.measurement in one.names]) for column, values in sets.items()]
        write_figure(spec.out, spec.force, overview(panels))
    summary = {"benign": str(spec.benign), "benign images": len(table.index), **drawn, **meeting.as_meta, "sets": rows}
    return Done(summary, notes=meeting.notes + notes)


def _efforts(columns: Sequence[Column], table: Measurements) -> list[str]:
    """What to tell of columns that count what was spent, where attacks failed."""
    failed = {column: int((~table.success[column.measurement]).sum()) for column in columns if column.is_effort}
    return [
        f"{column} counts what was spent until the attack ended, also on {n} images where it failed" for column, n in failed.items() if n
    ]


def _columns_for(detector: Detector, spec: FitSpec, table: Measurements) -> tuple[tuple[Column, ...], list[str]]:
    """What a detector shall read, and what to tell the user about the choice."""
    texts = specs.names_of(spec.attacks) if spec.attacks else list(table.names)
    columns = table.columns(texts)
    if not getattr(detector, "single_column", False) or len(columns) == 1:
        return columns, []
    if spec.attacks:
        raise BadInput(f"expected one attack for {spec.detector}, got {spec.attacks}; name one, or take vote")
    return columns[:1], [f"{spec.detector} reads one attack: took {columns[0]} of {', '.join(texts)}; choose another with --attack"]


def _detect_costs(stored: StoredDetector, path: Path, spec: DetectSpec, meta: dict[str, Any]) -> Done:
    table = read_table(path, spec)
    columns = table.columns(stored.columns)
    meeting = fitted_to(stored, spec.detector) + table.meeting + meet(columns, [stored.origin(str(spec.detector)), table.origin], spec)
    read = table.select(columns)
    known = {"labels": table.label, "index": table.key}
    score = np.asarray(stored.fitted.score(read, **known))
    adversarial = score > stored.fitted.threshold
    missing = len(table.errors)
    nothing = np.zeros(missing, np.int64)
    rows = {
        "index": np.append(table.index, [index for index, _, _ in table.errors]).astype(np.int64),
        "id": pa.concat_arrays([table.ids, pa.array([name for _, name, _ in table.errors], table.ids.type)]),
        "label": np.append(table.label, nothing - 1),
        "score": np.append(score, nothing),
        "adversarial": np.append(adversarial, nothing.astype(bool)),
        "error": np.append(np.full(len(read), None, object), [error for _, _, error in table.errors]),
    }
    whole = np.concatenate([read, np.zeros((missing, read.shape[1]), read.dtype)])
    _write_verdicts(spec, columns, meta | {"costs": table.meta, **meeting.as_meta}, rows, whole)
    summary = {"out": str(spec.out), "images": len(read) + missing, "failed": missing, "adversarial": int(adversarial.sum())}
    return Done(summary, missing, meeting.notes)


def _detect_images(stored: StoredDetector, spec: DetectSpec, meta: dict[str, Any], report: Report) -> Job:
    found = reading(stored, spec.detector, spec.plugin)
    columns, attacks = found.columns, found.attacks
    fitted_on = stored.origin(str(spec.detector))
    precision = fitted_on.meta.get("precision", "float32")
    background = spec.background or fitted_on.meta.get("background")
    model, source = open_both(str(spec.classifier), spec.checkpoint, Path(str(spec.images)), spec.limit, precision, background)
    here = record(model, source, classifier=spec.classifier, precision=precision, seed=spec.seed, labels="prediction")
    network = Origin("the network given", {**here, "attacks": fitted_on.meta["attacks"], "norms": fitted_on.meta.get("norms", {})})
    meeting = fitted_to(stored, spec.detector) + meet(columns, [fitted_on, network], spec)
    how: dict[str, Any] = {"seed": spec.seed, "lanes": spec.lanes, "report": report, "target": fitted_on.meta.get("target")}
    stops = (None,) * len(columns) if spec.no_bound else stops_of(attacks, columns, stored.fitted, source.shape)
    shortened = stopped(attacks, columns, stops)
    plan = planned(model, source, shortened, **how)
    stops_at = {str(column): stop for column, stop in zip(columns, stops, strict=True)}
    meta |= {**here, "attacks": settings_of(attacks), "bounds": stops_at, **meeting.as_meta}
    meta |= {"columns": list(map(str, columns)), "target": plan.target, "detector_sha256": _sha256(spec.detector)}
    absent = () if plan.target is not None else ("target",)
    kinds = predictions(plan) | dict.fromkeys(shortened, Kind(without(RESULTS, *absent)))
    kinds |= {VERDICTS: Kind(verdicts_schema(columns), kept=True, meta=meta)}

    def do(plan: Plan, run: Run) -> None:
        work(plan, run)
        for part in run.missing(VERDICTS):
            found = judged(measured(plan, run, [part]), attacks, columns, stored.fitted, stops, source.shape)
            run.commit(VERDICTS, part, Unit(_verdict_rows(found)))

    def end(run: Run) -> Done:
        failed = flagged = 0
        ends = {
            name: _Ends(one, stops_at.get(name), stops_at.get(f"{name}.crossing")) for name, one in attacks.items() if name in shortened
        }
        with result(spec, verdicts_schema(columns), meta) as write:
            for part in run.cut.parts:
                rows = run.read(VERDICTS, part).columns
                write(rows)
                failed += sum(error is not None for error in rows["error"])
                flagged += int(rows["adversarial"].sum())
                found = measured(plan, run, [part])
                for name, one in ends.items():
                    one.add(found.results[name], found.good)
            refuse_nothing(plan, run, VERDICTS, failed)
        said = told(plan, run, run.cut.parts)
        steps = [{"attack": name, **one.told} for name, one in ends.items()]
        summary = {"out": str(spec.out), "images": len(source), "failed": failed, "adversarial": flagged, "steps": steps}
        return Done(summary, failed, [*meeting.notes, *source.choices, *said.notes])

    return Job(spec, plan, source, meta, kinds, do, end, notes=meeting.notes)


def _sha256(path: Path) -> str:
    with store_of(path).local(path) as here:
        return content_digest(here)


def _verdict_rows(found: Judged) -> dict[str, Any]:
    """Rows of some images, with the numbers that decided."""
    identity = {name: getattr(found.measured, name) for name in ("index", "id", "label", "error")}
    return {
        **identity,
        "score": found.score,
        "adversarial": found.adversarial,
        **dict(zip(verdict_columns(found.columns), found.table.T, strict=True)),
    }


class _Ends:
    """How far an attack went that may have been stopped."""

    def __init__(self, attack: Attack, cost: float | None, radius: float | None) -> None:
        self._attack, self._cost, self._radius = attack, cost, radius
        self._stopped = self._steps = self._saved = 0

    def add(self, result: AttackResult, good: NDArray[np.bool_]) -> None:
        ended = good & ~np.asarray(result.success) & (self._cost is not None or self._radius is not None)
        if self._radius is not None:
            ended &= np.asarray(result.crossing) >= self._radius
        self._stopped += int(ended.sum())
        self._steps += int(np.sum(result.iterations))
        self._saved += int((int(self._attack.max_steps) - np.asarray(result.iterations))[ended].sum())

    @property
    def told(self) -> dict[str, Any]:
        stop = {"stops at cost": self._cost} if self._radius is None else {"stops at cost": self._cost, "stops at radius": self._radius}
        return {**stop, "images stopped": self._stopped, "steps": self._steps, "steps saved, at most": self._saved}


def _write_verdicts(
    spec: DetectSpec, columns: Sequence[Column], meta: Mapping[str, Any], rows: Mapping[str, Any], read: NDArray[Any]
) -> None:
    """Write all images in the order of their set, with the numbers that decided."""
    order = np.argsort(rows["index"], kind="stable")
    whole = dict(rows) | dict(zip(verdict_columns(columns), read.T, strict=True))
    whole = {name: values if isinstance(values, pa.Array) else np.asarray(values) for name, values in whole.items()}
    with table_writer(spec.out, verdicts_schema(columns), meta, spec.force) as write:
        for start in range(0, max(len(order), 1), PIECE):
            here = order[start : start + PIECE]
            write({name: values.take(here) for name, values in whole.items()})
