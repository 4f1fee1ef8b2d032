"""Comparison with PyTorch on the same card: the contestants of `python -m experiments.speed`, in turn."""

import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from experiments.speed import checks, report
from experiments.speed.accelerator.job import Job
from experiments.speed.accelerator.material import lenet5, of_photographs, resnet20
from experiments.speed.contestants import CONTESTANTS, PRECISION
from experiments.speed.processes import measure
from experiments.speed.works import Work, save


class Race(NamedTuple):
    """A work and the time that is worth it."""

    name: str
    make: Callable[[Job, int], Work]
    images: int
    seconds: float  # about what it takes on a card
    tf32: bool = False
    quick: bool = False  # fewer variants
    tiny: bool = False  # on a CPU too


RACES = (
    Race("LeNet-5, BIM", lambda job, count: lenet5("bim", count), 2000, 45, quick=True, tiny=True),
    Race("ResNet-20, BIM", resnet20, 2000, 45, quick=True),
    Race("ResNet-50, BIM", lambda job, count: of_photographs("resnet50", count, 20), 512, 60, tf32=True, quick=True),
    Race("LeNet-5, JSMA", lambda job, count: lenet5("jsma", count), 2000, 45, quick=True),
    Race("LeNet-5, BIM, all variants", lambda job, count: lenet5("bim", count), 2000, 100),
    Race("ResNet-20, BIM", resnet20, 2000, 45, tf32=True, quick=True),
    Race("ResNet-50, BIM", lambda job, count: of_photographs("resnet50", count, 20), 512, 60, quick=True),
    Race("EfficientNet-Lite0, BIM", lambda job, count: of_photographs("efficientnet_lite0", count, 20), 512, 60, quick=True),
    Race("ResNet-20, BIM, all variants", resnet20, 2000, 100),
)
"""In order of value."""


def fast(job: Job) -> None:
    """Ratios, images a second, useful lanes, a step over the bare gradient."""
    if importlib.util.find_spec("torch") is None:
        job.tell("all", "left out: PyTorch is not installed", skipped=True)
        return
    for race in RACES:
        what = f"{race.name}, {'TF32' if race.tf32 else 'float32'}"
        if (job.tiny and not race.tiny) or not job.fits(what, 1 if job.tiny else race.seconds):
            continue
        os.environ[PRECISION] = "tensorfloat32" if race.tf32 else "highest"
        _run(job, what, race)


def _run(job: Job, what: str, race: Race) -> None:
    work = race.make(job, 8 if job.tiny else race.images)
    if job.tiny:
        work = work._replace(attack=type(work.attack)(**{**vars(work.attack), "max_steps": 20}))
    names = ["torch-queue", "stream"] if job.tiny else [name for name, one in CONTESTANTS.items() if one.takes(work)]
    names = [name for name in names if name != "stream-bound"]
    measured = measure(names, work, 1, race.quick, lambda text: job.tell(f"{what}, tried", text))
    rows = report.rows(measured)
    by_name = {row.name: row for row in rows}
    for row in rows:
        times = {of: by_name[of].seconds / row.seconds for of in ("torch-one", "torch-queue") if of in by_name}
        useful = "" if row.lane_fraction is None else f", useful {row.lane_fraction:.3f}"
        job.tell(
            f"{what}: {row.title}",
            f"{row.variant}: {len(work.x) / row.seconds:.0f} images/s, {row.microseconds:.2f} us a step{useful}, equal {row.equal:.1%}, "
            f"gap {row.farthest}" + "".join(f", {times[of]:.2f} x {of}" for of in times) + ("" if row.agrees else " (costs differ)"),
            work=work.title,
            images_per_second=len(work.x) / row.seconds,
            agrees=bool(row.agrees),
            times=times,
            tried={run.variant: run.pace * 1e6 for run in measured[row.name].tried},
            **{name: getattr(row, name) for name in ("microseconds", "lane_fraction", "equal", "farthest", "warm_up")},
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "work.npz"
        save(work, path)
        if not job.tiny and job.fits(f"{what}: a step over the bare gradient", 15):
            limit = checks.ask("limit", path, len(work.x))
            job.tell(
                f"{what}: a step over the bare gradient",
                f"{limit['ratio']:.2f} x ({limit['step']:.2f} us, bare {limit['best']:.2f} us an image at its best batch size)",
                **limit,
            )
