"""The experiment of the attacker who knows the detector: it runs on digits, its numbers agree, and it goes on where it stopped."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from a2d_jax.adaptive import Audit
from a2d_jax.errors import BadInput
from a2d_jax.types import Classifier
from experiments.adaptive import __main__ as command
from experiments.adaptive import measured
from experiments.adaptive import study as studies
from experiments.adaptive.attackers import SHORTER
from experiments.adaptive.detectors import COST, MAGNET, NEIGHBOURS, NEWTON, TITLES, TWO_SIDED, Detector, joined
from experiments.adaptive.features import _toll
from experiments.adaptive.measured import lengths
from experiments.adaptive.study import scores
from experiments.adaptive.subjects import SUBJECTS, missing

RANDOM = np.random.default_rng(0)
GROUP = pytest.mark.xdist_group("adaptive")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The experiment on digits, of the fewest images and steps that say anything; it trains, as the fixture `promoting` allows."""
    out = tmp_path_factory.mktemp("adaptive")
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setitem(studies.SIZES, "tiny", studies.Size("seconds", 30, 6, 6))
        patch.setattr(command, "TINY", command.TINY._replace(budgets={"linf": (0.1, 0.4)}, hard_label=2))
        command.main(command.Settings(size="tiny", out=out), Console(quiet=True))
        before = {path: path.stat().st_mtime_ns for path in (out / "tiny").rglob("*.npz")}
        command.main(command.Settings(size="tiny", out=out), Console(quiet=True))
        assert {path: path.stat().st_mtime_ns for path in (out / "tiny").rglob("*.npz")} == before, "nothing is attacked twice"
    return out / "tiny"


@GROUP
@pytest.mark.slow
def test_the_page_of_digits(folder):
    """Protects the whole path: every detector has its audit, no curve is above the ceiling, and the page shows all of it."""
    audits = {path.stem: Audit.read(path) for path in (folder / "digits").glob("*.json")}
    assert set(audits) == {f"linf-{name}" for name in (COST, NEWTON, TWO_SIDED, NEIGHBOURS)}
    for made in audits.values():
        for level in (None, 0.05):
            curve = made.curve(level=level)
            assert list(curve.success) == sorted(curve.success)
        ceilings = [one for one in made.findings if one.name.startswith("ceiling")]
        assert not any(one.fires for one in ceilings)
    cost = audits[f"linf-{COST}"]
    for one in cost.curves:
        assert all(mine <= every for mine, every in zip(one.success, cost.curve(level=one.level).success, strict=True))
    page = (folder / "index.html").read_text()
    for text in (
        "orthogonal PGD",
        "guarded PGD",
        "binarisation test",
        "what a further number costs the attacker",
        "ceiling",
        "verdicts alone",
    ):
        assert text in page
    assert "toll" in (folder / "adaptive.md").read_text()


@GROUP
@pytest.mark.slow
def test_images_stay_in_their_ball(folder):
    """Protects the curves: what a run made is in [0, 1] and within its radius, and its numbers are there exactly where it fools."""
    for path in (folder / "digits" / "linf").glob("*.npz"):
        with np.load(path) as made:
            assert made["x"].min() >= 0
            assert made["x"].max() <= 1
            judged = made["fooled"] & (not path.stem.startswith(SHORTER))
            np.testing.assert_array_equal(np.isnan(made["bim"]), ~judged)
            if path.stem.split(" ")[-1] == "0.1000":
                assert made["distance"].max() <= 0.1 + 1e-6


@GROUP
@pytest.mark.slow
def test_another_size_needs_another_folder(folder):
    """Protects what is there: a folder that began with other numbers of images is refused."""
    job = json.loads((folder / ".a2d" / "job.json").read_text())
    assert job["identity"]["size"]["images"] == 6
    with pytest.raises(BadInput, match="other"):
        command.main(command.Settings(size="tiny", out=folder.parent), Console(quiet=True))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"size": "huge"}, "a size among"),
        ({"networks": ("CIFAR-10",)}, "networks among"),
        ({"networks": ("CIFAR",)}, "--checkpoints"),
        ({"networks": ("Lite0",)}, "--photographs"),
    ],
)
def test_wrong_settings(given, said, tmp_path):
    """Protects the user's hours: what is wrong or missing is told before anything runs."""
    with pytest.raises(BadInput, match=said):
        command.main(command.Settings(out=tmp_path, **given), Console(quiet=True))
    assert not list(tmp_path.iterdir())


def test_every_subject_says_what_is_missing(tmp_path):
    """Protects a fresh machine: each network names its missing files without reading any; targets are among the radii."""
    for subject in SUBJECTS.values():
        assert missing(subject, tmp_path, None)
        for target in subject.targets:
            assert target.epsilon in subject.budgets[target.norm]
        for budgets in subject.budgets.values():
            assert list(budgets) == sorted(budgets)


def test_scores_only_where_fooled():
    """Protects the audit: an image that does not fool has no numbers, and no detector looks at it."""
    made = {"x": np.zeros((3, 1)), "fooled": np.array([True, False, True]), "bim": np.array([4.0, np.nan, 2.0])}
    np.testing.assert_array_equal(scores(Detector("d", lambda numbers: -numbers["bim"]), made), [-4, np.inf, -2])
    nobody = made | {"bim": np.full(3, np.nan)}
    assert np.isinf(scores(Detector("d", lambda numbers: 1 / 0), nobody)).all()


def test_joined_flags_by_either():
    """Protects the toll: the joined detector flags a low cost and a suspicious number, each above its own quantile."""
    benign = {"bim": np.linspace(100, 200, 1000), "newton": np.linspace(0.1, 0.2, 1000), "noise": np.linspace(0, 1, 1000)}
    one = joined(SimpleNamespace(autoencoders=()), benign, "noise", 1.0)
    flagged = one.score(benign) > 0
    assert 0.04 <= flagged.mean() <= 0.06
    assert one.score({"bim": np.array([50.0]), "noise": np.array([0.5])}) > 0
    assert one.score({"bim": np.array([150.0]), "noise": np.array([0.999])}) > 0
    assert one.score({"bim": np.array([150.0]), "noise": np.array([0.5])}) <= 0


def test_a_number_that_is_always_the_same_joins():
    """Protects networks on which both norms end in the same class: nothing is suspicious, and nobody can raise a number of two values."""
    benign = {"bim": np.linspace(100, 200, 1000), "newton": np.linspace(0.1, 0.2, 1000), "agrees": np.ones(1000)}
    one = joined(SimpleNamespace(autoencoders=()), benign, "agrees", 1.0)
    assert (one.score(benign) > 0).mean() <= 0.03
    assert one.accepts is None


def test_sensitivity_to_noise(monkeypatch):
    """Protects the attacker who knows it: on a linear network the mean change is that of a half-normal, whose mean is known."""
    monkeypatch.setattr(measured, "DRAWS", 4000)
    weights = RANDOM.normal(size=(2, 4, 4, 1)).astype(np.float32)
    classifier = Classifier(weights, lambda weights, x: jnp.sum(weights * x[None], (1, 2, 3)))
    x = jnp.full((4, 4, 1), 0.5)
    lead = float(jnp.sum((weights[0] - weights[1]) * x))
    label = jnp.asarray(0 if lead > 0 else 1)
    expected = measured.SPREAD * np.linalg.norm(weights[0] - weights[1]) * np.sqrt(2 / np.pi) / abs(lead)
    np.testing.assert_allclose(measured.sensitivity(classifier, x, label), expected, rtol=0.05)
    np.testing.assert_allclose(measured._noise(classifier, np.asarray(x)[None], np.array([abs(lead)]), 0), expected, rtol=0.05)


def test_toll():
    """Protects the toll: twice the distance is a toll of 2 with an interval around it; if half are never won, there is none."""
    alone = RANDOM.uniform(1, 2, 400)
    found = _toll(alone, 2 * alone, 0)
    assert found.ours == pytest.approx(2)
    assert found.interval is not None
    assert found.interval[0] <= 2 <= found.interval[1]
    assert _toll(alone, np.where(np.arange(400) % 3 == 0, alone, np.inf), 0).ours is None


def test_lengths():
    """Protects distances: as NumPy has them."""
    delta = RANDOM.normal(size=(5, 3, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(lengths(delta, "l2"), np.linalg.norm(delta.reshape(5, -1).astype(float), axis=1))
    np.testing.assert_allclose(lengths(delta, "linf"), np.abs(delta).max((1, 2, 3)))


def test_every_detector_has_a_title():
    """Protects the tables: a detector is named in words."""
    assert set(TITLES) == {COST, NEWTON, TWO_SIDED, NEIGHBOURS, MAGNET}
