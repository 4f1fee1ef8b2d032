"""Measure the peak memory of `a2d cost` on few and on many images: it should not grow with the set.

    python -m experiments.scale.memory

It draws images of 8 x 8 pixels, writes them as one .npy file for each size, and runs `a2d cost` on each in a process of its own, with a
small network and an attack of a few steps. The table of the large set must not need more memory than 1.3 times that of the small one.

Run time: some minutes.
Expected (10,000 and 200,000 images, 2 cores): see docs/scale.md.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from a2d_jax.console import run

ROOT = Path(__file__).resolve().parents[2]
NET = """
import jax, jax.numpy as jnp
from a2d_jax.types import Classifier

def logits(variables, x):
    first, second = variables
    return jax.nn.relu(x.ravel() @ first) @ second

def net():
    first, second = jax.random.split(jax.random.key(0))
    return Classifier((jax.random.normal(first, (64, 16)), jax.random.normal(second, (16, 5))), logits)
"""
WORKER = """
import resource, sys
from a2d_jax.cli import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


@dataclass
class Args:
    """Measure the peak memory of a job."""

    images: tuple[int, ...] = (10_000, 200_000)
    """Sizes of the sets."""
    attacks: str = "bim:max_steps=5,newton"
    """Attacks, as for `a2d cost`."""
    out: Path = Path("memory")
    """Folder for images and tables."""


def main(args: Args) -> list[dict[str, float]]:
    """Measure, print and return seconds and memory by size."""
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "drawn_net.py").write_text(NET)
    found: list[dict[str, float]] = []
    for count in args.images:
        name = f"x-{count}.npy"
        np.save(args.out / name, np.random.default_rng(0).random((count, 8, 8, 1), np.float32))
        command = ["cost", "--classifier", "drawn_net:net", "--images", name, "--attacks", args.attacks]
        command += ["--out", f"c-{count}.parquet", "--force"]
        seconds, mebibytes = measured(command, args.out)
        found.append({"images": count, "seconds": seconds, "peak MiB": mebibytes})
        print(json.dumps(found[-1]), flush=True)
    print(f"peak memory of the largest set over that of the smallest: {found[-1]['peak MiB'] / found[0]['peak MiB']:.2f}")
    return found


def measured(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds and peak memory of an `a2d` command."""
    begin = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([sys.executable, "-c", WORKER, *command], cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return time.perf_counter() - begin, int(done.stdout.split()[-1]) / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    sys.exit(run("experiments.scale.memory", lambda: main(tyro.cli(Args)) and 0))
