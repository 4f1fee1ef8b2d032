"""Our costs beside those that the authors' released code gave to the same images on the same LeNet-5.

    python -m experiments.official_counts --classifier models.lenet:lenet5 --checkpoint DIR --golden lenet5_mnist_official.npz

Reads a file of images and official costs (keys like `fgsm`, `fgsm_bim`; spec of the released counting: BIM and BIM2 0-based,
JSMA 1-based, failures 500 and 2000), and prints one row per input set and defence: share of equal counts, median, 95th
percentile and maximum of the absolute difference, and the AUROC from either costs. Run time: about 2 minutes on 2 cores.

Expected (2026-11-22, CPU): every crafted set equal on 100 % of images, benign images within 2, AUROC equal to 0.0005.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from a2d_jax import costs, metrics, presets
from a2d_jax.console import run
from a2d_jax.io.checkpoints import load

OFFSET = {"bim": 1, "bim2": 1, "jsma": 0}  # official count = cost - offset, and never below 0


@dataclass
class Args:
    """Compare costs with official counts."""

    golden: Path
    """`.npz` with images and official costs."""
    classifier: str = "models.lenet:lenet5"
    """Import string of the model's factory."""
    checkpoint: Path | None = None
    """Orbax directory made by `a2d convert`."""
    preset: str = "mnist"
    """Settings of the defence attacks."""


def compare(args: Args) -> list[dict[str, object]]:
    """One row per input set and defence."""
    classifier = load(args.classifier, args.checkpoint).classifier
    golden = np.load(args.golden, allow_pickle=False)
    kinds = [name for name in golden.files if golden[name].ndim == 4]
    attacks = {name: presets.make(args.preset, "defence", name) for name in OFFSET}
    ours: dict[tuple[str, str], np.ndarray] = {}
    for kind in kinds:
        table, _ = costs.costs(classifier, golden[kind], attacks)
        ours |= {(kind, name): np.maximum(table[:, i] - OFFSET[name], 0) for i, name in enumerate(attacks)}
    rows: list[dict[str, object]] = []
    for (kind, name), count in ours.items():
        gap = np.abs(count - golden[f"{kind}_{name}"])
        row: dict[str, object] = {"set": kind, "defence": name, "n": len(gap), "equal": float((gap == 0).mean())}
        row |= {"median": float(np.median(gap)), "p95": float(np.percentile(gap, 95)), "max": int(gap.max())}
        if kind != "benign":
            row["auroc"] = metrics.auroc(-ours["benign", name], -count)
            row["official_auroc"] = metrics.auroc(-golden[f"benign_{name}"], -golden[f"{kind}_{name}"])
        rows.append(row)
    return rows


def main() -> None:
    """Print the table."""
    rows = compare(tyro.cli(Args))
    table = Table("set", "defence", "n", "equal", "median |diff|", "95 %", "max", "AUROC ours", "AUROC official")
    for row in rows:
        areas = (f"{row['auroc']:.4f}", f"{row['official_auroc']:.4f}") if "auroc" in row else ("", "")
        gaps = (f"{row['median']:g}", f"{row['p95']:g}", str(row["max"]))
        table.add_row(str(row["set"]), str(row["defence"]), str(row["n"]), f"{row['equal']:.1%}", *gaps, *areas)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(run("experiments.official_counts", main))
