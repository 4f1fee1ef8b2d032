"""The command line, end to end on a tiny linear classifier: its files, its messages and its exit codes."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import orbax.checkpoint as ocp
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from a2d_jax import drivers
from a2d_jax.cli import main
from a2d_jax.costs import measuring
from a2d_jax.drivers import calibration
from a2d_jax.io.measurements import read_measurements

FACTORY = """
import numpy as np
from flax import nnx
from a2d_jax.types import Classifier

WEIGHTS = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
WEIGHTS -= WEIGHTS.mean(0)  # grey images lie on the boundary

def logits(weights, x):
    return x.reshape(16) @ weights

def net():
    return Classifier(WEIGHTS, logits)

def broken():
    return Classifier(np.full((16, 2), np.nan, np.float32), logits)

def colour():
    return Classifier(np.zeros((48, 2), np.float32), lambda weights, x: x.reshape(48) @ weights)

class Dense(nnx.Module):
    input_shape = (4, 4, 1)

    def __init__(self, classes):
        self.fc = nnx.Linear(16, classes, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.fc(x.reshape(len(x), 16))

class Photo(Dense):
    input_shape = (4, 4, 3)
    class_names = ("ant", "bee")
    photographs = {"resize": 6, "crop": 4, "interpolation": "bicubic"}

    def __call__(self, x):
        return super().__call__(x[..., 0])

def photo():
    return Photo(2)

def dense():
    return Dense(2)

def dense3():
    return Dense(3)

def slow():
    open("started", "w").close()
    return net()

not_callable = 3
"""
WEIGHTS = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
WEIGHTS -= WEIGHTS.mean(0)
DIRECTION = (WEIGHTS[:, 1] - WEIGHTS[:, 0]).astype(np.float64)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a classifier, as a user has it."""
    monkeypatch.chdir(tmp_path)  # the module itself is imported once: the same classifier compiles nothing anew
    (tmp_path / "tiny_net.py").write_text(FACTORY)
    return tmp_path


def near_boundary(count: int, largest_margin: float, seed: int) -> np.ndarray:
    """Images whose logits differ by up to `largest_margin`, either way, and whose pixels are far from 0 and 1."""
    random = np.random.default_rng(seed)
    x = 0.5 + random.uniform(-0.1, 0.1, (count, 16))
    wanted = random.uniform(-1, 1, (count, 1)) * largest_margin
    x += (wanted - x @ DIRECTION[:, None]) * DIRECTION / (DIRECTION @ DIRECTION)
    return x.reshape(-1, 4, 4, 1).astype(np.float32)


def a2d(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def run(*arguments: object, images: str = "x.npz", factory: str = "tiny_net:net") -> int:
    """A command that takes a classifier and images."""
    command, *rest = arguments
    return a2d(command, "--classifier", factory, "--images", images, *rest)


def table(path: str) -> dict[str, list]:
    return pq.read_table(path).to_pydict()


# What is written.


def test_predictions(here, capsys):
    """Labels and probabilities of `a2d predict` are those of NumPy; the accuracy is reported where labels are known."""
    x = near_boundary(10, 1, 0)
    logits = x.reshape(10, 16) @ WEIGHTS
    truth = np.r_[logits.argmax(1)[:9], 1 - logits.argmax(1)[9]]
    np.savez("x.npz", x=x, y=truth)
    assert run("predict", "--out", "p.parquet", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"out": "p.parquet", "images": 10, "failed": 0, "accuracy": 0.9}
    rows = table("p.parquet")
    assert list(rows) == ["index", "id", "label", "probability", "error"]
    assert rows["label"] == logits.argmax(1).tolist()
    e = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(rows["probability"], (e / e.sum(1, keepdims=True)).max(1), rtol=1e-5)


def test_costs_of_a_linear_classifier(here):
    """BIM needs margin / (step * ||w||_1) updates and BIM2 margin / (step * sqrt(n) * ||w||_2), rounded up; misses are censored."""
    x = near_boundary(40, 0.3, 1)
    np.savez("x.npz", x=x)
    assert run("cost", "--out", "c.parquet", "--attacks", "bim,bim2", "--max-steps", 30, "--seed", 5) == 0
    rows = pq.read_table("c.parquet")
    margin = np.abs(x.reshape(-1, 16).astype(np.float64) @ DIRECTION)
    for name, gain in [("bim", 6e-4 * np.abs(DIRECTION).sum()), ("bim2", 2e-4 * 4 * np.sqrt(DIRECTION @ DIRECTION))]:
        mine = rows.filter(pa.compute.equal(rows["attack"], name)).to_pydict()
        exact = margin / gain
        clear = np.abs(exact - exact.round()) > 0.01  # float32 may round the others either way
        expected = np.where(np.ceil(exact) <= 30, np.ceil(exact), 31)
        np.testing.assert_array_equal(np.asarray(mine["cost"])[clear], expected[clear])
        np.testing.assert_array_equal(mine["censored"], np.asarray(mine["cost"]) == 31)
        assert 0 < sum(mine["censored"]) < 40
        assert mine["index"] == list(range(40))
    assert set(rows["preset"].to_pylist()) == {"mnist"}
    assert set(rows["seed"].to_pylist()) == {5}
    meta = json.loads(rows.schema.metadata[b"a2d"])
    assert meta["attacks"]["bim"]["max_steps"] == 30
    assert meta["attacks"]["bim"]["epsilon"] == 0.3
    assert {"versions", "weights_sha256", "images_sha256", "seed", "preset"} <= set(meta)


def test_converted_checkpoint(here, capsys, torch):
    """A PyTorch checkpoint becomes an Orbax folder with which `predict` gives PyTorch's own classes."""
    x = near_boundary(20, 1, 10)
    np.savez("x.npz", x=x)
    net = torch.nn.Linear(16, 2)
    torch.save({"fc.weight": net.weight, "fc.bias": net.bias}, "net.pth")
    assert a2d("convert", "net.pth", "--classifier", "tiny_net:dense", "--out", "net", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"out": "net", "parameters": 34, "classes": 2}
    assert run("predict", "--checkpoint", "net", "--out", "p.parquet", factory="tiny_net:dense") == 0
    with torch.no_grad():
        assert table("p.parquet")["label"] == net(torch.tensor(x.reshape(-1, 16))).argmax(1).tolist()


def test_conversion_is_checked(here, capsys, torch):
    """`--check` compares with the logits of the other framework: what fits is written with its difference, what does not leaves nothing."""
    x = near_boundary(20, 1, 10)
    np.savez("x.npz", x=x)
    net = torch.nn.Linear(16, 2)
    torch.save({"net": {"module.fc.weight": net.weight, "module.fc.bias": net.bias}, "epoch": 3}, "last.ckpt")
    logits = net(torch.tensor(x.reshape(-1, 16)))
    np.save("good.npy", logits.detach().numpy())
    np.save("probabilities.npy", logits.softmax(1).detach().numpy())
    np.save("bad.npy", 1.01 * logits.detach().numpy())
    np.save("short.npy", logits.detach().numpy()[1:])
    pathlib.Path("text.npy").write_text("0.1 0.2")
    convert = ("convert", "last.ckpt", "--classifier", "tiny_net:dense", "--check", "x.npz")
    for file, word in (
        ("bad.npy", "a largest difference of"),
        ("short.npy", "got 19 rows"),
        ("text.npy", "np.save"),
        ("none.npy", "np.save"),
    ):
        refused(capsys, word, code=a2d(*convert, file, "--out", "net"))
        assert not pathlib.Path("net").exists()
    for file in ("good.npy", "probabilities.npy"):
        assert a2d(*convert, file, "--out", "net", "--force", "--json") == 0
        output = capsys.readouterr()
        assert json.loads(output.out)["equal classes"] == 1
        assert json.loads(output.out)["largest difference"] < 1e-5
        assert "took the tensors under net" in output.err
        assert ("holds probabilities" in output.err) == file.startswith("prob")
    refused(capsys, "bad.npy", code=a2d(*convert, "bad.npy", "--out", "net", "--force"))
    assert run("predict", "--checkpoint", "net", "--out", "p.parquet", factory="tiny_net:dense") == 0  # the one before is whole


def test_networks_without_trained_weights(here, capsys):
    """Without a checkpoint, weights that look untrained are told; a network of one output is refused with what to return."""
    np.savez("x.npz", x=near_boundary(3, 1, 9))
    assert run("predict", "--out", "p.parquet", factory="tiny_net:dense") == 0
    assert "look untrained" in capsys.readouterr().err
    assert run("predict", "--out", "q.parquet") == 0
    assert "untrained" not in capsys.readouterr().err


def test_orbax_folders_are_converted(here, capsys, torch):
    """A folder of a training becomes a checkpoint with a card, with the network that `--key` names."""
    torch.save({"fc.weight": torch.ones(2, 16), "fc.bias": torch.zeros(2)}, "net.pth")
    assert a2d("convert", "net.pth", "--classifier", "tiny_net:dense", "--out", "net") == 0
    weights = {"fc": {"kernel": np.ones((16, 2), np.float32), "bias": np.zeros(2, np.float32)}}
    with ocp.StandardCheckpointer() as saver:
        saver.save(pathlib.Path("training").absolute(), {"model": weights, "ema": weights, "step": 3})
    capsys.readouterr()
    convert = ("convert", "training", "--classifier", "tiny_net:dense", "--out", "out")
    refused(capsys, "2 that fit: ema, model", "--key", code=a2d(*convert))
    assert a2d(*convert, "--key", "ema") == 0
    digests = [json.loads(pathlib.Path(name, "classifier.json").read_text())["arrays_sha256"] for name in ("net", "out")]
    assert digests[0] == digests[1]


def test_photographs(here, capsys, torch):
    """Photographs of any size are resized and cropped as the classifier's card says, and folders called like classes are labels."""
    random = np.random.default_rng(12)
    torch.manual_seed(0)
    net = torch.nn.Linear(16, 2)
    torch.save({"fc.weight": net.weight, "fc.bias": net.bias}, "net.pth")
    pathlib.Path("names.txt").write_text("wasp\nbee\n")
    assert a2d("convert", "net.pth", "--classifier", "tiny_net:photo", "--class-names", "names.txt", "--out", "net") == 0
    card = json.loads(pathlib.Path("net/classifier.json").read_text())
    assert card["class_names"] == ["wasp", "bee"]
    assert card["photographs"] == {"resize": 6, "crop": 4, "interpolation": "bicubic"}
    expected = []
    for folder in ("bee", "wasp"):
        os.makedirs(f"photographs/{folder}")
        for i in range(4):
            image = Image.fromarray(random.integers(0, 256, (12, 24, 3), dtype=np.uint8))
            image.save(f"photographs/{folder}/{i}.png")
            small = image.resize((12, 6), Image.Resampling.BICUBIC).crop((4, 1, 8, 5))
            with torch.no_grad():
                expected.append(int(net(torch.tensor(np.asarray(small)[..., 0] / np.float32(255)).reshape(16)).argmax()))
    capsys.readouterr()
    options = ("--checkpoint", "net", "--json")
    assert run("predict", *options, "--out", "p.parquet", images="photographs", factory="tiny_net:photo") == 0
    assert table("p.parquet")["label"] == expected
    accuracy = np.mean(np.asarray(expected) == [1] * 4 + [0] * 4)
    assert json.loads(capsys.readouterr().out)["accuracy"] == accuracy
    assert json.loads(pq.read_table("p.parquet").schema.metadata[b"a2d"])["photographs"] == card["photographs"]
    for command in (["cost", "--attacks", "bim", "--max-steps", 3], ["attack", "--attack", "fgsm"]):
        assert run(*command, *options, "--out", command[0], images="photographs", factory="tiny_net:photo") == 0
    with np.load("attack", allow_pickle=False) as adv:
        assert adv["y"].tolist() == [1] * 4 + [0] * 4
    os.rename("photographs/wasp", "photographs/n2")
    os.rename("photographs/bee", "photographs/n1")
    capsys.readouterr()
    assert run("predict", *options, "--out", "q.parquet", images="photographs", factory="tiny_net:photo") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["accuracy"] == 1 - accuracy
    assert "2 folders of photographs, sorted by name" in said.err


def test_crafted_images(here, capsys):
    """FGSM moves every pixel by epsilon against the label of the set, and `success` is NumPy's misclassification of that label."""
    x = near_boundary(30, 2, 2)
    y = (x.reshape(-1, 16) @ WEIGHTS).argmax(1)
    np.savez("x.npz", x=x, y=y)
    assert run("attack", "--attack", "fgsm", "--epsilon", 0.05, "--out", "adv.npz") == 0
    with np.load("adv.npz", allow_pickle=False) as adv:
        signs = np.where(y == 0, 1, -1)[:, None] * np.sign(DIRECTION)
        np.testing.assert_allclose(adv["x"].reshape(-1, 16), x.reshape(-1, 16) + 0.05 * signs, atol=1e-6)
        np.testing.assert_array_equal(adv["y"], y)
        np.testing.assert_array_equal(adv["success"], (adv["x"].reshape(-1, 16) @ WEIGHTS).argmax(1) != y)
        assert 0 < adv["success"].sum() < 30
    assert run("predict", "--out", "p.parquet", images="adv.npz") == 0
    assert "accuracy" in capsys.readouterr().out


def test_settings_of_single_attacks(here):
    """Settings behind colons reach their attack alone and are recorded with the costs; a flag reaches all."""
    np.savez("x.npz", x=near_boundary(6, 0.3, 13))
    assert run("cost", "--attacks", "bim:step_size=0.01,bim2", "--max-steps", 7, "--out", "c.parquet") == 0
    found = json.loads(pq.read_schema("c.parquet").metadata[b"a2d"])["attacks"]
    assert [found[name]["step_size"] for name in ("bim", "bim2")] == [0.01, 2e-4]
    assert [found[name]["max_steps"] for name in ("bim", "bim2")] == [7, 7]


def test_stretched_images(here):
    """`--stretch` writes what NumPy makes of the crafted images, and success is NumPy's prediction of what was written."""
    x = near_boundary(30, 0.003, 2)  # so near that rounding changes the class of some
    y = (x.reshape(-1, 16) @ WEIGHTS).argmax(1)
    np.savez("x.npz", x=x, y=y)
    for name, option in (("plain", []), ("stretched", ["--stretch"])):
        assert run("attack", "--attack", "fgsm:epsilon=0.0", *option, "--out", f"{name}.npz") == 0
    plain, stretched = (np.load(f"{name}.npz", allow_pickle=False) for name in ("plain", "stretched"))
    flat = plain["x"].reshape(30, 16).astype(np.float64)
    expected = [np.interp(image, [image.min(), image.max()], [0, 255]).round() for image in flat]
    np.testing.assert_allclose(stretched["x"].reshape(30, 16) * 255, expected, atol=1e-3)
    predicted = (stretched["x"].reshape(30, 16) @ WEIGHTS).argmax(1)
    np.testing.assert_array_equal(stretched["success"], predicted != y)
    assert (stretched["success"] != plain["success"]).any()
    assert [json.loads(str(file["a2d"]))["stretch"] for file in (plain, stretched)] == [False, True]


def test_clever_scores(here, capsys):
    """`a2d clever` writes the distance to the hyperplane of a linear classifier, at most R, and tells its mean and 90 % interval."""
    x = near_boundary(12, 1, 11)
    np.savez("x.npz", x=x)
    options = ["--batches", 8, "--samples", 16, "--targets", "target-2,untargeted", "--radius", 0.1]
    assert run("clever", "--out", "s.parquet", *options, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    rows = table("s.parquet")
    margin = np.abs(x.reshape(-1, 16).astype(np.float64) @ DIRECTION)
    exact = np.minimum(margin / np.sqrt(DIRECTION @ DIRECTION), 0.1)
    np.testing.assert_allclose(rows["score"], exact.repeat(2), rtol=0.01)
    np.testing.assert_allclose(rows["margin"], margin.repeat(2), atol=1e-5)
    assert rows["target"] == ["target-2", "untargeted"] * 12
    assert rows["target_class"] == [1 - label for label in rows["label"]]
    assert told["scores"][0]["mean"] == pytest.approx(exact.mean(), rel=0.01)
    assert told["scores"][0]["90% interval +-"] == pytest.approx(1.645 * exact.std(ddof=1) / np.sqrt(12), rel=0.01)
    assert 0 < told["scores"][0]["at radius"] < 12
    meta = json.loads(pq.read_table("s.parquet").schema.metadata[b"a2d"])
    assert meta["clever"] == {"radius": 0.1, "batches": 8, "samples": 16, "norm": "l2"}
    assert run("clever", "--out", "one.parquet", *options, "--limit", 1, "--json") == 0
    assert json.loads(capsys.readouterr().out)["scores"][0]["90% interval +-"] is None


def test_clever_rows_with_errors(here, capsys):
    """An image that cannot be used keeps its error beside the others' scores; bad settings and targets are refused."""
    x = near_boundary(3, 0.5, 12)
    clean, x[1, 0, 0, 0] = x[[0, 2]].copy(), np.nan
    np.savez("x.npz", x=x)
    few = ["--batches", 8, "--samples", 16]
    assert run("clever", "--out", "s.parquet", *few) == 3
    rows = table("s.parquet")
    assert rows["target"] == ["target-2"] * 3
    assert rows["score"][1] is None
    assert "NaN" in rows["error"][1]
    np.testing.assert_allclose(
        [rows["score"][i] for i in (0, 2)], np.abs(clean.reshape(2, 16) @ DIRECTION) / np.linalg.norm(DIRECTION), rtol=0.01
    )
    capsys.readouterr()
    clever = ["clever", "--out", "out"]
    refused(capsys, "2 classes", "target-5", code=run(*clever, "--targets", "target-5"))
    refused(capsys, "'nearest'", "least-likely", code=run(*clever, "--targets", "nearest"))
    refused(capsys, "at least one target", code=run(*clever, "--targets", ","))
    refused(capsys, "radius", code=run(*clever, "--radius", 0))
    refused(capsys, "linf", code=run(*clever, "--norm", "l1"))
    refused(capsys, "at least 2 batches", code=run(*clever, "--batches", 1))
    refused(capsys, "at least 1 lane", code=run(*clever, "--lanes", 0))
    refused(capsys, "s.parquet", "--force", code=run("clever", "--out", "s.parquet", *few))
    refused(capsys, "finite logits", code=run(*clever, *few, factory="tiny_net:broken"))


def test_lanes_auto(here, capsys, monkeypatch):
    """Lanes are tried before the first job and remembered for the second; costs do not depend on them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(here))
    monkeypatch.setitem(calibration.MOST, "cpu", 16)  # two numbers
    np.savez("x.npz", x=near_boundary(6, 0.2, 3))
    few = ("--attacks", "bim", "--max-steps", 20)
    for name, lanes in {"a": (), "b": ("--lanes", "auto"), "c": ("--lanes", "auto")}.items():
        assert run("cost", "--out", f"{name}.parquet", "--json", *few, *lanes) == 0
    _, first, second = (json.loads(line)["costs"][0]["lanes"] for line in capsys.readouterr().out.splitlines())
    (remembered,) = json.loads((here / "a2d-jax" / "lanes.json").read_text()).values()
    assert first == second == min(remembered["lanes"], 2)  # six images on eight devices: no more lanes than images
    assert table("a.parquet") == table("b.parquet") == table("c.parquet")
    refused(capsys, "at least 2 lanes, got 1", code=run("cost", "--out", "out.parquet", *few, "--lanes", 1))
    (here / "a2d-jax" / "lanes.json").write_text("{")
    refused(capsys, "lanes.json", "delete the file", code=run("cost", "--out", "out.parquet", *few, "--lanes", "auto"))


def test_surest_images_are_fed_first(here, monkeypatch):
    """Images reach the lanes in order of falling margin, those with an error not at all; rows keep the order of the set."""
    x = near_boundary(12, 0.3, 7)
    x[5] = np.nan
    np.savez("x.npz", x=x)
    fed = []

    def stream(attack, classifier, pieces, **settings):
        return drivers.stream(attack, classifier, (fed.append(piece.x) or piece for piece in pieces), **settings)

    monkeypatch.setattr(measuring, "drivers", SimpleNamespace(stream=stream))
    assert run("cost", "--out", "c.parquet", "--attacks", "bim", "--max-steps", 400) == 3
    margin = np.abs(x.reshape(-1, 16).astype(np.float64) @ DIRECTION)
    clean = np.delete(np.arange(12), 5)
    np.testing.assert_array_equal(np.concatenate(fed), x[clean][np.argsort(-margin[clean])])
    rows = table("c.parquet")
    assert rows["index"] == list(range(12))
    costs = np.array(rows["cost"])[clean].astype(int)[np.argsort(margin[clean])]
    assert (np.diff(costs) >= 0).all()
    assert costs[-1] > costs[0]


def test_attack_takes_the_prediction_where_there_are_no_labels(here):
    """Without labels the predicted class is attacked; with a wrong label, the label, which costs nothing."""
    x = near_boundary(6, 0.2, 3)
    predicted = (x.reshape(-1, 16) @ WEIGHTS).argmax(1)
    np.save("x.npy", x)
    assert run("attack", "--attack", "bim", "--out", "a.npz", images="x.npy") == 0
    np.testing.assert_array_equal(np.load("a.npz")["y"], predicted)
    np.savez("x.npz", x=x, y=1 - predicted)
    assert run("attack", "--attack", "bim", "--out", "b.npz") == 0
    np.testing.assert_array_equal(np.load("b.npz")["x"], x)
    assert np.load("b.npz")["success"].all()


@pytest.fixture
def costs(here):
    """Tables of costs of far (benign) and near (adversarial) images."""
    np.savez("far.npz", x=near_boundary(60, 2, 4))
    np.savez("near.npz", x=near_boundary(50, 0.3, 5))
    for name in ("far", "near"):
        assert run("cost", "--attacks", "bim,bim2", "--out", f"{name}.parquet", images=f"{name}.npz") == 0
    return here


def test_evaluation(costs, capsys):
    """`a2d eval --json` prints the AUROC that scikit-learn computes from the table, per attack, named by the file, and nothing else."""
    capsys.readouterr()
    assert a2d("eval", "--benign", "far.parquet", "--adversarial", "near.parquet", "--json") == 0
    out, err = capsys.readouterr()
    assert err == ""
    sets = json.loads(out)["sets"]
    assert [(row["set"], row["attack"]) for row in sets] == [("near", "bim"), ("near", "bim2")]
    far, near = (table(f"{name}.parquet") for name in ("far", "near"))
    for row in sets:
        scores = [-c for one in (far, near) for c, name in zip(one["cost"], one["attack"], strict=True) if name == row["attack"]]
        assert row["auroc"] == pytest.approx(roc_auc_score([0] * 60 + [1] * 50, scores))
        assert {"average_precision", "fpr_at_tpr_95", "tpr_at_fpr_1", "tpr_at_fpr_5"} <= set(row)
    assert a2d("eval", "--benign", "far.parquet", "--adversarial", "near.parquet", "far.parquet") == 0
    assert "auroc" in capsys.readouterr().out


@pytest.mark.parametrize("detector", ["zscore", "vote", "knn", "svm", "tree", "forest", "conformal"])
def test_detectors(detector, costs, capsys):
    """Verdicts from a table, from images, and from images without the bound are the same, and near images are flagged more often."""
    extra = ["--k", 9] if detector == "knn" else []
    assert a2d("fit", "--benign", "far.parquet", "--adversarial", "near.parquet", "--detector", detector, *extra, "--out", "d.json") == 0
    assert ("took bim of bim, bim2" in capsys.readouterr().err) == (detector == "zscore")
    verdicts = {}
    for name in ("far", "near"):
        assert a2d("detect", "--detector", "d.json", "--costs", f"{name}.parquet", "--out", f"{name}-costs") == 0
        assert run("detect", "--detector", "d.json", "--out", f"{name}-images", images=f"{name}.npz") == 0
        assert run("detect", "--detector", "d.json", "--out", f"{name}-full", "--no-bound", images=f"{name}.npz") == 0
        verdicts[name] = table(f"{name}-costs")["adversarial"]
        assert table(f"{name}-images")["adversarial"] == verdicts[name]
        assert table(f"{name}-full") == table(f"{name}-costs")
        if name == "far" and detector in ("zscore", "vote"):
            bounded, full = table(f"{name}-images")["cost_bim"], table(f"{name}-full")["cost_bim"]
            assert max(bounded) < max(full)
            np.testing.assert_array_equal(bounded, np.minimum(full, max(bounded)))
    assert np.mean(verdicts["near"]) > np.mean(verdicts["far"])


def test_costs_of_two_precisions_are_never_mixed(costs, capsys, torch):
    """--precision bfloat16 is what PyTorch computes in bfloat16, is recorded, and costs so counted fit no detector of float32 ones."""
    half = ["--precision", "bfloat16"]
    assert run("predict", "--out", "p", *half, images="near.npz") == 0
    logits = torch.tensor(np.load("near.npz")["x"].reshape(-1, 16)).bfloat16() @ torch.tensor(WEIGHTS).bfloat16()
    np.testing.assert_allclose(table("p")["probability"], torch.softmax(logits.float(), 1).amax(1), atol=2e-3)
    assert run("cost", "--attacks", "bim", "--out", "half.parquet", *half, images="near.npz") == 0
    assert read_measurements(pathlib.Path("half.parquet")).meta["precision"] == "bfloat16"
    assert read_measurements(pathlib.Path("near.parquet")).meta["precision"] == "float32"
    for name in ("far", "half"):
        assert a2d("fit", "--benign", f"{name}.parquet", "--detector", "zscore", "--out", f"{name}.json") == 0
    capsys.readouterr()
    both = "costs in float32 as in far", "got bfloat16 in half.parquet", "precision float32"
    refused(capsys, *both, code=a2d("fit", "--benign", "far.parquet", "--adversarial", "half.parquet", "--detector", "svm", "--out", "out"))
    refused(capsys, *both, code=a2d("eval", "--benign", "far.parquet", "--adversarial", "half.parquet"))
    refused(capsys, *both, code=a2d("detect", "--detector", "far.json", "--costs", "half.parquet", "--out", "out"))
    refused(capsys, "'float16'", "bfloat16", code=run("cost", "--precision", "float16", "--out", "out", images="far.npz"))
    assert run("detect", "--detector", "half.json", "--no-bound", "--out", "v", images="near.npz") == 0  # in the detector's precision
    found = read_measurements(pathlib.Path("half.parquet")).numbers["bim"]["cost"]
    np.testing.assert_array_equal(table("v")["cost_bim"], found)
    assert (read_measurements(pathlib.Path("near.parquet")).numbers["bim"]["cost"] != found).any()


def test_reported_saving_is_true(costs, capsys):
    """The steps that the bound saved lie between none and the number reported as largest possible."""
    assert a2d("fit", "--benign", "far.parquet", "--detector", "zscore", "--attack", "bim2", "--out", "d.json") == 0
    assert capsys.readouterr().err == ""
    steps = {}
    for name, option in [("bounded", []), ("full", ["--no-bound"])]:
        assert run("detect", "--detector", "d.json", "--out", name, "--json", *option, images="far.npz") == 0
        (steps[name],) = json.loads(capsys.readouterr().out)["steps"]
    assert steps["full"]["steps saved, at most"] == 0
    assert 0 < steps["full"]["steps"] - steps["bounded"]["steps"] <= steps["bounded"]["steps saved, at most"]


def test_info(here, capsys):
    """`a2d info` tells versions, devices and the settings of the presets."""
    import jax

    assert a2d("info", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["jax"] == jax.__version__
    assert "cpu" in told["devices"]
    assert {"preset": "mnist", "role": "defence", "attack": "dba"}.items() <= next(
        row for row in told["attacks"] if row["attack"] == "dba"
    ).items()


# Exit code 3: some rows failed, the rest is done.


def test_bad_rows(here, capsys):
    """A truncated file and a file of another size: both carry their error through every command, the others are done as without them."""
    x = (near_boundary(5, 0.5, 6) * 255).astype(np.uint8)
    for folder, names in [("good", range(5)), ("mixed", range(5))]:
        os.mkdir(folder)
        for i in names:
            Image.fromarray(x[i, ..., 0]).save(f"{folder}/{i}.png")
    data = pathlib.Path("mixed/1.png").read_bytes()
    pathlib.Path("mixed/1.png").write_bytes(data[: len(data) // 2])
    Image.fromarray(np.zeros((9, 9), np.uint8)).save("mixed/3.png")
    bad, good = [1, 3], [0, 2, 4]
    for folder, code in [("good", 0), ("mixed", 3)]:
        assert run("predict", "--out", f"p-{folder}", images=folder) == code
        assert run("cost", "--attacks", "bim", "--out", f"c-{folder}", images=folder) == code
        assert run("attack", "--attack", "fgsm", "--out", f"a-{folder}", images=folder) == code
        assert a2d("detect", "--detector", "d.json", "--costs", f"c-{folder}", "--out", f"v-{folder}") in (1, code)
    assert "2 rows failed" in capsys.readouterr().err
    for name in ("p", "c"):
        clean, mixed = pq.read_table(f"{name}-good").to_pylist(), pq.read_table(f"{name}-mixed").to_pylist()
        assert [mixed[i] for i in good] == [clean[i] for i in good]
        assert all(mixed[i]["error"] and mixed[i]["label"] is None for i in bad)
    assert np.isnan(np.load("a-mixed")["x"][bad]).all()
    np.testing.assert_array_equal(np.load("a-mixed")["x"][good], np.load("a-good")["x"][good])
    assert run("cost", "--attacks", "bim", "--out", "c-a", images="a-mixed") == 1  # no suffix: not a known kind
    os.rename("a-mixed", "a-mixed.npz")
    assert run("cost", "--attacks", "bim", "--out", "c-a", images="a-mixed.npz") == 3


def test_images_from_elsewhere(here, capsys):
    """Leavings, names that are not UTF-8, transparent pixels and colour: every command reads the same images, and tells each thing once."""
    x = (near_boundary(4, 0.5, 6) * 255).astype(np.uint8)[..., 0]
    for name in ("set/0", "set/1", "set/.ipynb_checkpoints"):
        os.makedirs(name)
    Image.fromarray(x[0]).save("set/0/a.png")
    Image.fromarray(x[0]).save("set/0/._a.png")
    Image.fromarray(x[1]).save("set/1/b.png")
    os.rename("set/1/b.png", b"set/1/caf\xe9.png")
    Image.fromarray(np.dstack([x[2]] * 3 + [np.r_[np.uint8([0]), np.full(15, 255, np.uint8)].reshape(4, 4)])).save("set/1/clear.png")
    Image.fromarray(np.dstack([x[3], x[2], x[1]])).save("set/1/colour.png")
    os.symlink("0", "set/2")
    notes = [
        "no checkpoint is given, and the weights that tiny_net:dense makes look untrained; pass trained ones with --checkpoint",
        "left out files that end like images but were left behind by systems or tools: 1, first 0/._a.png",
        "left out links to images or folders that count already: 1, first 2",
        "colour was turned to grey, since the classifier takes one channel: 1 of 4 images",
    ]
    white = "transparent pixels were laid over the background white: 1 of 4 images"
    commands = {
        "predict": [],
        "cost": ["--attacks", "bim"],
        "attack": ["--attack", "fgsm"],
        "clever": ["--samples", 4, "--batches", 8],
    }
    for command, options in commands.items():
        how = {"images": "set", "factory": "tiny_net:dense"}
        assert run(command, *options, "--out", f"{command}.parquet", **how) == 3
        told = [line.removeprefix("a2d: ") for line in capsys.readouterr().err.splitlines()]
        assert told == [*notes, "1 rows failed and carry their error"]
        assert run(command, *options, "--background", "white", "--out", f"{command}-white.parquet", **how) == 0
        told = [line.removeprefix("a2d: ") for line in capsys.readouterr().err.splitlines()]
        assert sorted(told) == sorted([*notes, white])
    rows = table("predict.parquet")
    assert rows["id"] == ["0/a.png", "1/caf\\xe9.png", "1/clear.png", "1/colour.png"]
    assert rows["error"][2] == "expected opaque pixels, got 1 of 16 that are not; flatten the image or choose a background (--background)"
    metas = [json.loads(pq.read_schema(f"cost{which}.parquet").metadata[b"a2d"]) for which in ("", "-white")]
    assert [meta["background"] for meta in metas] == [None, "white"]

    assert a2d("fit", "--benign", "cost-white.parquet", "--detector", "conformal", "--level", 0.5, "--out", "d.json") == 0
    capsys.readouterr()
    assert run("detect", "--detector", "d.json", "--out", "v.parquet", **how) == 0  # the background is the detector's
    assert white in capsys.readouterr().err


def test_outputs_of_any_name(here, capsys):
    """Tables whose names are not UTF-8 are written and read back."""
    np.savez(os.fsdecode(b"caf\xe9.npz"), x=near_boundary(40, 0.5, 6))
    out = os.fsdecode(b"caf\xe9.parquet")
    assert run("cost", "--json", "--attacks", "bim", "--out", out, images=os.fsdecode(b"caf\xe9.npz")) == 0
    assert a2d("fit", "--json", "--benign", out, "--detector", "zscore", "--out", os.fsdecode(b"d\xe9.json")) == 0
    assert a2d("eval", "--json", "--benign", out, "--adversarial", out) == 0


def test_failed_images_keep_their_error_in_verdicts(costs, capsys):
    """An image without costs appears among the verdicts in its place, with its error and no verdict."""
    x = near_boundary(3, 0.5, 7)
    x[1, 0, 0, 0] = np.nan
    np.savez("nan.npz", x=x)
    assert run("cost", "--attacks", "bim,bim2", "--out", "nan.parquet", images="nan.npz") == 3
    assert a2d("fit", "--benign", "far.parquet", "--detector", "vote", "--out", "d.json") == 0
    assert a2d("detect", "--detector", "d.json", "--costs", "nan.parquet", "--out", "v1") == 3
    capsys.readouterr()
    assert a2d("eval", "--benign", "far.parquet", "--adversarial", "nan.parquet") == 0
    assert "1 images of nan.parquet" in capsys.readouterr().err
    assert run("detect", "--detector", "d.json", "--out", "v2", images="nan.npz") == 3
    for name in ("v1", "v2"):
        rows = table(name)
        assert rows["index"] == [0, 1, 2]
        assert [error is None for error in rows["error"]] == [True, False, True]
        assert "NaN" in rows["error"][1]
        assert rows["adversarial"][1] is None
        assert rows["score"][1] is None


def test_label_that_is_no_class(here):
    """A label beyond the classifier's classes is an error of its row."""
    np.savez("x.npz", x=near_boundary(3, 1, 8), y=[0, 7, 1])
    assert run("attack", "--attack", "fgsm", "--out", "adv.npz") == 3
    assert "from 0 to 1, got 7" in np.load("adv.npz")["error"][1]


# Exit code 1: bad input, one line, no traceback, nothing written.


def refused(capsys, *words: str, code: int) -> None:
    """The command ended with 1, said one line with these words, and left no output."""
    out, err = capsys.readouterr()
    assert code == 1
    assert out == ""
    assert re.fullmatch(r"a2d: error: [^\n]+\n", err)
    for word in words:
        assert word in err
    assert not [name for name in os.listdir() if "out" in name]


def test_bad_images(here, capsys):
    """Values outside [0, 1], NaN, wrong shapes and channels, an empty folder and a missing path."""
    x = near_boundary(3, 1, 9)
    np.savez("x.npz", x=x)
    for name, images in [
        ("large", x + 3),
        ("nan", x * np.nan),
        ("wide", np.zeros((3, 4, 6, 1), np.float32)),
        ("rgb", np.zeros((3, 4, 4, 3), np.uint8)),
    ]:
        np.savez(f"{name}.npz", x=images)
    os.mkdir("empty")
    for command in (["predict"], ["cost", "--attacks", "bim"], ["attack", "--attack", "fgsm"], ["clever"]):
        for images, words in [
            ("large.npz", ["[0, 1]", "all 3"]),
            ("nan.npz", ["NaN"]),
            ("wide.npz", ["4 x 6 x 1"]),
            ("rgb.npz", ["4 x 4 x 3"]),
            ("empty", ["image files"]),
            ("missing.npz", ["does not exist"]),
        ]:
            refused(capsys, *words, code=run(*command, "--out", "out", images=images))
    refused(capsys, "4 x 4 x 1", code=run("predict", "--out", "out", factory="tiny_net:colour"))


def test_unknown_names(here, capsys):
    """An unknown attack, preset or detector is refused with the valid names; a setting that nobody has, too."""
    np.savez("x.npz", x=near_boundary(3, 1, 9))
    cost = ["cost", "--out", "out"]
    refused(capsys, "'bam'", "bim", "jsma", "dba", code=run(*cost, "--attacks", "bim,bam"))
    refused(capsys, "'bam'", "fgsm", "bim", code=run("attack", "--out", "out", "--attack", "bam"))
    refused(capsys, "'minst'", "mnist", "cifar10", "imagenet", code=run(*cost, "--preset", "minst"))
    refused(capsys, "--epsilon", "jsma", "theta", code=run(*cost, "--attacks", "jsma", "--epsilon", 0.1))
    refused(capsys, "epsilon", code=run(*cost, "--attacks", "bim", "--epsilon", -1))
    refused(capsys, "at least one attack", code=run(*cost, "--attacks", ","))
    refused(capsys, "got bim twice", code=run(*cost, "--attacks", "bim,bim:max_steps=3"))
    refused(capsys, "one attack, got fgsm, bim", code=run("attack", "--out", "out", "--attack", "fgsm,bim"))


def test_settings_that_do_not_suit_an_attack(here, capsys):
    """A length for several attacks, a budget for one without, an unknown setting and a value of another type are refused."""
    np.savez("x.npz", x=near_boundary(3, 1, 9))
    cost, attack = ["cost", "--out", "out", "--attacks"], ["attack", "--out", "out", "--attack"]
    refused(
        capsys,
        "expected exactly one attack with --step-size",
        "bim:step_size=0.1,cw:step_size=0.1",
        code=run(*cost, "bim,cw", "--step-size", 0.1),
    )
    refused(capsys, "--max-steps", "fgsm", code=run(*attack, "fgsm", "--max-steps", 3))
    refused(capsys, "pgd", "restarts", "'tries=3'", code=run(*attack, "pgd:tries=3"))
    refused(capsys, "setting=value for pgd", "'restarts'", code=run(*attack, "pgd:restarts"))
    refused(capsys, "a whole number for pgd:restarts", "'1.5'", code=run(*attack, "pgd:restarts=1.5"))
    refused(capsys, "a number for dba:mse_threshold", "'low'", code=run(*cost, "dba:mse_threshold=low"))
    refused(capsys, "true or false for cw:minimise", "'1'", code=run(*cost, "cw:minimise=1"))
    refused(capsys, "norm", "'l7'", code=run(*attack, "fmn:norm=l7"))


def test_unknown_detectors(here, capsys):
    """An unknown detector is refused with the valid names."""
    refused(capsys, "'oracle'", "zscore", "forest", code=a2d("fit", "--benign", "b", "--detector", "oracle", "--out", "out"))


def test_classifiers_that_do_not_import(here, capsys):
    """A missing module, a missing name, a name that is no factory and a string of another form are refused."""
    np.savez("x.npz", x=near_boundary(3, 1, 9))
    for factory, words in [
        ("no_such_module:net", ["no_such_module"]),
        ("tiny_net:missing", ["missing"]),
        ("tiny_net:not_callable", ["not_callable"]),
        ("tiny_net", ["module:name"]),
    ]:
        refused(capsys, *words, code=run("predict", "--out", "out", factory=factory))


def test_checkpoints_that_do_not_fit(here, capsys, torch):
    """A checkpoint of other shapes is refused with the array and both shapes, a missing one and a pickle of code by name."""
    np.savez("x.npz", x=near_boundary(3, 1, 9))
    torch.save({"fc.weight": torch.zeros(2, 16), "fc.bias": torch.zeros(2)}, "net.pth")
    assert a2d("convert", "net.pth", "--classifier", "tiny_net:dense", "--out", "net") == 0
    torch.save({"fc.weight": os.system}, "code.pth")
    capsys.readouterr()
    predict = ["predict", "--out", "out", "--checkpoint"]
    refused(capsys, "fc.kernel", "(16, 2)", "(16, 3)", code=run(*predict, "net", factory="tiny_net:dense3"))
    refused(capsys, "missing", code=run(*predict, "missing", factory="tiny_net:dense"))
    convert = ["convert", "--classifier", "tiny_net:dense3", "--out", "out"]
    refused(capsys, "fc.weight", code=a2d(*convert, "net.pth"))
    refused(capsys, "code.pth", code=a2d(*convert, "code.pth"))
    refused(capsys, "missing.pth", code=a2d(*convert, "missing.pth"))
    refused(capsys, "NNX", code=a2d("convert", "net.pth", "--classifier", "tiny_net:net", "--out", "out"))
    refused(capsys, "--force", code=a2d("convert", "net.pth", "--classifier", "tiny_net:dense", "--out", "net"))


def test_broken_classifier(here, capsys):
    """A classifier whose logits are NaN fails every image, in one line."""
    np.savez("x.npz", x=near_boundary(3, 1, 9))
    refused(capsys, "finite logits", code=run("cost", "--attacks", "bim", "--out", "out", factory="tiny_net:broken"))


def test_existing_output(here, capsys):
    """An existing output is refused before any work and left as it is; --force replaces it."""
    np.savez("x.npz", x=near_boundary(3, 1, 9))
    pathlib.Path("old").write_text("old")
    refused(capsys, "old", "--force", code=run("predict", "--out", "old", factory="no_such_module:net"))
    assert pathlib.Path("old").read_text() == "old"
    assert run("predict", "--out", "old", "--force") == 0
    assert table("old")["index"] == [0, 1, 2]
    capsys.readouterr()
    refused(capsys, "create it first", code=run("predict", "--out", "no/such/folder"))


def test_detectors_and_tables_that_do_not_fit(costs, capsys):
    """Costs of other attacks or settings, too few benign images, missing adversarial costs, and files of another kind."""
    assert run("cost", "--attacks", "bim", "--out", "bim.parquet", images="far.npz") == 0
    assert run("cost", "--attacks", "bim,bim2", "--max-steps", 9, "--out", "short.parquet", images="far.npz") == 0
    assert run("cost", "--attacks", "bim,bim2", "--limit", 4, "--out", "few.parquet", images="far.npz") == 0
    assert run("cost", "--attacks", "jsma", "--out", "jsma.parquet", images="near.npz") == 0
    assert a2d("fit", "--benign", "far.parquet", "--detector", "vote", "--out", "d.json") == 0
    capsys.readouterr()
    detect = ["detect", "--detector", "d.json", "--out", "out"]
    fit = ["fit", "--benign", "far.parquet", "--out", "out", "--detector"]
    refused(capsys, "bim, bim2", "bim.parquet", code=a2d(*detect, "--costs", "bim.parquet"))
    refused(capsys, "max_steps 500", "9 in short.parquet", code=a2d(*detect, "--costs", "short.parquet"))
    refused(capsys, "at least 20", "got 4", code=a2d("fit", "--benign", "few.parquet", "--detector", "zscore", "--out", "out"))
    refused(capsys, "adversarial", code=a2d(*fit, "knn"))
    refused(capsys, "max_steps 500", code=a2d(*fit, "svm", "--adversarial", "short.parquet"))
    refused(capsys, "jsma", code=a2d(*fit, "zscore", "--attack", "jsma"))
    refused(capsys, "one attack", code=a2d(*fit, "zscore", "--attacks", "bim,bim2"))
    refused(capsys, "--level", code=a2d(*fit, "zscore", "--level", 0.1))
    refused(capsys, "level in (0, 1)", code=a2d(*fit, "conformal", "--level", 3))
    refused(capsys, "jsma", code=a2d("eval", "--benign", "far.parquet", "--adversarial", "jsma.parquet"))
    refused(capsys, "9 in short.parquet", code=a2d("eval", "--benign", "far.parquet", "--adversarial", "short.parquet"))
    refused(capsys, "--costs", code=a2d(*detect))
    refused(capsys, "--costs", code=run(*detect, "--costs", "far.parquet", images="far.npz"))
    refused(capsys, "far.parquet", code=a2d("detect", "--detector", "far.parquet", "--costs", "far.parquet", "--out", "out"))
    refused(capsys, "d.json", code=a2d("eval", "--benign", "d.json", "--adversarial", "far.parquet"))
    refused(capsys, "at least 1 image", code=run("cost", "--limit", 0, "--out", "out", images="far.npz"))


# Exit codes 2 and 130, help: as a process of its own.


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "a2d_jax.cli", *arguments], capture_output=True, text=True, timeout=120)


def test_wrong_usage(here, capsys):
    """Missing and unknown arguments exit with 2, as argparse does, and print nothing on stdout."""
    for arguments in (["cost"], ["fly"], ["info", "--fly"], ["info", "--seed", "x"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err


@pytest.mark.parametrize("command", ["convert", "predict", "attack", "cost", "clever", "fit", "detect", "eval", "report", "shift", "info"])
def test_help(command, capsys):
    """Every command has --help, --seed and --json."""
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "--seed" in out
    assert "--json" in out


def test_help_does_not_wait_for_jax():
    """`a2d --help` imports the parser and nothing that takes seconds."""
    code = "import sys, a2d_jax.cli\ntry: a2d_jax.cli.main(['--help'])\nexcept SystemExit: sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0


def test_interrupt(here):
    """Ctrl-C ends a running attack with 130, one line on stderr, and no file beside the inputs."""
    np.savez("x.npz", x=near_boundary(64, 1, 0))
    before = {*os.listdir(), "started", "__pycache__"}
    listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a suite in the background hands on a deaf ear
    command = [sys.executable, "-c", f"{listening}\nimport sys, a2d_jax.cli\nsys.exit(a2d_jax.cli.main())", "attack"]
    command += ["--classifier", "tiny_net:slow", "--images", "x.npz", "--out", "adv.npz"]
    command += ["--attack", "bim", "--step-size", "0", "--max-steps", "2000000000"]  # never ends by itself
    deadline = time.monotonic() + 60
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        while not os.path.exists("started") and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(3)
        running.send_signal(signal.SIGINT)
        try:
            out, err = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 130
    assert out == ""
    assert re.fullmatch(r"a2d: interrupted[^\n]*\n", err)
    assert set(os.listdir()) <= before


def test_a_process_of_its_own(here):
    """The real command: nothing on stderr when all went well and stderr is no terminal, one line and no traceback when not."""
    np.savez("x.npz", x=near_boundary(4, 1, 0))
    arguments = ["predict", "--classifier", "tiny_net:net", "--images", "x.npz", "--out", "p.parquet", "--json"]
    done = process(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["images"] == 4
    again = process(*arguments)
    assert again.returncode == 1
    assert re.fullmatch(r"a2d: error: [^\n]+\n", again.stderr)
