"""The job that scores images without attacking them: clever."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from a2d_jax.console import Done, Report
from a2d_jax.costs import CHANGED, PREDICT, Ledger, Plan, Unit, class_count, examples, fingerprints, in_groups, joined, planned, told, work
from a2d_jax.errors import BadInput
from a2d_jax.io.provenance import record
from a2d_jax.io.source import Piece
from a2d_jax.io.tables import CLEVER
from a2d_jax.jobs.images import open_both, told_by
from a2d_jax.jobs.large import Job, in_parts, predictions, refuse_nothing, refuse_output, result
from a2d_jax.jobs.spec import CleverSpec
from a2d_jax.measurements import CLEVER as CLEVER_
from a2d_jax.robustness import Clever, CleverScores, clever_scores, mean_interval
from a2d_jax.robustness.clever import ranks_of
from a2d_jax.scale.runs import Kind, Run
from a2d_jax.specs import names_of

PART = 16
"""Images of a part: a score takes minutes."""
_COLUMN = {"target": "target_class"}
NOT_FINITE = "expected finite gradients, got NaN or infinity from the classifier; check its weights"


@in_parts
def clever(spec: CleverSpec, report: Report) -> Job:
    """Write the CLEVER scores of each image, against the class that the classifier predicts."""
    refuse_output(spec)
    names = names_of(spec.targets)
    if not names:
        raise BadInput("expected at least one target, got none; name one or more, such as untargeted, target-2, least-likely")
    settings = Clever(radius=spec.radius, batches=spec.batches, samples=spec.samples, norm=spec.norm)  # pyright: ignore[reportArgumentType] (checked inside)
    if spec.lanes is not None and spec.lanes < 1:
        raise BadInput(f"expected at least 1 lane, got {spec.lanes}; leave it out to take the default")
    model, source = open_both(spec.classifier, spec.checkpoint, spec.images, spec.limit, spec.precision, spec.background)
    classes = class_count(model, source.shape, source.path)
    for name in names:
        ranks_of(name, classes)  # refuses what this classifier does not have
    plan = planned(model, source, {}, seed=spec.seed, report=report)
    meta = record(model, source, **told_by(spec), targets=names, clever=asdict(settings), labels="prediction")
    kinds = predictions(plan) | {
        CLEVER_ + name: Kind(CLEVER, constants={"target": name}, kept=True, meta={**meta, "targets": [name]}) for name in names
    }

    def do(plan: Plan, run: Run) -> None:
        for some, group in in_groups(plan, run, list(kinds)):
            work(some, group)
            _score(some, group, names, settings, spec.lanes)

    def end(run: Run) -> Done:
        kept: dict[str, list[CleverScores]] = {name: [] for name in names}
        failed = 0
        with result(spec, CLEVER, meta) as write:
            for part in run.cut.parts:
                units = {name: run.read(CLEVER_ + name, part).columns for name in names}
                write(_together(units))
                good = np.asarray([error is None for error in next(iter(units.values()))["error"]])
                failed += int((~good).sum())
                for name, columns in units.items():
                    kept[name].append(
                        CleverScores(*(np.asarray(columns[_COLUMN.get(field, field)])[good] for field in CleverScores._fields))
                    )
            refuse_nothing(plan, run, CLEVER_ + names[0], failed)
        said = told(plan, run, run.cut.parts)
        scores = {name: CleverScores(*(np.concatenate(columns) for columns in zip(*parts, strict=True))) for name, parts in kept.items()}
        summary = {"out": str(spec.out), "images": len(source), "failed": failed}
        return Done({**summary, "scores": _summary(scores, spec.radius)}, failed, [*source.choices, *said.notes])

    return Job(spec, plan, source, meta, kinds, do, end, size=PART)


def _score(plan: Plan, run: Ledger, names: Sequence[str], settings: Clever, lanes: int | None) -> None:
    """Do the missing units. Targets share points, so all that a part is missing are done at once."""
    missing = {name: set(run.missing(CLEVER_ + name)) for name in names}
    parts = sorted(set().union(*missing.values()))
    total, before = run.cut.length(parts) * settings.batches, 0
    waiting: list[dict[str, dict[str, Any]]] = []
    since = time.perf_counter()
    for piece in plan.source.spans([run.cut.span(part) for part in parts]):
        part = int(piece.index[0]) // run.cut.size
        wanted = [name for name in names if part in missing[name]]
        begin = int(piece.index[0]) - run.cut.span(part)[0]
        known = {name: values[begin : begin + len(piece.error)] for name, values in run.read(PREDICT, part).columns.items()}
        waiting.append(
            _piece(plan, piece, known, wanted, settings, lanes, lambda done, before=before: plan.report("clever", before + done, total))
        )
        before += len(piece.error) * settings.batches
        if int(piece.index[-1]) + 1 == run.cut.span(part)[1]:
            for name in wanted:
                seconds = {"seconds": (time.perf_counter() - since) / len(wanted)}
                run.commit(CLEVER_ + name, part, Unit(joined([Unit(columns[name]) for columns in waiting]), seconds))
            waiting, since = [], time.perf_counter()


def _piece(
    plan: Plan,
    piece: Piece,
    known: Mapping[str, Any],
    names: Sequence[str],
    settings: Clever,
    lanes: int | None,
    heard: Callable[[int], None],
) -> dict[str, dict[str, Any]]:
    """The columns of some images, by target."""
    error = list(known["error"])
    good = np.asarray([one is None for one in error])
    scores = _blank(len(good), len(names))
    changed = good & (fingerprints(piece.x) != known["fingerprint"])
    for row in np.flatnonzero(changed):
        error[row], good[row] = piece.error[row] or CHANGED, False
    if good.any():
        batch = examples(
            plan.classifier, piece.x[good], known["label"][good], predicted=True, index=known["fingerprint"][good], seed=plan.seed
        )
        found = clever_scores(plan.classifier, batch, names, settings, lanes=lanes, report=heard)
        for column, values in zip(scores, found, strict=True):
            column[good] = values
    for row in np.flatnonzero(good & np.isnan(scores.score).any(axis=1)):
        error[row] = NOT_FINITE
    identity = {name: known[name] for name in ("index", "id", "fingerprint", "label")}
    return {
        name: {
            **identity,
            **{_COLUMN.get(field, field): values[:, column] for field, values in scores._asdict().items()},
            "error": error,
        }
        for column, name in enumerate(names)
    }


def _blank(images: int, targets: int) -> CleverScores:
    columns = {field: np.full((images, targets), np.nan) for field in CleverScores._fields}
    columns |= {"target": np.full((images, targets), -1), "fitted": np.zeros((images, targets), bool)}
    return CleverScores(**columns)


def _together(units: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of a part, those of one image together."""
    columns = list(units.values())
    found: dict[str, Any] = {
        name: np.stack([np.asarray(one[name], object if name in ("id", "error") else None) for one in columns], axis=1).ravel()
        for name in columns[0]
        if name != "target"
    }
    return found | {"target": list(units) * len(columns[0]["error"]), "id": found["id"].tolist(), "error": found["error"].tolist()}


def _summary(scores: Mapping[str, CleverScores], radius: float) -> list[dict[str, Any]]:
    """Mean and 90 % confidence interval over images, for each target."""
    table: list[dict[str, Any]] = []
    for name, one in scores.items():
        mean, half = mean_interval(one.score)
        table.append(
            {
                "target": name,
                "mean": mean,
                "90% interval +-": None if math.isnan(half) else half,
                "median": float(np.median(one.score)),
                "at radius": int((one.score >= radius).sum()),
                "not fitted": int((~one.fitted).sum()),
            }
        )
    return table
