"""Jobs that run a classifier on images: predict, attack, cost."""

import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from a2d_jax.classifiers import in_bfloat16
from a2d_jax.costs import predictions
from a2d_jax.errors import BadInput
from a2d_jax.io.checkpoints import load
from a2d_jax.io.files import refuse_existing
from a2d_jax.io.images import ImageSource, open_images
from a2d_jax.io.tables import COSTS, PREDICTIONS, npz_writer, stretched, table_writer
from a2d_jax.jobs.common import Done, Report, preset_attacks, record, settings_of, silent
from a2d_jax.jobs.lanes import Lanes
from a2d_jax.jobs.measure import Measured, class_count, measure, predicted
from a2d_jax.types import Classifier

ROWS = 4096  # images written at a time


def predict(
    *,
    classifier: str,
    images: Path,
    out: Path,
    checkpoint: Path | None = None,
    limit: int | None = None,
    precision: str = "float32",
    force: bool = False,
    report: Report = silent,
) -> Done:
    """Write the predicted class of each image and its probability."""
    refuse_existing(out, force)
    model, source = open_both(classifier, checkpoint, images, limit, precision)
    failed = right = labelled = 0
    with table_writer(out, PREDICTIONS, record(model, source, classifier=classifier, precision=precision)) as write:
        for part in predicted(model, source, report):
            write({"index": part.index, "id": part.id, "label": part.label, "probability": part.probability, "error": part.error})
            good = np.asarray([error is None for error in part.error])
            failed += int((~good).sum())
            if part.truth is not None:
                right += int((part.label == part.truth)[good].sum())
                labelled += int(good.sum())
    accuracy = {"accuracy": right / labelled} if labelled else {}
    return Done({"out": str(out), "images": len(source), "failed": failed, **accuracy}, failed, label_notes(source))


def cost(
    *,
    classifier: str,
    images: Path,
    out: Path,
    checkpoint: Path | None = None,
    attacks: str = "bim,bim2,jsma,dba",
    preset: str = "mnist",
    max_steps: int | None = None,
    epsilon: float | None = None,
    step_size: float | None = None,
    lanes: Lanes = None,
    limit: int | None = None,
    precision: str = "float32",
    seed: int = 0,
    force: bool = False,
    report: Report = silent,
) -> Done:
    """Write what it costs each attack to change the predicted class of each image."""
    refuse_existing(out, force)
    chosen = preset_attacks(preset, "defence", attacks, max_steps=max_steps, epsilon=epsilon, step_size=step_size)
    model, source = open_both(classifier, checkpoint, images, limit, precision)
    measured = measure(model, source, chosen, seed, lanes, report)
    meta = record(model, source, classifier=classifier, precision=precision, preset=preset, seed=seed, attacks=settings_of(chosen))
    with table_writer(out, COSTS, meta) as write:
        for begin in range(0, len(source), ROWS):
            write(_cost_rows(measured, slice(begin, begin + ROWS), preset, seed))
    costs = [
        {
            "attack": name,
            "median cost": float(np.median(result.cost[measured.good])),
            "censored": float(np.mean(result.censored[measured.good])),
            "forward queries": int(np.sum(result.forward_queries)),
            "backward queries": int(np.sum(result.backward_queries)),
            "lanes": measured.stats[name].lanes,
            "useful lane fraction": measured.stats[name].useful_fraction,
        }
        for name, result in measured.results.items()
    ]
    return Done({"out": str(out), "images": len(source), "failed": measured.failed, "costs": costs}, measured.failed)


def attack(
    *,
    classifier: str,
    images: Path,
    out: Path,
    attack: str,
    checkpoint: Path | None = None,
    preset: str = "mnist",
    max_steps: int | None = None,
    epsilon: float | None = None,
    step_size: float | None = None,
    lanes: Lanes = None,
    limit: int | None = None,
    precision: str = "float32",
    stretch: bool = False,
    seed: int = 0,
    force: bool = False,
    report: Report = silent,
) -> Done:
    """Write adversarial images that leave the label of the set, or the predicted class where the set has no labels.

    With `stretch` they are written as an 8-bit file holds them, each stretched to its own range, and success is that of what was written.
    """
    refuse_existing(out, force)
    chosen = preset_attacks(preset, "crafting", attack, max_steps=max_steps, epsilon=epsilon, step_size=step_size)
    if len(chosen) > 1:
        raise BadInput(f"expected one attack, got {', '.join(chosen)}; run the command once for each")
    model, source = open_both(classifier, checkpoint, images, limit, precision)
    how = {"preset": preset, "seed": seed, "stretch": stretch, "attacks": settings_of(chosen)}
    meta = record(model, source, classifier=classifier, precision=precision, **how)
    image_bytes = 4 * math.prod(source.shape)
    with tempfile.TemporaryFile(dir=out.absolute().parent) as scratch:  # images come as they finish; the disk puts them in order
        scratch.truncate(len(source) * image_bytes)

        def keep(rows: NDArray[np.int64], x_adv: NDArray[np.float32]) -> None:
            for row, image in zip(rows, x_adv, strict=True):
                scratch.seek(int(row) * image_bytes)
                scratch.write(image.astype(np.float32).tobytes())

        measured = measure(model, source, chosen, seed, lanes, report, own_label=source.labels, keep_x_adv=keep)
        (success,) = (np.array(result.success) for result in measured.results.values())
        scratch.seek(0)
        with npz_writer(out, len(source), source.shape, meta) as write:
            for begin in range(0, len(source), source.piece_size):
                part = slice(begin, begin + source.piece_size)
                index = measured.index[part]
                x_adv = np.frombuffer(scratch.read(len(index) * image_bytes), np.float32).reshape(-1, *source.shape)
                if stretch:
                    x_adv = stretched(x_adv)
                    success[part] = measured.good[part] & (predictions(model, x_adv)[0] != measured.label[part])
                write(x=x_adv, y=measured.label[part], success=success[part], index=index, error=measured.error[part])
    summary = {"out": str(out), "images": len(source), "failed": measured.failed, "success rate": float(success[measured.good].mean())}
    return Done(summary, measured.failed, label_notes(source))


def label_notes(source: ImageSource) -> list[str]:
    """What the user should know of where labels come from."""
    return [] if source.note is None else [source.note]


def open_both(classifier: str, checkpoint: Path | None, images: Path, limit: int | None, precision: str) -> tuple[Classifier, ImageSource]:
    """The classifier, in float32 or bfloat16, and the images, checked to fit each other.

    Raises:
      BadInput: either cannot be opened, they do not fit, `limit` is not positive, or there is no such precision.
    """
    if precision not in ("float32", "bfloat16"):
        raise BadInput(f"expected a precision of float32 or bfloat16, got {precision!r}; pass one of them")
    loaded = load(classifier, checkpoint)
    classes = loaded.class_names or (loaded.input_shape and class_count(loaded.classifier, loaded.input_shape, classifier))
    source = open_images(images, loaded.input_shape, preprocessing=loaded.preprocessing, classes=classes)
    if limit is not None:
        if limit < 1:
            raise BadInput(f"expected a limit of at least 1 image, got {limit}; leave it out to take all")
        source = replace(source, count=min(limit, len(source)))
    class_count(loaded.classifier, source.shape, source.path)
    return in_bfloat16(loaded.classifier) if precision == "bfloat16" else loaded.classifier, source


def _cost_rows(measured: Measured, part: slice, preset: str, seed: int) -> dict[str, object]:
    """Rows of some images, those of one image together."""
    attacks = list(measured.results)
    n = len(measured.index[part])

    def each(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, len(attacks))

    columns: dict[str, object] = {
        field: np.stack([getattr(result, field)[part] for result in measured.results.values()], axis=1).ravel()
        for field in ("cost", "iterations", "success", "censored", "forward_queries", "backward_queries", "distance")
    }
    return columns | {
        "index": each(measured.index[part]),
        "id": [name for name in measured.id[part] for _ in attacks],
        "attack": attacks * n,
        "label": each(measured.label[part]),
        "preset": [preset] * (n * len(attacks)),
        "seed": [seed] * (n * len(attacks)),
        "error": [error for error in measured.error[part] for _ in attacks],
    }
