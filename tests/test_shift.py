"""`a2d shift`, end to end: its numbers equal SciPy's test, it warns of a shift, and it draws a PNG."""

import json
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from a2d_jax.detectors import shift
from a2d_jax.io.measurements import read_measurements
from tests.test_cli import FACTORY, a2d, near_boundary, refused, run


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Tables of old images, of fresh ones alike, and of fresh ones that lie nearer to the boundary."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny_net.py").write_text(FACTORY)
    for name, margin, seed in (("old", 0.3, 0), ("same", 0.3, 1), ("near", 0.15, 2)):
        np.savez(f"{name}.npz", x=near_boundary(80, margin, seed))
        assert run("cost", "--attacks", "bim,bim2", "--out", f"{name}.parquet", images=f"{name}.npz") == 0
    return tmp_path


def test_what_is_told(here, capsys):
    """Protects the command: exit 0 either way, JSON with the numbers of the library for each attack, and a note where images differ."""
    capsys.readouterr()
    for new in ("same", "near"):
        command = "shift", "--benign", "old.parquet", "--new", f"{new}.parquet", "--level", 0.1, "--json"
        assert a2d(*command) == 0
        out, err = capsys.readouterr()
        told = json.loads(out)
        old, fresh = (read_measurements(f"{name}.parquet") for name in ("old", new))
        columns = old.columns(["bim", "bim2"])
        found = shift(old.select(columns), fresh.select(columns), old_index=old.key, new_index=fresh.key, level=0.1)
        assert [row["attack"] for row in told["tests"]] == ["bim", "bim2"]
        for row, one in zip(told["tests"], found, strict=True):
            assert (row["statistic"], row["p_value"], row["holm_p_value"]) == (one.statistic, one.p_value, one.adjusted)
            assert (row["flagged"], row["flagged_low"], row["flagged_high"]) == (one.flagged, one.flagged_low, one.flagged_high)
        assert told["shifted"] == (new == "near")
        assert ("docs/shift.md" in err) == (new == "near")
        assert (told["benign images"], told["new images"]) == (80, 80)
    assert told["tests"][0]["new_are"] == "lower"
    assert a2d("shift", "--benign", "old.parquet", "--new", "near.parquet", "--attack", "bim.crossing") == 0
    assert "bim.crossing" in capsys.readouterr().out


def test_figure(here, capsys):
    """Protects the figure: a PNG that appears whole, is not replaced by accident, and is named in the result."""
    command = "shift", "--benign", "old.parquet", "--new", "near.parquet", "--figure", "shift.png"
    assert a2d(*command) == 0
    assert "figure: shift.png" in capsys.readouterr().out
    with Image.open("shift.png") as drawn:
        assert drawn.format == "PNG"
    refused(capsys, "shift.png", "--force", code=a2d(*command))
    assert a2d(*command, "--force") == 0


def test_images_in_both_sets(here, capsys):
    """Protects honesty: new images that are among the old ones hide a shift, which is told; without fingerprints nobody knows."""
    capsys.readouterr()
    assert a2d("shift", "--benign", "old.parquet", "--new", "old.parquet", "--json") == 0
    out, err = capsys.readouterr()
    assert "80 of the new images are among the old ones" in err
    assert [row["p_value"] for row in json.loads(out)["tests"]] == [1, 1]
    pq.write_table(pq.read_table("same.parquet").drop_columns(["fingerprint"]), "plain.parquet")
    assert a2d("shift", "--benign", "old.parquet", "--new", "plain.parquet", "--json") == 0
    out, err = capsys.readouterr()
    assert "among the old ones" not in err
    assert not json.loads(out)["shifted"]


def test_refused(here, capsys):
    """Protects users: tables without a common attack, other settings, too few old images and impossible levels are one line."""
    assert run("cost", "--attacks", "jsma", "--out", "jsma.parquet", images="same.npz") == 0
    assert run("cost", "--attacks", "bim", "--max-steps", 9, "--out", "short.parquet", images="same.npz") == 0
    assert run("cost", "--attacks", "bim", "--limit", 5, "--out", "few.parquet", images="old.npz") == 0
    capsys.readouterr()
    old = "shift", "--benign", "old.parquet", "--new"
    refused(capsys, "same attacks", code=a2d(*old, "jsma.parquet"))
    refused(capsys, "max_steps 500", "9 in short.parquet", "--mixed-origins", code=a2d(*old, "short.parquet"))
    refused(capsys, "at least 20 rows", "old benign", code=a2d("shift", "--benign", "few.parquet", "--new", "same.parquet"))
    refused(capsys, "level in (0, 1)", code=a2d(*old, "same.parquet", "--level", 1))
    refused(capsys, "significance in (0, 1)", code=a2d(*old, "same.parquet", "--significance", 0))
    refused(capsys, "not a file", code=a2d(*old, "missing.parquet"))
    assert not pathlib.Path("shift.png").exists()
