"""Plan a large job: hours and devices for a million images, from the costs of a sample, and where more devices stop helping.

    python -m experiments.scale.plan --costs photographs.parquet --step 0.035 --decode 0.006
    python -m experiments.scale.plan --check --classifier models.lenet:lenet5 --checkpoint lenet5 --set t10k-images-idx3-ubyte

The sample says how many steps each attack needs (`a2d cost`, column `backward_queries`: gradients). Each image of the job is drawn from it.
A device keeps a number of lanes; a lane that is free takes the next image, as `drivers.stream` does: its time is that of a list schedule.
A step of all lanes takes as long as they need for one gradient each. A host decodes images beside its devices, and reads each image once
for each measurement. To these come the start of a process (import, compilation, opening the set) and the listing of the set. The job is
done when its slowest device is done. Efficiency is the time of perfect division over that time.

`--check` compares the simulation with what happens here: it measures the costs of some images and the time of a step, simulates two
devices, and times the same job with `--share 1/2` and `--share 2/2` on two cores.

Run time: seconds; with `--check` some minutes.
Expected: docs/scale.md.
"""

import heapq
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import tyro

from a2d_jax.console import run
from a2d_jax.errors import BadInput


@dataclass(frozen=True)
class Machine:
    """What the time of a job depends on, beside its images.

    Attributes:
      step: seconds of a gradient of one image on one device, its lanes together: `lanes` images take `lanes * step`.
      decode: seconds of one core of a host to read and decode an image.
      devices_of_host: devices that one host feeds.
      cores_of_host: cores that decode.
      lanes: images that a device works on at the same time.
      start: seconds until a process begins to work.
      listing: seconds to list a set, for each image.
    """

    step: float
    decode: float
    devices_of_host: int = 8
    cores_of_host: int = 96
    lanes: int = 256
    start: float = 60
    listing: float = 5e-6


@dataclass
class Args:
    """Plan a large job."""

    costs: Path | None = None
    """Table of `a2d cost` for a sample of the images."""
    step: float = 0.035
    """Seconds of one gradient of one image on one device."""
    decode: float = 0.006
    """Seconds of one core to read and decode an image."""
    lanes: int = 256
    """Images that a device works on at the same time."""
    devices_of_host: int = 8
    """Devices that one host feeds."""
    cores_of_host: int = 96
    """Cores of a host that decode images."""
    start: float = 60
    """Seconds until a process begins to work."""
    images: int = 1_281_167
    """Images of the job."""
    devices: tuple[int, ...] = (1, 8, 256, 4096)
    """Numbers of devices."""
    seed: int = 0
    """Seed of the drawn images."""
    check: bool = False
    """Compare the simulation with two processes on this machine."""
    classifier: str = "models.lenet:lenet5"
    """Import string of the network, for `--check`."""
    checkpoint: Path | None = None
    """Its weights."""
    set: Path | None = None
    """Images, for `--check`."""
    limit: int = 3000
    """Number of images, for `--check`."""
    out: Path = Path("plan")
    """Folder for the tables of `--check`."""


def main(args: Args) -> list[dict[str, object]]:
    """Simulate, print and return the plan."""
    if args.check:
        return [check(args)]
    if args.costs is None:
        raise BadInput("expected the costs of a sample, got none; pass --costs, a table of `a2d cost`")
    machine = Machine(args.step, args.decode, args.devices_of_host, args.cores_of_host, args.lanes, args.start)
    rows: list[dict[str, object]] = []
    for name, steps in gradients(args.costs).items():
        drawn = np.random.default_rng(args.seed).choice(steps, args.images)
        for devices in args.devices:
            rows.append({"attack": name, "gradients an image": float(steps.mean()), **simulated(drawn, devices, machine)})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def gradients(path: Path) -> dict[str, np.ndarray]:
    """Gradients that each attack needed on the images of a table, and on all attacks together."""
    table = pq.read_table(path, columns=["attack", "backward_queries", "error"]).to_pydict()
    found: dict[str, list[int]] = {}
    for name, count, error in zip(table["attack"], table["backward_queries"], table["error"], strict=True):
        if error is None:
            found.setdefault(name, []).append(count)
    return {name: np.asarray(counts) for name, counts in found.items()}


def simulated(steps: np.ndarray, devices: int, machine: Machine) -> dict[str, object]:
    """How long a job takes, and what bounds it.

    Args:
      steps: gradients that each image needs.
      devices: devices that share the images in consecutive blocks.
      machine: what the time depends on.
    """
    shares = np.array_split(steps, devices)
    longest = max(makespan(share, machine.lanes) for share in some(shares))
    hosts = math.ceil(devices / machine.devices_of_host)
    compute = longest * machine.lanes * machine.step
    decoding = 2 * len(steps) / hosts * machine.decode / machine.cores_of_host  # once to predict, once to attack
    fixed = machine.start + machine.listing * len(steps)
    total = fixed + max(compute, decoding)
    ideal = float(steps.sum()) * machine.step / devices
    times = {"gradients": ideal, "tail": compute - ideal, "decode": decoding, "start and listing": fixed}
    return {
        "devices": devices,
        "hours": total / 3600,
        "efficiency": ideal / total,
        "bound by": max(times, key=times.__getitem__),
        "hours of decoding": decoding / 3600,
        "hours in the tail": max(compute - ideal, 0) / 3600,
    }


def some(shares: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The shares with the most work: one of them ends last."""
    return sorted(shares, key=lambda share: -int(share.sum()))[:8]


def makespan(steps: np.ndarray, lanes: int) -> int:
    """Steps until all images are done, if a free lane takes the next one."""
    free = [0] * min(lanes, max(len(steps), 1))
    for count in steps.tolist():
        heapq.heappush(free, heapq.heappop(free) + count)
    return max(free)


def check(args: Args) -> dict[str, object]:
    """Simulate two devices of this machine, and time the same job in two processes."""
    if args.set is None:
        raise BadInput("expected images to check with, got none; pass --set")
    args.out.mkdir(parents=True, exist_ok=True)
    cores = sorted(os.sched_getaffinity(0))[:2]
    command = [
        sys.executable,
        "-m",
        "a2d_jax",
        "cost",
        "--classifier",
        args.classifier,
        "--images",
        str(args.set),
        "--attacks",
        "bim",
        "--force",
    ]
    command += ["--checkpoint", str(args.checkpoint)] if args.checkpoint else []

    def seconds(out: Path, limit: int, shares: Sequence[str | None]) -> float:
        begin = time.perf_counter()
        processes = []
        for core, share in zip(cores, shares, strict=False):
            words = [*command, "--out", str(out), "--limit", str(limit), *(["--share", share] if share else [])]
            processes.append(subprocess.Popen(["taskset", "-c", str(core), *words], stdout=subprocess.DEVNULL))
        if any(process.wait() for process in processes):
            raise BadInput("expected both processes to end well, got another exit code; look at their messages")
        return time.perf_counter() - begin

    few = args.limit // 4
    seconds(args.out / "warm.parquet", 200, [None])  # programs are compiled
    begin = seconds(args.out / "start.parquet", 64, [None])
    one = seconds(args.out / "one.parquet", few, [None])
    sample = gradients(args.out / "one.parquet")["bim"]
    first = gradients(args.out / "start.parquet")["bim"]
    lanes = 32
    step = (one - begin) / (makespan(sample, lanes) - makespan(first, lanes)) / lanes
    drawn = np.random.default_rng(args.seed).choice(sample, args.limit)
    longest = max(makespan(share, lanes) for share in np.array_split(drawn, 2))
    expected = begin - makespan(first, lanes) * lanes * step + longest * lanes * step
    took = seconds(args.out / "two.parquet", args.limit, ["1/2", "2/2"])
    found = {
        "images": args.limit,
        "seconds of a gradient": step,
        "seconds, simulated": expected,
        "seconds, measured": took,
        "measured over simulated": took / expected,
    }
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    sys.exit(run("experiments.scale.plan", lambda: main(tyro.cli(Args)) and 0))
