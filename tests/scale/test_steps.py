"""The folder of steps: a step is done if and only if its file is there."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from a2d_jax import jobs, process
from a2d_jax.costs import Cut
from a2d_jax.errors import BadInput
from a2d_jax.io.files import atomic
from a2d_jax.scale.runs import JOB, RECORDS, open_run
from a2d_jax.scale.steps import STEPS, Steps, open_steps

IDENTITY = {"seed": 0, "images": 250, "classifier": "models.lenet:lenet5"}


@pytest.fixture
def steps(tmp_path):
    return open_steps(tmp_path / "new" / "out", IDENTITY)


@pytest.mark.parametrize("name", ["costs", "mnist 100 PGD, linf (epsilon 0.3)", "../up", ".hidden", "ä: 100 %"])
def test_a_step_is_done_once(steps, name):
    """Protects hours: whoever opens the folder finds a step done, with what it told; any text is a name."""
    assert not steps.done(name)
    first = steps.once(name, lambda: {"rows": [1, None]})
    again = open_steps(steps.folder, IDENTITY)
    assert again.done(name)
    assert again.once(name, pytest.fail) == first
    assert again.facts() == {name: first}
    assert first["rows"] == [1, None]
    assert first["seconds"] >= 0 <= first["processor_seconds"]
    assert os.listdir(steps.folder) == [RECORDS]


def test_a_step_that_fails_is_not_done(steps):
    """Protects the result: what a step left when it failed does not make it done, and other steps stay."""
    steps.once("first", dict)

    def fails():
        (steps.folder / "half").write_text("h")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        steps.once("second", fails)
    assert open_steps(steps.folder, IDENTITY).facts().keys() == {"first"}


def test_a_typing_error_does_not_take_the_folder(steps):
    """Protects users: if the first step fails and leaves nothing, other settings may have the folder."""
    with pytest.raises(ZeroDivisionError):
        steps.once("first", lambda: {"x": 1 / 0})
    assert not steps.folder.exists()
    assert steps.folder not in process.unfinished
    other = open_steps(steps.folder, IDENTITY | {"seed": 1})
    (steps.folder / "first.run").mkdir()
    with pytest.raises(ZeroDivisionError):
        other.once("first", lambda: {"x": 1 / 0})
    with pytest.raises(BadInput, match="seed is 1, got 0"):
        open_steps(steps.folder, IDENTITY)


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"seed": 1}, "seed is 0, got 1"), ({"images": 40}, "images is 250, got 40"), ({"new": "x"}, 'new is null, got "x"')],
)
def test_other_settings_are_refused(steps, changed, named):
    """Protects the numbers: steps of other settings are refused and the difference named, unless the user begins anew."""
    steps.once("first", dict)
    with pytest.raises(BadInput, match=named):
        open_steps(steps.folder, IDENTITY | changed)
    assert not open_steps(steps.folder, IDENTITY | changed, restart=True).done("first")


def test_run_folders_and_foreign_folders_are_refused(steps, tmp_path):
    """Protects other people's files: folders of another kind are refused, also the other way round."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("x")
    with pytest.raises(BadInput, match="holds other files"):
        open_steps(tmp_path / "mine", IDENTITY, restart=True)
    with pytest.raises(BadInput, match="number of images is null, got 25"):
        open_run(steps.folder, IDENTITY, Cut(25, 10), {})
    open_run(tmp_path / "run", IDENTITY, Cut(25, 10), {})
    with pytest.raises(BadInput, match="number of images is 25, got null"):
        open_steps(tmp_path / "run", IDENTITY)
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(BadInput, match="another place"):
            open_steps(place, IDENTITY)


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"seconds": 1'])
def test_a_damaged_step_is_named(steps, damage):
    """Protects the result: a step that was cut by something else is one line with its file."""
    steps.once("first", dict)
    path = steps.folder / RECORDS / STEPS / "first.json"
    path.write_text(damage)
    for reading in (steps.facts, lambda: steps.once("first", dict)):
        with pytest.raises(BadInput, match=r"first\.json, which is damaged"):
            reading()


def test_status(steps, tmp_path):
    """Protects the view from outside: `a2d status` lists the steps that are done."""
    steps.once("first", dict)
    steps.once("second", dict)
    found = jobs.status(jobs.StatusSpec(run=steps.folder)).summary
    assert {row["step"] for row in found["steps"]} == {"first", "second"}
    (steps.folder / RECORDS / JOB).write_text(json.dumps({"identity": 3}))
    with pytest.raises(BadInput, match="as a job writes it"):
        jobs.status(jobs.StatusSpec(run=steps.folder))


def test_files_of_steps_are_not_what_a_command_ends_with(steps):
    """Protects the message after Ctrl-C: finished parts are in the folder; outputs of steps are not named as the result."""

    def writes():
        with atomic(steps.folder / "costs", force=True) as temporary:
            temporary.write_text("c")
        return {}

    before = list(process.outputs)
    steps.once("costs", writes)
    assert process.outputs == before
    assert steps.folder in process.unfinished


def work(folder):
    """Do a hundred steps, each of which writes a file first."""
    steps = open_steps(folder, IDENTITY)
    for number in range(100):

        def write(number=number):
            with atomic(folder / f"{number}.txt") as temporary:
                temporary.write_text(str(number))
            time.sleep(0.005)
            return {"number": number}

        steps.once(f"step {number}", write)


def test_kill_costs_one_step(tmp_path):
    """Protects long commands: whenever the process is killed, each step is whole or missing, and its file is there if it is done."""
    folder, context = tmp_path / "out", multiprocessing.get_context("spawn")
    before = 0
    for _ in range(3):
        worker = context.Process(target=work, args=(folder,))
        worker.start()
        deadline = time.time() + 60
        while len(Steps(folder).facts()) < before + 10 and time.time() < deadline:
            time.sleep(0.002)
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        done = Steps(folder).facts()
        assert len(done) >= before + 10
        assert [facts["number"] for facts in (done[f"step {n}"] for n in range(len(done)))] == list(range(len(done)))
        assert all((folder / f"{n}.txt").read_text() == str(n) for n in range(len(done)))
        before = len(done)
    work(folder)
    assert len(Steps(folder).facts()) == 100
