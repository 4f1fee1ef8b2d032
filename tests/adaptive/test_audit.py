"""Audits: rates by simulation, curves against a plain count, the ceiling in closed form, files and text."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.adaptive import Audit, Evade, audit, guarded, operating_point, unconstrained_attack_failure
from a2d_jax.adaptive.audited import WORST
from a2d_jax.attacks import bim
from a2d_jax.errors import BadInput
from a2d_jax.metrics import rate_interval
from tests.adaptive.test_guarded import corner, distance, linearised
from tests.nets import batch


@pytest.mark.parametrize("level", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("n", [19, 120])
def test_false_positives_of_fresh_images(level, n):
    """Protects the level: over many calibration sets the rate on fresh images is (n + 1 - rank) / (n + 1), at most the level."""
    rng, draws = np.random.default_rng(0), 3000
    rates = []
    for _ in range(draws):
        point = operating_point(rng.uniform(size=n), level)
        rates.append(0.0 if point.threshold is None else 1 - point.threshold)  # of uniform scores
    expected = (n + 1 - np.ceil((n + 1) * (1 - level) - 1e-9)) / (n + 1)
    assert expected <= level + 1e-12
    assert abs(np.mean(rates) - expected) < 4 * np.std(rates) / np.sqrt(draws) + 1e-12


def test_too_few_benign_images_flag_nothing():
    """Protects small sets: with 98 images no threshold keeps 1 %, with 99 the largest score does."""
    assert operating_point(np.arange(98.0), 0.01).threshold is None
    assert operating_point(np.arange(99.0), 0.01).threshold == 98


def test_ties_make_the_rate_smaller():
    """Protects integer costs: a score on the threshold is accepted, however many share it, and what is flagged is said."""
    scores = -np.repeat([7.0, 20.0, 41.0], [10, 60, 30])
    point = operating_point(scores, 0.05, fresh=-np.array([6.0, 7.0, 8.0, 50.0]))
    assert point.threshold == -7
    assert point.calibration == 0
    assert point.fpr[0] == 0.25
    assert operating_point(scores, 0.15).calibration == 0.1


def made(seed=0, n=40, attackers=3, tries=4):
    rng = np.random.default_rng(seed)
    shape = (n, attackers, tries)
    return rng.uniform(size=shape) < 0.7, rng.normal(size=shape), rng.uniform(0, 1, size=shape)


def test_curves_are_plain_counts():
    """Protects the curves: an image is won by a try within the budget that fools and is accepted; the worst case by any attacker's."""
    fooled, score, distances = made()
    benign, budgets = np.random.default_rng(1).normal(size=200), (0.1, 0.4, 1.0)
    found = audit("x", benign, fooled, score, distances, attackers="abc", budgets=budgets)
    for level, k in itertools.product((None, 0.01, 0.05, 0.1), range(3)):
        threshold = np.inf if level is None else operating_point(benign, level).threshold
        hits = fooled & (score <= threshold) & (distances <= budgets[k])
        for a, name in enumerate("abc"):
            assert found.curve(name, level).success[k] == pytest.approx(hits[:, a].any(axis=1).mean())
        worst = found.curve(WORST, level)
        assert worst.success[k] == pytest.approx(hits.any(axis=(1, 2)).mean())
        assert (worst.low[k], worst.high[k]) == rate_interval(hits.any(axis=(1, 2)))
        assert list(worst.success) == sorted(worst.success)


def test_one_try_each_needs_no_third_axis():
    """Protects the simple case: n x attackers is n x attackers x 1."""
    fooled, score, distances = (values[:, :, 0] for values in made())
    benign = np.random.default_rng(1).normal(size=200)
    flat = audit("x", benign, fooled, score, distances, attackers="abc", budgets=[1])
    assert flat == audit("x", benign, fooled[..., None], score[..., None], distances[..., None], attackers="abc", budgets=[1])


def test_what_is_not_fooled_needs_no_score():
    """Protects partial tables: NaN, or any number, where nothing is fooled changes nothing."""
    fooled, score, distances = made()
    benign = np.random.default_rng(1).normal(size=200)
    full = audit("x", benign, fooled, score, distances, attackers="abc", budgets=[0.5, 1])
    partial = [np.where(fooled, values, np.nan) for values in (score, distances)]
    assert audit("x", benign, fooled, *partial, attackers="abc", budgets=[0.5, 1]) == full


@pytest.fixture(scope="module")
def lines():
    """A linear network of two classes, its exact detector, and an attacker who knows it beside one who does not."""
    rng, step = np.random.default_rng(3), 5e-4
    net, examples = corner(rng, classes=2)
    benign = batch(net, rng.uniform(0.4, 0.6, size=(99, 6, 6, 1)).astype(np.float32))
    measured = jax.jit(jax.vmap(lambda x: linearised(net, x)))
    costs = -np.asarray(measured(jnp.asarray(benign.x)))
    rho = -operating_point(costs, 0.1).threshold
    plain = drivers.attack(bim(1.0, step, 800), net, examples, driver="run")
    knowing = drivers.attack(Evade(bim(1.0, step, 800)), guarded(net, linearised, rho, 0.2), examples, driver="run")
    both = (plain, knowing)
    tables = [np.stack(columns, axis=1) for columns in zip(*((r.success, -measured(r.x_adv), r.distance) for r in both), strict=True)]
    return net, examples, costs, rho, step, tables


def test_the_ceiling_is_exact_on_a_linear_network(lines):
    """Protects the law: with an exact detector the joint curve *is* the ceiling, to a step of the attack, and both are the closed form."""
    net, examples, costs, rho, step, tables = lines
    nearest = distance(net, examples.x, examples.label)
    budgets = np.sort(nearest + rho) + 2 * step
    found = audit("x", costs, *tables, attackers=("plain", "knowing"), budgets=budgets, levels=[0.1], radius=lambda t: -t)
    joint = found.curve(WORST, 0.1)
    np.testing.assert_allclose(tables[2][:, 1], tables[2][:, 0] + rho, atol=1.01 * step)
    for k, budget in enumerate(budgets):
        exact = [(nearest + rho <= budget - less).mean() for less in (1.01 * step, -1e-6)]
        assert exact[0] <= joint.success[k] <= exact[1]
        assert abs(joint.success[k] - joint.ceiling[k]) <= ((nearest + rho > budget - 2 * step) & (nearest + rho < budget + step)).mean()
    assert joint.success[-1] == 1
    assert found.sound, found.summary()
    assert found.points[0].rho == pytest.approx(rho)


def test_above_the_ceiling(lines):
    """Protects the check: a detector that claims a larger radius than it measures, and a weak plain attack, are told."""
    _, _, costs, rho, _, tables = lines
    settings = {"attackers": ("plain", "knowing"), "budgets": np.linspace(0, 0.4, 41), "levels": [0.1]}
    boast = audit("x", costs, *tables, **settings, radius=lambda t: -3 * t)
    assert [finding.name for finding in boast.findings if finding.fires] == ["ceiling at 0.1"]
    fooled, score, distances = (values.copy() for values in tables)
    fooled[:, 0] = False
    distances[:, 1] = np.maximum(distances[:, 1], rho)
    assert not audit("x", costs, fooled, score, distances, **settings, radius=lambda t: 0.0).findings[0].fires
    assert audit("x", costs, fooled, score, distances, **settings, radius=lambda t: -t).findings[0].fires


def test_a_curve_that_stops_early(lines):
    """Protects from half a curve: a worst case below 1 at the largest budget is told, with how far it came."""
    _, _, costs, _, _, tables = lines
    budget = float(np.median(tables[2][:, 1]))
    short = audit("x", costs, *tables, attackers=("plain", "knowing"), budgets=[budget], levels=[0.1])
    (finding,) = short.findings
    assert finding.fires
    assert finding.number == pytest.approx(1 - short.curve(WORST, 0.1).success[0])
    assert "go on until every image is won" in finding.sentence


def test_fresh_images_of_another_kind():
    """Protects the rate: fresh images that are flagged more often than the level, beyond chance, are told; others are not."""
    rng = np.random.default_rng(0)
    fooled, score, distances = made()
    settings = {"attackers": "abc", "budgets": [1.0], "levels": [0.05]}
    alike = audit("x", rng.normal(size=500), fooled, score, distances, fresh=rng.normal(size=500), **settings)
    shifted = audit("x", rng.normal(size=500), fooled, score, distances, fresh=rng.normal(1, 1, size=500), **settings)
    assert [one.findings[-1].fires for one in (alike, shifted)] == [False, True]
    assert alike.findings[-1].name == "false positives at 0.05"


def test_files_and_text(lines, tmp_path):
    """Protects what is kept: a file gives the same audit back, is plain JSON, and the text names every budget, attacker and check."""
    _, _, costs, _, _, tables = lines
    budgets = (0.05, 0.125, 1.0)
    found = audit("two lines", costs, *tables, attackers=("plain", "knowing"), budgets=budgets, levels=[0.005, 0.1], radius=lambda t: -t)
    assert found.points[0].threshold is None
    found = found.add(unconstrained_attack_failure(np.array([True, False])))
    assert not found.sound
    found.write(tmp_path / "audit.json")
    assert Audit.read(tmp_path / "audit.json") == found
    assert json.loads((tmp_path / "audit.json").read_text())["budgets"] == list(budgets)
    with pytest.raises(BadInput, match="expected a new output"):
        found.write(tmp_path / "audit.json")
    text = found.summary()
    for word in (
        "two lines",
        "plain",
        "knowing",
        WORST,
        "ceiling",
        "0.125",
        "too few benign images",
        "FIRES  unconstrained attack failure",
    ):
        assert word in text, word


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "a2d audit 2"}', '{"format": "a2d audit 1", "name": "x"}'])
def test_refuses_other_files(tmp_path, text):
    """Protects readers: a file that is no audit is refused in one line."""
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(BadInput, match="expected an audit"):
        Audit.read(tmp_path / "x.json")
    with pytest.raises(BadInput, match="expected an audit"):
        Audit.read(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fooled": np.ones((4, 3))}, "fooled as true or false"),
        ({"fooled": np.ones(4, bool)}, "fooled as true or false"),
        ({"fooled": np.zeros((0, 3), bool)}, "at least one image"),
        ({"score": np.ones((40, 3))}, "score for every entry"),
        ({"score": np.full((40, 3, 4), np.nan)}, "score of every misclassified image"),
        ({"distance": -np.ones((40, 3, 4))}, "distances of at least 0"),
        ({"attackers": "ab"}, "3 different names"),
        ({"attackers": "aab"}, "3 different names"),
        ({"attackers": ["a", "b", WORST]}, "3 different names"),
        ({"budgets": [1, 1]}, "finite budgets that rise"),
        ({"budgets": []}, "finite budgets that rise"),
        ({"budgets": [-1, 1]}, "finite budgets that rise"),
        ({"levels": [5]}, "a level in"),
        ({"benign": [np.nan]}, "held-out benign scores"),
        ({"fresh": []}, "fresh benign scores"),
        ({"radius": lambda t: np.nan}, "a finite radius"),
    ],
)
def test_refuses_tables_that_do_not_fit(change, message):
    """Protects early failure: what cannot be audited is refused with what to do."""
    fooled, score, distances = made()
    call = {
        "benign": np.arange(200.0),
        "fooled": fooled,
        "score": score,
        "distance": distances,
        "attackers": "abc",
        "budgets": [1],
    } | change
    tables = [call.pop(name) for name in ("benign", "fooled", "score", "distance")]
    with pytest.raises(BadInput, match=message):
        audit("x", *tables, **call)


def test_asks_for_a_curve_that_is_there():
    """Protects readers of an audit: an unknown attacker or level is named beside those that there are."""
    fooled, score, distances = made()
    found = audit("x", np.arange(200.0), fooled, score, distances, attackers="abc", budgets=[1])
    with pytest.raises(BadInput, match=r"a, b, c, worst case and a level among 0.01, 0.05, 0.1 or None, got d at 0.1"):
        found.curve("d", 0.1)


def test_exact_intervals_cover():
    """Protects intervals: of 2,000 samples at least 95 % of the exact intervals cover the rate, at the ends too."""
    rng = np.random.default_rng(0)
    for rate in (0.02, 0.4):
        flags = rng.uniform(size=(2000, 50)) < rate
        inside = [low <= rate <= high for low, high in map(rate_interval, flags)]
        assert np.mean(inside) > 0.94
    assert rate_interval(np.zeros(10, bool))[0] == 0
    assert rate_interval(np.zeros(10, bool))[1] == pytest.approx(1 - 0.025**0.1)
