"""Detector files: JSON that restores the same scores; anything else is refused."""

import importlib
import json
import re
import sys

import numpy as np
import pytest

from a2d_jax.detectors import KNN, SVM, Conformal, Forest, Tree, Vote, ZScore
from a2d_jax.errors import BadInput
from a2d_jax.io.detectors import StoredDetector, read_detector, write_detector

KEY = np.random.default_rng(0)
BENIGN, ADVERSARIAL = KEY.poisson(60, (150, 2)), KEY.poisson(20, (120, 2))


@pytest.mark.parametrize(
    "detector", [ZScore(), ZScore(as_released=True), Vote(), KNN(), SVM(), Tree(), Forest(), Conformal()], ids=lambda d: type(d).__name__
)
def test_same_scores_after_the_round_trip(detector, tmp_path):
    """A detector read back gives bit for bit the scores and verdicts of the one written; the file is strict JSON."""
    columns = slice(0, 1) if isinstance(detector, ZScore) else slice(0, 2)
    fitted = detector.fit(BENIGN[:, columns], ADVERSARIAL[:, columns])
    path = tmp_path / "detector.json"
    write_detector(path, StoredDetector(fitted, ("bim", "dba")[: fitted.columns], {"preset": "mnist"}))
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    stored = read_detector(path)
    assert stored.columns == ("bim", "dba")[: fitted.columns]
    assert stored.meta == {"preset": "mnist"}
    fresh = np.random.default_rng(1).poisson(40, (50, 2))[:, columns]
    np.testing.assert_array_equal(stored.fitted.score(fresh), fitted.score(fresh))
    np.testing.assert_array_equal(stored.fitted.predict(fresh), fitted.predict(fresh))


def test_infinite_threshold(tmp_path):
    """A cost threshold of minus infinity (nothing can be flagged) survives, although JSON has no infinity."""
    fitted = ZScore(h=-1e6).fit(np.exp(np.random.default_rng(0).normal(5, 1, 100)).round())
    assert not np.isfinite(fitted.cost_threshold) or fitted.cost_threshold < 1
    path = tmp_path / "detector.json"
    write_detector(path, StoredDetector(fitted, ("bim",), {}))
    assert read_detector(path).fitted.cost_threshold == fitted.cost_threshold


def test_detector_of_a_users_module(tmp_path, monkeypatch):
    """Protects against code in files: a detector of a user's module is read where the user names the module, and refused elsewhere."""
    (tmp_path / "my_detectors.py").write_text(
        "from dataclasses import dataclass\n"
        "from a2d_jax.detectors.base import Fitted, read_table\n"
        "@dataclass(frozen=True)\n"
        "class FittedLowest(Fitted):\n"
        "    threshold: float\n"
        "    columns: int = 1\n"
        "    def score(self, x, *, labels=None, index=None):\n"
        "        return -read_table(x, 1)[:, 0]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    fitted = importlib.import_module("my_detectors").FittedLowest(float("-inf"))
    path = tmp_path / "detector.json"
    write_detector(path, StoredDetector(fitted, ("bim",), {}))
    assert read_detector(path, ["my_detectors"]).fitted == fitted
    with pytest.raises(
        BadInput, match=r"expected my_detectors to be named as a plugin, since .* needs .*, got none; a file .*detector.json"
    ):
        read_detector(path)
    for change, told in [
        (lambda module: module.write_text("raise RuntimeError('a\\nb')"), "RuntimeError: a b; check"),
        (lambda module: module.unlink(), "ModuleNotFoundError: No module named .*; check"),
    ]:
        change(tmp_path / "my_detectors.py")
        sys.modules.pop("my_detectors", None)
        importlib.invalidate_caches()
        with pytest.raises(BadInput, match=f"expected an importable module, got 'my_detectors', which raises {told}"):
            read_detector(path, ["my_detectors"])


def test_refused_files(tmp_path):
    """A missing file, another kind of file, another format, and changed parts each have one line."""
    path = tmp_path / "detector.json"

    def refused(*words: str) -> None:
        with pytest.raises(BadInput) as caught:
            read_detector(path)
        assert re.match(r"expected [^\n]*, got [^\n]*; [^\n]*$", str(caught.value))
        assert all(word in str(caught.value) for word in (*words, str(path)))

    refused("does not exist")
    path.write_bytes(b"\x80\x04 pickle \xff")
    refused("JSON")
    path.write_text("[1, 2]")
    refused("format")
    write_detector(path, StoredDetector(ZScore().fit(BENIGN[:, :1]), ("bim",), {}))
    whole = json.loads(path.read_text())
    for change, word in [
        ({"kind": "oracle"}, "oracle"),
        ({"params": {"h": 1}}, "parameters"),
        ({"params": 3}, "missing or changed"),
        ({"columns": ["bim", "dba"]}, "got 2"),
    ]:
        path.write_text(json.dumps(whole | change))
        refused(word)
    del whole["meta"]
    path.write_text(json.dumps(whole))
    refused("missing or changed")


def test_files_of_the_first_version(tmp_path):
    """Protects detectors that exist: the first version called its columns attacks."""
    path = tmp_path / "detector.json"
    write_detector(path, StoredDetector(ZScore().fit(BENIGN[:, :1]), ("bim",), {}))
    content = json.loads(path.read_text())
    content["attacks"] = content.pop("columns")
    path.write_text(json.dumps(content))
    assert read_detector(path).columns == ("bim",)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "[" * 5000, "null"])
def test_numbers_that_are_none(tmp_path, value):
    """Protects verdicts: a threshold that is no number would call every image benign; such a file is refused in one line."""
    path = tmp_path / "detector.json"
    write_detector(path, StoredDetector(ZScore().fit(BENIGN[:, 0]), ("bim",), {}))
    text = path.read_text()
    path.write_text(re.sub(r'"mean": [-0-9.e]+', f'"mean": {value}', text))
    assert path.read_text() != text
    with pytest.raises(BadInput, match=r"^expected [^\n]*detector\.json[^\n]*$"):
        read_detector(path)


def test_settings_of_another_form(tmp_path):
    """Protects readers of the record: settings of the costs that no run writes are refused in one line."""
    path = tmp_path / "detector.json"
    for costs in ({"attacks": {"bim": 3}}, {"attacks": [1]}, {"shape": "large"}):
        write_detector(path, StoredDetector(ZScore().fit(BENIGN[:, 0]), ("bim",), {"costs": costs}))
        with pytest.raises(BadInput, match=r"settings of the run[^\n]*detector\.json"):
            read_detector(path)


@pytest.mark.parametrize(
    ("name", "value"), [("costs", 1.5), ("costs", []), ("costs", [[1.0], [2.0, 3.0]]), ("adversarial", [True]), ("k", "inf")]
)
def test_parts_that_do_not_belong_together(tmp_path, name, value):
    """Protects verdicts: a detector is tried on one row when it is read, so that changed parts are refused before any image is judged."""
    path = tmp_path / "detector.json"
    write_detector(path, StoredDetector(KNN(k=5).fit(BENIGN[:, :1], ADVERSARIAL[:, :1]), ("bim",), {}))
    content = json.loads(path.read_text())
    content["params"][name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(BadInput, match=r"^expected [^\n]*detector\.json[^\n]*$"):
        read_detector(path)
