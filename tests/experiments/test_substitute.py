"""The substitute-model attack on scikit-learn's digits: its target is scikit-learn's own classifier, its substitute one linear layer."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from rich.console import Console
from sklearn.linear_model import LogisticRegression

from a2d_jax.errors import BadInput
from a2d_jax.io import checkpoints
from a2d_jax.io.datasets import load
from a2d_jax.scale.runs import RECORDS
from experiments import substitute
from models.training import RECIPES, Recipe
from tests import nets

DENSE = "tests.experiments.test_substitute:dense"
ROUNDS, SEEDS = 3, 40
ORACLE = substitute.oracle
"""The real one; the tests but one put another in its place."""


class Dense(nnx.Module):
    """Logits that are linear in the image."""

    input_shape = (8, 8, 1)

    def __init__(self, rngs: nnx.Rngs):
        self.fc = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.fc(x.reshape(len(x), -1))


def dense(rngs: nnx.Rngs | None = None) -> Dense:
    return Dense(rngs or nnx.Rngs(0))


def digits(split):
    (piece,) = load("digits", split).pieces(2000)
    return piece.x, piece.label


@pytest.fixture(scope="module")
def regression():
    """The target; all that is asked of it is written down."""
    x, label = digits("train")
    return LogisticRegression(max_iter=200).fit(x.reshape(len(x), -1), label)


@pytest.fixture(scope="module")
def asked(regression):
    """Images that the target was shown, question by question."""
    questions = []

    def target(x):
        questions.append(x)
        return regression.predict(x.reshape(len(x), -1)) if len(x) else np.zeros(0, int)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(substitute, "oracle", lambda settings: target)
        patch.setitem(RECIPES, DENSE, Recipe("sgd", 0.5, batch_size=16, epochs=4))
        yield questions


def settings_in(folder):
    return substitute.Settings(
        classifier="tests.nets:convnet",
        data="digits",
        out=folder / "out",
        substitute=DENSE,
        rounds=ROUNDS,
        seeds=SEEDS,
        step_size=0.1,
        epsilon=0.2,
        images=20,
    )


@pytest.fixture
def settings(tmp_path):
    return settings_in(tmp_path)


@pytest.fixture(scope="module")
def finished(asked, tmp_path_factory):
    """Settings of a whole run, what it told, and how many images the target was shown."""
    settings = settings_in(tmp_path_factory.mktemp("whole"))
    asked.clear()
    return settings, substitute.main(settings, Console(quiet=True)), sum(map(len, asked))


def result(settings):
    with np.load(settings.out / substitute.RESULT, allow_pickle=False) as file:
        return dict(file)


def test_queries_are_those_that_were_asked(finished, asked, regression):
    """Protects the count: the target was shown exactly as many images as reported, each new image of a round once; sizes double."""
    settings, told, shown = finished
    assert told["sizes"] == [SEEDS, 2 * SEEDS, 4 * SEEDS]
    assert told["queries"]["labels"] == 4 * SEEDS
    assert told["queries"]["all"] == shown == sum(told["queries"][name] for name in ("labels", "clean", "crafted"))
    assert told["transfer rate"] == told["fool both"] / told["queries"]["crafted"]

    asked.clear()
    assert substitute.main(settings, Console(quiet=True)) == json.loads(json.dumps(told))
    assert not asked, "a finished attack asks nothing"

    found = result(settings)
    original, label = (np.concatenate(parts) for parts in zip(digits("train"), digits("test"), strict=True))
    flat = found["x"].reshape(len(found["x"]), -1)
    assert len(flat) == min(20, told["fool both"])
    assert (regression.predict(flat) != found["y"]).all()
    assert (regression.predict(original[found["index"]].reshape(len(flat), -1)) == found["y"]).all()
    np.testing.assert_array_equal(found["y"], label[found["index"]])
    np.testing.assert_array_equal(flat * 255, np.round(flat * 255))
    assert found["success"].all()


def test_new_images_lie_along_the_weights_of_a_linear_substitute(finished):
    """Protects the doubling: with linear logits, each new image is its original moved along the signs of its label's weights."""
    settings, *_ = finished
    first, second = (dict(np.load(settings.out / f"labels-{number}.npz", allow_pickle=False)) for number in (1, 2))
    weights = checkpoints.load(DENSE, settings.out / "substitute-1").classifier.variables["fc"]["kernel"][...]
    along = np.sign(np.asarray(weights))[:, first["label"]].T.reshape(first["x"].shape)
    np.testing.assert_allclose(second["x"], np.clip(first["x"] + 0.1 * along, 0, 1), atol=1e-6)
    test = {image.tobytes() for image in digits("test")[0]}
    assert all(image.tobytes() in test for image in first["x"])


def test_fgsm_knows_no_bounds(finished):
    """Protects the stored form: a result is its original plus or minus epsilon in every pixel, beyond 0 and 1, stretched to 8 bits."""
    settings, *_ = finished
    found = result(settings)
    original = np.concatenate([digits("train")[0], digits("test")[0]])[found["index"]]
    last = checkpoints.load(DENSE, settings.out / f"substitute-{ROUNDS}").classifier.variables["fc"]
    weights, bias = (np.asarray(last[name][...], np.float64) for name in ("kernel", "bias"))
    logits = original.reshape(len(original), -1) @ weights + bias
    odds = np.exp(logits - logits.max(1, keepdims=True))
    gradient = (odds / odds.sum(1, keepdims=True) - np.eye(10)[found["y"]]) @ weights.T
    moved = original + 0.2 * np.sign(gradient).reshape(original.shape)
    low, high = moved.min((1, 2, 3), keepdims=True), moved.max((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(found["x"], (moved - low) / (high - low), atol=0.51 / 255)


def test_goes_on_bit_for_bit(finished, settings, asked, monkeypatch):
    """Protects long runs: stopped in every part, the same command ends with the same file, and the target is asked nothing twice."""
    whole, told, shown = finished
    asked.clear()
    for place, call in (("_labelled", 2), ("_substitute", 2), ("_substitute", 3), ("craft", 1)):
        calls, does = [], getattr(substitute, place)

        def stops(*arguments, calls=calls, does=does, call=call):
            calls.append(None)
            if len(calls) == call:
                raise KeyboardInterrupt
            return does(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(substitute, place, stops)
            with pytest.raises(KeyboardInterrupt):
                substitute.main(settings, Console(quiet=True))
        assert not (settings.out / substitute.RESULT).exists()
    again = substitute.main(settings, Console(quiet=True))
    assert sum(map(len, asked)) == again["queries"]["all"] == shown
    assert {**again, "settings": None} == {**told, "settings": None}
    for name, array in result(whole).items():
        np.testing.assert_array_equal(result(settings)[name], array, err_msg=name)


def test_training_ends_when_the_loss_stands_still(settings, asked, monkeypatch):
    """Protects the early stop: an epoch that changes the loss by less than the limit is the last one."""
    steps = []
    x, label = digits("train")
    recipe = Recipe("sgd", 0.5, batch_size=384, epochs=5)
    for least in (0.0, 1e9):
        monkeypatch.setattr(substitute, "LEAST_CHANGE", least)
        substitute._trained(dense(), recipe, x, label.astype(np.int32), 0, steps.append)
    assert steps == [*range(1, 16), *range(1, 7)]


def test_target_of_the_command_is_the_classifier(settings):
    """Protects the oracle: without a stand-in, the labels are NumPy's reading of the classifier's logits."""
    x = digits("test")[0][:30]
    np.testing.assert_array_equal(ORACLE(settings)(x), np.asarray(jax.vmap(nets.convnet())(x)).argmax(1))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"epsilon": 0.0}, "fools the target, got none"),
        ({"seeds": 10}, "at least 16 seeds"),
        ({"rounds": 0}, "--rounds of at least 1"),
        ({"data": "imagenet"}, "a data set among"),
    ],
)
def test_bad_settings_are_told(change, told, settings, asked):
    """Protects users: what cannot work is said in one line."""
    with pytest.raises(BadInput, match=told):
        substitute.main(replace(settings, **{"rounds": 1, **change}), Console(quiet=True))


def test_settings_belong_to_a_folder(settings, asked):
    """Protects against mixing: other settings do not go on from what these began, and foreign folders are left alone."""
    substitute._begun(settings).once("labels-1", dict)
    assert substitute._begun(settings).done("labels-1")
    with pytest.raises(BadInput, match="whose seed is 0, got 1"):
        substitute._begun(replace(settings, seed=1))
    assert not substitute._begun(replace(settings, seed=1, restart=True)).done("labels-1")
    (settings.out / RECORDS).rename(settings.out / "other")
    with pytest.raises(BadInput, match="holds other files"):
        substitute._begun(settings)
