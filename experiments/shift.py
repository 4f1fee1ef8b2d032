"""The effect of a shift on a detector: LeNet-5 on brighter, flatter and noisier digits, and the false warnings of the test for a shift.

    python -m experiments.shift --checkpoint DIR [--images N] [--splits N] [--out DIR]

N test digits of MNIST, drawn at random, calibrate two conformal detectors at a level of 5 %: one for the cost of BIM and one for the
crossing of Newton. N other digits, all benign, are judged unchanged, brightened by 0.2, at half contrast, and with noise of sigma 0.3. For
each set the first table shows the accuracy, the share flagged with its 95 % interval, and the test of `a2d shift`. Then all 2 N unchanged
digits are split into two random halves many times: the share of splits with a warning is the true level of the test.

DIR is LeNet-5 as `a2d convert` writes it. The script prints both tables in Markdown and writes `shift.json` and `shift.png` to `--out`.
Run time: 2 minutes of processor time for 1,000 digits and 2,000 splits. Expected: the tables of docs/shift.md.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console

from a2d_jax import costs, presets, report
from a2d_jax.console import run, stage
from a2d_jax.costs.judging import read_columns
from a2d_jax.detectors import Shift
from a2d_jax.detectors import shift as test_of_shift
from a2d_jax.errors import BadInput
from a2d_jax.io.checkpoints import load as load_checkpoint
from a2d_jax.io.datasets import load
from a2d_jax.measurements import Column
from a2d_jax.types import Classifier
from models.training import whole

COLUMNS = (Column("bim", "cost"), Column("newton", "crossing"))
LEVEL = 0.05
AS_THEY_ARE = "as they are"
CHANGES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    AS_THEY_ARE: lambda x, _: x,
    "brightened by 0.2": lambda x, _: np.clip(x + 0.2, 0, 1),
    "half contrast": lambda x, _: 0.5 + (x - 0.5) / 2,
    "noise, sigma 0.3": lambda x, random: np.clip(x + random.normal(0, 0.3, x.shape), 0, 1),
}


@dataclass(frozen=True)
class Settings:
    """Judge benign digits that look different from the calibration digits."""

    checkpoint: Path
    """LeNet-5, as `a2d convert` writes it."""
    images: int = 1000
    """Number of digits for the calibration, and for each judged set."""
    splits: int = 2000
    """Number of random splits of the unchanged digits."""
    seed: int = 0
    """Seed of the noise, the splits and the jitter."""
    out: Path = Path("shift-output")
    """Folder for the results."""


def main(settings: Settings) -> None:
    """Measure, judge, and split."""
    console, begin, n = Console(), time.perf_counter(), settings.images
    if not 20 <= n <= 5000:
        raise BadInput(f"expected 20 to 5000 images, got {n}; MNIST has 10,000 test digits, half of which calibrate")
    classifier = load_checkpoint("models.lenet:lenet5", settings.checkpoint).classifier
    random = np.random.default_rng(settings.seed)
    x, label = whole(load("mnist", "test"))
    drawn = random.permutation(len(x))[: 2 * n]  # in MNIST's order the first digits are easier
    x, label = x[drawn], label[drawn]
    old = measured(classifier, x[:n], console, "calibrate")
    tests: dict[str, list[Shift]] = {}
    rows: list[dict[str, object]] = []
    same = old
    for name, change in CHANGES.items():
        changed = change(x[n:], random).astype(np.float32)
        new = measured(classifier, changed, console, name)
        same = new if name == AS_THEY_ARE else same
        tests[name] = test_of_shift(old, new, level=LEVEL, seed=settings.seed)
        right = float(np.mean(costs.predictions(classifier, changed)[0] == label[n:]))
        found = {str(column): one._asdict() | {"p_values": one.p_values.tolist()} for column, one in zip(COLUMNS, tests[name], strict=True)}
        rows.append({"digits": name, "accuracy": right, **found})
    sizes = size(np.concatenate([old, same]), settings, console)

    print(f"{date.today()}, `python -m experiments.shift --images {n} --splits {settings.splits}`\n")
    print(table(rows))
    print("\n| test of | splits that warn at .05 |\n|---|---|")
    for name, share in sizes.items():
        print(f"| {name} | {share:.1%} +- {2 * np.sqrt(share * (1 - share) / settings.splits):.1%} |")
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "shift.json").write_text(json.dumps({"images": n, "level": LEVEL, "sets": rows, "size": sizes}, indent=1) + "\n")
    drawn = report.shift_figure({name: found[0].p_values for name, found in tests.items()}, LEVEL)
    (settings.out / "shift.png").write_bytes(report.png(drawn))
    console.print(f"done in {time.perf_counter() - begin:.0f} s; wrote {settings.out}")


def measured(classifier: Classifier, x: np.ndarray, console: Console, name: str) -> np.ndarray:
    """What the detectors read, `n columns`."""
    attacks = {column.measurement: presets.make("mnist", "defence", column.measurement) for column in COLUMNS}
    with stage(console, f"{name}, digits", len(x)) as done:
        found = costs.measure(classifier, costs.Arrays(x), attacks, report=lambda _, finished, total: done(finished))
    return read_columns(found, attacks, COLUMNS, x.shape[1:])


def size(benign: np.ndarray, settings: Settings, console: Console) -> dict[str, float]:
    """Share of random splits of benign digits in which the test warns: of each column alone, and of both together."""
    random = np.random.default_rng(settings.seed)
    alone, together = np.zeros(len(COLUMNS)), 0
    with stage(console, "splits", settings.splits) as done:
        for number in range(settings.splits):
            order = random.permutation(len(benign))
            half = len(order) // 2
            found = test_of_shift(benign[order[:half]], benign[order[half:]], seed=number)
            alone += [one.p_value <= 0.05 for one in found]
            together += any(one.shifted for one in found)
            done(number + 1)
    names = [f"{column} alone" for column in COLUMNS]
    return {**dict(zip(names, (alone / settings.splits).tolist(), strict=True)), "both, by Holm": together / settings.splits}


def table(rows: list[dict[str, object]]) -> str:
    """One set of digits a row."""
    lines = ["| digits | accuracy | " + " | ".join(f"flagged by {column} at 5 % | p-value (Holm)" for column in COLUMNS) + " |"]
    lines.append("|---|" + "---|" * (1 + 2 * len(COLUMNS)))
    for row in rows:
        cells = [str(row["digits"]), f"{row['accuracy']:.1%}"]
        for column in COLUMNS:
            one = row[str(column)]
            assert isinstance(one, dict)
            cells += [f"{one['flagged']:.1%} ({one['flagged_low']:.1%} to {one['flagged_high']:.1%})", shown(one["adjusted"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shown(p: float) -> str:
    """A p-value with two digits; below 1e-9 its size tells nothing."""
    return f"{p:.2f}" if p >= 0.01 else f"{p:.0e}" if p >= 1e-9 else "< 1e-9"


if __name__ == "__main__":
    sys.exit(run("experiments.shift", lambda: main(tyro.cli(Settings))))
