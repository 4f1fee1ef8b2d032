"""Mixed origins, end to end: all commands refuse costs of different origins; one switch accepts them, and the output records it."""

import json
import pathlib
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from a2d_jax import costs
from a2d_jax.classifiers import in_bfloat16
from a2d_jax.errors import BadInput
from a2d_jax.jobs import DetectSpec, EvaluateSpec, FitSpec, detection
from a2d_jax.jobs import detect as detect_job
from a2d_jax.jobs import evaluate as evaluate_job
from a2d_jax.jobs import fit as fit_job
from a2d_jax.types import Classifier
from tests.test_cli import FACTORY, WEIGHTS, a2d, near_boundary, refused, run

OTHER = """

def other():
    return Classifier(WEIGHTS[::-1].copy(), logits)

def halved(weights, x):
    return logits(weights, x) / 2

def rescaled():
    return Classifier(WEIGHTS, halved)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Tables of benign images of two networks, of adversarial ones, and a detector of the first network."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny_net.py").write_text(FACTORY)
    (tmp_path / "second_net.py").write_text(FACTORY + OTHER)
    np.savez("far.npz", x=near_boundary(40, 2, 4))
    np.savez("near.npz", x=near_boundary(30, 0.3, 5))
    for name in ("far", "near"):
        assert run("cost", "--attacks", "bim", "--out", f"{name}.parquet", images=f"{name}.npz") == 0
    assert run("cost", "--attacks", "bim", "--out", "other.parquet", images="near.npz", factory="second_net:other") == 0
    assert a2d("fit", "--benign", "far.parquet", "--detector", "conformal", "--out", "d.json") == 0
    return tmp_path


def test_another_network_is_refused_everywhere(here, capsys):
    """Protects verdicts: costs of another network, or another network itself, meet no table and no detector without the switch."""
    capsys.readouterr()
    both = "tiny_net:net", "second_net:other", "weights_sha256", "--mixed-origins"
    detect = "detect", "--detector", "d.json", "--out", "out"
    refused(capsys, *both, code=a2d("eval", "--benign", "far.parquet", "--adversarial", "near.parquet", "other.parquet"))
    refused(
        capsys, *both, code=a2d("fit", "--benign", "far.parquet", "--adversarial", "other.parquet", "--detector", "svm", "--out", "out")
    )
    refused(capsys, *both, code=a2d(*detect, "--costs", "other.parquet"))
    refused(capsys, *both, code=run(*detect, images="near.npz", factory="second_net:other"))
    refused(capsys, *both, code=a2d("shift", "--benign", "far.parquet", "--new", "other.parquet"))
    refused(capsys, "second_net:rescaled", code=run(*detect, images="near.npz", factory="second_net:rescaled"))
    assert not pathlib.Path("out").exists()


def test_the_switch_is_recorded(here, capsys):
    """Protects the record: with the switch each job runs, says so in a note, and keeps in its output what differed."""
    mixed = "--mixed-origins"
    fit = "fit", "--benign", "far.parquet", "--adversarial", "other.parquet", "--detector", "svm", "--out", "svm.json", mixed
    assert a2d(*fit) == 0
    kept = json.loads(pathlib.Path("svm.json").read_text())["meta"]["mixed_origins"]
    assert kept["classifier"] == {"far.parquet": "tiny_net:net", "other.parquet": "second_net:other"}
    capsys.readouterr()
    assert a2d("detect", "--detector", "svm.json", "--costs", "far.parquet", "--out", "v") == 0
    assert "svm.json was fitted to costs of mixed origins" in capsys.readouterr().err
    for options in (["--costs", "other.parquet"], ["--classifier", "second_net:other", "--images", "near.npz"]):
        assert a2d("detect", "--detector", "d.json", *options, "--out", "v", "--force", mixed) == 0
        assert "origins are mixed as asked: classifier" in capsys.readouterr().err
        meta = json.loads(pq.read_schema("v").metadata[b"a2d"])
        assert set(meta["mixed_origins"]) == {"classifier", "weights_sha256"}
    assert a2d("eval", "--benign", "far.parquet", "--adversarial", "other.parquet", "--json", mixed) == 0
    assert set(json.loads(capsys.readouterr().out)["mixed_origins"]) == {"classifier", "weights_sha256"}
    assert a2d("eval", "--benign", "far.parquet", "--adversarial", "near.parquet", "--json", mixed) == 0
    assert "mixed_origins" not in json.loads(capsys.readouterr().out)


def test_jobs_from_python(here):
    """Protects scripts: the jobs refuse the same, and the switch is a field of their specs."""
    one = {"benign": "far.parquet", "adversarial": ("other.parquet",)}
    for job, spec in (
        (fit_job, FitSpec(**one, detector="svm", out="e.json")),
        (evaluate_job, EvaluateSpec(**one)),
        (detect_job, DetectSpec(detector="d.json", costs="other.parquet", out="v")),
    ):
        with pytest.raises(BadInput, match="second_net:other"):
            job(spec)
    assert evaluate_job(EvaluateSpec(**one, mixed_origins=True)).summary["mixed_origins"]


def test_a_table_without_metadata(here, capsys):
    """Protects round trips: a table that lost its record is evaluated with a note; a detector fitted to it judges tables, not images."""
    for name in ("far", "near"):
        pq.write_table(pq.read_table(f"{name}.parquet").replace_schema_metadata(None), f"{name}-lost.parquet")
    capsys.readouterr()
    assert a2d("eval", "--benign", "far.parquet", "--adversarial", "near.parquet", "--json") == 0
    whole = json.loads(capsys.readouterr().out)["sets"][0]["auroc"]
    assert a2d("eval", "--benign", "far-lost.parquet", "--adversarial", "near.parquet", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["sets"][0]["auroc"] == whole
    assert err.count("far-lost.parquet does not record how its costs were measured") == 1
    assert a2d("fit", "--benign", "far-lost.parquet", "--detector", "conformal", "--out", "lost.json") == 0
    assert "lost.json can judge tables of costs but no images" in capsys.readouterr().err
    assert a2d("detect", "--detector", "lost.json", "--costs", "near-lost.parquet", "--out", "v") == 0
    assert a2d("detect", "--detector", "d.json", "--costs", "near.parquet", "--out", "w") == 0
    assert pq.read_table("v").to_pydict() == pq.read_table("w").to_pydict()
    capsys.readouterr()
    refused(capsys, "lost.json", "judge only tables", code=run("detect", "--detector", "lost.json", "--out", "u", images="near.npz"))
    with pytest.raises(BadInput, match="judge only tables"):
        costs.read_defense(Classifier(WEIGHTS, lambda weights, x: x.reshape(16) @ weights), "lost.json")


def test_an_older_table(here, capsys):
    """Protects old files: a table that lacks a later fact is compared in all others, and judged as before with a note."""
    rows = pq.read_table("near.parquet")
    meta = json.loads(rows.schema.metadata[b"a2d"])
    del meta["counts"]
    pq.write_table(rows.replace_schema_metadata({"a2d": json.dumps(meta)}), "old.parquet")
    capsys.readouterr()
    assert a2d("detect", "--detector", "d.json", "--costs", "old.parquet", "--out", "v") == 0
    err = capsys.readouterr().err
    assert re.fullmatch(r"a2d: old.parquet does not record counts, so this could not be compared\n", err)


def test_a_folder_of_tables(here, capsys):
    """Protects shards: a folder takes the place of a table in fit, eval and detect, and gives what one table of all images gives."""
    x = np.load("far.npz")["x"]
    pathlib.Path("parts").mkdir()
    for name, rows in (("a", slice(0, 15)), ("b", slice(15, 40))):
        np.savez(f"{name}.npz", x=x[rows])
        assert run("cost", "--attacks", "bim", "--out", f"parts/{name}.parquet", images=f"{name}.npz") == 0
    capsys.readouterr()
    for benign in ("far.parquet", "parts"):
        assert a2d("fit", "--benign", benign, "--detector", "zscore", "--out", f"{benign}.json") == 0
        assert a2d("detect", "--detector", f"{benign}.json", "--costs", "parts", "--out", f"{benign}.v") == 0
    assert "images of parts were renumbered" in capsys.readouterr().err
    one, parts = (json.loads(pathlib.Path(f"{name}.json").read_text())["params"] for name in ("far.parquet", "parts"))
    assert one == parts
    whole, put_together = (pq.read_table(f"{name}.v").to_pydict() for name in ("far.parquet", "parts"))
    assert whole == put_together
    assert whole["index"] == list(range(40))
    assert run("detect", "--detector", "parts.json", "--out", "w", images="near.npz") == 0
    assert a2d("eval", "--benign", "parts", "--adversarial", "near.parquet", "parts", "--json") == 0
    sets = json.loads(capsys.readouterr().out.splitlines()[-1])["sets"]
    assert [(row["set"], row["images"]) for row in sets] == [("near", 30), ("parts", 40)]


def test_a_detector_read_in_python(here, recwarn):
    """Protects scripts: a detector of `a2d fit` guards its own classifier as the command does, and no other without the switch."""
    net = Classifier(WEIGHTS, lambda weights, x: x.reshape(16) @ weights)
    x = np.load("near.npz")["x"]
    assert run("detect", "--detector", "d.json", "--out", "v", images="near.npz") == 0
    found = costs.read_defense(net, "d.json").predict(x)
    assert found.tolist() == pq.read_table("v")["adversarial"].to_pylist()
    assert not recwarn.list
    other = Classifier(WEIGHTS[::-1].copy(), net.apply)
    with pytest.raises(BadInput, match=r"weights .* as in d.json, got .* in the classifier.*mixed_origins=True"):
        costs.read_defense(other, "d.json")
    with pytest.raises(BadInput, match=r"in float32 as in d\.json, got bfloat16"):
        costs.read_defense(in_bfloat16(net), "d.json")
    with pytest.warns(UserWarning, match="origins are mixed as asked: weights_sha256"):
        assert len(costs.read_defense(other, "d.json", mixed_origins=True).predict(x)) == 30
    old = json.loads(pathlib.Path("d.json").read_text())
    del old["meta"]["costs"]["counts"]
    pathlib.Path("old.json").write_text(json.dumps(old))
    with pytest.warns(UserWarning, match="old.json does not record counts"):
        assert costs.read_defense(net, "old.json").predict(x).tolist() == found.tolist()


def test_verdicts_in_pieces(here, monkeypatch):
    """Protects large tables: verdicts that are written piece by piece are those written at once, in the order of the set."""
    assert a2d("detect", "--detector", "d.json", "--costs", "near.parquet", "--out", "one") == 0
    monkeypatch.setattr(detection, "PIECE", 7)
    assert a2d("detect", "--detector", "d.json", "--costs", "near.parquet", "--out", "pieces") == 0
    assert pq.read_table("pieces").equals(pq.read_table("one"))
    assert pq.read_table("one")["index"].to_pylist() == list(range(30))
