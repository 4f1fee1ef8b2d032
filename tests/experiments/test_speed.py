"""The benchmark: all contestants compute the same, the comparison is fair, and the output is right.

Times are never tested.
"""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

from a2d_jax import drivers
from a2d_jax.attacks import JSMA, bim, bim2
from a2d_jax.costs import examples
from a2d_jax.errors import BadInput
from experiments.speed import checks, processes, report, works
from experiments.speed import torch_baseline as baseline
from experiments.speed.__main__ import Settings, main
from experiments.speed.contestants import CONTESTANTS, Counted
from experiments.speed.networks import flax_classifier, torch_module
from experiments.speed.processes import Measured, Run

OFFICIAL = works.LENET5.parent / "official_lenet5.npz"
ATTACK = baseline.BIM(0.3, 6e-4, 500)


@pytest.fixture(autouse=True)
def one_thread():
    """PyTorch's threads wait for one another: on a machine that is busy with other tests they take minutes for seconds of work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def module():
    return torch_module("lenet5", works.lenet5_arrays())


@pytest.fixture(scope="module")
def digits():
    with np.load(works.LENET5, allow_pickle=False) as file:
        return file["digits"].astype(np.float32) / 255


@pytest.fixture
def small(digits, tmp_path):
    """A work of seconds: pinned digits, some of which 30 long steps do not turn."""
    work = works.Work("a few digits", "lenet5", works.lenet5_arrays(), digits, np.concatenate([digits] * 2), bim(0.1, 0.01, 30))
    works.save(work, tmp_path / "work.npz")
    return tmp_path / "work.npz"


@pytest.mark.parametrize(("column", "attack", "first"), [("bim", ATTACK, 1), ("jsma", baseline.JSMA(0.1, 1999, 7), 0)])
def test_baselines_count_as_the_released_code(column, attack, first, module):
    """Protects the peer: both loops give crafted images the counts of the released code, which counts BIM's updates from 0."""
    with np.load(OFFICIAL, allow_pickle=False) as file:
        kinds = ("fgsm", "bim", "jsma", "deepfool", "cw")
        x = baseline.to_torch(np.concatenate([file[kind] for kind in kinds]))
        official = np.concatenate([file[f"{kind}_{column}"] for kind in kinds])
    aim = baseline.aims(module, x, attack)
    for costs in (
        baseline.one_by_one(module, x, aim, attack),
        baseline.queue(baseline.look_with(module), x, aim, attack, lanes=7),
    ):
        equal = np.maximum(costs - first, 0) == official
        assert np.mean(equal) >= (0.98 if column == "bim" else 0.85)


@pytest.mark.parametrize("lanes", [1, 3, 16, 50])
def test_queue_is_the_loop(lanes, module, digits):
    """Protects refilling and dropping: any number of lanes gives each image the cost that it has alone, failures included."""
    attack = baseline.BIM(0.1, 0.01, 30)
    x = baseline.to_torch(digits)
    label = baseline.predictions(module, x)
    alone = baseline.one_by_one(module, x, label, attack)
    assert 0 < np.sum(alone == 31) < len(alone)
    np.testing.assert_array_equal(baseline.queue(baseline.look_with(module), x, label, attack, lanes=lanes), alone)


def ask(path, name, *questions):
    answers = io.StringIO()
    processes.serve([json.dumps(question) for question in questions], answers, name, str(path), "1")
    return [json.loads(line) for line in answers.getvalue().splitlines()]


@pytest.mark.filterwarnings("ignore")  # of the peers' own imports, where they are installed
@pytest.mark.slow
def test_contestants_agree(small):
    """Protects the comparison: every contestant, asked as the benchmark asks it, finds the same costs; peers change the same images."""
    found, work = {}, works.read(small)
    for name in [name for name, one in CONTESTANTS.items() if one.takes(work)]:
        (first,) = ask(small, name, ["variants"])
        variant = first["variants"][0]
        warm, run = ask(small, name, ["warm", variant], ["run", variant])
        assert warm["counted"]["max_steps"] == min(processes.WARM_UP, run["counted"]["max_steps"])
        found[name] = processes.read_run(run)
    expected = found["torch-one"].counted.costs
    for name, run in found.items():
        if not run.counted.counts:
            np.testing.assert_array_equal(run.counted.costs > 30, expected > 30, err_msg=name)
            assert run.counted.steps == run.counted.lane_steps == 30 * len(expected)
            continue
        np.testing.assert_array_equal(run.counted.costs, np.minimum(expected, run.counted.max_steps + 1), err_msg=name)
        assert run.counted.lane_steps is None or run.counted.lane_steps >= run.counted.steps
    assert found["stream-bound"].counted.max_steps < found["stream"].counted.max_steps == 30


def test_steps_are_looks():
    """Protects the unit: an image that succeeds after c updates was looked at c + 1 times, one that fails max_steps + 1 times."""
    assert Counted(np.array([0, 4, 11]), 10).steps == 1 + 5 + 11


def measured(costs, seconds, max_steps=10):
    run = Run("8 lanes", seconds, 2 * seconds, Counted(np.array(costs), max_steps, None))
    return Measured(1.0, [run], [run, run._replace(seconds=3 * seconds), run])


@pytest.fixture
def contest():
    reference = [4] * 19 + [11]
    return {
        "torch-one": measured(reference[:2], 1.0),
        "torch-queue": measured(reference, 2.0),
        "run": measured([7, *reference[1:]], 1.0),
        "stream": measured([5, *reference[1:]], 1.0),
        "stream-2": measured([5, 5, *reference[2:]], 1.0),
        "stream-bound": measured([3] * 20, 1.0, max_steps=2),
    }


def test_rows(contest):
    """Protects the ratios: a part of the images is scaled by steps, a bound shortens what is expected, medians are taken."""
    rows = {row.name: row for row in report.rows(contest)}
    total = 19 * 5 + 11
    assert rows["torch-one"].seconds == pytest.approx(total / 10)
    assert rows["torch-queue"].seconds == 2.0
    assert rows["torch-queue"].cpu_seconds == 4.0
    assert rows["torch-queue"].microseconds == pytest.approx(2e6 / total)
    assert rows["stream"].equal == 0.95
    assert rows["stream-bound"].equal == 1
    assert rows["stream-bound"].steps == 20 * 3
    assert [name for name, row in rows.items() if not row.agrees] == ["stream-2"]


def test_table_and_plot(contest, tmp_path):
    """Protects the report: costs that differ get no ratio, and the plot and the record are written."""
    rows = report.rows(contest)
    console = Console(width=200, record=True, file=io.StringIO())
    found = {
        "limit": {"best": 10.0, "step": 11.0, "ratio": 1.1},
        "traces": {"first": 1, "more": 0},
        "growth": {"images": [1, 4], "microseconds": [1.0, 1.1], "ratio": 1.1},
        "start": {"cold": 9.0, "warm": 4.5},
        "processes": {"images_per_second": [20.0, 39.0], "ratio": 1.95},
        "memory": {"images": [1, 10], "megabytes": [400.0, 404.0], "ratio": 1.01},
    }
    report.show(report.table("Title", rows, 20), report.check_lines(found), console)
    told = " ".join(console.export_text(clear=False).split())
    assert "1 images 1.0, 4 images 1.1 us per step (1.10x)" in told
    assert "9.0 s after the start of a process, 4.5 s if compiled programs are kept" in told
    assert "20.0 images/s; two on two cores: 39.0 (1.95x)" in told
    assert len(report.check_lines({name: found[name] for name in ("limit", "traces")})) == 2
    lines = {line.strip("│ ").split("  ")[0]: line for line in console.export_text().splitlines() if "│" in line}
    assert lines["ours, stream, 2 host devices"].count("differs") == 3
    assert "2.00" in lines["ours, stream"]
    report.plot("Title", rows, contest, 20, 10.0, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads(json.dumps(report.record(rows, contest, found, {"seed": 0})))
    assert {"jax", "torch"} <= set(record["machine"]["versions"])
    assert [row["name"] for row in record["rows"]] == list(contest)


def test_no_data(tmp_path, monkeypatch):
    """Protects the user without MNIST: one line that says where it should be."""
    monkeypatch.setenv("A2D_DATA", str(tmp_path))
    with pytest.raises(BadInput, match=r"expected .*mnist"):
        main(Settings(out=tmp_path))


@pytest.mark.parametrize("wrong", [{"images": 0}, {"repeats": 0}, {"work": "chess"}])
def test_refuses_bad_settings(wrong, tmp_path):
    """Protects early failure: settings that cannot work are refused before anything is measured."""
    with pytest.raises(BadInput, match="expected"):
        main(Settings(out=tmp_path, **wrong))


def test_one_trace(small):
    """Protects the compiled program: other epsilon, step, budget and weights trace the network no more.

    At first it is traced twice: for its number of classes, which compiles nothing, and for the program.
    """
    assert checks.traces(works.read(small), 16) == {"first": 2, "more": 0}


@pytest.mark.parametrize("attack", [bim(0.1, 0.01, 30), bim2(0.1, 0.01, 30), JSMA(0.2, 30, 3)])
def test_works_travel_whole(attack, small, digits, tmp_path):
    """Protects equal conditions: what a process reads is what was meant, to the last bit, settings included."""
    works.save(works.read(small)._replace(attack=attack), tmp_path / "other.npz")
    work = works.read(tmp_path / "other.npz")
    np.testing.assert_array_equal(work.x, digits)
    assert work.attack == attack
    assert work.arrays.keys() == works.lenet5_arrays().keys()


def test_peers_that_count_nothing_are_judged_by_success(contest):
    """Protects fairness: a peer that does every step is scaled by images alone, and differs only where its success does."""
    costs = np.array([0] * 19 + [11])
    run = Run("batches of 8", 4.0, 4.0, Counted(costs, 10, 200, counts=False))
    rows = {row.name: row for row in report.rows(contest | {"foolbox": Measured(1.0, [run], [run])})}
    assert (rows["foolbox"].equal, rows["foolbox"].seconds) == (1, 4.0)
    assert rows["foolbox"].lane_fraction == pytest.approx((19 * 5 + 11) / 200)
    half = run._replace(counted=Counted(costs[:10], 10, 100, counts=False))
    on_half = report.rows(contest | {"foolbox": Measured(1.0, [half], [half])})[-1]
    assert (on_half.seconds, on_half.lane_fraction) == (8.0, pytest.approx(10 * 5 / 100))
    wrong = run._replace(counted=Counted(np.zeros(20, int), 10, 200, counts=False))
    assert report.rows(contest | {"foolbox": Measured(1.0, [wrong], [wrong])})[-1].equal == 0.95


@pytest.mark.parametrize("lanes", [3, 16])
def test_bim2_is_counted_like_ours(lanes, module, digits):
    """Protects the peer of BIM2: steps and ball in root mean squares give the costs of our attack."""
    x = baseline.to_torch(digits)
    label = baseline.predictions(module, x)
    theirs = baseline.queue(baseline.look_with(module), x, label, baseline.BIM(0.1, 5e-3, 30, "rms"), lanes=lanes)
    classifier = flax_classifier("lenet5", works.lenet5_arrays())
    ours = drivers.attack(bim2(0.1, 5e-3, 30), classifier, examples(classifier, digits)).cost
    assert np.sum(theirs <= 30) > 0
    assert np.mean(theirs == ours) >= 0.9
    assert np.abs(theirs - ours).max() <= 1


@pytest.mark.parametrize("lanes", [3, 16])
def test_jsma_is_counted_like_ours(lanes, module, digits):
    """Protects the peer of JSMA: it changes the scalars that ours changes, gives up where ours does, and counts alike."""
    x, attack = baseline.to_torch(digits), baseline.JSMA(0.1, 100, 7)
    theirs = baseline.queue(baseline.look_with(module), x, baseline.aims(module, x, attack), attack, lanes=lanes)
    classifier = flax_classifier("lenet5", works.lenet5_arrays())
    ours = drivers.attack(JSMA(0.1, 100, 7), classifier, examples(classifier, digits)).cost
    assert np.sum(theirs <= 100) > 0
    assert np.mean(theirs == ours) >= 0.9
    assert np.abs(theirs - ours).max() <= 2


def test_a_scalar_is_moved_and_retired():
    """Protects JSMA's step by hand: the largest unretired gradient, down the slope, retired at a bound; a dead end is told."""
    attack = baseline.JSMA(0.5, 10, 2)
    x = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)
    memory = attack.memory(x)
    slope = torch.tensor([-1.0, 3.0, 2.0]).view(1, 1, 1, 3)
    x, stuck = attack.move(x, slope, memory)
    assert (x.flatten().tolist(), stuck.tolist()) == ([0.0, 0.0, 1.0], [False])
    x, _ = attack.move(x, slope, memory)
    assert x.flatten().tolist() == [0.0, 0.0, 0.5]
    x, _ = attack.move(x, slope, memory)
    assert x.flatten().tolist() == [0.0, 0.0, 0.0]
    x, stuck = attack.move(x, slope.clamp(min=0), memory)
    assert (x.flatten().tolist(), stuck.tolist()) == ([0.0, 0.0, 0.0], [True])
