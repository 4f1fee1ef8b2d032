"""Jobs that run a classifier on images: predict, attack, cost."""

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from a2d_jax import presets, specs
from a2d_jax.classifiers import in_bfloat16
from a2d_jax.console import Done, Report
from a2d_jax.costs import PREDICT, Measured, Plan, Told, Unit, class_count, measured, planned, told, work
from a2d_jax.costs import predictions as predictions_of
from a2d_jax.errors import BadInput
from a2d_jax.io.checkpoints import load
from a2d_jax.io.images import ImageSource, open_images
from a2d_jax.io.provenance import record
from a2d_jax.io.tables import COSTS, PREDICTIONS, crafted_schema, npz_writer, stretched
from a2d_jax.jobs.large import Job, in_parts, is_folder, predictions, refuse_nothing, refuse_output, result
from a2d_jax.jobs.spec import AttackSpec, AttacksSpec, CostSpec, PredictSpec
from a2d_jax.scale.runs import Kind, Run, part_size
from a2d_jax.types import Attack, Classifier


@in_parts
def predict(spec: PredictSpec, report: Report) -> Job:
    """Write the predicted class of each image and its probability."""
    refuse_output(spec)
    model, source = open_both(spec.classifier, spec.checkpoint, spec.images, spec.limit, spec.precision, spec.background)
    plan, meta = planned(model, source, {}, report=report), record(model, source, **told_by(spec))

    def end(run: Run) -> Done:
        failed = 0
        with result(spec, PREDICTIONS, meta) as write:
            for part in run.cut.parts:
                columns = run.read(PREDICT, part).columns
                failed += sum(error is not None for error in columns["error"])
                write(columns)
        said = told(plan, run, run.cut.parts)
        refuse_nothing(plan, run, PREDICT, failed)
        accuracy = {} if said.wrong is None else {"accuracy": 1 - said.wrong / said.images}
        return Done({"out": str(spec.out), "images": len(source), "failed": failed, **accuracy}, failed, [*source.choices, *said.notes])

    return Job(spec, plan, source, meta, predictions(plan, kept=True, meta=meta), work, end)


@in_parts
def cost(spec: CostSpec, report: Report) -> Job:
    """Write the cost of each attack against each image."""
    refuse_output(spec)
    attacks = chosen(spec, "defence", spec.attacks)
    model, source = open_both(spec.classifier, spec.checkpoint, spec.images, spec.limit, spec.precision, spec.background)
    plan = planned(model, source, attacks, seed=spec.seed, lanes=spec.lanes, report=report, target=spec.target)
    meta = record(model, source, **told_by(spec), **of_attacks(plan))
    rows = {"preset": spec.preset, "seed": spec.seed}
    kinds = predictions(plan) | {
        name: Kind(COSTS, constants={"attack": name, **rows}, kept=True, meta=meta, change=_without_nothing) for name in attacks
    }

    def end(run: Run) -> Done:
        numbers: dict[str, list[tuple[NDArray[Any], ...]]] = {name: [] for name in attacks}
        failed = 0
        said = told(plan, run, run.cut.parts)
        with result(spec, COSTS, meta | begin_with(said)) as write:
            for part in run.cut.parts:
                found = measured(plan, run, [part])
                write(_cost_rows(found, plan, spec))
                failed += found.failed
                for name, one in found.results.items():
                    numbers[name].append(
                        tuple(
                            np.asarray(column)[found.good] for column in (one.cost, one.censored, one.forward_queries, one.backward_queries)
                        )
                    )
            refuse_nothing(plan, run, next(reversed(attacks)), failed)
        costs: list[dict[str, Any]] = []
        for name, parts in numbers.items():
            cost, censored, forward, backward = (np.concatenate(columns) for columns in zip(*parts, strict=True))
            queries = {"forward queries": int(forward.sum()), "backward queries": int(backward.sum())}
            of_lanes = {"lanes": said.stats[name].lanes, "useful lane fraction": said.stats[name].useful_fraction}
            costs.append({"attack": name, "median cost": float(np.median(cost)), "censored": float(censored.mean()), **queries, **of_lanes})
        summary = {"out": str(spec.out), "images": len(source), "failed": failed, **begin_with(said)}
        return Done({**summary, "costs": costs}, failed, [*source.choices, *said.notes])

    return Job(spec, plan, source, meta, kinds, work, end)


@in_parts
def attack(spec: AttackSpec, report: Report) -> Job:
    """Write images that are misclassified, by the labels of the set, or by the predicted classes if the set has no labels.

    With `stretch` each image is stretched to its own range and rounded to 8 bits, and success is that of the image as written.
    """
    refuse_output(spec)
    attacks = chosen(spec, "crafting", spec.attack)
    if len(attacks) > 1:
        raise BadInput(f"expected one attack, got {', '.join(attacks)}; run the command once for each")
    (name,) = attacks
    model, source = open_both(spec.classifier, spec.checkpoint, spec.images, spec.limit, spec.precision, spec.background)
    how: dict[str, Any] = {"seed": spec.seed, "lanes": spec.lanes, "report": report, "target": spec.target, "keep_x_adv": True}
    plan = planned(model, source, attacks, labels="set" if source.labels else "prediction", **how)
    meta = record(model, source, **told_by(spec), **of_attacks(plan))

    def stretch(unit: Unit) -> Unit:
        x_adv = stretched(unit.columns["x_adv"])
        seen, goal = predictions_of(model, x_adv)[0], unit.columns.get("target")
        reached = seen != unit.columns["label"] if goal is None else seen == goal
        good = np.asarray([error is None for error in unit.columns["error"]])
        return Unit({**unit.columns, "x_adv": x_adv, "success": good & reached}, unit.facts)

    names = {"x_adv": "x", "label": "y"}
    crafted = Kind(crafted_schema(source.shape), names, kept=True, meta=meta, change=stretch if spec.stretch else None)
    size = part_size(len(source), source.piece_size, 4 * math.prod(source.shape))

    def end(run: Run) -> Done:
        failed = succeeded = there = 0
        said = told(plan, run, run.cut.parts)
        with _archive(spec, source, meta | begin_with(said)) as write:
            for part in run.cut.parts:
                columns = run.read(name, part).columns
                good = np.asarray([error is None for error in columns["error"]])
                goal = {"target": columns["target"]} if plan.aims(name) else {}
                write(x=columns["x_adv"], y=columns["label"], **{key: columns[key] for key in ("success", "index", "error")}, **goal)
                failed += int((~good).sum())
                succeeded += int(columns["success"][good].sum())
                there += int((columns["success"] & (columns["iterations"] == 0))[good].sum())
            refuse_nothing(plan, run, name, failed)
        before = {"at the target to begin with": there} if plan.aims(name) else {"wrong to begin with": said.wrong or 0}
        summary = {"out": str(spec.out), "images": len(source), "failed": failed, "success rate": succeeded / (len(source) - failed)}
        return Done({**summary, **before}, failed, [*source.choices, *said.notes])

    return Job(spec, plan, source, meta, predictions(plan) | {name: crafted}, work, end, size=size)


@contextmanager
def _archive(spec: AttackSpec, source: ImageSource, meta: Mapping[str, Any]) -> Generator[Callable[..., None]]:
    """Write crafted images as one file; a result that is a folder is there already."""
    if is_folder(spec):
        yield lambda **_: None
    else:
        with npz_writer(spec.out, len(source), source.shape, meta, spec.force) as write:
            yield write


def chosen(spec: AttacksSpec, role: presets.Role, text: str) -> dict[str, Attack]:
    """The attacks of a job, with the settings that are given instead of the preset's."""
    preset = presets.named(spec.preset, spec.plugin)
    flags = {"max_steps": spec.max_steps, "epsilon": spec.epsilon, "step_size": spec.step_size}
    return specs.attacks(text, getattr(preset, role), flag, **flags)


def flag(setting: str) -> str:
    """What the command line calls a setting."""
    return "--" + setting.replace("_", "-")


def told_by(spec: PredictSpec | AttacksSpec | Any) -> dict[str, Any]:
    """What a table keeps of its spec: all of it, and apart from it what tables are compared by."""
    alone = {
        name: getattr(spec, name) for name in ("classifier", "precision", "preset", "seed", "stretch", "target") if hasattr(spec, name)
    }
    return {**alone, "spec": {"job": type(spec).__name__.removesuffix("Spec").lower(), **spec.as_json()}}


def of_attacks(plan: Plan) -> dict[str, Any]:
    """What a table keeps of the attacks: every setting, the norms of their distances, and whose labels they left."""
    norms = {name: attack.norm for name, attack in plan.attacks.items()}
    return {"attacks": specs.settings_of(plan.attacks), "norms": norms, "labels": plan.labels}


def begin_with(said: Told) -> dict[str, int]:
    """Images that were misclassified before any attack, of a set that has labels."""
    return {} if said.wrong is None else {"wrong to begin with": said.wrong}


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


def _without_nothing(unit: Unit) -> Unit:
    """A radius that is infinite, or that an attack does not have, is no value in a table."""
    return Unit({**unit.columns, "crossing": np.ma.masked_invalid(unit.columns["crossing"])}, unit.facts)


def _cost_rows(found: Measured, plan: Plan, spec: CostSpec) -> dict[str, object]:
    """Rows of some images, those of one image together."""
    names = list(found.results)
    n = len(found.index)

    def each(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, len(names))

    columns: dict[str, object] = {
        field: np.stack([getattr(result, field) for result in found.results.values()], axis=1).ravel()
        for field in ("cost", "iterations", "success", "censored", "forward_queries", "backward_queries", "distance")
    }
    columns["crossing"] = np.ma.masked_invalid(np.stack([result.crossing for result in found.results.values()], axis=1).ravel())
    nobody = np.ma.masked_array(np.zeros(n, np.int64), mask=True)
    aims = [found.target if found.target is not None and plan.aims(name) else nobody for name in names]
    return columns | {
        "index": each(found.index),
        "id": [name for name in found.id for _ in names],
        "fingerprint": each(found.fingerprint),
        "attack": names * n,
        "label": each(found.label),
        "target": np.ma.stack(aims, axis=1).ravel(),
        "preset": [spec.preset] * (n * len(names)),
        "seed": [spec.seed] * (n * len(names)),
        "error": [error for error in found.error for _ in names],
    }
