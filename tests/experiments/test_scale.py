"""The scripts that measure large jobs: the simulation by hand-made cases, the others on small sets."""

import numpy as np
import pytest

from a2d_jax import jobs
from experiments.scale import killed, memory, plan


def test_time_of_lanes():
    """Protects the simulation: with equal steps all lanes end together; one long image is never faster than itself."""
    assert plan.makespan(np.full(40, 7), 8) == 35
    assert plan.makespan(np.full(41, 7), 8) == 42
    assert plan.makespan(np.asarray([100, *[1] * 50]), 2) == 100
    assert plan.makespan(np.asarray([5, 5]), 256) == 5
    steps = np.random.default_rng(0).integers(1, 500, 3000)
    lanes = plan.makespan(steps, 16)
    assert steps.sum() / 16 <= lanes <= steps.sum() / 16 + steps.max()


def test_a_plan_names_what_bounds_it():
    """Protects the reader: gradients bound few devices, the start many; efficiency falls with every device and never exceeds 1."""
    steps = np.random.default_rng(0).integers(1, 500, 100_000)
    machine = plan.Machine(step=0.001, decode=0.006)
    found = [plan.simulated(steps, devices, machine) for devices in (1, 8, 256, 20_000)]
    assert [one["bound by"] for one in found][:2] == ["gradients", "gradients"]
    assert found[-1]["bound by"] in ("start and listing", "tail")
    efficiency = [one["efficiency"] for one in found]
    assert efficiency == sorted(efficiency, reverse=True)
    assert 0 < efficiency[-1] < efficiency[0] <= 1
    one = plan.simulated(steps, 1, plan.Machine(step=0.001, decode=0, start=0, listing=0))
    assert one["hours"] * 3600 == pytest.approx(steps.sum() * 0.001, rel=0.01)
    slow = plan.simulated(steps, 8, plan.Machine(step=1e-6, decode=1.0))
    assert slow["bound by"] == "decode"


def test_a_plan_reads_a_table(tmp_path, capsys):
    """Protects the command: gradients are those of the table, by attack, without the images that have an error."""
    x = np.random.default_rng(0).random((30, 8, 8, 1), np.float32)
    x[3] = np.nan
    np.savez(tmp_path / "x.npz", x=x)
    given = {"classifier": "tests.nets:convnet", "images": tmp_path / "x.npz", "attacks": "bim:max_steps=9,newton"}
    jobs.cost(jobs.CostSpec(out=tmp_path / "c.parquet", **given))
    found = plan.gradients(tmp_path / "c.parquet")
    assert {name: len(one) for name, one in found.items()} == {"bim": 29, "newton": 29}
    assert found["bim"].max() <= 10
    rows = plan.main(plan.Args(costs=tmp_path / "c.parquet", images=1000, devices=(1, 2)))
    assert [(row["attack"], row["devices"]) for row in rows] == [("bim", 1), ("bim", 2), ("newton", 1), ("newton", 2)]
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.slow
def test_kills_on_a_small_set(tmp_path):
    """Protects the figure: two kills of a real process, and the table of the job that was left alone."""
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).random((400, 8, 8, 1), np.float32))
    attacks = "bim:max_steps=3000:epsilon=0.001"
    args = killed.Args("tests.nets:convnet", tmp_path / "x.npz", attacks=attacks, kills=2, part=8, out=tmp_path / "out")
    found = killed.main(args)
    assert found["equal to the table of the job alone"]
    assert (found["rows"], found["rows lost"], found["rows twice"], found["kills"]) == (400, 0, 0, 2)
    assert 0 <= found["done again by one kill, mean"] <= found["done again by one kill, most"] <= 1.1  # nearly all images are in flight


@pytest.mark.slow
def test_memory_of_a_small_set(tmp_path):
    """Protects the figure: the peak memory is that of a process that has loaded JAX, in mebibytes."""
    (row,) = memory.main(memory.Args(images=(300,), attacks="bim:max_steps=2", out=tmp_path))
    assert 100 < row["peak MiB"] < 4000
