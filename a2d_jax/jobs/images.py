"""Jobs that run a classifier on images: predict, attack, cost."""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from a2d_jax import presets, specs
from a2d_jax.classifiers import in_bfloat16
from a2d_jax.console import Done, Report, silent
from a2d_jax.costs import Measured, Seen, class_count, measure, predicted, predictions
from a2d_jax.errors import BadInput
from a2d_jax.io.checkpoints import load
from a2d_jax.io.files import refuse_existing
from a2d_jax.io.images import ImageSource, open_images
from a2d_jax.io.provenance import record
from a2d_jax.io.tables import COSTS, PREDICTIONS, npz_writer, stretched, table_writer
from a2d_jax.jobs.spec import AttackSpec, AttacksSpec, CostSpec, PredictSpec
from a2d_jax.types import Attack, Classifier

ROWS = 4096  # images written at a time


def predict(spec: PredictSpec, report: Report = silent) -> Done:
    """Write the predicted class of each image and its probability."""
    refuse_existing(spec.out, spec.force, "--force", inputs=spec.inputs())
    model, source = open_both(spec.classifier, spec.checkpoint, spec.images, spec.limit, spec.precision, spec.background)
    failed, seen = 0, Seen()
    with table_writer(spec.out, PREDICTIONS, record(model, source, **told(spec)), spec.force) as write:
        for piece in predicted(model, source, report, seen=seen):
            columns = ("index", "id", "label", "probability", "error")
            write({name: getattr(piece, name) for name in columns})
            failed += sum(error is not None for error in piece.error)
    accuracy = {} if seen.wrong is None else {"accuracy": seen.fits[0] / seen.labelled}
    return Done({"out": str(spec.out), "images": len(source), "failed": failed, **accuracy}, failed, [*source.notes, *seen.notes()])


def cost(spec: CostSpec, report: Report = silent) -> Done:
    """Write the cost of each attack against each image."""
    refuse_existing(spec.out, spec.force, "--force", inputs=spec.inputs())
    attacks = chosen(spec, "defence", spec.attacks)
    model, source = open_both(spec.classifier, spec.checkpoint, spec.images, spec.limit, spec.precision, spec.background)
    measured = measure(model, source, attacks, seed=spec.seed, lanes=spec.lanes, report=report, target=spec.target)
    meta = record(model, source, **told(spec), **of_attacks(attacks, measured))
    with table_writer(spec.out, COSTS, meta, spec.force) as write:
        for begin in range(0, len(source), ROWS):
            write(_cost_rows(measured, slice(begin, begin + ROWS), attacks, spec))
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
    summary = {"out": str(spec.out), "images": len(source), "failed": measured.failed, **begin_with(measured)}
    return Done({**summary, "costs": costs}, measured.failed, [*source.notes, *measured.notes])


def attack(spec: AttackSpec, report: Report = silent) -> Done:
    """Write images that are misclassified, by the labels of the set, or by the predicted classes if the set has no labels.

    With `stretch` each image is stretched to its own range and rounded to 8 bits, and success is that of the image as written.
    """
    refuse_existing(spec.out, spec.force, "--force", inputs=spec.inputs())
    attacks = chosen(spec, "crafting", spec.attack)
    if len(attacks) > 1:
        raise BadInput(f"expected one attack, got {', '.join(attacks)}; run the command once for each")
    model, source = open_both(spec.classifier, spec.checkpoint, spec.images, spec.limit, spec.precision, spec.background)
    image_bytes = 4 * math.prod(source.shape)
    with tempfile.TemporaryFile(dir=spec.out.resolve().parent) as scratch:  # images come as they finish; the disk puts them in order
        scratch.truncate(len(source) * image_bytes)

        def keep(_: str, rows: NDArray[np.int64], x_adv: NDArray[np.float32]) -> None:
            for row, image in zip(rows, x_adv, strict=True):
                scratch.seek(int(row) * image_bytes)
                scratch.write(image.astype(np.float32).tobytes())

        how: dict[str, Any] = {"seed": spec.seed, "lanes": spec.lanes, "report": report, "target": spec.target}
        measured = measure(model, source, attacks, labels="set" if source.labels else "prediction", keep_x_adv=keep, **how)
        aimed = measured.target is not None
        (success,) = (np.array(result.success) for result in measured.results.values())
        scratch.seek(0)
        meta = record(model, source, **told(spec), **of_attacks(attacks, measured))
        with npz_writer(spec.out, len(source), source.shape, meta, spec.force) as write:
            for begin in range(0, len(source), source.piece_size):
                piece = slice(begin, begin + source.piece_size)
                index = measured.index[piece]
                x_adv = np.frombuffer(scratch.read(len(index) * image_bytes), np.float32).reshape(-1, *source.shape)
                if spec.stretch:
                    x_adv = stretched(x_adv)
                    seen = predictions(model, x_adv)[0]
                    reached = seen == measured.target[piece] if measured.target is not None else seen != measured.label[piece]
                    success[piece] = measured.good[piece] & reached
                goal = {"target": measured.target[piece]} if measured.target is not None else {}
                write(x=x_adv, y=measured.label[piece], success=success[piece], index=index, error=measured.error[piece], **goal)
    summary = {"out": str(spec.out), "images": len(source), "failed": measured.failed}
    before = {"at the target to begin with": _there(measured)} if aimed else {"wrong to begin with": measured.wrong or 0}
    return Done(
        {**summary, "success rate": float(success[measured.good].mean()), **before},
        measured.failed,
        [*source.notes, *measured.notes],
    )


def chosen(spec: AttacksSpec, role: presets.Role, text: str) -> dict[str, Attack]:
    """The attacks of a job, with the settings that are given instead of the preset's."""
    preset = presets.named(spec.preset, spec.plugin)
    flags = {"max_steps": spec.max_steps, "epsilon": spec.epsilon, "step_size": spec.step_size}
    return specs.attacks(text, getattr(preset, role), flag, **flags)


def flag(setting: str) -> str:
    """What the command line calls a setting."""
    return "--" + setting.replace("_", "-")


def told(spec: PredictSpec | AttacksSpec | Any) -> dict[str, Any]:
    """What a table keeps of its spec: all of it, and apart from it what tables are compared by."""
    alone = {
        name: getattr(spec, name) for name in ("classifier", "precision", "preset", "seed", "stretch", "target") if hasattr(spec, name)
    }
    return {**alone, "spec": {"job": type(spec).__name__.removesuffix("Spec").lower(), **spec.as_json()}}


def of_attacks(attacks: Mapping[str, Attack], measured: Measured) -> dict[str, Any]:
    """What a table keeps of the attacks: every setting, the norms of their distances, and whose labels they left."""
    norms = {name: attack.norm for name, attack in attacks.items()}
    return {"attacks": specs.settings_of(attacks), "norms": norms, "labels": measured.labels, **begin_with(measured)}


def begin_with(measured: Measured) -> dict[str, int]:
    """Images that were misclassified before any attack, of a set that has labels."""
    return {} if measured.wrong is None else {"wrong to begin with": measured.wrong}


def open_both(
    classifier: str, checkpoint: Path | None, images: Path, limit: int | None, precision: str, background: str | None = None
) -> tuple[Classifier, ImageSource]:
    """The classifier, in float32 or bfloat16, and the images, checked to fit each other.

    Raises:
      BadInput: either cannot be opened, they do not fit, `limit` is not positive, or there is no such precision.
    """
    if precision not in ("float32", "bfloat16"):
        raise BadInput(f"expected a precision of float32 or bfloat16, got {precision!r}; pass one of them")
    loaded = load(classifier, checkpoint)
    classes = loaded.class_names or (loaded.input_shape and class_count(loaded.classifier, loaded.input_shape, classifier))
    source = open_images(images, loaded.input_shape, preprocessing=loaded.preprocessing, classes=classes, background=background)
    if limit is not None:
        if limit < 1:
            raise BadInput(f"expected a limit of at least 1 image, got {limit}; leave it out to take all")
        source = replace(source, count=min(limit, len(source)))
    class_count(loaded.classifier, source.shape, source.path)
    source = replace(source, choices=(*loaded.notes, *source.choices))
    return in_bfloat16(loaded.classifier) if precision == "bfloat16" else loaded.classifier, source


def _there(measured: Measured) -> int:
    """Images that were classified as their target already."""
    return sum(int((result.success & (result.iterations == 0))[measured.good].sum()) for result in measured.results.values())


def _cost_rows(measured: Measured, rows: slice, attacks: Mapping[str, Attack], spec: CostSpec) -> dict[str, object]:
    """Rows of some images, those of one image together."""
    names = list(measured.results)
    n = len(measured.index[rows])

    def each(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, len(names))

    columns: dict[str, object] = {
        field: np.stack([getattr(result, field)[rows] for result in measured.results.values()], axis=1).ravel()
        for field in ("cost", "iterations", "success", "censored", "forward_queries", "backward_queries", "distance")
    }
    columns["crossing"] = np.ma.masked_invalid(np.stack([result.crossing[rows] for result in measured.results.values()], axis=1).ravel())
    nobody = np.ma.masked_array(np.zeros(n, np.int64), mask=True)
    aims = [
        measured.target[rows] if measured.target is not None and getattr(attacks[name], "targeted", False) else nobody for name in names
    ]
    return columns | {
        "index": each(measured.index[rows]),
        "id": [name for name in measured.id[rows] for _ in names],
        "fingerprint": each(measured.fingerprint[rows]),
        "attack": names * n,
        "label": each(measured.label[rows]),
        "target": np.ma.stack(aims, axis=1).ravel(),
        "preset": [spec.preset] * (n * len(names)),
        "seed": [spec.seed] * (n * len(names)),
        "error": [error for error in measured.error[rows] for _ in names],
    }
