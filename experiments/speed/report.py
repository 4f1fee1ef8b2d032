"""From measurements to a table, a plot and JSON. Ratios are the result; costs are compared before time is."""

import os
import platform
from collections.abc import Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from experiments.speed.contestants import CONTESTANTS, Counted
from experiments.speed.processes import Measured, Run

REFERENCE = "torch-queue"  # whose costs the others must have, and whose speed they are compared with
ONE = "torch-one"
EQUAL, FARTHEST = 0.95, 5  # least share of equal costs, largest difference


class Row(NamedTuple):
    """What the table says of a contestant."""

    name: str
    title: str
    variant: str
    images: int  # that it was run on
    equal: float  # share of costs that are those of the reference
    farthest: int  # largest difference
    seconds: float  # for all images, median of the runs; scaled by the number of steps where only some were run
    fastest: float
    slowest: float
    steps: int  # for all images
    lane_fraction: float | None  # useful steps per executed lane step
    cpu_seconds: float  # processor time for all images, all threads, median
    warm_up: float

    @property
    def agrees(self) -> bool:
        """Its costs are those of the reference, but for rounding: only then is its time worth a look."""
        return self.equal >= EQUAL and self.farthest <= FARTHEST

    @property
    def microseconds(self) -> float:
        """Per useful step."""
        return self.seconds / self.steps * 1e6


def rows(measured: Mapping[str, Measured]) -> list[Row]:
    """One row per contestant."""
    reference = measured[REFERENCE].runs[0].counted
    return [_row(name, measured[name], reference.costs) for name in measured]


def _row(name: str, measured: Measured, reference: np.ndarray) -> Row:
    first = measured.runs[0].counted
    expected = np.minimum(reference, first.max_steps + 1)  # as a contestant with a shorter budget must have them
    here = expected[: len(first.costs)]
    gap = np.abs(first.costs - here) if first.counts else (first.costs > first.max_steps) != (here > first.max_steps)
    steps = Counted(expected, first.max_steps).steps
    useful = Counted(here, first.max_steps).steps
    share = useful / steps if first.counts else len(here) / len(expected)  # of the work that was done
    seconds = np.array([run.seconds for run in measured.runs]) / share
    return Row(
        name=name,
        title=CONTESTANTS[name].title,
        variant=measured.runs[0].variant,
        images=len(first.costs),
        equal=float(np.mean(gap == 0)),
        farthest=int(gap.max()),
        seconds=float(np.median(seconds)),
        fastest=float(seconds.min()),
        slowest=float(seconds.max()),
        steps=steps,
        lane_fraction=None if first.lane_steps is None else useful / first.lane_steps,
        cpu_seconds=float(np.median([run.cpu_seconds for run in measured.runs])) / share,
        warm_up=measured.warm_up,
    )


def table(title: str, lines: list[Row], images: int) -> Table:
    """The table of a work."""
    by_name = {row.name: row for row in lines}
    note = (
        f"equal, gap: costs (of peers that do not count: success) beside those of {by_name[REFERENCE].title}; "
        f"no ratio unless at least {EQUAL:.0%} are equal and the largest gap "
        f"is at most {FARTHEST}. us/step: per step of an image that is not done; cpu: processor time of all threads. useful: share of the "
        f"executed steps. x one, x torch: times as fast as the first and the second row; cpu x torch: that in processor time. The first "
        f"row ran on {by_name[ONE].images} images and is scaled by the number of steps; peers that make every step ran on some batches and "
        f"are scaled by the number of images. One process each, in turn; medians."
    )
    out = Table(title=f"{title}, {images} images", caption=note, caption_justify="left")
    columns = ["equal", "gap", "images/s", "us/step", "cpu us/step", "useful", "warm-up s", "x one", "x torch", "cpu x torch"]
    for column in ("contestant", "best variant", *columns):
        out.add_column(column, justify="left" if column in ("contestant", "best variant") else "right")
    one, reference = by_name[ONE], by_name[REFERENCE]
    for row in lines:
        ratios = (one.seconds / row.seconds, reference.seconds / row.seconds, reference.cpu_seconds / row.cpu_seconds)
        out.add_row(
            row.title,
            row.variant,
            f"{row.equal:.1%}",
            f"{row.farthest}",
            f"{images / row.seconds:.1f}",
            f"{row.microseconds:.1f}",
            f"{row.cpu_seconds / row.steps * 1e6:.1f}",
            "" if row.lane_fraction is None else f"{row.lane_fraction:.3f}",
            f"{row.warm_up:.1f}",
            *(f"{ratio:.2f}" if row.agrees else "differs" for ratio in ratios),
        )
    return out


def check_lines(checks: Mapping[str, Any]) -> list[str]:
    """The checks in words."""
    limit, traces = checks["limit"], checks["traces"]
    said = [
        f"bare jitted gradient: {limit['best']:.1f} us per image at its best batch size; a step of stream, in turn with it, "
        f"{limit['step']:.1f} us ({limit['ratio']:.2f}x)",
        f"traces: {traces['first']} for the first job, {traces['more']} more for other epsilon, step, budget and weights",
    ]
    if "growth" in checks:
        growth = checks["growth"]
        paces = ", ".join(f"{n} images {us:.1f}" for n, us in zip(growth["images"], growth["microseconds"], strict=True))
        said.append(f"growth: {paces} us per step ({growth['ratio']:.2f}x)")
    if "start" in checks:
        start = checks["start"]
        said.append(f"first costs {start['cold']:.1f} s after the start of a process, {start['warm']:.1f} s if compiled programs are kept")
    if "processes" in checks:
        one, two = checks["processes"]["images_per_second"]
        said.append(f"one process on one core: {one:.1f} images/s; two on two cores: {two:.1f} ({two / one:.2f}x)")
    if "memory" in checks:  # measured with LeNet-5 only
        memory = checks["memory"]
        said.append(
            f"peak memory: {memory['images'][0]} images {memory['megabytes'][0]:.0f} MB, {memory['images'][1]} images "
            f"{memory['megabytes'][1]:.0f} MB ({memory['ratio']:.2f}x)"
        )
    return said


def plot(title: str, lines: list[Row], measured: Mapping[str, Measured], images: int, limit: float, path: Path) -> None:
    """Images per second of each contestant, and what each variant tried takes per step."""
    figure = Figure(figsize=(14, 0.5 * sum(len(m.tried) for m in measured.values()) / 2 + 3), layout="constrained")
    FigureCanvasAgg(figure)
    speed, tried = figure.subplots(1, 2)
    colours = {row.name: "tab:blue" if row.name.startswith(("run", "stream")) else "tab:orange" for row in lines}
    names = [row.title for row in lines]
    speed.barh(names, [images / row.seconds for row in lines], color=[colours[row.name] for row in lines])
    for number, row in enumerate(lines):
        speed.plot([images / row.slowest, images / row.fastest], [number, number], color="black", linewidth=1)
        speed.annotate(
            f" {images / row.seconds:.3g}", (images / row.fastest, number), va="center", xytext=(2, 0), textcoords="offset points"
        )
    speed.set(xscale="log", xlabel="images per second; line: slowest to fastest run")
    slowest, fastest = (pick(images / row.seconds for row in lines) for pick in (min, max))
    speed.set_xlim(slowest / 3, fastest * 4)
    speed.invert_yaxis()

    labels, times, shades = [], [], []
    for row in lines:
        if row.name == ONE:
            continue
        for run in measured[row.name].tried:
            labels.append(f"{row.name}: {run.variant}")
            times.append(run.pace * 1e6)
            shades.append(colours[row.name])
    tried.barh(labels, times, color=shades)
    tried.axvline(limit, color="black", linestyle="--", label="our bare gradient")
    tried.set(xlabel="us per step, on a short budget")
    tried.set_title("variants tried")
    tried.invert_yaxis()
    tried.legend()
    figure.suptitle(f"{title}, {images} images; orange: PyTorch, blue: ours")
    figure.savefig(path, dpi=120)


def record(lines: list[Row], measured: Mapping[str, Measured], checks: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything as JSON."""
    return {
        "settings": dict(settings),
        "machine": machine(),
        "rows": [row._asdict() | {"agrees": row.agrees, "microseconds_per_step": row.microseconds} for row in lines],
        "tried": {name: [_brief(run) for run in each.tried] for name, each in measured.items()},
        "runs": {name: [_brief(run) for run in each.runs] for name, each in measured.items()},
        "checks": dict(checks),
    }


def machine() -> dict[str, Any]:
    """Where and with what this was measured."""
    packages = ("a2d-jax", "jax", "jaxlib", "flax", "numpy", "torch")
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "device": jax.devices()[0].device_kind,  # PyTorch's is in the names of its variants
        "cores": os.cpu_count(),
        "threads": "PyTorch: as the variant says, peers 2; JAX: all cores",
        "precision": "float32",
        "load_average": os.getloadavg(),
        "versions": {name: metadata.version(name) for name in packages},
    }


def show(out: Table, lines: list[str], console: Console) -> None:
    """Print."""
    console.print(out)
    for line in lines:
        console.print(line)


def _brief(run: Run) -> dict[str, Any]:
    return {"variant": run.variant, "seconds": run.seconds, "cpu_seconds": run.cpu_seconds, "steps": run.counted.steps}
