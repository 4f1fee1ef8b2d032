"""Our costs compared with those of the authors' released code, for the same images and the same network.

    python -m experiments.official_counts --classifier models.lenet:lenet5 --checkpoint DIR --golden lenet5_mnist_official.npz

It reads a file of images and official costs with keys like `fgsm`, `fgsm_bim`. The released code counts BIM and BIM2 from 0 and JSMA from
1; failures are 500 and 2000. It measures our costs as `a2d cost` does, and prints one row per input set and defence: the share of equal
counts, the median, 95th percentile and maximum of the absolute difference, and the AUROC from both costs. Nothing is clipped: the official
count is our cost minus one for BIM and BIM2, and our cost for JSMA. Run time: about 2 minutes on 2 cores.

Expected (2026-11-27, CPU): for BIM and BIM2 every crafted set is equal on 100 % of images, benign images differ by at most 2, and the AUROC
differs by at most 0.0005.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from a2d_jax import console, jobs, metrics
from a2d_jax.io.measurements import read_measurements
from a2d_jax.jobs import CostSpec

OFFSET = {"bim": 1, "bim2": 1, "jsma": 0}  # official count = cost - offset


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
    attacks: str = ",".join(OFFSET)
    """Defences to compare."""
    lanes: int | None = None
    """Number of images that each device works on at the same time."""


def compare(args: Args) -> list[dict[str, object]]:
    """One row per input set and defence."""
    golden = np.load(args.golden, allow_pickle=False)
    kinds = [name for name in golden.files if golden[name].ndim == 4]
    names = args.attacks.split(",")
    ours = {kind: counts(args, golden[kind], names) for kind in kinds}
    rows: list[dict[str, object]] = []
    for kind in kinds:
        for name in names:
            count, official = ours[kind][name], golden[f"{kind}_{name}"]
            gap = np.abs(count - official)
            row: dict[str, object] = {"set": kind, "defence": name, "n": len(gap), "equal": float((gap == 0).mean())}
            row |= {"median": float(np.median(gap)), "p95": float(np.percentile(gap, 95)), "max": int(gap.max())}
            if kind != "benign":
                row["auroc"] = metrics.auroc(-ours["benign"][name], -count)
                row["official_auroc"] = metrics.auroc(-golden[f"benign_{name}"], -official)
            rows.append(row)
    return rows


def counts(args: Args, x: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    """Counts of some images in the official counting, by defence, from the table that `a2d cost` writes."""
    with tempfile.TemporaryDirectory() as folder:
        images, out = Path(folder) / "x.npz", Path(folder) / "costs.parquet"
        np.savez(images, x=x)
        how = {"preset": args.preset, "attacks": ",".join(names), "lanes": args.lanes}
        jobs.cost(CostSpec(classifier=args.classifier, checkpoint=args.checkpoint, images=images, out=out, **how))
        table = read_measurements(out)
    return {name: table.numbers[name]["cost"] - OFFSET[name] for name in names}


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
    raise SystemExit(console.run("experiments.official_counts", main))
