"""Does a cascade save gradients: first the margin or one gradient, and Newton only if these leave the verdict open?

    python -m experiments.cascade [--raw newton-output]

It reads the raw scores of `python -m experiments.newton` (`NAME.npz`) and runs no network. A stage judges an image benign above a
threshold: the highest score of a calibration image that Newton flags. The other images go to the next stage, and in the end to Newton
at 5 % false alarms. Benign images are split into halves at random, 100 times: one half sets all thresholds; the other half and all crafted
images are judged. The table shows the share of benign images that the stages settle, the gradients per benign image with the cascade and
with Newton alone, and how many crafted images the cascade misses beyond those that Newton misses.

Gradients are those of Newton without its bound. Run time: seconds. Expected: the table of docs/newton.md.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro

from a2d_jax.console import run
from a2d_jax.errors import BadInput
from experiments.newton import BENIGN, LEVEL

CROSSING, ONE, MARGIN, UPDATES = 0, 3, 4, 5  # columns of the raw scores
CASCADES = {"margin, one gradient, Newton": (MARGIN, ONE), "one gradient, Newton": (ONE,)}
SPLITS = 100


@dataclass(frozen=True)
class Settings:
    """Measure the gradients that a cascade before Newton saves, and the images that it misses."""

    raw: Path = Path("newton-output")
    """Folder with the raw scores of `experiments.newton`."""


class Found(NamedTuple):
    """Means over splits."""

    settled: float  # share of benign images that never reach Newton
    gradients: float  # a benign image, with the cascade
    alone: float  # with Newton alone
    alarms: float  # on benign images, with the cascade
    caught: Mapping[str, tuple[float, float]]  # of each crafted set, with the cascade and with Newton alone


def main(settings: Settings) -> str:
    """Print and return the table."""
    files = sorted(settings.raw.glob("*.npz"))
    if not files:
        raise BadInput(f"expected raw scores (.npz) in {settings.raw}, got none; run python -m experiments.newton first")
    lines = [
        "| network | cascade | benign settled early | gradients, cascade / Newton | false alarms | caught, mean of sets | largest loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for file in files:
        with np.load(file, allow_pickle=False) as raw:
            scores = {name: raw[name] for name in raw.files}
        for name, stages in CASCADES.items():
            found = cascade(scores, stages)
            with_it, alone = np.mean(list(found.caught.values()), axis=0)
            worst = max(found.caught, key=lambda kind: found.caught[kind][1] - found.caught[kind][0])
            lines.append(
                f"| {file.stem} | {name} | {found.settled:.0%} | {found.gradients:.2f} / {found.alone:.2f} | {found.alarms:.1%} | "
                f"{with_it:.2f} / {alone:.2f} | {worst}: {found.caught[worst][0]:.2f} / {found.caught[worst][1]:.2f} |"
            )
    text = "\n".join(lines)
    print(text)
    return text


def cascade(scores: Mapping[str, np.ndarray], stages: Sequence[int], splits: int = SPLITS) -> Found:
    """Judge with some columns as stages before Newton."""
    generator = np.random.default_rng(0)
    sets = {name: rows for name, rows in scores.items() if name != BENIGN}
    benign, caught = [], []
    for _ in range(splits):
        calibration, fresh = np.array_split(generator.permutation(scores[BENIGN]), 2)
        limit = np.sort(calibration[:, CROSSING])[int(LEVEL * (len(calibration) + 1)) - 1]  # a conformal p-value of at most LEVEL
        thresholds = calibration[calibration[:, CROSSING] <= limit][:, list(stages)].max(axis=0)
        passed = fresh[:, list(stages)] > thresholds
        first = np.where(passed.any(axis=1), passed.argmax(axis=1), len(stages))
        gradients = np.where(first == len(stages), fresh[:, UPDATES], np.append([stage == ONE for stage in stages], 0)[first])
        benign.append([passed.any(axis=1).mean(), gradients.mean(), fresh[:, UPDATES].mean(), _flagged(fresh, stages, thresholds, limit)])
        caught.append([[_flagged(rows, s, t, limit) for s, t in ((stages, thresholds), ((), ()))] for rows in sets.values()])
    return Found(*np.mean(benign, axis=0), dict(zip(sets, map(tuple, np.mean(caught, axis=0)), strict=True)))


def _flagged(rows: np.ndarray, stages: Sequence[int], thresholds: Sequence[float], limit: float) -> float:
    """Share that no stage settles and that Newton flags."""
    settled = (rows[:, list(stages)] > np.asarray(thresholds)).any(axis=1)
    return float(np.mean(~settled & (rows[:, CROSSING] <= limit)))


if __name__ == "__main__":
    sys.exit(run("experiments.cascade", lambda: main(tyro.cli(Settings))))
