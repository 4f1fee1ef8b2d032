"""The whole experiment on shifts in a small size, with a linear classifier in place of LeNet-5."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from a2d_jax.errors import BadInput
from experiments import shift
from tests.nets import linear


def test_in_small(tmp_path, monkeypatch, capsys):
    """Protects the command: every set is judged, shares lie within their intervals, and the tables, numbers and figure are left."""
    random = np.random.default_rng(0)
    net = linear(random.normal(size=(3, 64)).astype(np.float32))
    x = random.uniform(0.3, 0.7, (70, 8, 8, 1)).astype(np.float32)
    monkeypatch.setattr(shift, "load_checkpoint", lambda factory, folder: SimpleNamespace(classifier=net))
    monkeypatch.setattr(shift, "whole", lambda source: (x, np.zeros(70, np.int64)))
    monkeypatch.setattr(shift, "load", lambda name, split: None)
    shift.main(shift.Settings(tmp_path, images=30, splits=5, out=tmp_path / "out"))
    printed = capsys.readouterr().out
    assert "| half contrast |" in printed
    assert "| both, by Holm |" in printed
    found = json.loads((tmp_path / "out" / "shift.json").read_text())
    assert [row["digits"] for row in found["sets"]] == list(shift.CHANGES)
    for row in found["sets"]:
        for column in ("bim", "newton.crossing"):
            assert row[column]["flagged_low"] <= row[column]["flagged"] <= row[column]["flagged_high"]
            assert len(row[column]["p_values"]) == 30
    assert (tmp_path / "out" / "shift.png").stat().st_size > 1000
    with pytest.raises(BadInput, match="20 to 5000 images"):
        shift.main(shift.Settings(tmp_path, images=5))


def test_shown():
    """Protects the table: p-values read as people write them."""
    assert [shift.shown(p) for p in (0.5, 0.03, 0.004, 1e-12)] == ["0.50", "0.03", "4e-03", "< 1e-9"]
