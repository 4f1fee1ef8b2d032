"""The command for an accelerator, on a CPU with tiny sizes: every part reports its results, and the command ends in time."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from a2d_jax.errors import BadInput
from experiments.speed.accelerator import __main__ as command
from experiments.speed.accelerator.job import Job, table
from experiments.speed.accelerator.material import digits, drawn_images, drawn_weights, resnet20_arrays


@pytest.fixture
def one_device(monkeypatch):
    """What the command starts: one device, as on a card."""
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")


def lines(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_every_part_finds_something(tmp_path, one_device):
    """Protects the one chance at a card: all parts run here, none fails, and what they found is in the table."""
    parts = ("machine", "right", "fast", "where", "lanes", "training")
    assert command.main(command.Settings(minutes=30, out=tmp_path, parts=parts)) == 0
    found = lines(tmp_path)
    assert [part for part in parts if any(line["part"] == part and "skipped" not in line["numbers"] for line in found)] == list(parts)
    assert not any("stopped" in line["numbers"] for line in found)
    right = {line["what"].split(",")[0]: line["numbers"] for line in found if "beside the CPU" in line["what"]}
    assert {network: numbers["equal"] for network, numbers in right.items()} == {"LeNet-5": 1, "ResNet-20": 1}, "the card is the CPU here"
    ours = next(line["numbers"] for line in found if "ours, stream" in line["what"])
    assert ours["agrees"]
    assert ours["times"]["torch-queue"] > 0
    assert (tmp_path / "results.md").read_text() == table(found)
    assert (tmp_path / "profile").is_dir()


def test_a_part_is_ended_when_its_time_is_over(tmp_path, monkeypatch):
    """Protects the minutes of a card: a part that goes on, and what it started, are ended; the command goes on with the next."""
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    monkeypatch.setattr(command.Job, "text", lambda job: "")
    started = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **how: started([sys.executable, "-c", child], **how))
    begin = time.time()
    assert command._finished(Job("fast", str(tmp_path), begin + 0.5, tiny=True))
    assert time.time() - begin < 30
    assert lines(tmp_path)[-1]["numbers"] == {"stopped": True}


def test_what_cannot_fit_is_left_out(tmp_path):
    """Protects the same: what needs longer than is left is not begun, and the table says so."""
    job = Job("right", str(tmp_path), time.time() + 10, tiny=True)
    assert job.fits("a", 1)
    assert not job.fits("b", 100)
    assert lines(tmp_path)[-1]["what"] == "b"
    assert "left out: 100 s needed" in (tmp_path / "results.md").read_text()


def test_no_part_is_begun_without_time(tmp_path, monkeypatch):
    """Protects the same: with no minutes to speak of, nothing starts."""
    monkeypatch.setattr(command, "_backend", lambda: "cpu")
    monkeypatch.setattr(command, "_finished", lambda job: pytest.fail("begun"))
    assert command.main(command.Settings(minutes=0.01, out=tmp_path)) == 0
    assert all(line["numbers"] == {"skipped": True} for line in lines(tmp_path))


def test_a_part_that_fails_is_told(tmp_path, monkeypatch):
    """Protects honesty: the last words of a part that breaks are in the table, the others run, and the command ends with 1."""
    monkeypatch.setattr(command, "_backend", lambda: "cpu")
    monkeypatch.setattr(command.Job, "text", lambda job: "no JSON")
    assert command.main(command.Settings(out=tmp_path, parts=("machine",))) == 1
    assert "JSONDecodeError" in lines(tmp_path)[-1]["said"]


@pytest.mark.parametrize(("wrong", "said"), [({"minutes": 0}, "--minutes"), ({"parts": ("left",)}, "parts among")])
def test_wrong_settings(wrong, said, tmp_path):
    """Protects the user: the line says what was expected."""
    with pytest.raises(BadInput, match=said):
        command.main(command.Settings(out=tmp_path, **wrong))


def test_material(monkeypatch, tmp_path):
    """Protects the comparison: without data sets there are images, in bounds, no two of a hundred alike, and weights for any network."""
    monkeypatch.setenv("A2D_DATA", str(tmp_path))
    x, origin = digits(100)
    assert origin == "made from 16 digits"
    assert x.shape == (100, 28, 28, 1)
    assert len(np.unique(x.reshape(100, -1), axis=0)) == 100
    photographs = drawn_images(2, 224)
    for images in (x, photographs):
        assert images.dtype == np.float32
        assert images.min() >= 0
        assert images.max() <= 1
    weights = drawn_weights("cifar_resnet20")
    assert weights["conv1.weight"].shape == (16, 3, 3, 3)
    np.testing.assert_array_equal(weights["conv1.weight"], drawn_weights("cifar_resnet20")["conv1.weight"])


def test_weights_that_the_user_gives(tmp_path):
    """Protects the minutes of a card: a checkpoint given by path, which reaches the part as text, is read."""
    path = tmp_path / "weights.safetensors"
    save_file(drawn_weights("cifar_resnet20"), path)
    job = Job(**json.loads(Job("right", str(tmp_path), time.time() + 10, tiny=True, checkpoint=str(path)).text()))
    np.testing.assert_array_equal(resnet20_arrays(job)["conv1.weight"], drawn_weights("cifar_resnet20")["conv1.weight"])
