"""Attacks compared with other libraries: the definition of success and distance, the rows that are run, and the page."""

from dataclasses import replace

import numpy as np
import pytest

from a2d_jax import attacks
from a2d_jax.errors import BadInput
from a2d_jax.scale.steps import Steps
from experiments.peers import __main__ as command
from experiments.peers.rows import SCALES, Row, rows
from experiments.peers.subject import Outcome, Subject
from tests.nets import convnet

ALONE = {"CWMargin", "JSMAUntargeted", "Newton"}  # no current library has them; golden files hold what literal loops and Foolbox 1.8 do


@pytest.fixture(scope="module")
def attacked():
    """A classifier in both frameworks that compares the sums of the two halves of an image."""
    torch = pytest.importorskip("torch", reason="the peers run in PyTorch")
    weights = np.repeat(np.eye(2, dtype=np.float32), 2, axis=1)

    class Halves(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1) @ torch.from_numpy(weights.T.copy())

    x = np.array([[0.9, 0.9, 0.1, 0.1], [0.2, 0.2, 0.7, 0.7], [1.0, 1.0, 0.0, 0.0]], np.float32).reshape(3, 2, 2, 1)
    return Subject(convnet(), Halves(), x, np.array([0, 1, 0], np.int32))


def test_images_of_peers_are_judged_in_float64(attacked):
    """Protects the comparison: success is another class (or the target), the distance that of NumPy, infinite without success."""
    import torch

    moved = attacked.torch_x().clone()
    moved[0] = torch.tensor([[[0.1, 0.2], [0.5, 0.5]]])
    moved[2] -= 0.125
    left = attacked.judged(attacks.PGD(0.5, norm="l2"), moved)
    np.testing.assert_array_equal(left.success, [True, False, False])
    np.testing.assert_allclose(left.distance, [np.sqrt(0.64 + 0.49 + 0.16 + 0.16), np.inf, np.inf], rtol=1e-6)
    assert left.rate == pytest.approx(1 / 3)
    assert left.median == np.inf

    two = replace(attacked, label=np.array([9, 1, 0], np.int32))  # 9 + 1 + 0 is class 0, 1 + 1 + 1 is 3, 0 + 1 + 2 is 3
    reached = two.judged(attacks.PGD(0.5, norm="linf", targeted=True), attacked.torch_x())
    np.testing.assert_array_equal(reached.success, [True, False, False])
    np.testing.assert_allclose(reached.distance[0], 0)


def test_every_attack_has_a_row():
    """Protects the promise of `CONTRIBUTING.md`: an attack that a library has stands beside it; no two rows of a set are the same."""
    shown = {type(row.attack).__name__ for row in rows("mnist")}
    classes = {name for name in attacks.__all__ if isinstance(getattr(attacks, name), type)}
    assert classes - shown - ALONE == {"JSMA"}, "compared count by count with the released code instead"
    for data in SCALES:
        keys = [command._key(data, 10, row) for row in rows(data)]
        assert len(keys) == len(set(keys))


def test_rows_that_are_done_are_not_run_again(attacked, tmp_path, monkeypatch, capsys):
    """Protects the hours of a long run: what the results folder has stays, and a row with other settings is another row."""
    asked = []

    def peer(attack, subject, seed):
        asked.append((float(attack.epsilon), seed))
        return Outcome(np.array([True, False, True]), np.array([0.25, np.inf, 0.5 + seed]))

    def some(epsilon):
        return lambda data: iter([Row("PGD", attacks.PGD(epsilon), {"Peer": peer}, minimal=True, seeds=2)])

    monkeypatch.setattr(command, "subject", lambda *_: attacked)
    monkeypatch.setattr(command, "read_arrays", lambda _: {})
    monkeypatch.setattr(Subject, "ours", lambda self, attack, seed: Outcome(np.ones(3, bool), np.array([0.1, 0.2, 0.3])))
    settings = command.Settings(tmp_path / "none", tmp_path / "page.md", tmp_path / "results")
    for epsilon in (0.5, 0.5, 0.25):
        monkeypatch.setattr(command, "rows", some(epsilon))
        assert command.main(settings) == 0
    assert asked == [(0.5, 0), (0.5, 1)] * 2 + [(0.25, 0), (0.25, 1)] * 2, "two data sets, each once for each setting"
    (first, *_) = Steps(settings.results).facts().values()
    assert first["runs"]["Peer"] == [{"success": 2 / 3, "distance": 0.5}, {"success": 2 / 3, "distance": 1.5}]
    page = settings.out.read_text()
    assert "| 100 %, 0.2 | 66.67 %, 0.5 to 1.5 | Peer |" in page
    assert "epsilon 0.5" not in page, "the page shows the rows of today's settings"
    monkeypatch.setattr(command, "read_arrays", lambda _: {"w": np.ones(1)})
    with pytest.raises(BadInput, match="weights_sha256 is"):
        command.main(settings)
    capsys.readouterr()
