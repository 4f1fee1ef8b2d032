"""Newton compared with BIM: the whole experiment in a small size, and its statistics."""

import json

import numpy as np
import pytest

from a2d_jax import metrics
from a2d_jax.errors import BadInput
from experiments import newton


def test_tiny(tmp_path, promoting, capsys):
    """Protects the command: it leaves numbers and raw scores, ranks about as BIM does for a few gradients, and is not run twice."""
    settings = newton.Settings(size="tiny", benign=30, crafted=9, out=tmp_path)
    text = newton.main(settings)
    found = json.loads((tmp_path / "digits.json").read_text())
    assert found["updates"][0] < 5 < 50 < found["updates"][1]
    assert {"FGSM", "BIM", "DeepFool", "PGD-40"} <= found["sets"].keys()
    assert abs(np.mean([one["difference"][0] for one in found["sets"].values()])) < 0.05
    raw = np.load(tmp_path / "digits.npz")
    for name, one in found["sets"].items():
        for column in (0, 1):
            area = metrics.auroc(-raw["benign"][:, column], -raw[name][:, column])
            assert one["scores"][newton.SCORES[column]][0] == pytest.approx(area)
    assert (tmp_path / "table.md").read_text() == text + "\n"
    before = (tmp_path / "digits.json").stat().st_mtime_ns
    assert newton.main(settings) == text
    assert (tmp_path / "digits.json").stat().st_mtime_ns == before


def test_the_interval_is_that_of_a_paired_bootstrap():
    """Protects the statistics: the difference is that of two AUROCs, its interval that of images drawn again one by one."""
    draw = np.random.default_rng(0)
    benign, crafted = draw.normal(1, 1, (60, 2)).round(1), draw.normal(0, 1, (40, 2)).round(1)
    middle, low, high = newton.difference(benign, crafted)
    areas = [metrics.auroc(-benign[:, column], -crafted[:, column]) for column in (0, 1)]
    assert middle == pytest.approx(areas[0] - areas[1])
    drawn = []
    for _ in range(1000):
        rows, columns = draw.integers(60, size=60), draw.integers(40, size=40)
        one, two = (metrics.auroc(-benign[rows, column], -crafted[columns, column]) for column in (0, 1))
        drawn.append(one - two)
    np.testing.assert_allclose([low, high], np.percentile(drawn, [2.5, 97.5]), atol=0.02)


def test_missing_networks_are_named(tmp_path, capsys):
    """Protects users: a network without its checkpoint is left out with a word, one that does not exist is refused."""
    newton.main(newton.Settings(checkpoints=tmp_path, network=("LeNet-5",), out=tmp_path / "out"))
    assert "LeNet-5 is left out: expected lenet5_mnist.pkl" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(BadInput, match="among LeNet-5"):
        newton.main(newton.Settings(network=("VGG",), out=tmp_path))


def test_either_end():
    """Protects the two-sided share: images below and above nearly all benign ones are caught, those among them are not."""
    benign = np.arange(1000.0)
    assert newton.either_end(benign, np.array([3.5, 23.5, 25.5, 500.0, 973.5, 975.5, 2000.0])) == pytest.approx(4 / 7)
