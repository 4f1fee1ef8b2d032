"""The job that scores images without attacking them: clever."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from a2d_jax.costs import examples
from a2d_jax.errors import BadInput
from a2d_jax.io.files import refuse_existing
from a2d_jax.io.images import ImageSource
from a2d_jax.io.tables import CLEVER, table_writer
from a2d_jax.jobs.common import Done, Report, names_of, record, silent
from a2d_jax.jobs.images import open_both
from a2d_jax.jobs.measure import Predicted, class_count, predicted
from a2d_jax.robustness import Clever, CleverScores, clever_scores, mean_interval
from a2d_jax.robustness.clever import ranks_of
from a2d_jax.types import Classifier

NOT_FINITE = "expected finite gradients, got NaN or infinity from the classifier; check its weights"


def clever(
    *,
    classifier: str,
    images: Path,
    out: Path,
    checkpoint: Path | None = None,
    targets: str = "target-2",
    radius: float = 5.0,
    norm: str = "l2",
    batches: int = 500,
    samples: int = 1024,
    lanes: int | None = None,
    limit: int | None = None,
    precision: str = "float32",
    seed: int = 0,
    force: bool = False,
    report: Report = silent,
) -> Done:
    """Write the CLEVER scores of each image, against the class that the classifier predicts."""
    refuse_existing(out, force)
    names = names_of(targets)
    if not names:
        raise BadInput("expected at least one target, got none; name some of untargeted, target-2, least-likely")
    try:
        settings = Clever(radius=radius, batches=batches, samples=samples, norm=norm)  # pyright: ignore[reportArgumentType] (checked inside)
    except ValueError as error:
        raise BadInput(str(error)) from error
    if lanes is not None and lanes < 1:
        raise BadInput(f"expected at least 1 lane, got {lanes}; leave it out to take the default")
    model, source = open_both(classifier, checkpoint, images, limit, precision)
    classes = class_count(model, source.shape, source.path)
    for name in names:
        ranks_of(name, classes)  # refuses what this classifier does not have
    meta = record(model, source, classifier=classifier, precision=precision, seed=seed, targets=names, clever=asdict(settings))
    kept: list[CleverScores] = []
    failed = 0
    with table_writer(out, CLEVER, meta) as write:
        for part, x in _pieces(model, source, report):
            good = np.asarray([error is None for error in part.error])
            scores = _blank(len(good), len(names))
            if good.any():
                batch = examples(model, x[good], part.label[good], index=part.index[good], seed=seed)
                begin = int(part.index[0])

                def told(done: int, begin: int = begin) -> None:
                    report("clever", begin * batches + done, len(source) * batches)

                found = clever_scores(model, batch, names, settings, lanes=lanes, report=told)
                for column, values in zip(scores, found, strict=True):
                    column[good] = values
            error = list(part.error)
            for row in np.flatnonzero(good & np.isnan(scores.score).any(axis=1)):
                error[row], good[row] = NOT_FINITE, False
            write(_rows(part, names, scores, error))
            kept.append(CleverScores(*(column[good] for column in scores)))
            failed += int((~good).sum())
        if failed == len(source):
            raise BadInput(f"in all images that can be used: {NOT_FINITE}")
    total = CleverScores(*(np.concatenate(columns) for columns in zip(*kept, strict=True)))
    return Done({"out": str(out), "images": len(source), "failed": failed, "scores": _summary(names, total, radius)}, failed)


def _pieces(model: Classifier, source: ImageSource, report: Report) -> Iterator[tuple[Predicted, NDArray[np.float32]]]:
    """Images with their predicted classes. The set is read twice, so that one in which nothing can be used is refused at once."""
    parts = list(predicted(model, source, report))
    for part, piece in zip(parts, source.pieces(), strict=True):
        yield part, piece.x


def _blank(images: int, targets: int) -> CleverScores:
    columns = {field: np.full((images, targets), np.nan) for field in CleverScores._fields}
    columns |= {"target": np.full((images, targets), -1), "fitted": np.zeros((images, targets), bool)}
    return CleverScores(**columns)


def _rows(part: Predicted, names: list[str], scores: CleverScores, error: list[str | None]) -> Mapping[str, object]:
    """Rows of some images, those of one image together."""
    numbers = scores._asdict()
    return {name: values.ravel() for name, values in numbers.items() if name != "target"} | {
        "index": np.repeat(part.index, len(names)),
        "id": [name for name in part.id for _ in names],
        "target": names * len(part.id),
        "label": np.repeat(part.label, len(names)),
        "target_class": scores.target.ravel(),
        "error": [one for one in error for _ in names],
    }


def _summary(names: list[str], scores: CleverScores, radius: float) -> list[dict[str, Any]]:
    """Mean and 90 % confidence interval over images, for each target."""
    table: list[dict[str, Any]] = []
    for column, name in enumerate(names):
        score = scores.score[:, column]
        mean, half = mean_interval(score)
        table.append(
            {
                "target": name,
                "mean": mean,
                "90% interval +-": None if math.isnan(half) else half,
                "median": float(np.median(score)),
                "at radius": int((score >= radius).sum()),
                "not fitted": int((~scores.fitted[:, column]).sum()),
            }
        )
    return table
