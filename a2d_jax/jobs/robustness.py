"""The job that scores images without attacking them: clever."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from a2d_jax.console import Done, Report, silent
from a2d_jax.costs import Predicted, Seen, class_count, examples, predicted
from a2d_jax.errors import BadInput
from a2d_jax.io.files import refuse_existing
from a2d_jax.io.images import ImageSource
from a2d_jax.io.provenance import record
from a2d_jax.io.tables import CLEVER, table_writer
from a2d_jax.jobs.images import open_both, told
from a2d_jax.jobs.spec import CleverSpec
from a2d_jax.robustness import Clever, CleverScores, clever_scores, mean_interval
from a2d_jax.robustness.clever import ranks_of
from a2d_jax.specs import names_of
from a2d_jax.types import Classifier

NOT_FINITE = "expected finite gradients, got NaN or infinity from the classifier; check its weights"


def clever(spec: CleverSpec, report: Report = silent) -> Done:
    """Write the CLEVER scores of each image, against the class that the classifier predicts."""
    refuse_existing(spec.out, spec.force, "--force", inputs=spec.inputs())
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
    meta = record(model, source, **told(spec), targets=names, clever=asdict(settings), labels="prediction")
    kept: list[CleverScores] = []
    failed, seen = 0, Seen()
    with table_writer(spec.out, CLEVER, meta, spec.force) as write:
        for piece, x in _pieces(model, source, report, seen):
            good = np.asarray([error is None for error in piece.error])
            scores = _blank(len(good), len(names))
            if good.any():
                batch = examples(model, x[good], piece.label[good], predicted=True, index=piece.fingerprint[good], seed=spec.seed)
                begin = int(piece.index[0])

                def heard(done: int, begin: int = begin) -> None:
                    report("clever", begin * spec.batches + done, len(source) * spec.batches)

                found = clever_scores(model, batch, names, settings, lanes=spec.lanes, report=heard)
                for column, values in zip(scores, found, strict=True):
                    column[good] = values
            error = list(piece.error)
            for row in np.flatnonzero(good & np.isnan(scores.score).any(axis=1)):
                error[row], good[row] = NOT_FINITE, False
            write(_rows(piece, names, scores, error))
            kept.append(CleverScores(*(column[good] for column in scores)))
            failed += int((~good).sum())
        if failed == len(source):
            raise BadInput(f"{NOT_FINITE} (in every image that can be read)")
    total = CleverScores(*(np.concatenate(columns) for columns in zip(*kept, strict=True)))
    summary = {"out": str(spec.out), "images": len(source), "failed": failed}
    return Done({**summary, "scores": _summary(names, total, spec.radius)}, failed, [*source.notes, *seen.notes()])


def _pieces(model: Classifier, source: ImageSource, report: Report, seen: Seen) -> Iterator[tuple[Predicted, NDArray[np.float32]]]:
    """Images with their predicted classes. The set is read twice, so that one in which nothing can be used is refused at once."""
    classified = list(predicted(model, source, report, seen=seen))
    for piece, images in zip(classified, source.pieces(), strict=True):
        yield piece, images.x


def _blank(images: int, targets: int) -> CleverScores:
    columns = {field: np.full((images, targets), np.nan) for field in CleverScores._fields}
    columns |= {"target": np.full((images, targets), -1), "fitted": np.zeros((images, targets), bool)}
    return CleverScores(**columns)


def _rows(piece: Predicted, names: list[str], scores: CleverScores, error: list[str | None]) -> Mapping[str, object]:
    """Rows of some images, those of one image together."""
    numbers = scores._asdict()
    return {name: values.ravel() for name, values in numbers.items() if name != "target"} | {
        "index": np.repeat(piece.index, len(names)),
        "id": [name for name in piece.id for _ in names],
        "fingerprint": np.repeat(piece.fingerprint, len(names)),
        "target": names * len(piece.id),
        "label": np.repeat(piece.label, len(names)),
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
