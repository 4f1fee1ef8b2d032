"""Networks and labels that are not what they seem: they get a note or are refused, and never give a silent wrong number."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from a2d_jax import costs, drivers, jobs
from a2d_jax.attacks import JSMA, Boundary, bim, pgd
from a2d_jax.detectors import ZScore
from a2d_jax.errors import BadInput, InputWarning
from a2d_jax.types import Classifier
from tests.nets import convnet
from tests.test_contract import every_attack

X = np.random.default_rng(0).random((12, 8, 8, 1), np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=(5, 64)).astype(np.float32)
ATTACKS = {"bim": bim(0.3, 0.05, 8), "jsma": JSMA(max_steps=8)}


def classifier(function):
    """A linear network whose image, or whose logits, go through a function."""
    return Classifier(jnp.asarray(WEIGHTS), function)


def standardised(w, x):
    """The gradient of the standard deviation is NaN at a flat image."""
    centred = x - jnp.mean(x)
    return w @ (centred / jnp.maximum(jnp.std(x), 0.125)).ravel() + jnp.arange(5.0)


def overflowing(w, x):
    """Logits that are finite with a gradient beyond float32."""
    return w @ x.ravel() + 1e-30 * jnp.sin(1e38 * jnp.sum(x)) * 1e38


def rounded(w, x):
    return w @ jnp.round(x * 15).ravel()


def softmax(w, x):
    return jax.nn.softmax(w @ x.ravel())


def constant(w, x):
    return jnp.arange(5.0) + 0 * jnp.sum(x)


def flat_images(x, *rows):
    return np.where(np.isin(np.arange(len(x)), rows)[:, None, None, None], np.float32(0.5), x)


@every_attack
def test_a_gradient_that_is_not_finite_ends_the_attack(case):
    """Protects costs: every attack that takes gradients says which examples met one that is not finite, and those are failures."""
    if case.gradients(3) == {0}:
        pytest.skip("it takes no gradient")
    net = classifier(standardised)
    examples = costs.examples(net, flat_images(X, 1, 4), np.zeros(12, int) if case.goal == "label" else None)
    result = drivers.attack(dataclasses.replace(case.attack, max_steps=5), net, examples, driver="run")
    np.testing.assert_array_equal(result.broken[[1, 4]], True)
    assert not result.success[[1, 4]].any()
    assert result.censored[[1, 4]].all()
    assert result.broken.sum() == 2
    assert np.isfinite(result.x_adv).all()


@every_attack
def test_an_attack_without_a_slope_says_so(case):
    """Protects costs: every attack that takes gradients says which examples had none but zero; others are not called flat."""
    for function, flat in ((constant, case.gradients(3) != {0}), (None, False)):
        net = classifier(function) if function else convnet()
        label = np.full(12, 2 if case.goal == "label" else 4)
        result = drivers.attack(dataclasses.replace(case.attack, max_steps=3), net, costs.examples(net, X, label), driver="run")
        np.testing.assert_array_equal(result.flat & ~result.success, flat)  # a success of C&W has nothing left to gain
        assert not result.broken.any()


@pytest.mark.parametrize(("function", "rows"), [(standardised, [1, 4]), (overflowing, [])])
def test_row_error(function, rows):
    """Protects tables: an image on which a gradient is not finite has an error and no cost; alone it is the error of the call."""
    net, x = classifier(function), flat_images(X, *rows)
    if rows:
        measured = costs.measure(net, costs.Arrays(x), ATTACKS)
        np.testing.assert_array_equal(np.flatnonzero(~measured.good), rows)
        assert "expected finite gradients and logits, got NaN or infinity during bim and jsma" in measured.error[1]
        with pytest.raises(BadInput, match=r"expected finite gradients.*image 1"):
            costs.costs(net, x, ATTACKS)
        with pytest.raises(BadInput, match="errors in all; the first is expected finite gradients"):
            costs.measure(net, costs.Arrays(x[rows]), ATTACKS)
    else:
        with pytest.raises(BadInput, match="finite"):
            costs.costs(net, x, ATTACKS)


@pytest.mark.parametrize(
    ("name", "attack", "count"),
    [("bim", bim(0.3, 0.05, 8), 12), ("jsma", JSMA(max_steps=8), 12), ("pgd", pgd(0.1, 0.02, 3), r"\d+")],
)
def test_no_gradient_is_said(name, attack, count):
    """Protects verdicts: failures of an attack that had no gradient to follow are counted in a warning, random start or not."""
    with pytest.warns(InputWarning, match=f"{name} could not move {count} of 12 images: their gradient is zero"):
        costs.costs(classifier(rounded), X, {name: attack})


def test_no_start_is_said():
    """Protects verdicts: the boundary attack on a network that ignores its input, which is said too."""
    with pytest.warns(InputWarning) as caught:
        costs.costs(classifier(constant), X, {"dba": Boundary(max_steps=3)})
    assert any("dba could not move 12 of 12" in str(one.message) for one in caught)
    assert any("gives different images the same output" in str(one.message) for one in caught)


def test_probabilities_are_said():
    """Protects costs: outputs of a softmax are noted once, by costs and by a defense; logits and their logarithms are not."""
    with pytest.warns(InputWarning, match="add up to 1, as probabilities do") as caught:
        costs.costs(classifier(softmax), X, ATTACKS)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    many = np.random.default_rng(2).random((40, 8, 8, 1), np.float32)
    with pytest.warns(InputWarning, match="add up to 1"):
        fitted = costs.Defense(classifier(softmax), {"bim": bim(0.3, 0.02, 30)}, ZScore()).fit(many)
    with pytest.warns(InputWarning, match="add up to 1"):
        fitted.predict(many[:1])
    costs.costs(classifier(lambda w, x: jax.nn.log_softmax(w @ x.ravel())), X, ATTACKS)


@pytest.mark.parametrize(
    ("shift", "text"),
    [
        (1, "labels seem to count from 1 instead of 0: 0 of 200 equal the predicted class, but 200 do if 1 is subtracted"),
        (-1, "labels seem to be too low by 1: 0 of 200 equal the predicted class, but 200 do if 1 is added"),
        (2, "none of 200 labels equals the predicted class: unless the images are adversarial, check the order of the classes"),
        (0, None),
    ],
)
def test_labels(shift, text):
    """Protects accuracies: labels that are right after a shift, or never, are said."""
    seen, label = costs.Seen(), np.random.default_rng(0).integers(0, 10, 200)
    for some in np.array_split(np.arange(200), 3):
        seen.add(np.eye(10)[label[some]] * 9, label[some], label[some] + shift, some)
    notes = seen.notes()
    assert seen.wrong == (200 if shift else 0)
    assert any(text in note for note in notes) if text else not notes
    assert any("labels lie outside 0 to 9" in note for note in notes) == (shift != 0)


def test_images_of_adversaries_are_not_called_shifted():
    """Protects crafted sets: labels that are all wrong in many ways are not called shifted."""
    seen, label = costs.Seen(), np.random.default_rng(0).integers(0, 10, 200)
    seen.add(np.eye(10)[label] * 9, label, (label + np.random.default_rng(1).integers(1, 10, 200)) % 10, np.arange(200))
    assert not any("count from" in note for note in seen.notes())


def test_commands_tell(tmp_path):
    """Protects the command line: labels from 1 are noted, and misclassified images stand beside the success rate and in the metadata."""
    label = costs.predictions(convnet(), X)[0]
    np.savez(tmp_path / "x.npz", x=X, y=label + 1)
    given = {"classifier": "tests.nets:convnet", "images": tmp_path / "x.npz"}
    settings = {"epsilon": 0.3, "step_size": 0.05, "max_steps": 8}
    outside = int((label == 4).sum())
    predicted = jobs.predict(jobs.PredictSpec(out=tmp_path / "p.parquet", **given))
    attacked = jobs.attack(jobs.AttackSpec(out=tmp_path / "a.npz", attack="bim", **given, **settings))
    measured = jobs.cost(jobs.CostSpec(out=tmp_path / "c.parquet", attacks="bim", **given, **settings))
    for done in (predicted, attacked, measured):
        assert any("labels seem to count from 1 instead of 0" in note for note in done.notes)
        assert any(f"{outside} labels lie outside 0 to 4, such as 5" in note for note in done.notes)
    assert predicted.summary["accuracy"] == 0
    assert attacked.failed == outside
    assert attacked.summary["success rate"] == 1
    assert attacked.summary["wrong to begin with"] == 12 - outside
    assert measured.summary["wrong to begin with"] == 12
    assert json.loads(str(np.load(tmp_path / "a.npz")["a2d"]))["wrong to begin with"] == 12 - outside
