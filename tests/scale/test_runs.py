"""The run folder: a unit is done if and only if its file is there, whoever was killed and whoever works beside."""

import errno
import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from a2d_jax.costs import Cut, Memory, Unit
from a2d_jax.costs.units import Filling
from a2d_jax.errors import BadInput
from a2d_jax.io.parts import JOB, RECORDS
from a2d_jax.scale.runs import LARGEST, Kind, open_run, part_size, run_folder

IDENTITY = {"weights": "abc", "attacks": {"bim": {"epsilon": 0.3}}, "seed": 0}
SCHEMA = pa.schema([("index", pa.int64()), ("id", pa.string()), ("value", pa.float64()), ("flag", pa.bool_()), ("error", pa.string())])
KINDS = {"predict": Kind(SCHEMA), "bim": Kind(SCHEMA, kept=True), "../up": Kind(SCHEMA), "my.module:MyAttack:epsilon=0.1": Kind(SCHEMA)}
CUT = Cut(25, 10)


@pytest.fixture
def run(tmp_path):
    return open_run(tmp_path / "costs.parquet.run", IDENTITY, CUT, KINDS)


def unit(part, rows=10):
    value = np.random.default_rng(part).random(rows)
    columns = {"index": np.arange(rows), "id": [f"ä{i}" for i in range(rows)], "value": value, "flag": value > 0.5}
    return Unit({**columns, "error": [None] * (rows - 1) + ["broken"]}, {"seconds": 1.5, "part": part})


def same(found, expected):
    """Rows with an error keep what identifies them."""
    good = np.asarray([error is None for error in expected.columns["error"]])
    assert set(found.columns) == set(expected.columns)
    for name, values in expected.columns.items():
        kept = good if name in ("value", "flag") else np.ones(len(good), bool)
        np.testing.assert_array_equal(np.asarray(found.columns[name], object)[kept], np.asarray(values, object)[kept])
    assert found.facts["part"] == expected.facts["part"]
    assert found.facts["good"] == good.sum()


def test_parts_cover_the_set():
    """Protects completeness: every image is in one part, the last part is short, an empty set has none."""
    assert [CUT.span(part) for part in CUT.parts] == [(0, 10), (10, 20), (20, 25)]
    assert CUT.length([0, 2]) == 15
    assert not Cut(0, 10).parts


@pytest.mark.parametrize("count", [1, 31, 250, 10_000, 1_281_167])
@pytest.mark.parametrize("piece", [2, 32, 256])
def test_size_of_a_part(count, piece):
    """Protects kills and file systems: a set of middle size has many parts, a large one not more files than it needs."""
    size = part_size(count, piece)
    assert size in (max(1, piece // 4), LARGEST) or 80 < count / size <= 160
    assert part_size(count, piece, 4 * 224 * 224 * 3) * 4 * 224 * 224 * 3 <= 64 << 20


@pytest.mark.parametrize("name", list(KINDS))
def test_a_unit_is_done_when_its_file_is_there(run, name):
    """Protects the ledger: committed units are done for whoever opens the folder, others are missing; any measurement has a name."""
    run.commit(name, 1, unit(1))
    again = open_run(run.folder, IDENTITY, Cut(25, 999), KINDS)
    assert again.cut == CUT
    assert again.missing(name) == [0, 2]
    same(again.read(name, 1), unit(1))
    assert again.facts(name, 1)["seconds"] == 1.5
    assert again.left == 4 * 3 - 1
    assert not (run.folder.parent / "up").exists()
    (run.folder / "bim").mkdir(exist_ok=True)
    (run.folder / "bim" / ".a2d-0123-4567.tmp").write_bytes(b"half")
    (run.folder / "bim" / "part-000000.parquet.tmp").write_bytes(b"half")
    assert again.missing("bim") == [part for part in range(3) if (name, part) != ("bim", 1)]


def test_results_are_in_sight(run):
    """Protects readers of the folder: units of the result lie one folder down, all else is hidden from tools."""
    for name in KINDS:
        run.commit(name, 0, unit(0))
    assert sorted(os.listdir(run.folder)) == [RECORDS, "bim"]
    assert os.listdir(run.folder / "bim") == ["part-000000.parquet"]


def test_shares(run):
    """Protects completeness: shares are disjoint, cover all parts, and each sees what the others did."""
    shares = [replace(open_run(run.folder, IDENTITY, CUT, KINDS), only=run.cut.parts[k::2]) for k in (0, 1)]
    assert [share.missing("bim") for share in shares] == [[0, 2], [1]]
    shares[0].commit("bim", 0, unit(0))
    assert shares[1].left == 4 * 3 - 1
    assert shares[1].missing("bim") == [1]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"weights": "other"}, 'weights is "abc", got "other"'),
        ({"attacks": {"bim": {"epsilon": 0.1}}}, r"attacks.bim.epsilon is 0.3, got 0.1"),
        ({"more": 1}, "more is null, got 1"),
    ],
)
def test_another_job_is_refused(run, changed, named):
    """Protects the numbers: a folder of another identity is refused and the difference named, unless the user begins anew."""
    run.commit("bim", 0, unit(0))
    with pytest.raises(BadInput, match=named):
        open_run(run.folder, IDENTITY | changed, CUT, KINDS)
    with pytest.raises(BadInput, match="images is 25, got 24"):
        open_run(run.folder, IDENTITY, Cut(24, 10), KINDS)
    assert open_run(run.folder, IDENTITY | changed, CUT, KINDS, restart=True).done("bim") == set()


def test_a_foreign_folder_is_left_alone(tmp_path):
    """Protects other people's files: a folder that is no run folder is refused, and not emptied by a restart."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("x")
    for restart in (False, True):
        with pytest.raises(BadInput, match="holds other files"):
            open_run(tmp_path / "mine", IDENTITY, CUT, KINDS, restart=restart)
    assert (tmp_path / "mine" / "precious").exists()
    for damaged in ("", "[]", '{"identity": 3, "count": 1, "size": 1, "measurements": {}}', '{"identity": {}, "count": 25, "size": 0}'):
        records = tmp_path / "damaged" / RECORDS
        records.mkdir(exist_ok=True, parents=True)
        (records / JOB).write_text(damaged)
        with pytest.raises(BadInput, match="--restart"):
            open_run(records.parent, {}, CUT, KINDS)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="another place"):
        open_run(tmp_path / "file", IDENTITY, CUT, KINDS)


def test_a_file_system_without_links(tmp_path, monkeypatch):
    """Protects memory cards and network drives: a folder is begun there too, and the job that was first stays."""

    def refused(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refused)
    run = open_run(tmp_path / "c.run", IDENTITY, CUT, KINDS)
    assert open_run(run.folder, IDENTITY, Cut(25, 999), KINDS).cut == CUT
    assert sorted(os.listdir(run.folder / RECORDS)) == [JOB]


def test_a_damaged_unit_is_named(run):
    """Protects the result: a unit that was cut by something else is one line, never rows that are missing."""
    run.commit("bim", 0, unit(0))
    path = run.folder / "bim" / "part-000000.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    for reading in (run.read, run.facts):
        with pytest.raises(BadInput, match="damaged"):
            reading("bim", 0)


def work(folder, until):
    """Commit all missing units, again and again from the start."""
    run = open_run(folder, IDENTITY, Cut(3000, 10), KINDS)
    while time.time() < until:
        for part in run.missing("bim"):
            run.commit("bim", part, unit(part))


def test_kill_leaves_whole_units(tmp_path):
    """Protects large jobs: however often two workers are killed, each unit is whole or missing, and the rest can be done."""
    context = multiprocessing.get_context("spawn")
    for _ in range(3):
        workers = [context.Process(target=work, args=(tmp_path / "x.run", time.time() + 60)) for _ in range(2)]
        for worker in workers:
            worker.start()
        before = len(open_run(tmp_path / "x.run", IDENTITY, Cut(3000, 10), KINDS).done("bim"))
        deadline = time.time() + 60
        while len(open_run(tmp_path / "x.run", IDENTITY, Cut(3000, 10), KINDS).done("bim")) < before + 20 and time.time() < deadline:
            time.sleep(0.01)
        for worker in workers:
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
    run = open_run(tmp_path / "x.run", IDENTITY, Cut(3000, 1), KINDS)
    assert run.cut.size == 10
    done = run.done("bim")
    assert 60 <= len(done) <= len(run.cut.parts)
    for part in done:
        same(run.read("bim", part), unit(part))


def test_parts_are_handed_on_when_they_are_whole():
    """Protects the table: rows come in any order, those without a result never come, and each part leaves once, with all its values."""
    expected = np.ones(25, bool)
    expected[[3, *range(20, 25)]] = False
    filling = Filling(CUT)
    for part in CUT.parts:
        begin, end = CUT.span(part)
        filling.expect(part, {"cost": np.zeros(end - begin, np.int64)}, int(expected[begin:end].sum()))
    found = dict(filling.whole())
    assert list(found) == [2]
    for rows in np.array_split(np.random.default_rng(0).permutation(np.flatnonzero(expected)), 7):
        filling.add(rows, {"cost": rows * 2})
        found |= dict(filling.whole())
    assert sorted(found) == [0, 1, 2]
    whole = np.concatenate([found[part]["cost"] for part in CUT.parts])
    np.testing.assert_array_equal(whole, np.where(expected, np.arange(25) * 2, 0))
    assert not list(filling.whole())


def test_run_folder_stands_beside_the_output(tmp_path):
    """Protects the user's eye: the folder is named after the output, unless that name would be too long."""
    assert run_folder(tmp_path / "costs.parquet") == tmp_path / "costs.parquet.run"
    long = run_folder(tmp_path / ("a" * 255))
    assert len(long.name) < 50
    assert long.name.endswith(".run")
    assert json.loads((open_run(tmp_path / "a", {"x": (1, 2)}, CUT, KINDS).folder / RECORDS / JOB).read_text())["identity"] == {"x": [1, 2]}


def test_memory_is_a_ledger_too():
    """Protects arrays: a ledger in memory answers as a folder does."""
    memory = Memory(CUT)
    memory.commit("bim", 1, unit(1))
    assert memory.missing("bim") == [0, 2]
    assert memory.facts("bim", 1) == unit(1).facts
    np.testing.assert_array_equal(memory.read("bim", 1).columns["value"], unit(1).columns["value"])
