"""The job behind `a2d report`: a page about a detector, from costs of images whose truth is known or from verdicts alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from a2d_jax.console import Done, Report, silent
from a2d_jax.detectors import FittedDetector
from a2d_jax.errors import BadInput
from a2d_jax.io.detectors import StoredDetector, read_detector
from a2d_jax.io.files import refuse_existing
from a2d_jax.io.measurements import Measurements
from a2d_jax.jobs import settings
from a2d_jax.jobs.drawing import BENIGN, most_of, panel_of, refuse_without_extra, set_names, shown, write_page
from a2d_jax.jobs.pictures import pictures_of
from a2d_jax.jobs.spec import ReportSpec
from a2d_jax.jobs.tables import fitted_to, left_out, meet, read_table
from a2d_jax.measurements import Column
from a2d_jax.metrics import detection_report

WHICH = "Of every set: some images with a wrong verdict, then some with a right one, each from the highest to the lowest score."
SHOWN = 3
"""Images of a set that are shown with a right verdict, and with a wrong one."""
NAMED = 4
"""Sets that the first lines of a page name, at most."""
PANELS = 8
"""Columns of a detector that are drawn, at most."""
AGAIN = {
    "zscore": "To fit with another threshold t, give a2d fit the option --h -t.",
    "conformal": "To fit with another threshold t, give a2d fit the option --level 1-t.",
}
"""How a user gets a detector with another threshold."""


def report(spec: ReportSpec, report: Report = silent) -> Done:
    """Write a page about a detector."""
    refuse_existing(spec.out, spec.force, "--force", inputs=spec.inputs())
    refuse_without_extra()
    if spec.verdicts is not None:
        if spec.benign is not None or spec.adversarial:
            raise BadInput("expected either --verdicts, or --benign with --adversarial, got both; give one or the other")
        from a2d_jax.jobs.traffic import of_verdicts

        return of_verdicts(spec)
    if missing := [f"--{name}" for name in ("benign", "adversarial", "detector") if not getattr(spec, name)]:
        raise BadInput(
            f"expected --benign, --adversarial and --detector, or --verdicts alone, got no {', '.join(missing)}; "
            "without adversarial images, judge with `a2d detect` and give the --verdicts"
        )
    if spec.time is not None:
        raise BadInput("expected --time with --verdicts, got it with costs, which have no time; leave it out")
    return _of_costs(spec)


@dataclass(frozen=True)
class _Judged:
    """A table, what the detector read in it, and its scores."""

    name: str
    table: Measurements
    read: NDArray[Any]
    score: NDArray[np.float64]


def _of_costs(spec: ReportSpec) -> Done:
    from a2d_jax.report import Section, numbers, page  # here: it needs an extra

    stored = read_detector(str(spec.detector), spec.plugin)
    paths = [Path(str(spec.benign)), *spec.adversarial]
    tables = [read_table(path, spec) for path in paths]
    columns, *_ = [table.columns(stored.columns) for table in tables]
    meeting = sum((table.meeting for table in tables), fitted_to(stored, spec.detector))
    meeting = meeting + meet(columns, [stored.origin(str(spec.detector)), *(table.origin for table in tables)], spec)
    judged = [
        _judged(name, table, columns, stored.fitted) for name, table in zip([BENIGN, *set_names(spec.adversarial)], tables, strict=True)
    ]
    benign, *others = judged
    notes = meeting.notes + left_out(*tables) + _seen_before(stored, tables[0])
    threshold, name = float(stored.fitted.threshold), shown(settings.detector_name(stored))
    scores = {one.name: one.score for one in judged}
    found = {(one.name, f"score of {name}"): (len(one.score), detection_report(benign.score, one.score)) for one in others}
    if len(columns) > 1:
        found |= {
            (one.name, settings.in_words(str(column))): (len(one.score), detection_report(-benign.read[:, place], -one.read[:, place]))
            for one in others
            for place, column in enumerate(columns)
        }
    flagged = {one.name: one.score > threshold for one in judged}
    classes = numbers.class_table({one.name: one.table.label for one in judged}, flagged)
    kind = str(getattr(stored.fitted, "kind", ""))
    groups, lost = _shots(spec, judged, columns, threshold, name)
    notes = list(dict.fromkeys(notes + lost))
    sections = [
        Section("Detection", tables=[numbers.detection_table(found)]),
        Section("Verdicts", tables=[numbers.verdict_table(scores, threshold)]),
        Section("Costs and scores", drawings=_spreads(judged, columns, stored.fitted, name, threshold)),
        Section("ROC curves", drawings=_rocs(judged, columns, name, threshold), paired=True),
        Section("Thresholds", tables=[numbers.threshold_table(scores, threshold, AGAIN.get(kind, ""))]),
        *([Section("Classes", tables=[classes])] if classes else []),
        *([Section("Images", [WHICH], groups=groups)] if groups else []),
    ]
    shares = {one.name: flagged[one.name].mean() for one in others}
    caught = ", ".join(f"{share:.1%} of {one}" for one, share in shares.items())
    if len(others) > NAMED:
        caught = f"{min(shares.values()):.1%} to {max(shares.values()):.1%} of the {len(others)} adversarial sets"
    lead = [
        f"The detector {name} reads the {' and the '.join(map(settings.in_words, stored.columns))}. It judged {len(benign.score)} benign "
        f"images and {sum(len(one.score) for one in others)} adversarial ones.",
        f"It flagged {flagged[BENIGN].mean():.1%} of the benign images, which are false positives, and caught {caught}.",
    ]
    lead += [f"Note: {shown(note)}." for note in notes]
    facts = settings.of_detector(stored, spec.detector)
    facts |= {one.name: settings.of_table(one.table.path, len(one.score), len(one.table.errors), one.table.meta) for one in judged}
    facts |= settings.of_run({**tables[0].meta, **meeting.as_meta}, [column.measurement for column in columns])
    text = page(
        f"Report: {name}",
        lead=lead,
        sections=sections,
        facts=settings.texts(facts | settings.of_page(spec.seed)),
        foot=settings.made_by(spec),
    )
    write_page(spec.out, spec.force, text)
    rows = [
        {
            "set": one.name.removeprefix("set "),
            "images": len(one.score),
            "flagged": float(flagged[one.name].mean()),
            **found[one.name, f"score of {name}"][1]._asdict(),
        }
        for one in others
    ]
    summary = {
        "out": str(spec.out),
        "detector": str(spec.detector),
        "benign": str(spec.benign),
        "benign images": len(benign.score),
        "benign flagged": float(flagged[BENIGN].mean()),
        **meeting.as_meta,
        "sets": rows,
    }
    return Done(summary, notes=notes)


def _judged(name: str, table: Measurements, columns: Sequence[Column], fitted: FittedDetector) -> _Judged:
    read = table.select(columns)
    return _Judged(name, table, read, np.asarray(fitted.score(read, labels=table.label, index=table.key)))


def _seen_before(stored: StoredDetector, benign: Measurements) -> list[str]:
    """A note if the detector was fitted to the benign images of the report: then its false positives look rarer than they are."""
    fitted = stored.meta.get("costs", {}).get("images_sha256")
    if fitted is None or fitted != benign.meta.get("images_sha256"):
        return []
    return [f"the detector was fitted to the benign images of {benign.path}; on fresh ones it may flag more"]


def _lines(fitted: FittedDetector, judged: Sequence[_Judged], columns: Sequence[Column]) -> list[float | None]:
    """For each column the number from which on every image, or its vote, is benign; None where no such number is known."""
    highest = [max(float(one.read[:, place].max()) for one in judged) for place in range(len(columns))]
    tables = [one.table for one in judged]
    costs = [(most_of(column, tables) or int(high)) if column.is_cost else None for column, high in zip(columns, highest, strict=True)]
    reals = [None if column.is_cost else high for column, high in zip(columns, highest, strict=True)]
    bounds = fitted.bounds(costs)
    radii = fitted.radii(reals) if hasattr(fitted, "radii") else (None,) * len(columns)
    return [bound if column.is_cost else radius for column, bound, radius in zip(columns, bounds, radii, strict=True)]


def _spreads(judged: Sequence[_Judged], columns: Sequence[Column], fitted: FittedDetector, name: str, threshold: float) -> list[Any]:
    """The distribution of every column and of the score, with what divides it."""
    from a2d_jax.report import Drawing, Panel, spread  # here: it needs an extra

    found: list[Any] = []
    for place, (column, line) in enumerate(zip(columns[:PANELS], _lines(fitted, judged, columns), strict=False)):
        panel = panel_of(column, {one.name: one.read[:, place] for one in judged}, [one.table for one in judged], line)
        what = "is judged benign" if len(columns) == 1 else "has a benign vote of this column"
        note = (
            f"From {line:.6g} on, every image {what}."
            if line is not None
            else "No line divides this number alone: the detector reads several together, flags both ends, or flags none or all. "
            "Its threshold is drawn on its scores."
        )
        found.append(Drawing(spread(panel), f"{panel.title}. {_medians(panel)}. {note}", note))
    panel = Panel(name, {one.name: one.score for one in judged}, "score", None, threshold)
    note = f"An image is judged adversarial if its score is above {threshold:.6g}."
    return [*found, Drawing(spread(panel), f"{panel.title}. {_medians(panel)}. {note}", f"{note} Triangles are medians.")]


def _rocs(judged: Sequence[_Judged], columns: Sequence[Column], name: str, threshold: float) -> list[Any]:
    """ROC curves of the score, and of every column if there are several, on both axes."""
    from a2d_jax.report import Drawing, Panel, roc  # here: it needs an extra

    panels = [Panel(name, {one.name: one.score for one in judged}, "score", None, threshold)]
    if len(columns) > 1:
        tables = [one.table for one in judged]
        panels += [
            panel_of(column, {one.name: one.read[:, place] for one in judged}, tables) for place, column in enumerate(columns[:PANELS])
        ]
    found: list[Any] = []
    for panel in panels:
        benign, *others = panel.suspicion.items()
        said = "; ".join(f"{set_} {detection_report(benign[1], values).auroc:.3f}" for set_, values in others)
        mark = " The mark is the detector's threshold." if panel.threshold is not None else ""
        for logarithmic in (False, True):
            note = (
                "Logarithmic false positives, as stairs: the share that a threshold catches with at most so many. Dotted: 1 % and 5 %."
                if logarithmic
                else "The number behind a set is its AUROC."
            )
            drawn = roc(panel, logarithmic=logarithmic)
            found.append(Drawing(drawn, f"ROC curves, {panel.title}. AUROC: {said}.", note + mark))
    return found


def _medians(panel: Any) -> str:
    return "Medians: " + "; ".join(f"{name} {float(np.median(values)):.4g} ({len(values)} images)" for name, values in panel.values.items())


def _shots(
    spec: ReportSpec, judged: Sequence[_Judged], columns: Sequence[Column], threshold: float, detector: str
) -> tuple[dict[str, list[Any]], list[str]]:
    """Some images of every set, and what to tell of those that were not found."""
    if not spec.images:
        return {}, []
    from a2d_jax.report import Shot  # here: it needs an extra

    groups: dict[str, list[Any]] = {}
    lost: list[str] = []
    for one in judged:
        table, adversarial = one.table, one.name != BENIGN
        flagged = one.score > threshold
        rows = _some(one.score, flagged != adversarial)
        found, notes = pictures_of(spec.images, table, rows)
        lost += notes
        shots = [
            Shot(
                x=x,
                name=f"{one.name}: {shown(table.ids[row].as_py())[:60]}",
                seen_as=settings.class_of(table.label[row]),
                costs={shown(column): _cost(one, column, place, row) for place, column in enumerate(columns)},
                verdicts={detector: bool(flagged[row])},
                adversarial=adversarial,
            )
            for row, x in found.items()
        ]
        if shots:
            groups[f"{one.name[0].upper()}{one.name[1:]}"] = shots
    return groups, lost


def _some(score: NDArray[np.float64], wrong: NDArray[np.bool_]) -> list[int]:
    """Rows to show: wrong verdicts, then right ones, each from the highest score to the lowest."""
    order = np.argsort(-score, kind="stable")
    parts = [part for part in (order[wrong[order]], order[~wrong[order]]) if len(part)]
    return [int(row) for part in parts for row in part[np.unique(np.linspace(0, len(part) - 1, SHOWN).astype(int))]]


def _cost(one: _Judged, column: Column, place: int, row: int) -> str:
    value = one.read[row, place]
    if column.is_cost:
        return f"failed ({int(value) - 1})" if one.table.censored[column.measurement][row] else f"{int(value)}"
    return f"{value:.4g}"
