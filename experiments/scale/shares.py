"""Two processes that share a job, against one process with two devices.

    python -m experiments.scale.shares --classifier models.lenet:lenet5 --checkpoint lenet5 --images t10k-images-idx3-ubyte

One `a2d cost` runs on two cores with a device for each. Then two processes, each on a core of its own, do one half of the parts each
(`--share 1/2`, `--share 2/2`). Both are done `--rounds` times in turn, and the best times are compared; programs are compiled before.

Run time: four times that of the job.
Expected (LeNet-5, 4,000 digits, bim, 2 cores): see docs/scale.md.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from a2d_jax.console import run


@dataclass
class Args:
    """Compare two processes with one."""

    classifier: str
    """Import string `module:factory`."""
    images: Path
    """Images, as for `a2d cost`."""
    checkpoint: Path | None = None
    """Orbax folder with the weights."""
    attacks: str = "bim"
    """Attacks, as for `a2d cost`."""
    limit: int = 4000
    """Number of images."""
    rounds: int = 2
    """How often both are timed."""
    out: Path = Path("shares")
    """Folder for the tables. It is replaced."""


def main(args: Args) -> dict[str, float]:
    """Measure, print and return seconds and their ratio."""
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    ways = {"one process, two devices": [None], "two processes": ["1/2", "2/2"]}
    for name, shares in ways.items():  # programs are compiled
        timed(args, shares, f"warm-{name}", 200)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(args.rounds):
        for name, shares in ways.items():
            seconds[name].append(timed(args, shares, f"{number}-{name}", args.limit))
            print(json.dumps({"way": name, "seconds": seconds[name][-1]}), flush=True)
    best = {name: min(times) for name, times in seconds.items()}
    found = {**best, "two processes over one": best["two processes"] / best["one process, two devices"]}
    print(json.dumps(found))
    return found


def timed(args: Args, shares: list[str | None], name: str, limit: int) -> float:
    """Seconds until all shares are done."""
    out = args.out / f"{name.replace(' ', '-')}.parquet"
    command = [sys.executable, "-m", "a2d_jax", "cost", "--classifier", args.classifier, "--images", str(args.images), "--out", str(out)]
    command += ["--attacks", args.attacks, "--limit", str(limit), *(["--checkpoint", str(args.checkpoint)] if args.checkpoint else [])]
    cores = sorted(os.sched_getaffinity(0))[:2]
    begin = time.perf_counter()
    processes = [
        subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, cores if share is None else [core])), *command, *(["--share", share] if share else [])],
            stdout=subprocess.DEVNULL,
        )
        for share, core in zip(shares, cores, strict=False)
    ]
    codes = [process.wait() for process in processes]
    if any(codes) or not out.exists():
        raise SystemExit(f"a share ended with {codes}")
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(run("experiments.scale.shares", lambda: main(tyro.cli(Args)) and 0))
