"""The pages of the API reference: one for each public module, or for a few that belong together."""

import importlib
from collections.abc import Sequence
from typing import NamedTuple

from experiments.site.attacks import ATTACKS


class Page(NamedTuple):
    """One page: its title, what it begins with, the modules whose public names it has, and which of the first module's come first."""

    title: str
    text: str
    modules: Sequence[str]
    first: Sequence[str] = ()


PAGES = {
    "costs": Page(
        "Defense and costs",
        "From images to costs to verdicts. Most programs need `Defense` and `costs` alone.",
        ["a2d_jax.costs", "a2d_jax.costs.measured.measured"],
        ["Defense", "FittedDefense", "Verdicts", "costs", "examples", "predict", "predictions"],
    ),
    "classifiers": Page(
        "Classifiers", "How a network becomes a `Classifier`, which knows only pixels and logits.", ["a2d_jax.classifiers"]
    ),
    "types": Page("Types", "What an attack reads and gives. Shapes are of one image unless an axis `n` is named.", ["a2d_jax.types"]),
    "attacks": Page(
        "Attacks",
        "Each attack has a page with its formula, settings, source and peers:\n\n"
        + "\n".join(f"- [{page.title}](../attacks/{module}.md)" for module, page in ATTACKS.items()),
        ["a2d_jax.attacks.path"],
    ),
    "drivers": Page("Drivers", "The loops that run an attack.", ["a2d_jax.drivers"]),
    "detectors": Page(
        "Detectors", "[How to choose](../detectors.md) compares them.", ["a2d_jax.detectors", "a2d_jax.detectors.shift.shift"]
    ),
    "adaptive": Page("Adaptive attacks", "[How to audit a detector](../audit.md) uses them.", ["a2d_jax.adaptive"]),
    "robustness": Page("CLEVER", "A robustness score that needs no attack.", ["a2d_jax.robustness.clever", "a2d_jax.robustness.weibull"]),
    "metrics": Page("Metrics", "Higher scores are more adversarial, everywhere.", ["a2d_jax.metrics"]),
    "measurements": Page("Measurements", "What numbers of attacks are called, and what a failure counts as.", ["a2d_jax.measurements"]),
    "mathematics": Page("Norms and losses", "Functions of one image or of its logits.", ["a2d_jax.norms", "a2d_jax.losses"]),
    "nn": Page("Layers", "Layers for Flax networks whose input gradients are fast on a CPU.", ["a2d_jax.nn"]),
    "presets": Page("Presets and settings as text", "Attacks and detectors by name and from text.", ["a2d_jax.presets", "a2d_jax.specs"]),
    "io": Page(
        "Files",
        "Images, checkpoints, detectors and tables.",
        [
            "a2d_jax.io.datasets",
            "a2d_jax.io.images",
            "a2d_jax.io.source",
            "a2d_jax.io.photographs",
            "a2d_jax.io.checkpoints",
            "a2d_jax.io.convert",
            "a2d_jax.io.class_names",
            "a2d_jax.io.detectors",
            "a2d_jax.io.measurements",
            "a2d_jax.io.tables",
            "a2d_jax.io.provenance",
        ],
    ),
    "scale": Page(
        "Large jobs",
        "[Large jobs](../large_jobs.md) says how to use them from the command line.",
        ["a2d_jax.scale.runs", "a2d_jax.scale.engines", "a2d_jax.scale.steps"],
    ),
    "jobs": Page(
        "Commands as functions",
        "Each command is a spec, and `run` does it.",
        ["a2d_jax.jobs", *(f"a2d_jax.jobs.spec.{name}" for name in ("OutputSpec", "TablesSpec", "PartsSpec", "ImagesSpec", "AttacksSpec"))],
    ),
    "report": Page("Figures and pages", "They need the extra `report`.", ["a2d_jax.report"]),
    "errors": Page("Errors and notes", "What user errors and odd inputs raise and warn.", ["a2d_jax.errors"]),
}

INDEX = """# API reference

The pages are made from the docstrings. Each one has the public names of a module, or of a few that belong together.

**Shapes** are annotations of jaxtyping: `Float[Array, "h w c"]` is an array of floating-point numbers with axes h, w and c. `n` is the
number of images, `k` the number of classes, `*n` any number of leading axes, and `""` a single number. **Units**: pixels lie in [0, 1] and
radii are in pixel units (8/255 = 0.031), unless a text says otherwise; `rms` is the root mean square over all scalars. A cost counts
updates.

"""


def pages() -> dict[str, str]:
    """Text by name of page."""
    rows = [f"| [{page.title}]({name}.md) | {', '.join(f'`{one}`' for one in page.modules)} |" for name, page in PAGES.items()]
    made = {"reference/index.md": INDEX + "\n".join(["| page | modules |", "|---|---|", *rows]) + "\n"}
    for name, page in PAGES.items():
        made[f"reference/{name}.md"] = "\n\n".join([f"# {page.title}", page.text, *_directives(page)]) + "\n"
    return made


def _directives(page: Page) -> list[str]:
    """What mkdocstrings reads."""
    lines = [f"::: {one}" for one in page.modules]
    if page.first:
        public = importlib.import_module(page.modules[0]).__all__
        apart = {one.rpartition(".")[2] for one in page.modules[1:]}
        ordered = [*page.first, *(name for name in public if name not in {*page.first, *apart})]
        lines[0] += f"\n    options:\n      group_by_category: false\n      members: [{', '.join(ordered)}]"
    return lines
