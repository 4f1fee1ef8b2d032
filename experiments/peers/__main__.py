"""One table that compares all attacks with Foolbox, torchattacks, the Adversarial Robustness Toolbox and SciPy.

    python -m experiments.peers --checkpoint resnet20-12fca82f.th [--only TEXT] [--out docs/peers.md] [--results DIR]

It attacks LeNet-5 on MNIST digits and ResNet-20 on CIFAR-10 images, which `a2d_jax.io.datasets` finds. It uses each of our attacks and
every other library that has the attack, with the same settings. It needs the `bench` extra and `pip install --no-deps torchattacks==3.5.1`.
Each finished row is a step in the results folder (`a2d status DIR`) and is not run again: after an interruption the same command continues.
Other weights of ResNet-20 or other versions of the libraries need another folder.

Run time: see the end of the table.
"""

import os
import sys
import time
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from a2d_jax.console import run
from a2d_jax.io.checkpoints import arrays_digest
from a2d_jax.io.convert import read_arrays
from a2d_jax.io.files import atomic
from a2d_jax.io.provenance import versions
from a2d_jax.scale.steps import open_steps
from experiments.peers.rows import Row, rows
from experiments.peers.subject import Outcome, Subject, subject
from experiments.speed.works import lenet5_arrays

OURS = "ours"
RELEASES = {
    "Foolbox": "foolbox",
    "torchattacks": "torchattacks",
    "ART": "adversarial-robustness-toolbox",
    "SciPy": "scipy",
    "PyTorch": "torch",
    "JAX": "jax",
}
TITLES = {"mnist": "LeNet-5, MNIST test digits", "cifar10": "ResNet-20, CIFAR-10 test images"}


@dataclass
class Settings:
    """Compare every attack with other libraries."""

    checkpoint: Path
    """Weights of ResNet-20 for CIFAR-10."""
    out: Path = Path("docs/peers.md")
    """The page with the tables."""
    results: Path = Path("runs/peers")
    """Folder with the results of finished rows."""
    restart: bool = False
    """Remove the results folder, and run all rows again."""
    digits: int = 100
    """Number of MNIST images."""
    images: int = 20
    """Number of CIFAR-10 images."""
    only: str = ""
    """Run only rows with this text in their title. The page shows all finished rows."""


def main(settings: Settings) -> int:
    """Run what is missing, write the page."""
    console = Console()
    resnet20 = read_arrays(settings.checkpoint)
    weights = arrays_digest({(name,): array for name, array in resnet20.items()})
    identity = {"weights_sha256": weights, "versions": versions() | _versions()}
    steps = open_steps(settings.results, identity, settings.restart)
    for data, network, n in (("mnist", "lenet5", settings.digits), ("cifar10", "cifar_resnet20", settings.images)):
        attacked: Subject | None = None
        for row in rows(data):
            if settings.only not in row.title or steps.done(_key(data, n, row)):
                continue
            if attacked is None:
                arrays = lenet5_arrays() if data == "mnist" else resnet20
                attacked = subject(network, arrays, data, n)
            result = steps.once(_key(data, n, row), partial(_run, row, row.images(attacked)))
            console.print(f"{data}: {row.title}: " + "; ".join(f"{who} {_cell(runs, row)}" for who, runs in result["runs"].items()))
    counts = {"mnist": settings.digits, "cifar10": settings.images}
    with atomic(settings.out) as path:
        path.write_text(_page(steps.facts(), counts))
    console.print(f"wrote {settings.out}")
    return 0


def _run(row: Row, attacked: Subject) -> dict[str, Any]:
    """Success and distance of every run of ours and of the peers, and seconds of processor time of each."""
    runs: dict[str, list[Outcome]] = {}
    spent = {}
    for who in (OURS, *row.peers):
        begun = time.process_time()
        if who == OURS:
            runs[who] = [attacked.ours(row.attack, seed) for seed in range(row.seeds)]
        else:
            runs[who] = [row.peers[who](row.attack, attacked, seed) for seed in range(row.seeds)]
        spent[who] = round(time.process_time() - begun, 1)
    return {
        "n": len(attacked.label),
        "processor_seconds_of": spent,
        "runs": {
            who: [{"success": o.rate, "distance": o.median if np.isfinite(o.median) else None} for o in each] for who, each in runs.items()
        },
    }


def _page(done: dict[str, Any], counts: dict[str, int]) -> str:
    releases = ", ".join(f"{title} {version}" for title, version in _versions().items())
    dates = sorted({result["time"][:10] for result in done.values()})
    lines = [
        "# Attacks beside their peers",
        "",
        "`python -m experiments.peers` makes this page. It runs our attack and an independent implementation on the same images,",
        "with the same weights and settings. The framework that made an image judges its success. The distance is the median over",
        "all images in the norm of the attack. Failures count as infinitely far, and a dash means that half of them failed.",
        "`a to b` is the range over three seeds. Attacks within a fixed radius have no distance.",
        "",
        "Our boundary attack follows the schedule of Foolbox 1.8 and reproduces its costs ([results.md](results.md)). Foolbox 3",
        "adapts its steps in another way and comes nearer with as many queries. FMN in L2 is nearer here because Foolbox leaves",
        "out the projection onto the L2 ball.",
        "",
        f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, {os.cpu_count()} CPU cores, float32; {releases}." if dates else "",
    ]
    for data, title in TITLES.items():
        lines += [
            "",
            f"## {title}",
            "",
            "| attack | settings | n | ours: success, distance | peer: success, distance | peer |",
            "|---|---|---|---|---|---|",
        ]
        for row in rows(data):
            if (result := done.get(_key(data, counts[data], row))) is None:
                continue
            ours, *peers = result["runs"]
            for i, who in enumerate(peers):
                first = (row.title, row.settings, str(result["n"]), _cell(result["runs"][ours], row)) if i == 0 else ("", "", "", "")
                lines.append("| " + " | ".join((*first, _cell(result["runs"][who], row), who)) + " |")
    return "\n".join(lines) + "\n"


def _cell(runs: list[dict[str, float | None]], row: Row) -> str:
    rates = [f"{100 * run['success']:.4g}" for run in runs]
    text = f"{_range(rates)} %"
    if row.minimal:
        text += ", " + _range(["-" if run["distance"] is None else f"{run['distance']:.4g}" for run in runs])
    return text


def _range(values: list[str]) -> str:
    ordered = sorted(set(values), key=lambda v: float("inf") if v == "-" else float(v))
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"


def _key(data: str, n: int, row: Row) -> str:
    """What a result is of: other settings or another number of images are another result."""
    return f"{data} {n} {row.title} ({row.settings})"


def _versions() -> dict[str, str]:
    """Versions of the libraries that are compared, by the name that the page gives them."""
    installed = {one.metadata["Name"] for one in metadata.distributions()}
    return {title: metadata.version(name) for title, name in RELEASES.items() if name in installed}


if __name__ == "__main__":
    sys.exit(run("experiments.peers", lambda: main(tyro.cli(Settings))))
