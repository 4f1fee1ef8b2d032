"""Speed of attack costs against PyTorch, as ratios within one run.

    make bench        or        python -m experiments.speed [--work NAME] [--images N] [--repeats N] [--quick] [--brief] [--out DIR]

Every contestant (`contestants.py`) does the same work (`works.py`) in its own process: first all its variants once on a short budget, then
the best variant in turn with the other contestants. Costs must agree before time is compared. The benchmark prints a table and the checks
of `checks.py`, and writes `WORK.png` and `WORK.json` to DIR. It needs the `bench` extra and the data sets where `a2d_jax.io.datasets` finds
them. Libraries that are not installed are left out. torchattacks requires old versions of other packages: `pip install --no-deps
torchattacks`. If both frameworks see an accelerator, all contestants use it, in turn, in their default float32.

Run time: about 11 minutes on 2 cores with little other load. On a busy machine PyTorch's two threads wait for each other, and every
ratio is too good for us: check the load average in `WORK.json`. Results: docs/performance.md.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from rich.console import Console

from a2d_jax.console import run
from a2d_jax.errors import BadInput
from experiments.speed import checks, report
from experiments.speed.contestants import CONTESTANTS
from experiments.speed.processes import measure
from experiments.speed.works import WORKS, Sources


@dataclass
class Settings:
    """Compare the speed of attack costs with PyTorch's."""

    images: int = 512
    """Number of images."""
    repeats: int = 3
    """Number of timed runs of each contestant's best variant."""
    quick: bool = False
    """Fewer variants, 64 images, one run, only to see that the benchmark works."""
    brief: bool = False
    """Run only two checks: the distance to the limit, and the traces. Growth, start, processes and memory are left out."""
    work: str = "lenet5-mnist-bim"
    """Name of the work (`works.py`)."""
    checkpoint: Path | None = None
    """Weights of ResNet-20, for its work."""
    photographs: Path | None = None
    """Folder of photographs, for the work of EfficientNet-Lite0."""
    out: Path = Path("bench-output")
    """Folder for the plot and the JSON."""


def main(settings: Settings) -> int:
    """Measure, compare, print, write; 1 if costs disagree."""
    console = Console(width=None if sys.stdout.isatty() else 190)
    if settings.work not in WORKS:
        raise BadInput(f"expected a work among {', '.join(WORKS)}, got {settings.work!r}")
    if settings.images < 1 or settings.repeats < 1:
        raise BadInput(f"expected at least one image and one repeat, got {settings.images} and {settings.repeats}")
    images, repeats = (min(settings.images, 64), 1) if settings.quick else (settings.images, settings.repeats)
    work = WORKS[settings.work](images, Sources(settings.checkpoint, settings.photographs))
    load = os.getloadavg()

    measured = measure([name for name, one in CONTESTANTS.items() if one.takes(work)], work, repeats, settings.quick, console.print)
    lines = report.rows(measured)
    checked = checks.check(work, memory_images=100 if settings.quick else 1000, brief=settings.brief)
    report.show(report.table(work.title, lines, images), report.check_lines(checked), console)

    settings.out.mkdir(parents=True, exist_ok=True)
    plot, record = (settings.out / f"{settings.work}.{ending}" for ending in ("png", "json"))
    report.plot(work.title, lines, measured, images, checked["limit"]["best"], plot)
    paths = {name: str(value) for name, value in asdict(settings).items() if isinstance(value, Path)}
    told = asdict(settings) | paths | {"images": images, "repeats": repeats, "seed": 0, "load_average_before": load}
    record.write_text(json.dumps(report.record(lines, measured, checked, told), indent=1))
    console.print(f"wrote {plot} and {record}")
    return 0 if all(row.agrees for row in lines) else 1


if __name__ == "__main__":
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # this process makes the images, and others want the card too
    sys.exit(run("experiments.speed", lambda: main(tyro.cli(Settings, description=__doc__))))
