"""Tables of millions of rows: seconds and peak memory of the commands that read them.

    python -m experiments.rows --folder DIR [--images N] [--attacks N] [--files N] [--detectors NAME ...]

DIR gets two folders as a large job leaves them (`MEASUREMENT/part-000123.parquet`): `benign` and `adversarial`, each with N images under
N attacks. Their costs are drawn: whole numbers, lognormal, at most 501, lower for adversarial images, and one image in a thousand carries
an error. Each command runs in a process of its own; its seconds include the start of Python, its memory is the largest resident set.

`fit` reads `benign` (k-NN reads both), `detect` judges `adversarial`, `eval` and `shift` compare both. The script prints a table in
Markdown and writes `rows.json` to DIR. Run time: 6 minutes of processor time for the default, 2.5 million images under 2 attacks in 600
files. Expected: the table of docs/scale.md; every command needs less than 60 s and 2 GiB.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from rich.console import Console

from a2d_jax.console import run, stage
from a2d_jax.io.tables import COSTS

ATTACKS = ("bim", "jsma", "ba", "cw")
MOST = 500
SETS = {"benign": 4.0, "adversarial": 3.4}
"""Mean of the logarithm of the costs of each set."""


@dataclass(frozen=True)
class Settings:
    """Measure the commands that read tables of millions of rows."""

    folder: Path
    """Where the tables and the results go; needs 200 MB for 5 million rows. Tables that are there are taken."""
    images: int = 2_500_000
    """Number of images of each set."""
    attacks: int = 2
    """Number of attacks on each image, at most 4."""
    files: int = 600
    """Number of files of each set, over all attacks."""
    detectors: tuple[str, ...] = ("zscore", "vote", "conformal", "knn")
    """Detectors to fit and to judge with."""
    commands: tuple[str, ...] = ("fit", "detect", "eval", "shift")
    """Commands to run."""


def main(settings: Settings) -> None:
    """Make the tables, run the commands, print what each needed."""
    console = Console(stderr=True)
    for name in SETS:
        with stage(console, f"{name}, images", settings.images) as done:
            make(settings.folder / name, name, settings)
            done(settings.images)
    rows: list[dict[str, object]] = []
    for command, options in commands(settings):
        found = measured([*command.split()[:1], *options])
        console.print(f"{command}: {found['seconds']:.1f} s, {found['processor']:.1f} s of processors, {found['mib']:.0f} MiB")
        rows.append({"command": command, **found})
    print("| command | seconds | processor seconds | peak memory, MiB |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['command']} | {row['seconds']:.0f} | {row['processor']:.0f} | {row['mib']:.0f} |")
    (settings.folder / "rows.json").write_text(json.dumps({"load": os.getloadavg(), "rows": rows}, indent=1) + "\n")


def make(folder: Path, name: str, settings: Settings) -> None:
    """Draw the table of a set, unless it is there."""
    if folder.exists():
        return
    random = np.random.default_rng(list(SETS).index(name))
    prints = random.integers(2**62, size=settings.images)
    borders = np.linspace(0, settings.images, settings.files // settings.attacks + 1).astype(int)
    for attack in ATTACKS[: settings.attacks]:
        (folder / attack).mkdir(parents=True)
        cost = np.minimum(random.lognormal(SETS[name], 0.5, settings.images), MOST + 1).astype(int)
        meta = {
            "attacks": {attack: {"max_steps": MOST}},
            "norms": {attack: "linf"},
            "shape": [28, 28, 1],
            "weights_sha256": "a" * 64,
            "precision": "float32",
            "images": name,
            "count": settings.images,
        }
        schema = COSTS.with_metadata({"a2d": json.dumps(meta)})
        for number, (start, end) in enumerate(pairwise(borders)):
            n, here = end - start, cost[start:end]
            bad = np.arange(start, end) % 1000 == 999
            columns = {
                "index": np.arange(start, end),
                "id": [f"{name}/n{i % 1000:08}/{name}_{i:08}.JPEG" for i in range(start, end)],
                "attack": [attack] * n,
                "label": pa.array(np.arange(start, end) % 1000, mask=bad),
                **{one: pa.array(here, mask=bad) for one in ("cost", "iterations", "forward_queries", "backward_queries")},
                "success": pa.array(here <= MOST, mask=bad),
                "censored": pa.array(here > MOST, mask=bad),
                "distance": pa.array(here / 1000, pa.float32(), mask=bad),
                "preset": ["mnist"] * n,
                "seed": [0] * n,
                "crossing": pa.nulls(n, pa.float32()),
                "target": pa.nulls(n, pa.int64()),
                "fingerprint": prints[start:end],
                "error": pa.array(["the image is truncated"] * n, mask=~bad),
            }
            pq.write_table(pa.table(columns, schema=schema), folder / attack / f"part-{number:06}.parquet")


def commands(settings: Settings) -> list[tuple[str, list[str]]]:
    """The commands, as a table names them, and their options."""
    benign, adversarial = (str(settings.folder / name) for name in SETS)
    found: list[tuple[str, list[str]]] = []
    for one in settings.detectors:
        out = str(settings.folder / f"{one}.json")
        more = ["--adversarial", adversarial] if one == "knn" else []
        found.append((f"fit {one}", ["--benign", benign, *more, "--detector", one, "--out", out, "--force"]))
        verdicts = str(settings.folder / f"{one}.parquet")
        found.append((f"detect {one}", ["--detector", out, "--costs", adversarial, "--out", verdicts, "--force"]))
    found.append(("eval", ["--benign", benign, "--adversarial", adversarial]))
    found.append(("shift", ["--benign", benign, "--new", adversarial]))
    return [one for one in found if one[0].split()[0] in settings.commands]


def measured(arguments: list[str]) -> dict[str, float]:
    """Seconds, seconds of all processors, and peak memory of a command in a process of its own."""
    start = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", "a2d_jax", *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in (0, 3):  # 3: some images carry an error
        raise SystemExit(child.returncode)
    seconds = {"seconds": time.monotonic() - start, "processor": used.ru_utime + used.ru_stime}
    return seconds | {"mib": used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)}


if __name__ == "__main__":
    sys.exit(run("experiments.rows", lambda: main(tyro.cli(Settings, description=__doc__))))
