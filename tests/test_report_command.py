"""`a2d report` and the figure of `a2d eval`: their numbers are scikit-learn's, and their pages show what tables hold, whatever that is."""

import base64
import io
import json
import os
import pathlib
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from a2d_jax import metrics
from a2d_jax.costs import fingerprints
from a2d_jax.detectors import KNN, Conformal, Vote, ZScore
from a2d_jax.io.detectors import StoredDetector, read_detector, write_detector
from a2d_jax.io.images import open_images
from a2d_jax.io.tables import COSTS, table_writer
from tests.test_cli import a2d, refused
from tests.test_report import Reader

BUDGET = 500


def write(path: str, costs: dict[str, np.ndarray], x: np.ndarray | None = None, label: np.ndarray | None = None, **options) -> None:
    """A table of costs as `a2d cost` writes it; `errors` by row, other options are what it says of its run."""
    errors, count = options.pop("errors", {}), len(next(iter(costs.values())))
    attacks = {name: {"kind": "bim", "epsilon": 0.3, "step_size": 1e-3, "max_steps": BUDGET} for name in costs}
    meta = {"attacks": attacks, "norms": dict.fromkeys(costs, "linf"), "shape": [6, 5, 1], "seed": 7, "precision": "float32"}
    with table_writer(path, COSTS, meta | {"versions": {"a2d-jax": "0.0.1"}} | options) as rows:
        for name, cost in costs.items():
            whole = {"cost": cost, "iterations": np.minimum(cost, BUDGET), "forward_queries": cost, "backward_queries": cost}
            rows(
                {
                    "index": np.arange(count),
                    "id": [str(i) for i in range(count)],
                    "attack": [name] * count,
                    "label": np.zeros(count, int) if label is None else label,
                    **whole,
                    "success": cost <= BUDGET,
                    "censored": cost > BUDGET,
                    "distance": (cost / 1000).astype(np.float32),
                    "crossing": (cost / 1000).astype(np.float32),
                    "preset": ["mnist"] * count,
                    "seed": np.zeros(count, int),
                    "fingerprint": np.arange(count) + 1000 * hash(path) % 2**40 if x is None else fingerprints(x),
                    "error": [errors.get(i) for i in range(count)],
                }
            )


def costs(seed: int, count: int, middle: float) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.clip(np.round(random.lognormal(np.log(middle), 0.8, count)), 1, BUDGET + 1).astype(int)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Tables of benign images and of two crafted sets, with the images, and a detector of the cost of bim."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for seed, (name, middle) in enumerate({"good": 200, "fgsm": 60, "bim": 15}.items()):
        x = random.random((80 - 10 * seed, 6, 5, 1), np.float32)
        np.savez(f"{name}.npz", x=x)
        label = random.integers(0, 3, len(x))
        write(f"{name}.parquet", {"bim": costs(seed, len(x), middle), "jsma": costs(seed + 9, len(x), middle)}, x, label)
    fitted("d.json", ZScore(), ["bim"])
    return tmp_path


def fitted(path: str, detector, columns: list[str]) -> None:
    """A detector of other benign images than those of the tables."""
    unit = [1000 if "." in name else 1 for name in columns]  # of a distance
    table = np.stack([costs(50 + place, 120, 200) for place in range(len(columns))], axis=1) / unit
    low = np.stack([costs(60 + place, 120, 30) for place in range(len(columns))], axis=1) / unit
    write_detector(path, StoredDetector(detector.fit(table, low, labels=np.zeros(120, int)), tuple(columns), {"detector": detector.name}))


def page(*arguments: object, out: str = "report.html") -> tuple[str, Reader]:
    assert a2d("report", *arguments, "--out", out, "--force") == 0
    text = pathlib.Path(out).read_text(encoding="utf-8")
    return text, Reader(text)


def rows(text: str, section: str) -> list[list[str]]:
    """The cells of the first table of a section."""
    found = re.search(rf"<h2>{section}</h2>.*?<tbody>(.*?)</tbody>", text, re.DOTALL)
    assert found is not None
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>.*?</tr>", found[1])]


SETS = ("--benign", "good.parquet", "--adversarial", "fgsm.parquet", "bim.parquet", "--detector", "d.json")


def scores(name: str, detector: str = "d.json") -> np.ndarray:
    table = pq.read_table(f"{name}.parquet")
    mine = table.filter(pa.compute.equal(table["attack"], "bim"))["cost"].to_numpy()
    return np.asarray(read_detector(detector).fitted.score(mine))


def test_numbers_are_those_of_scikit_learn(here, capsys):
    """Protects every number: AUROC, rates, confusion and thresholds are scikit-learn's, intervals those of metrics."""
    text, _ = page(*SETS, "--json")
    told = json.loads(capsys.readouterr().out)
    benign, threshold = scores("good"), read_detector("d.json").fitted.threshold
    for name, row, one in zip(["fgsm", "bim"], rows(text, "Detection"), told["sets"], strict=True):
        other = scores(name)
        truth, both = np.repeat([0, 1], [len(benign), len(other)]), np.concatenate([benign, other])
        fpr, tpr, _ = roc_curve(truth, both, drop_intermediate=False)
        area, (low, high) = roc_auc_score(truth, both), metrics.auroc_interval(benign, other)
        assert row[:4] == [f"set {name}", str(len(other)), f"{area:.4f}", f"{low:.4f} to {high:.4f}"]
        assert row[4:] == [f"{tpr[fpr <= 0.01].max():.2%}", f"{tpr[fpr <= 0.05].max():.2%}", f"{fpr[tpr >= 0.95].min():.2%}"]
        assert (one["set"], one["auroc"]) == (name, pytest.approx(area, abs=1e-12))
        assert one["flagged"] == np.mean(other > threshold)
        assert f"set {name} {area:.3f}" in " ".join(text.split())  # the legend of the curves
        passed, flagged = confusion_matrix(truth, both > threshold)[1]
        found = next(row for row in rows(text, "Verdicts") if row[0] == f"set {name}")
        assert found[1:4] == [str(len(other)), str(passed), str(flagged)]
        ends = metrics.rate_interval(other > threshold)
        assert found[4:6] == [f"{np.mean(other > threshold):.2%}", f"{ends[0]:.2%} to {ends[1]:.2%}"]
    thresholds = rows(text, "Thresholds")
    assert [float(row[1]) for row in thresholds[:1]] == [pytest.approx(threshold, rel=1e-5)]
    for row, rate in zip(thresholds[1:], (0.001, 0.01, 0.02, 0.05, 0.1, 0.2), strict=True):
        assert row[3:] == [f"{metrics.tpr_at_fpr(benign, scores(name), rate):.2%}" for name in ("fgsm", "bim")]
        assert float(re.search(r"\((.*)%\)", row[2])[1]) <= 100 * rate
    assert told["benign flagged"] == np.mean(benign > threshold)


def test_rates_by_class(here):
    """Protects the table of classes: counts and shares of each class are those of NumPy."""
    text, _ = page(*SETS)
    label = {name: np.asarray(pq.read_table(f"{name}.parquet")["label"])[: len(scores(name))] for name in ("good", "fgsm", "bim")}
    threshold = read_detector("d.json").fitted.threshold
    for number, row in enumerate(rows(text, "Classes")):
        expected = [str(number)]
        for name, labels in label.items():
            mine = scores(name)[labels == number]
            expected += [str(len(mine)), f"{np.mean(mine > threshold):.1%}"]
        assert row == expected


def test_the_page_needs_nothing_else_and_suits_every_screen(here):
    """Protects the promise of one file: a strict policy, inline figures in the colours of the page, which say what they show."""
    text, seen = page(*SETS, "--images", "good.npz", "fgsm.npz", "bim.npz")
    assert "default-src 'none'" in text
    assert "://" not in text
    assert not seen.of("script") + seen.of("link")
    figures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(figures) == 4
    for drawn in figures:
        root = ElementTree.fromstring(drawn)
        assert root.attrib["aria-label"]
        assert "currentColor" in drawn
        assert not re.search(r"#000000|#ffffff|#010203|fill: white|<style", drawn)
    assert re.findall("<h2>(.*?)</h2>", text) == [
        "Detection", "Verdicts", "Costs and scores", "ROC curves", "Thresholds", "Classes", "Images", "Settings"
    ]  # fmt: skip
    for fact in ("zscore", "max_steps=500", "0.0.1", "made on", "seed of the run"):
        assert fact in seen.text
    assert len(re.findall("flagged</text>|benign</text>", "".join(figures[:2]))) >= 4  # each side of both thresholds has its word


def test_a_set_and_an_attack_of_one_name_are_told_apart(here):
    """Protects readers: bim that crafted images is "set bim", and bim that measures is "cost of bim"."""
    text, seen = page(*SETS)
    assert "cost of bim" in text
    assert not re.findall(r">bim<", text)
    assert "set bim" in seen.text


@pytest.mark.parametrize(
    ("detector", "columns", "lines"),
    [
        (ZScore(), ["bim"], 1),
        (Vote(k=1), ["bim", "jsma"], 2),
        (KNN(k=5), ["jsma", "bim"], 0),
        (Conformal(two_sided=True), ["bim"], 0),
        (Conformal(per_class=True), ["bim.distance"], 1),
    ],
)
def test_every_detector_has_a_page(detector, columns, lines, here):
    """Protects detectors of every kind: the page has their scores and threshold, each column, and a line where one number decides."""
    fitted("e.json", detector, columns)
    text, seen = page("--benign", "good.parquet", "--adversarial", "fgsm.parquet", "--detector", "e.json")
    assert seen.text.count("on, every image") == lines
    assert seen.text.count("No line divides") == len(columns) - lines
    assert len(re.findall("<svg", text)) == len(columns) + 1 + 2 * (1 + len(columns) * (len(columns) > 1))
    for column in columns:
        assert (f"cost of {column}" if "." not in column else column) in text


def test_images_stand_beside_their_verdicts(here, capsys):
    """Protects the examples: each picture is the image of its row, found by its pixels in any set; wrong verdicts are named."""
    _, seen = page(*SETS, "--images", "bim.npz", "good.npz")
    assert "6 of the 6 images of fgsm.parquet to show were not found in bim.npz, good.npz" in capsys.readouterr().err
    shown = seen.of("img")
    assert len(shown) >= 6
    everything = {name: np.load(f"{name}.npz")["x"] for name in ("good", "bim")}
    for image in shown:
        name, place = re.search(r"(benign|set bim): (\d+),", image["alt"]).groups()
        x = everything["good" if name == "benign" else "bim"][int(place)]
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1]))))
        np.testing.assert_array_equal(pixels, np.round(x[..., 0] * 255))
    assert "(false alarm)" in seen.text
    os.mkdir("all")
    for name in ("good", "fgsm", "bim"):
        os.rename(f"{name}.npz", f"all/{name}.npz")
    assert len(page(*SETS, "--images", "all")[1].of("img")) > len(shown)
    capsys.readouterr()
    refused(capsys, "does not exist", "nowhere", code=a2d("report", *SETS, "--images", "nowhere", "--out", "out.html"))


def test_costs_that_are_all_the_same(here):
    """Protects the edge: equal costs and scores have an AUROC of one half, one bar, and a page."""
    for name in ("same", "other"):
        write(f"{name}.parquet", {"bim": np.full(30, 100)})
    text, _ = page("--benign", "same.parquet", "--adversarial", "other.parquet", "--detector", "d.json")
    assert rows(text, "Detection")[0][2] == "0.5000"


def test_failures_are_told_apart(here):
    """Protects censored costs: an image that no attack could turn is drawn as failed and named so beside its picture."""
    x = np.random.default_rng(1).random((40, 6, 5, 1), np.float32)
    np.savez("hard.npz", x=x)
    write("hard.parquet", {"bim": np.full(40, BUDGET + 1)}, x)
    text, seen = page("--benign", "hard.parquet", "--adversarial", "bim.parquet", "--detector", "d.json", "--images", "hard.npz")
    assert ">failed</text>" in text
    assert ">100%</text>" in text
    assert "failed (500)" in seen.text


def test_images_with_errors_are_counted(here, capsys):
    """Protects honesty: rows with an error are left out of every number, and the page says how many and why."""
    write("bad.parquet", {"bim": costs(4, 50, 30)}, errors={3: "expected values in [0, 1], got NaN", 9: "corrupt"})
    text, seen = page("--benign", "good.parquet", "--adversarial", "bad.parquet", "--detector", "d.json")
    assert rows(text, "Detection")[0][1] == "48"
    assert "2 images of bad.parquet carry an error" in seen.text
    assert "got NaN" in capsys.readouterr().err


def test_a_page_of_many_images_is_small(here):
    """Protects browsers: distributions are binned and curves thinned, so that 100,000 images make no larger a page."""
    for seed, name in enumerate(("many", "more")):
        write(f"{name}.parquet", {"bim": costs(seed, 100_000, 200 - 150 * seed)}, label=np.arange(100_000) % 3000)
    text, _ = page("--benign", "many.parquet", "--adversarial", "more.parquet", "--detector", "d.json")
    assert len(text) < 150_000
    assert "100 classes with the most images of 3000" in text
    assert len(rows(text, "Classes")) == 100


def test_names_of_any_letters(here):
    """Protects users whose files are called anything: letters of the world, markup, bytes that are no text, and one name twice."""
    names = ["数字 é <b>$x_1$", "_under", os.fsdecode(b"caf\xe9")]
    for place, name in enumerate(names):
        write(f"{name}.parquet", {"bim": costs(place, 30, 30)})
    os.mkdir("second")
    os.rename("fgsm.parquet", "second/fgsm.parquet")
    write("fgsm.parquet", {"bim": costs(0, 30, 30)})
    files = [f"{name}.parquet" for name in names] + ["fgsm.parquet", "second/fgsm.parquet", "fgsm.parquet"]
    text, seen = page("--benign", "good.parquet", "--adversarial", *files, "--detector", "d.json")
    found = [row[0] for row in rows(text, "Detection")]
    assert found == [
        "set 数字 é &lt;b&gt;$x_1$", "set _under", "set caf\\xe9", "set fgsm", "set second/fgsm", "set fgsm (2)"
    ]  # fmt: skip
    assert "<b>" not in text
    assert all(f"set {name}" in seen.text for name in names[:2])


def test_curves_that_are_the_same_are_all_drawn(here):
    """Protects equal curves: each has its own colour, and their dashes take turns."""
    text, _ = page("--benign", "good.parquet", "--adversarial", "fgsm.parquet", "fgsm.parquet", "--detector", "d.json")
    (linear, _) = re.findall(r"<svg.*?</svg>", text, re.DOTALL)[2:]
    lines = re.findall(r'<path d="([^"]+)"[^>]*style="[^"]*stroke-dasharray: ([\d., ]+); stroke-dashoffset: ([\d.]+)', linear)
    curves = [line for line in lines if len(line[0]) > 500]
    assert len(curves) == 2
    assert curves[0][0] == curves[1][0]
    assert curves[0][1] == curves[1][1]
    assert curves[0][2] != curves[1][2]


def test_unusable_input_is_refused(here, capsys):
    """Protects users: what does not belong together or cannot be read is said in one line, and no page is left."""
    write("other.parquet", {"bim": costs(0, 30, 30)}, precision="bfloat16")
    write("jsma.parquet", {"jsma": costs(0, 30, 30)})
    with table_writer("empty.parquet", COSTS, {}):
        pass
    write("failed.parquet", {"bim": costs(0, 2, 30)}, errors={0: "corrupt", 1: "corrupt"})
    capsys.readouterr()

    def report(*arguments: object) -> int:
        return a2d("report", *arguments, "--out", "out.html")

    both = ("--adversarial", "fgsm.parquet", "--detector", "d.json")
    refused(capsys, "in bfloat16 as in other.parquet, got float32 in fgsm.parquet", code=report("--benign", "other.parquet", *both))
    refused(capsys, "expected bim, got a table of jsma", code=report("--benign", "jsma.parquet", *both))
    refused(capsys, "without rows in empty.parquet", code=report("--benign", "empty.parquet", *both))
    refused(capsys, "errors in all 2 images", code=report("--benign", "failed.parquet", *both))
    refused(capsys, "d.json", code=report("--benign", "d.json", *both))
    refused(capsys, "fgsm.parquet", "detector", code=report("--benign", "good.parquet", *both[:3], "fgsm.parquet"))
    refused(capsys, "got no --adversarial, --detector", code=report("--benign", "good.parquet"))
    refused(capsys, "--verdicts", code=report())
    refused(capsys, "got both", code=report(*SETS, "--verdicts", "good.parquet"))
    refused(capsys, "--time", code=report(*SETS, "--time", "time"))
    refused(capsys, "without the columns score, adversarial", code=report("--verdicts", "good.parquet"))
    refused(capsys, "nothing.parquet", code=report("--verdicts", "nothing.parquet"))
    pathlib.Path("there.html").write_text("mine")
    refused(capsys, "there.html", "--force", code=a2d("report", *SETS, "--out", "there.html"))
    assert pathlib.Path("there.html").read_text() == "mine"
    refused(capsys, "would replace it", code=a2d("report", *SETS, "--out", "d.json", "--force"))


# Verdicts alone.


@pytest.fixture
def day(here):
    """Verdicts on images in the order in which they came; the last third are crafted."""
    x = np.random.default_rng(5).random((240, 6, 5, 1), np.float32)
    np.savez("day.npz", x=x)
    cost = np.concatenate([costs(70, 160, 200), costs(71, 80, 15)])
    write("day.parquet", {"bim": cost}, x, np.arange(240) % 4, errors={5: "corrupt"}, images_sha256=open_images("day.npz").digest())
    assert a2d("detect", "--detector", "d.json", "--costs", "day.parquet", "--out", "v.parquet") == 3  # one has an error
    return here


def test_a_day_of_verdicts(day, capsys):
    """Protects the page without truth: share and interval, the score's threshold, the share along the index, the most suspicious images."""
    capsys.readouterr()
    text, seen = page("--verdicts", "v.parquet", "--images", "day.npz", "--json")
    out, err = capsys.readouterr()
    told, table = json.loads(out), pq.read_table("v.parquet").to_pydict()
    verdicts = np.asarray([one for one in table["adversarial"] if one is not None])
    assert (told["images"], told["failed"], told["flagged"]) == (239, 1, verdicts.mean())
    assert (told["flagged_low"], told["flagged_high"]) == metrics.rate_interval(verdicts)
    assert "1 images of v.parquet carry an error and have no verdict; the first is 5: corrupt" in err
    score = np.asarray([-np.inf if one is None else one for one in table["score"]])
    order = np.argsort(-score, kind="stable")[:20]
    assert [row[1] for row in rows(text, "Most suspicious images")] == [str(place) for place in order]
    assert len(seen.of("img")) == 12
    assert "not found" not in err
    assert "Share flagged over the index of the image" in text
    assert len(re.findall("<svg", text)) == 2
    assert not re.findall("AUROC|caught|false alarm", seen.text)
    by_class = rows(text, "Classes")
    assert [int(row[1]) for row in by_class] == [60, 59, 60, 60]


@pytest.mark.parametrize("kind", ["timestamp", "zone", "date", "text"])
def test_a_day_with_times(kind, day):
    """Protects the time axis: timestamps, dates and texts are read as UTC, and the share is that of each hour."""
    table = pq.read_table("v.parquet")
    seconds = np.arange(len(table)) * 360
    times = np.datetime64("2026-11-26T00:00:00") + seconds.astype("timedelta64[s]")
    column = {
        "timestamp": lambda: pa.array(times),
        "zone": lambda: pa.array(times).cast(pa.timestamp("s", "Europe/Berlin")),
        "date": lambda: pa.array((times[0] + (seconds // 360).astype("timedelta64[D]")).astype("datetime64[D]")),
        "text": lambda: pa.array([f"{time}+00:00" for time in times]),
    }[kind]()
    pq.write_table(table.append_column("came", column), "timed.parquet")
    _, seen = page("--verdicts", "timed.parquet", "--time", "came")
    (said,) = [one["aria-label"] for one in seen.of("svg") if "Share flagged over" in one["aria-label"]]
    assert "Share flagged over the time (UTC)" in said
    assert re.search(r"from 2026-11-26T\d\d:" if kind != "date" else r"from 202[67]-", said)


def test_verdicts_of_other_kinds(day, capsys):
    """Protects the edges: verdicts that are all alike, of two detectors, without a label, in parts, or with an unknown time."""
    table = pq.read_table("v.parquet")
    alike = table.filter(pa.compute.equal(table["adversarial"], False)).drop_columns(["label", "cost_bim"])
    pq.write_table(alike, "alike.parquet")
    text, seen = page("--verdicts", "alike.parquet", "--detector", "d.json")
    assert "<h2>Classes</h2>" not in text
    assert "0 of them as adversarial" in seen.text
    os.mkdir("parts")
    for part in range(2):
        pq.write_table(table.slice(120 * part, 120), f"parts/{part}.parquet")
    assert "239 images" in page("--verdicts", "parts")[1].text
    mixed = table.replace_schema_metadata({"a2d": json.dumps({"detector_meta": {"detector": "knn"}})})
    pq.write_table(mixed, "parts/2.parquet")
    fitted("e.json", ZScore(h=-3.0), ["bim"])
    pq.write_table(table.append_column("time", pa.array(["2026-11-26"] * 239 + ["soon"])), "soon.parquet")
    pq.write_table(table.append_column("time", pa.array([1.5] * 240)), "number.parquet")
    capsys.readouterr()

    def report(*arguments: object) -> int:
        return a2d("report", "--verdicts", *arguments, "--out", "out.html")

    refused(capsys, "verdicts of one detector", code=report("parts"))
    refused(capsys, "would change", "got e.json", code=report("v.parquet", "--detector", "e.json"))
    refused(capsys, "soon", "2026-11-27T08:30", code=report("soon.parquet"))
    refused(capsys, "times in the column time, got double", code=report("number.parquet"))
    refused(capsys, "without the columns hour", code=report("v.parquet", "--time", "hour"))


# The figure of `a2d eval`.


def test_evaluation_draws_a_figure(here, capsys):
    """Protects `a2d eval --out`: the name says PNG or SVG, an SVG has no ground and the ink of its surroundings, and both appear whole."""
    command = ("eval", "--benign", "good.parquet", "--adversarial", "fgsm.parquet", "bim.parquet", "--attacks", "bim,jsma.distance")
    for file in ("f.png", "f.svg"):
        assert a2d(*command, "--out", file, "--json") == 0
        assert json.loads(capsys.readouterr().out)["out"] == file
    with Image.open("f.png") as drawn:
        assert drawn.format == "PNG"
        assert drawn.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    root = ElementTree.fromstring(pathlib.Path("f.svg").read_text(encoding="utf-8"))
    text = pathlib.Path("f.svg").read_text(encoding="utf-8")
    assert root.tag.endswith("svg")
    assert "currentColor" in text
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"#ffffff|#010203|fill: white", text)
    written = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"cost of bim", "jsma.distance", "set fgsm", "benign"} <= {word for word in written if word}
    refused(capsys, "f.svg", "--force", code=a2d(*command, "--out", "f.svg"))
    assert a2d(*command, "--out", "f.svg", "--force") == 0
    capsys.readouterr()
    refused(capsys, ".png or .svg", code=a2d(*command, "--out", "out.pdf"))


def test_images_of_a_table_that_was_joined_or_renamed(here):
    """Protects the examples: images are found by name where their places have changed, and by their pixels alone if both have."""
    random = np.random.default_rng(3)
    os.mkdir("photos")
    x = random.integers(0, 256, (40, 6, 5), dtype=np.uint8)
    for place, image in enumerate(x):
        Image.fromarray(image).save(f"photos/{place:02}.png")
    pixels = (x[..., None] / np.float32(255)).astype(np.float32)
    write("photos.parquet", {"bim": costs(1, 40, 30)}, pixels)
    table = pq.read_table("photos.parquet")
    named = table.set_column(table.column_names.index("id"), "id", pa.array([f"{place:02}.png" for place in range(40)]))
    moved = named.set_column(0, "index", pa.array(np.arange(40) + 1000))
    pq.write_table(moved, "photos.parquet")
    _, seen = page("--benign", "good.parquet", "--adversarial", "photos.parquet", "--detector", "d.json", "--images", "photos")
    shown = [image["alt"] for image in seen.of("img")]
    assert len(shown) >= 3
    assert all(".png," in alt for alt in shown)


def test_thresholds_of_the_page_can_be_typed(here):
    """Protects who sets a threshold from the table: as printed, it gives the false positives and detections of its row."""
    text, _ = page(*SETS)
    benign, other = scores("good"), scores("fgsm")
    for row in rows(text, "Thresholds")[1:]:
        typed = float(row[1])
        assert row[2].startswith(f"{np.sum(benign > typed)} of 80 ")
        assert row[3] == f"{np.mean(other > typed):.2%}"
        assert len(row[1]) <= 9


def test_one_image_of_each_kind(here):
    """Protects the smallest tables: one benign and one adversarial image make a page, whose interval knows nothing."""
    for place, name in enumerate(("one", "two")):
        write(f"{name}.parquet", {"bim": np.array([100 - 50 * place])})
    text, _ = page("--benign", "one.parquet", "--adversarial", "two.parquet", "--detector", "d.json")
    assert rows(text, "Detection")[0][1:4] == ["1", "1.0000", "0.0000 to 1.0000"]


def test_what_draws_is_an_extra(here, capsys, monkeypatch):
    """Protects the lean core: without the extra both commands say what to install, before any work."""
    for name in [name for name in sys.modules if name.startswith("a2d_jax.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused(capsys, "a2d-jax[report]", code=a2d("report", *SETS, "--out", "out.html"))
    refused(capsys, "a2d-jax[report]", code=a2d("eval", *SETS[:5], "--out", "out.svg"))
