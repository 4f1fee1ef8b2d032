"""The demo end to end: a small version in seconds, and the full version before a release."""

import re

import numpy as np
import pytest

from a2d_jax.errors import BadInput
from experiments import demo

pytestmark = pytest.mark.usefixtures("promoting")


def numbers(text: str, name: str) -> list[float]:
    """The numbers in the first printed table row that begins with `name`."""
    row = next(line for line in text.splitlines() if re.match(rf"\W*{re.escape(name)} ", line))
    return [float(cell.strip(" %│")) for cell in row.strip("│").split("│")[1:]]


def tiny(out, seed: int = 0) -> None:
    """Two crafted sets, two defences, the fewest images."""
    crafting = {name: demo.CRAFTING[name] for name in ("FGSM", "BIM")}
    defence = {name: demo.DEFENCE[name] for name in ("BIM", "JSMA")}
    demo.main(demo.Settings(out=out, seed=seed, images=40), defence, crafting)


def test_small_demo_says_and_writes_what_it_found(tmp_path, capsys):
    """Protects the main job: accuracy, tables and files, and crafted digits that cost less to attack than benign ones."""
    tiny(tmp_path / "new")
    said = capsys.readouterr().out
    assert float(re.search(r"test accuracy ([\d.]+)%", said)[1]) >= 97
    assert min(numbers(said, "BIM")) > 0.85
    assert min(numbers(said, "JSMA")) > 0.75
    assert len(numbers(said, "Vote, 2 of 2")) == len(numbers(said, "K-NN, 2 costs")) == 4
    assert re.search(r"done in \d+ s", said)
    for name in ("costs_and_roc.png", "costs.svg", "report.html"):
        assert str(tmp_path / "new" / name) in said
    assert (tmp_path / "new" / "costs_and_roc.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "new" / "report.html").read_text()
    assert page.count("<img") == 3 * demo.SHOWN
    assert page.count("<svg") == 3 * 2
    assert "crafted by FGSM" in page
    assert "Z-score, JSMA" in page


@pytest.mark.slow
def test_same_seed_same_files(tmp_path):
    """Protects reproducibility: a seed decides the bytes of all files, and another seed changes them."""
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        tiny(tmp_path / name, seed)
    for file in ("costs_and_roc.png", "costs.svg", "report.html"):
        one, same, other = ((tmp_path / name / file).read_bytes() for name in ("one", "same", "other"))
        assert one == same
        assert one != other


def test_versions_of_a_digit_stay_on_one_side():
    """Protects the verdicts: what was made of a digit that fits the detectors is never judged."""
    generator = np.random.default_rng(0)
    sources = {"benign": np.arange(41)} | {name: np.sort(generator.permutation(41)[:30]) for name in ("FGSM", "JSMA")}
    sets = {name: demo.Set(source, np.zeros((len(source), 8, 8, 1), np.float32)) for name, source in sources.items()}
    judged = demo.second_half(sets)
    seen = set().union(*(sources[name][judged[name]] for name in sets))
    fitted = set().union(*(sources[name][~judged[name]] for name in sets))
    assert seen | fitted == set(range(41))
    assert not seen & fitted


def test_detectors_are_fitted_to_the_other_half():
    """Protects the split: detectors that learned from the judged rows would get these, whose halves contradict each other, right."""
    generator = np.random.default_rng(0)
    low, high = generator.integers(1, 10, (30, 2)), generator.integers(100, 200, (30, 2))
    counted = {"benign": np.concatenate([high, low]), "FGSM": np.concatenate([low, np.maximum(high, 150)])}
    judged = {name: np.arange(60) >= 30 for name in counted}
    for name, detection in demo.detect(counted, judged, ["BIM", "DBA"]).items():
        assert detection["benign"].all(), name
        assert not detection["FGSM"].any(), name


def test_too_few_images_are_refused(tmp_path):
    """Protects users from a late error: the number is checked before anything is trained."""
    with pytest.raises(BadInput, match="at least 40 images, got 39"):
        demo.main(demo.Settings(out=tmp_path, images=39))


@pytest.mark.release
def test_full_demo(tmp_path, capsys):
    """Protects the numbers in the header: AUROC of every defence on every crafted set, within what another machine may change."""
    demo.main(demo.Settings(out=tmp_path))
    said = capsys.readouterr().out
    for name, expected in {"BIM": (0.968, 1.000, 1.000), "BIM2": (0.965, 1.000, 1.000), "DBA": (0.881, 0.935, 0.930)}.items():
        np.testing.assert_allclose(numbers(said, name), expected, atol=0.04)
    assert numbers(said, "Z-score, BIM")[-1] > 88
