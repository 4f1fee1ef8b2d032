"""The page of `a2d report --verdicts`: a day of images whose truth nobody knows. How many are flagged, when, and which ones most."""

from dataclasses import replace
from typing import Any

import numpy as np

from a2d_jax.console import Done
from a2d_jax.errors import BadInput
from a2d_jax.io.detectors import StoredDetector, read_detector
from a2d_jax.io.verdicts import Verdicts, read_verdicts
from a2d_jax.jobs import settings
from a2d_jax.jobs.drawing import shown, write_page
from a2d_jax.jobs.pictures import pictures_of
from a2d_jax.jobs.spec import ReportSpec
from a2d_jax.metrics import rate_interval

ALL = "images"
"""The one set of such a page."""
LISTED, PICTURED = 20, 12
"""Most suspicious images that are listed, and that are shown."""


def of_verdicts(spec: ReportSpec) -> Done:
    """Write the page of a table of verdicts."""
    from a2d_jax.report import Section, numbers, page  # here: it needs an extra
    from a2d_jax.report.pages import Table

    found = read_verdicts(str(spec.verdicts), spec.time)
    stored = None if spec.detector is None else read_detector(spec.detector, spec.plugin)
    name = _name(found, stored)
    threshold, notes = _threshold(found, stored, spec.detector)
    if found.errors:
        _, first, error = found.errors[0]
        notes.append(f"{len(found.errors)} images of {found.path} carry an error and have no verdict; the first is {first}: {error}")
    share = float(found.adversarial.mean())
    low, high = rate_interval(found.adversarial)
    drawings, more = _along(found, share)
    notes += more
    order = np.argsort(-found.score, kind="stable").tolist()
    run = found.meta.get("costs")
    run = run if isinstance(run, dict) else found.meta
    shots, lost = _shots(spec, replace(found, meta=run), order[:PICTURED], name)
    classes = numbers.class_table({ALL: found.label}, {ALL: found.adversarial}, truth=False)
    read = list(found.numbers)
    rows = [
        [
            f"{place}",
            shown(found.ids[row].as_py())[:80],
            f"{found.index[row]}",
            f"{found.label[row]}" if found.label[row] >= 0 else "\N{EN DASH}",
            f"{found.score[row]:.6g}",
            "adversarial" if found.adversarial[row] else "benign",
            *(_number(float(found.numbers[one][row])) for one in read),
        ]
        for place, row in enumerate(order[:LISTED], start=1)
    ]
    suspicious = Table("", ["", "image", "index", "class", "score", "verdict", *map(_column, read)], rows)
    sections = [
        Section("Scores", drawings=[_spread(found, name, threshold, stored is not None)]),
        Section("Share flagged", drawings=drawings),
        Section("Most suspicious images", tables=[suspicious], groups={"The same, with their pictures": shots} if shots else {}),
        *([Section("Classes", tables=[classes])] if classes else []),
    ]
    flagged = int(found.adversarial.sum())
    lead = [
        f"The detector {name} judged {len(found.score)} images and flagged {flagged} of them as adversarial: {share:.2%}, "
        f"95 % interval {low:.2%} to {high:.2%}. Their truth is unknown.",
        "A detector flags some benign images too. Compare this share with its rate of false positives; more images flagged mean an attack, "
        "or images of a new kind, which a2d shift tests.",
        *(f"Note: {shown(note)}." for note in notes + lost),
    ]
    facts = {} if stored is None else settings.of_detector(stored, spec.detector)
    facts |= {} if stored is not None or not found.meta.get("detector") else {"detector": str(found.meta["detector"])}
    facts["verdicts"] = settings.of_table(found.path, len(found.score), len(found.errors), found.meta)
    facts |= settings.of_run(run, list(run.get("attacks", {})))
    text = page(
        f"Verdicts of {name}",
        lead=lead,
        sections=sections,
        facts=settings.texts(facts | settings.of_page(spec.seed)),
        foot=settings.made_by(spec),
    )
    write_page(spec.out, spec.force, text)
    summary = {
        "out": str(spec.out),
        "verdicts": str(spec.verdicts),
        "images": len(found.score),
        "failed": len(found.errors),
        "flagged": share,
        "flagged_low": low,
        "flagged_high": high,
        "most suspicious": [found.ids[row].as_py() for row in order[:LISTED]],
    }
    return Done(summary, notes=notes + lost)


def _name(found: Verdicts, stored: StoredDetector | None) -> str:
    """What the user called the detector when it was fitted."""
    if stored is not None:
        return shown(settings.detector_name(stored))
    meta = found.meta.get("detector_meta")
    return shown((meta.get("detector") if isinstance(meta, dict) else None) or found.meta.get("detector") or "detector")


def _threshold(found: Verdicts, stored: StoredDetector | None, path: object) -> tuple[float | None, list[str]]:
    """The threshold: of the detector, or the highest score that was judged benign, which gives the same verdicts."""
    if stored is not None:
        threshold = float(stored.fitted.threshold)
        if differ := int(((found.score > threshold) != found.adversarial).sum()):
            raise BadInput(
                f"expected the detector that gave the verdicts of {found.path}, got {path}, whose threshold {threshold:.6g} would change "
                f"{differ} of {len(found.score)}; give the other detector, or leave out --detector"
            )
        return threshold, []
    if (ends := found.threshold) is None:
        return None, [f"no threshold of the score explains the verdicts of {found.path}, so none is drawn"]
    low, high = ends
    return (low if np.isfinite(low) and np.isfinite(high) else None), []


def _spread(found: Verdicts, name: str, threshold: float | None, exact: bool) -> Any:
    from a2d_jax.report import Drawing, Panel, spread  # here: it needs an extra

    panel = Panel(name, {ALL: found.score}, "score", None, threshold)
    note = (
        "All verdicts are the same, or no threshold explains them."
        if threshold is None
        else f"Flagged above {threshold:.6g}{'' if exact else ', the highest score that was judged benign'}."
    )
    return Drawing(
        spread(panel), f"{panel.title}. Median {float(np.median(found.score)):.4g}. {note}", f"{note} The triangle is the median."
    )


def _along(found: Verdicts, share: float) -> tuple[list[Any], list[str]]:
    """The share flagged along the time, if the table has one, and along the index."""
    from a2d_jax.report import Drawing, numbers, shares  # here: it needs an extra

    places: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    notes: list[str] = []
    if found.time is not None:
        known = ~np.isnat(found.time)
        if not known.all():
            notes.append(f"{int((~known).sum())} images of {found.path} have no time and are left out of the figure over time")
        if known.any():
            places["time (UTC)"] = (found.time[known], found.adversarial[known])
    if not places:
        unique = len(np.unique(found.index)) == len(found.index)
        name = "index of the image" if unique else "row of the table"
        places[name] = (found.index if unique else np.arange(len(found.index)), found.adversarial)
    drawings: list[Any] = []
    for name, (place, flagged) in places.items():
        bins = numbers.along(place, flagged)
        top = int(np.nanargmax(bins.share))
        above = int((bins.low > share).sum())
        note = (
            f"Each dot is the share of about {int(np.median(bins.images[bins.images > 0]))} images, with its 95 % interval; the "
            f"dashed line is the share of all, {share:.1%}. "
            f"The whole interval lies above it in {above} of {len(bins.share)} bins."
        )
        said = f"Share flagged over the {name}: {bins.share[top]:.1%} at most, from {bins.edges[top]} on. {note}"
        drawings.append(Drawing(shares(bins.edges, bins.share, bins.low, bins.high, name, share), said, note))
    return drawings, notes


def _shots(spec: ReportSpec, found: Verdicts, rows: list[int], name: str) -> tuple[list[Any], list[str]]:
    from a2d_jax.report import Shot  # here: it needs an extra

    pictures, lost = pictures_of(spec.images, found, rows)
    shots = [
        Shot(
            x=x,
            name=shown(found.ids[row].as_py())[:60],
            seen_as=settings.class_of(found.label[row]),
            costs={_column(one): _number(float(values[row])) for one, values in found.numbers.items()},
            verdicts={name: bool(found.adversarial[row])},
        )
        for row, x in pictures.items()
    ]
    return shots, lost


def _column(name: str) -> str:
    """A number that the detector read, as a reader names it."""
    return shown(f"cost of {name.removeprefix('cost_')}" if name.startswith("cost_") else name)


def _number(value: float) -> str:
    return "\N{EN DASH}" if np.isnan(value) else f"{value:.6g}"
