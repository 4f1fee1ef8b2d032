"""`--lanes auto`: the number is tried once, remembered for similar jobs, and not trusted if its file is broken."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.attacks import bim, bim2
from a2d_jax.costs import lanes
from a2d_jax.drivers import Calibration
from a2d_jax.errors import BadInput
from tests.nets import batch, convnet
from tests.test_contract import CASES

BIM, NET = bim(), convnet()


@pytest.fixture
def tried(monkeypatch, tmp_path):
    """The lanes that were found, in the order of trying: each time two more."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = []

    def calibrate(attack, classifier, examples, *, keep_x_adv):
        found.append(2 * len(found) + 2)
        return Calibration(found[-1], {found[-1]: 1.0})

    monkeypatch.setattr(drivers, "calibrate", calibrate)
    return found


def ask(attack=BIM, net=NET, size=8):
    return lanes.fastest_lanes(attack, net, batch(net, np.zeros((2, size, size, 1), np.float32)), True)


def test_tried_once_for_what_takes_the_same_time(tried):
    """Protects the memory: other numbers and weights are the same work; another norm, shape or network is not."""
    other = jax.tree.map(lambda leaf: leaf * 2, NET)
    assert [ask(), ask(bim(0.1, 0.02, 7)), ask(net=other)] == [2, 2, 2]
    assert [ask(bim2()), ask(net=convnet(classes=3)), ask(net=convnet(size=6), size=6)] == [4, 6, 8]
    assert [ask(), ask(bim2())] == [2, 4]
    assert len(tried) == 4


def test_forgotten_with_the_file(tried, tmp_path):
    """Protects the way to try again: the file is deleted, and nothing else remembers."""
    ask()
    path = tmp_path / "a2d-jax" / "lanes.json"
    (record,) = json.loads(path.read_text()).values()
    assert record == {"lanes": 2, "microseconds": {"2": 1.0}}
    path.unlink()
    assert ask() == 4


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 3}', '{"a": {}}', '{"a": {"lanes": "8"}}', '{"a": {"lanes": 1}}'])
def test_a_broken_file_is_said(tried, tmp_path, text):
    """Protects against half of a file: the line names it and says what to do."""
    (tmp_path / "a2d-jax").mkdir()
    (tmp_path / "a2d-jax" / "lanes.json").write_text(text)
    with pytest.raises(BadInput, match=r"expected the numbers of lanes.*lanes\.json.* delete the file"):
        ask()


@pytest.mark.parametrize("attack", [pytest.param(case.attack, id=name) for name, case in CASES.items()])
def test_every_attack_can_be_remembered(attack):
    """Protects the key: it is the same in another process (no address in it), and attacks can be shortened."""
    examples = batch(NET, np.zeros((1, 8, 8, 1), np.float32))
    assert "0x" not in lanes._key(attack, NET, examples)
    assert replace(attack, max_steps=1).max_steps == 1
