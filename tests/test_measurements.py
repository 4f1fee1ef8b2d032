"""The columns that a detector reads: any number of a table by its name, and the right distance for a failed attack."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import a2d_jax
from a2d_jax import norms
from a2d_jax.attacks import FMN, bim
from a2d_jax.detectors import KNN, Conformal, ZScore
from a2d_jax.errors import BadInput
from a2d_jax.io.measurements import read_measurements
from a2d_jax.measurements import Column, coarse, farthest
from tests.nets import convnet
from tests.test_cli import FACTORY, a2d, near_boundary, run


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a network, and images near to the boundary and far from it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny_net.py").write_text(FACTORY)
    np.savez("near.npz", x=near_boundary(60, 0.05, 0))
    np.savez("far.npz", x=near_boundary(60, 0.6, 1))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("bim", Column("bim", "cost")),
        ("bim.cost", Column("bim", "cost")),
        ("fmn.distance", Column("fmn", "distance")),
        ("my.module:Walk.forward_queries", Column("my.module:Walk", "forward_queries")),
        ("my.module:Walk", Column("my.module:Walk", "cost")),
        ("clever:target-2", Column("clever:target-2", "score")),
        ("clever:target-2.margin", Column("clever:target-2", "margin")),
    ],
)
def test_names(text, column):
    """Protects the words: a measurement alone means the number it is there for, and names with dots and colons are read."""
    known = ("bim", "fmn", "my.module:Walk", "clever:target-2")
    assert Column.named(text, known) == column
    assert Column.named(str(column), known) == column


@pytest.mark.parametrize(
    ("text", "word"), [("dba", "among bim"), ("bim.score", "cost, iterations"), ("dba.cost", "among bim"), ("", "among"), ("bim.", "''")]
)
def test_unknown_names(text, word):
    """Protects users: an unknown measurement or number is refused with those that there are."""
    with pytest.raises(BadInput, match=word):
        Column.named(text, ("bim",))


@pytest.mark.parametrize("norm", norms.NORMS)
def test_nothing_is_farther_than_the_farthest(norm):
    """Protects failures: no two images of a shape are farther apart, and some are just as far."""
    shape = (3, 2, 2)
    black, white = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    assert farthest(norm, shape) == pytest.approx(float(norms.norm(white - black, norm)))
    drawn = np.random.default_rng(0).random((50, *shape), np.float32)
    assert max(float(norms.norm(a - b, norm)) for a, b in zip(drawn, drawn[::-1], strict=True)) <= farthest(norm, shape)


def test_a_failure_is_farther_than_every_success(here):
    """Protects honest distances: where the attack fails, the distance read is no success's, although the point it stopped at is near."""
    assert run("cost", "--attacks", "bim,fmn", "--max-steps", 6, "--out", "f.parquet", images="far.npz") == 0
    rows = pq.read_table("f.parquet").to_pydict()
    mine = [i for i, name in enumerate(rows["attack"]) if name == "bim"]
    success, written = (np.asarray(rows[name])[mine] for name in ("success", "distance"))
    assert 0 < success.sum() < 60
    assert written[~success].max() < 0.01, "the table holds where the attack stopped"
    table = read_measurements("f.parquet")
    read = table.select(table.columns(["bim.distance"]))[:, 0]
    np.testing.assert_array_equal(read[success], written[success])
    np.testing.assert_array_equal(read[~success], 1.0)


def test_an_old_table_of_failures_is_not_guessed(here):
    """Protects old tables: their costs are read as ever; a distance of theirs whose norm nobody knows is refused where an attack failed."""
    assert run("cost", "--attacks", "bim", "--max-steps", 6, "--out", "new.parquet", images="far.npz") == 0
    rows = pq.read_table("new.parquet").drop_columns(["fingerprint", "target"])
    meta = json.loads(rows.schema.metadata[b"a2d"])
    kept = {name: value for name, value in meta.items() if name not in ("norms", "shape", "labels", "spec")}
    pq.write_table(rows.replace_schema_metadata({"a2d": json.dumps(kept)}), "old.parquet")
    old, new = read_measurements("old.parquet"), read_measurements("new.parquet")
    np.testing.assert_array_equal(old.select(old.columns(["bim"])), new.select(new.columns(["bim"])))
    np.testing.assert_array_equal(old.key, old.index)
    with pytest.raises(BadInput, match=r"norm of bim and the shape of the images.*run `a2d cost` again"):
        old.select(old.columns(["bim.distance"]))
    assert a2d("fit", "--benign", "old.parquet", "--detector", "conformal", "--out", "d.json") == 0
    assert a2d("detect", "--detector", "d.json", "--costs", "old.parquet", "--out", "v.parquet") == 0
    assert run("detect", "--detector", "d.json", "--out", "w.parquet", images="far.npz") == 0


def test_fit_and_detect_read_a_distance(here, capsys):
    """Protects minimum-norm attacks as defence: a detector of their distance judges tables and images alike."""
    for name in ("near", "far"):
        assert run("cost", "--attacks", "bim,fmn", "--out", f"{name}.parquet", images=f"{name}.npz") == 0
    capsys.readouterr()
    assert a2d("fit", "--benign", "far.parquet", "--attacks", "fmn.distance", "--detector", "zscore", "--out", "d.json") == 0
    assert json.loads((here / "d.json").read_text())["columns"] == ["fmn.distance"]
    assert a2d("detect", "--detector", "d.json", "--costs", "near.parquet", "--out", "a.parquet") == 0
    assert run("detect", "--detector", "d.json", "--out", "b.parquet", images="near.npz") == 0
    first, second = (pq.read_table(name).to_pydict() for name in ("a.parquet", "b.parquet"))
    assert first["adversarial"] == second["adversarial"]
    np.testing.assert_allclose(first["fmn.distance"], second["fmn.distance"], rtol=1e-5)
    assert sum(first["adversarial"]) > 40
    assert a2d("eval", "--benign", "far.parquet", "--adversarial", "near.parquet", "--attacks", "bim,fmn.distance", "--json") == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["sets"]
    assert [row["attack"] for row in rows] == ["bim", "fmn.distance"]
    assert rows[1]["auroc"] > 0.8


def test_coarse_counts_are_told(here, capsys):
    """Protects against a silent nothing: counts that are two or three for every image are noted, with where to look."""
    assert run("cost", "--attacks", "fmn", "--out", "far.parquet", images="far.npz") == 0
    capsys.readouterr()
    assert a2d("fit", "--benign", "far.parquet", "--attacks", "fmn", "--detector", "conformal", "--out", "d.json") == 0
    told = capsys.readouterr().err
    assert "fmn takes" in told
    assert "fmn.distance" in told
    assert coarse({Column("bim", "cost"): np.arange(50)}) == []
    assert len(coarse({Column("bim", "cost"): np.arange(50) % 3})) == 1


def test_tables_and_images_read_the_same_failures(here):
    """Protects verdicts: a failure's distance is the same number in a table and from images, also where float32 cannot hold it."""
    colour = "from a2d_jax.types import Classifier\nimport numpy as np\n"
    colour += "W = np.random.default_rng(0).normal(size=(48, 2)).astype(np.float32)\n"
    (here / "rgb_net.py").write_text(colour + "def net():\n    return Classifier(W, lambda w, x: x.reshape(48) @ w)\n")
    for name, seed in (("a", 0), ("b", 1)):
        np.savez(f"{name}.npz", x=np.random.default_rng(seed).uniform(0.3, 0.7, (60, 4, 4, 3)).astype(np.float32))
    (here / "l2.toml").write_text('[defence.l2]\nattack = "PGD"\nnorm = "l2"\nepsilon = 0.1\nstep_size = 0.002\nmax_steps = 20\n')
    for name in ("a", "b"):
        cost = "cost", "--preset", "l2.toml", "--attacks", "l2", "--out", f"{name}.parquet"
        assert run(*cost, images=f"{name}.npz", factory="rgb_net:net") == 0
    fit = "fit", "--benign", "b.parquet", "--attacks", "l2.distance", "--detector", "conformal:level=0.3", "--out", "d.json"
    assert a2d(*fit) == 0
    assert a2d("detect", "--detector", "d.json", "--costs", "a.parquet", "--out", "v.parquet") == 0
    assert run("detect", "--detector", "d.json", "--out", "w.parquet", images="a.npz", factory="rgb_net:net") == 0
    first, second = (pq.read_table(name).to_pydict() for name in ("v.parquet", "w.parquet"))
    assert first["score"] == second["score"]
    assert max(first["l2.distance"]) == np.sqrt(48)


def test_columns_are_named_once(here, capsys):
    """Protects votes: one number under two names is one voice, and no column at all is none."""
    assert run("cost", "--attacks", "bim", "--out", "far.parquet", images="far.npz") == 0
    capsys.readouterr()
    for text in ("bim,bim.cost", ","):
        assert a2d("fit", "--benign", "far.parquet", "--attacks", text, "--detector", "vote", "--out", "d.json") == 1
        assert "each once" in capsys.readouterr().err


def test_reported_stops_are_real(here, capsys):
    """Protects honesty: an attack of which two numbers are read goes on to its end, and no saving is told."""
    assert run("cost", "--attacks", "bim", "--out", "far.parquet", images="far.npz") == 0
    fit = "fit", "--benign", "far.parquet", "--attacks", "bim.distance,bim", "--detector", "vote:k=1", "--out", "d.json"
    assert a2d(*fit) == 0
    capsys.readouterr()
    assert run("detect", "--detector", "d.json", "--out", "v.parquet", "--json", images="far.npz") == 0
    (steps,) = json.loads(capsys.readouterr().out)["steps"]
    assert (steps["stops at cost"], steps["images stopped"], steps["steps saved, at most"]) == (None, 0, 0)


def test_scores_of_clever(here, capsys):
    """Protects other measurements: a detector reads the scores of a table of `a2d clever`."""
    for name in ("near", "far"):
        options = "--batches", 4, "--samples", 8, "--targets", "target-2,untargeted"
        assert run("clever", "--out", f"{name}.parquet", *options, images=f"{name}.npz") == 0
    fit = "fit", "--benign", "far.parquet", "--detector", "zscore", "--out", "d.json", "--attacks"
    assert a2d(*fit, "clever:target-2.score") == 0
    assert json.loads((here / "d.json").read_text())["columns"] == ["clever:target-2"]
    assert a2d("detect", "--detector", "d.json", "--costs", "near.parquet", "--out", "v.parquet") == 0
    assert sum(pq.read_table("v.parquet")["adversarial"].to_pylist()) > 40
    capsys.readouterr()
    assert run("detect", "--detector", "d.json", "--out", "w.parquet", images="near.npz") == 1
    assert "judge a table of `a2d clever`" in capsys.readouterr().err


def test_defense_reads_columns():
    """Protects the same from Python: columns by name, several of one attack, and no bound where another number than a cost is read."""
    net, x = convnet(), np.random.default_rng(0).uniform(size=(60, 8, 8, 1)).astype(np.float32)
    attacks = {"bim": bim(0.3, 0.004, 60), "fmn": FMN(decay_steps=20, max_steps=20)}
    fitted = a2d_jax.Defense(net, attacks, Conformal(level=0.2), columns=["fmn.distance"]).fit(x[:40])
    assert fitted.columns == (Column("fmn", "distance"),)
    np.testing.assert_array_equal(fitted.predict(x[40:]), fitted.predict(x[40:], bound=False))
    both = a2d_jax.Defense(net, attacks, KNN(k=5), columns=["bim", "bim.forward_queries"]).fit(x[:20], x[20:40])
    assert both.score(x[40:]).shape == (20,)
    with pytest.raises(BadInput, match="among bim, fmn"):
        a2d_jax.Defense(net, attacks, ZScore(), columns=["dba"]).fit(x)


def test_crossings_are_read_by_name(here):
    """Protects the crossing as a score: a column for attacks that have one, null for the others, and far where the attack failed."""
    assert run("cost", "--attacks", "newton,bim,fmn", "--max-steps", 6, "--out", "f.parquet", images="far.npz") == 0
    rows = pq.read_table("f.parquet").to_pydict()
    assert all((value is None) == (name == "fmn") for name, value in zip(rows["attack"], rows["crossing"], strict=True))
    table = read_measurements("f.parquet")
    read = table.select(table.columns(["newton.crossing", "bim.crossing"]))
    assert np.isfinite(read).all()
    failed = ~table.success["bim"]
    assert failed.any()
    assert (read[failed, 1] == 1).all()
    assert (read[~failed, 1] <= 6 * 6e-4 * 1.001).all()
    with pytest.raises(BadInput, match=r"got fmn, which has no crossing; name another"):
        table.select(table.columns(["fmn.crossing"]))


def test_tables_without_crossings_are_read(here):
    """Protects old tables: their costs and distances are read as ever, and a crossing of theirs is refused with the remedy."""
    assert run("cost", "--attacks", "bim", "--out", "new.parquet", images="near.npz") == 0
    pq.write_table(pq.read_table("new.parquet").drop_columns(["crossing"]), "old.parquet")
    old, new = read_measurements("old.parquet"), read_measurements("new.parquet")
    for text in ("bim", "bim.distance"):
        np.testing.assert_array_equal(old.select(old.columns([text])), new.select(new.columns([text])))
    with pytest.raises(BadInput, match=r"column crossing of bim in old.parquet, got a table without it; measure again"):
        old.columns(["bim.crossing"])


@pytest.mark.parametrize("detector", ["zscore", "conformal"])
def test_a_radius_stops_newton_and_no_verdict_changes(here, detector, capsys):
    """Protects the bound of a crossing: verdicts on images and tables are the same with it and without, for fewer steps with it."""
    for name in ("near", "far"):
        assert run("cost", "--attacks", "newton", "--out", f"{name}.parquet", images=f"{name}.npz") == 0
    assert a2d("fit", "--benign", "far.parquet", "--attacks", "newton.crossing", "--detector", detector, "--out", "d.json") == 0
    capsys.readouterr()
    steps, flagged = {}, {}
    for out, options in {"bound": (), "whole": ("--no-bound",)}.items():
        for name in ("near", "far"):
            assert run("detect", "--detector", "d.json", "--out", f"{out}-{name}", "--json", *options, images=f"{name}.npz") == 0
            (steps[out, name],) = json.loads(capsys.readouterr().out)["steps"]
            flagged[out, name] = pq.read_table(f"{out}-{name}")["adversarial"].to_pylist()
    for name in ("near", "far"):
        assert a2d("detect", "--detector", "d.json", "--costs", f"{name}.parquet", "--out", f"table-{name}") == 0
        assert flagged["bound", name] == flagged["whole", name] == pq.read_table(f"table-{name}")["adversarial"].to_pylist()
    saved = steps["whole", "far"]["steps"] - steps["bound", "far"]["steps"]
    assert 0 < saved <= steps["bound", "far"]["steps saved, at most"]
    assert steps["bound", "far"]["images stopped"] > 0
    assert steps["bound", "far"]["stops at radius"] > 0
