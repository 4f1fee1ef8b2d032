"""Large jobs: whatever ends them, and however they are shared out, the same command goes on and the table is the same."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from a2d_jax import console, jobs
from a2d_jax.errors import BadInput
from a2d_jax.io.images import open_images
from a2d_jax.io.measurements import read_measurements
from a2d_jax.io.parts import RECORDS
from a2d_jax.scale.runs import Run
from tests.held import held

COUNT, PART = 22, 4
FEW = "bim:max_steps=6,lsa:max_steps=6"
NET = "tests.nets:convnet"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with images: a corrupt one, and labels."""
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).random((COUNT, 8, 8, 1), np.float32)
    x[5] = np.nan
    np.savez("x.npz", x=x / 20, y=np.arange(COUNT) % 5)  # so dark that a note says it
    return tmp_path


def spec(kind, out, **settings):
    images = {"classifier": NET, "images": "x.npz", "part": PART, **settings}
    return kind(out=out, **images)


def cost(out, **settings):
    return spec(jobs.CostSpec, out, **{"attacks": FEW, **settings})


def attack(out, **settings):
    return spec(jobs.AttackSpec, out, attack="pgd:max_steps=6", **settings)


def clever(out, **settings):
    return spec(jobs.CleverSpec, out, targets="target-2,untargeted", batches=3, samples=4, **settings)


def detect(out, **settings):
    if not os.path.exists("d.json"):
        jobs.cost(cost("benign.parquet"))
        jobs.fit(jobs.FitSpec(out="d.json", benign="benign.parquet", detector="vote", k=1))
    return spec(jobs.DetectSpec, out, detector="d.json", **settings)


JOBS = {
    "predict": (jobs.predict, lambda out, **more: spec(jobs.PredictSpec, out, **more)),
    "cost": (jobs.cost, cost),
    "attack": (jobs.attack, attack),
    "detect": (jobs.detect, detect),
    "clever": (jobs.clever, clever),
}
ENDINGS = {"attack": ".npz"}


def content(path):
    """All rows of a table, or all arrays of an archive but for what they say of the run."""
    if path.endswith(".npz"):
        with np.load(path) as file:
            return {name: file[name].tolist() for name in file.files if name != "a2d"}
    return pq.read_table(path).to_pydict()


def equal(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        kind = np.float64 if name == "x" else object  # NaN equals NaN among numbers only
        np.testing.assert_array_equal(np.asarray(values, kind), np.asarray(other[name], kind), err_msg=name)


class Killed(BaseException):
    """The end of a process, as nobody can catch it."""


@pytest.fixture
def kill_after(monkeypatch):
    """Ends the work when so many units were committed, and notes all that were."""
    commit, committed = Run.commit, []

    def limit(units):
        left = [units]

        def counted(self, measurement, part, unit):
            if not left[0]:
                raise Killed
            left[0] -= 1
            commit(self, measurement, part, unit)
            committed.append((measurement, part))

        monkeypatch.setattr(Run, "commit", counted)
        monkeypatch.setattr(Run, "remove_empty", lambda self: None)  # a process that is killed does not tidy up

    limit.committed = committed
    return limit


@pytest.mark.parametrize("name", JOBS)
def test_the_same_command_goes_on(here, name, kill_after):
    """Protects hours of work: killed again and again, a job loses only what was in flight, and its table is that of a job left alone."""
    do, made = JOBS[name]
    ending = ENDINGS.get(name, ".parquet")
    alone = do(made(f"alone{ending}"))
    assert alone.failed == 1
    done = None
    while done is None:
        kill_after(3)
        before = len(kill_after.committed)
        try:
            done = do(made(f"killed{ending}"))
        except Killed:
            assert len(kill_after.committed) == before + 3
            assert os.path.isdir(f"killed{ending}.run")
            assert not os.path.exists(f"killed{ending}")
    assert done.failed == 1
    assert done.notes == alone.notes
    assert len(kill_after.committed) == len(set(kill_after.committed)) > 3
    assert not os.path.exists(f"killed{ending}.run")
    equal(content(f"killed{ending}"), content(f"alone{ending}"))


@pytest.mark.parametrize("name", JOBS)
def test_cuts_and_shares_change_nothing(here, name):
    """Protects every number: whole, in two shares, in parts of seven, or in a folder, a set has the same rows."""
    do, made = JOBS[name]
    ending = ENDINGS.get(name, ".parquet")
    do(made(f"whole{ending}", part=100))
    do(made(f"parts{ending}", part=7))
    first = do(made(f"shares{ending}", share="2/2"))
    assert first.summary["units missing"] > 0
    assert not os.path.exists(f"shares{ending}")
    do(made(f"shares{ending}", share="1/2"))
    for cut in ("parts", "shares"):
        equal(content(f"{cut}{ending}"), content(f"whole{ending}"))


def test_shares_in_turn(here):
    """Protects job arrays: a share does its parts and no others; the same command without a share ends the job."""
    for k in (1, 3):
        done = jobs.cost(cost("c.parquet", share=f"{k}/3"))
        assert done.summary["images"] == {1: 8, 3: 6}[k]
        assert "other shares are not" in done.notes[-1]
    assert jobs.status(jobs.StatusSpec(run="c.parquet")).summary["units missing"] == 2 * 3
    jobs.cost(cost("c.parquet"))
    jobs.cost(cost("alone.parquet"))
    equal(content("c.parquet"), content("alone.parquet"))
    for wrong in ("0/3", "4/3", "x", "1", "1/0", "-1/3"):
        with pytest.raises(BadInput, match="expected a share such as 3/16"):
            jobs.cost(cost("d.parquet", share=wrong))


def test_a_folder_is_a_table(here):
    """Protects those who read the folder: our commands and any reader of parquet data sets see the rows of the one file."""
    one, other = jobs.cost(cost("c.parquet")), jobs.cost(cost("c/"))
    assert one.failed == other.failed == 1
    assert sorted(os.listdir("c")) == [RECORDS, "bim", "lsa"]
    rows = pyarrow.dataset.dataset("c").to_table()
    rows = rows.sort_by([("index", "ascending"), ("attack", "ascending")]).to_pydict()
    whole = pq.read_table("c.parquet").sort_by([("index", "ascending"), ("attack", "ascending")]).to_pydict()
    equal(rows, whole)
    folder, file = read_measurements("c"), read_measurements("c.parquet")
    assert folder.names == file.names
    for name in file.names:
        for number, values in file.numbers[name].items():
            np.testing.assert_array_equal(folder.numbers[name][number], values)
    assert [index for index, _, _ in folder.errors] == [5]
    jobs.fit(jobs.FitSpec(out="d.json", benign="c", detector="vote", k=1))
    os.rename("c/bim/part-000002.parquet", "away")
    with pytest.raises(BadInput, match=r"units missing: 1\); give the same command again"):
        read_measurements("c")
    os.rename("away", "c/bim/part-000002.parquet")
    again = jobs.cost(cost("c"))  # complete: nothing is done again
    assert again.summary["costs"] == other.summary["costs"]


def test_crafted_images_in_parts(here):
    """Protects the next command: a folder of crafted images is a set of images like the archive."""
    jobs.attack(attack("a.npz"))
    jobs.attack(attack("a/"))
    (unit,) = {path.parent.name for path in here.glob("a/*/part-000001.parquet")}
    assert unit == "pgd"
    with np.load("a.npz") as file:
        for part in range(-(-COUNT // PART)):
            table = pq.read_table(f"a/pgd/part-{part:06}.parquet")
            span = slice(part * PART, part * PART + PART)
            np.testing.assert_array_equal(table["x"].combine_chunks().to_numpy_ndarray(), file["x"][span])
            good = [error is None for error in table["error"].to_pylist()]
            np.testing.assert_array_equal(np.asarray(table["y"])[good], file["y"][span][good])
    assert len(open_images("a/pgd/part-000000.parquet")) == PART
    whole, parts = ({"out": f"of-{images}.parquet", "images": images} for images in ("a.npz", "a"))
    for given in (whole, parts):
        jobs.cost(jobs.CostSpec(**given, classifier=NET, attacks=FEW))
    one, other = (content(f"of-{images}.parquet") for images in ("a.npz", "a"))
    for rows in (one, other):
        rows.pop("id"), rows.pop("error")
    equal(one, other)


def test_crafted_parts_tell_how_photographs_were_prepared(here):
    """Protects the comparison of origins: a folder of crafted images says what the archive says."""
    from a2d_jax.io.provenance import archive_meta

    jobs.attack(attack("a.npz"))
    jobs.attack(attack("a/"))
    archive = archive_meta(here / "a.npz")
    assert archive["weights_sha256"]
    for path in (here / "a", here / "a/pgd/part-000000.parquet"):
        assert archive_meta(path)["weights_sha256"] == archive["weights_sha256"]
        assert archive_meta(path)["photographs"] == archive["photographs"]
    assert archive_meta(here) == {}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"attacks": FEW.replace("6", "7")}, "attacks.bim.max_steps is 6, got 7"),
        ({"seed": 1}, "seed is 0, got 1"),
        ({"precision": "bfloat16"}, 'precision is "float32", got "bfloat16"'),
        ({"limit": 20}, "number of images is 22, got 20"),
    ],
)
def test_another_job_is_refused(here, change, named, kill_after):
    """Protects the table: a folder that was begun with other settings is refused, and `--restart` begins anew."""
    kill_after(9)
    with pytest.raises(Killed):
        jobs.cost(cost("c.parquet"))
    kill_after(-1)
    with pytest.raises(BadInput, match=named):
        jobs.cost(cost("c.parquet", **change))
    assert jobs.cost(cost("c.parquet", restart=True, **change)).failed == 1


def test_a_set_that_changes(here, kill_after):
    """Protects the numbers: another file under the same name is another job, and an image that changes meanwhile is an error."""
    kill_after(9)
    with pytest.raises(Killed):
        jobs.cost(cost("c.parquet"))
    kill_after(-1)
    with np.load("x.npz") as file:
        np.savez("x.npz", x=1 - file["x"], y=file["y"])
    with pytest.raises(BadInput, match="whose images_sha256 is"):
        jobs.cost(cost("c.parquet"))


def test_images_change_between_readings(tmp_path, monkeypatch):
    """Protects each row: an image that is replaced or removed after it was predicted has an error, never another image's cost."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    x = np.random.default_rng(0).integers(0, 255, (6, 8, 8), np.uint8)
    for number, image in enumerate(x):
        Image.fromarray(image).save(f"set/{number}.png")

    def changed(what, done, total):
        if what == "predict" and done == total:
            Image.fromarray(255 - x[1]).save("set/1.png")
            os.remove("set/4.png")

    given = {"classifier": NET, "images": "set", "attacks": "bim", "max_steps": 5}
    done = jobs.cost(jobs.CostSpec(out="c.parquet", **given), changed)
    table = pq.read_table("c.parquet").to_pydict()
    assert done.failed == 2
    assert [error is None for error in table["error"]] == [True, False, True, True, False, True]
    assert "got another one" in table["error"][1]
    assert "readable" in table["error"][4]


def test_failed_rows_are_tried_again(here):
    """Protects a repaired set: parts with an error are done again, the others stay."""
    from PIL import Image

    os.mkdir("set")
    x = np.random.default_rng(0).integers(0, 255, (8, 8, 8), np.uint8)
    for number, image in enumerate(x):
        Image.fromarray(image).save(f"set/{number}.png")
    size = os.path.getsize("set/6.png")
    with open("set/6.png", "rb") as file:
        right = file.read()
    with open("set/6.png", "wb") as file:
        file.write(b"x" * size)
    given = {"classifier": NET, "images": "set", "attacks": "bim", "max_steps": 5, "part": 4}
    assert jobs.cost(jobs.CostSpec(out="c/", **given)).failed == 1
    times = {path: path.stat().st_mtime_ns for path in here.glob("c/**/*.parquet")}
    with open("set/6.png", "wb") as file:
        file.write(right)
    assert jobs.cost(jobs.CostSpec(out="c/", **given)).failed == 1
    assert {path: path.stat().st_mtime_ns for path in here.glob("c/**/*.parquet")} == times
    assert jobs.cost(jobs.CostSpec(out="c/", retry_failed=True, **given)).failed == 0
    again = {path.name for path, when in times.items() if path.stat().st_mtime_ns != when}
    assert again == {"part-000001.parquet"}


def test_status(here, kill_after):
    """Protects the eye: done and missing, failed images, seconds and machines, for a job that runs, is broken off, or is complete."""
    kill_after(6 + 6 + 2)
    with pytest.raises(Killed):
        jobs.cost(cost("c.parquet"))
    kill_after(-1)
    found = jobs.status(jobs.StatusSpec(run="c.parquet")).summary
    rows = {row["measurement"]: row for row in found["measurements"]}
    assert {name: (row["parts done"], row["parts missing"]) for name, row in rows.items()} == {
        "predict": (6, 0),
        "bim": (6, 0),
        "lsa": (2, 4),
    }
    assert rows["bim"]["images with an error"] == 1
    assert rows["bim"]["images done"] == COUNT
    assert found["units missing"] == 4
    assert len(found["machines"]) == 1
    assert jobs.status(jobs.StatusSpec(run="c.parquet.run")).summary == found
    jobs.cost(cost("c.parquet"))
    with pytest.raises(BadInput, match="complete; its parts are gone"):
        jobs.status(jobs.StatusSpec(run="c.parquet"))
    with pytest.raises(BadInput, match="where none does"):
        jobs.status(jobs.StatusSpec(run="nothing"))
    jobs.cost(cost("c/"))
    assert jobs.status(jobs.StatusSpec(run="c")).summary["units missing"] == 0


def test_nothing_is_left_of_a_job_that_cannot_be(here):
    """Protects the next try: a set in which no image can be used, or a mistake before the first attack, leaves no folder behind."""
    np.savez("bad.npz", x=np.full((9, 8, 8, 1), np.nan, np.float32))
    with pytest.raises(BadInput, match="errors in all 9"):
        jobs.cost(spec(jobs.CostSpec, "c.parquet", attacks="bim", images="bad.npz"))
    with pytest.raises(BadInput, match="errors in all 9"):
        jobs.predict(spec(jobs.PredictSpec, "p/", images="bad.npz"))
    assert not [name for name in os.listdir() if name.startswith(("c", "p"))]


def test_progress(here, capsys):
    """Protects machines that watch: lines of JSON, the last one of each stage complete, all measurements together among them."""
    with console.progress(as_json=True) as report:
        jobs.cost(cost("c.parquet"), report)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    last = {line["what"]: (line["done"], line["total"]) for line in lines}
    assert last["bim"] == last["lsa"] == last["predict"] == (COUNT, COUNT)
    assert last["all together"] == (3 * COUNT, 3 * COUNT)
    assert last["images with an error"] == (1, COUNT)


@pytest.mark.slow
def test_kill_9_and_sigterm(here):
    """Protects a real job: killed with -9 and with SIGTERM at some moments, it ends with the table of a job left alone."""
    np.savez("x.npz", x=np.random.default_rng(0).random((1000, 8, 8, 1), np.float32))
    given = ["--classifier", NET, "--images", "x.npz", "--attacks", "bim", "--max-steps", "1000", "--epsilon", "0.001", "--part", "32"]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment = {**os.environ, "PYTHONPATH": root}
    subprocess.run([*held(), "cost", *given, "--out", "alone.parquet"], check=True, env=environment, capture_output=True)
    ends, done = [], 0
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen(
            [*held(8), "cost", *given, "--out", "c.parquet"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as running:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and running.poll() is None:
                units = len(list(here.glob("c.parquet.run/bim/part-*.parquet")))
                if units > done:
                    break
                time.sleep(0.002)
            running.send_signal(number)
            _, err = running.communicate(timeout=60)
        ends.append((running.returncode, err))
        assert running.returncode in (-number, 128 + number), "the job must not end before it is killed"
        found = len(list(here.glob("c.parquet.run/bim/part-*.parquet")))
        assert found >= done
        done = found
    assert ends[1][0] == 143
    assert "finished parts are in c.parquet.run; the same command goes on" in ends[1][1]
    subprocess.run([*held(), "cost", *given, "--out", "c.parquet"], check=True, env=environment, capture_output=True)
    equal(content("c.parquet"), content("alone.parquet"))
    assert not os.path.exists("c.parquet.run")
