"""Training: steps equal PyTorch's, states continue bit for bit, adversarial training gives robustness, refusals are one line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from filelock import FileLock
from flax import nnx
from torch.nn import functional

from a2d_jax import drivers
from a2d_jax.classifiers import from_function
from a2d_jax.costs import predictions
from a2d_jax.errors import BadInput
from a2d_jax.io.checkpoints import import_factory
from a2d_jax.io.checkpoints import load as load_classifier
from a2d_jax.io.datasets import load
from a2d_jax.io.source import in_memory
from a2d_jax.types import Example
from models import training
from models.lenet import lenet_digits
from models.training import RECIPES, Recipe, climbing, command, folder, reading
from models.training.command import run

DIGITS = ["--classifier", "models.lenet:lenet_digits", "--data", "digits"]
SMALL = ["--classifier", "tests.models.test_train:small", "--data", "digits", "--epochs", "3"]
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("promoting")


class Small(nnx.Module):
    """Everything that has a state of its own: batch norm, and dropout twice."""

    input_shape = (8, 8, 1)

    def __init__(self, rngs: nnx.Rngs):
        self.fc1 = nnx.Linear(64, 32, rngs=rngs)
        self.bn = nnx.BatchNorm(32, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.fc2 = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x):
        x = self.dropout(x.reshape(len(x), -1))
        return self.fc2(self.dropout(nnx.relu(self.bn(self.fc1(x)))))


def small(rngs: nnx.Rngs) -> Small:
    return Small(rngs)


class Large(nnx.Module):
    """Takes larger images than the digits."""

    input_shape = (28, 28, 1)


def large() -> Large:
    return Large()


def digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    (piece,) = load("digits", split).pieces(2000)
    return piece.x, piece.label.astype(np.int32)


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / folder.METRICS).read_text().splitlines()]


def arrays(out: Path) -> list[np.ndarray]:
    """Weights and statistics of a finished training of `small`."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(load_classifier("tests.models.test_train:tiny", out).classifier.variables)]


def tiny() -> Small:
    return Small(nnx.Rngs(0))


@pytest.mark.parametrize(
    ("recipe", "make"),
    [
        (Recipe("sgd", 0.1, momentum=0.9, weight_decay=0.01), lambda groups, _: torch.optim.SGD(groups, 0.1, momentum=0.9)),
        (Recipe("adadelta", 1.0, weight_decay=0.01), lambda groups, _: torch.optim.Adadelta(groups, 1.0, rho=0.95)),
        (Recipe("adam", 2e-3, weight_decay=0.01), lambda groups, _: torch.optim.Adam(groups, 2e-3)),
        (Recipe("sgd", 0.1, "steps", weight_decay=0.01, epochs=2), lambda groups, _: torch.optim.SGD(groups, 0.1)),
    ],
    ids=["sgd", "adadelta", "adam", "steps"],
)
def test_steps_are_those_of_pytorch(recipe, make):
    """Protects the optimizers: the same batches move the same weights as in PyTorch, with decay on the layers named and no others."""
    recipe = Recipe(**{**vars(recipe), "decayed": ("fc1",), "batch_size": 64})
    x, label = digits("train")
    steps = 4
    module = lenet_digits(nnx.Rngs(0))
    weights = {f"{name}.{kind}": torch.tensor(np.asarray(getattr(getattr(module, name), kind)[...])) for name, kind in NAMES}
    for weight in weights.values():
        weight.requires_grad_()
    decaying = [weight for name, weight in weights.items() if name.startswith("fc1")]
    others = [weight for name, weight in weights.items() if not name.startswith("fc1")]
    optimizer = make([{"params": decaying, "weight_decay": 0.01}, {"params": others}], None)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [4, 6] if recipe.schedule == "steps" else [])

    trainer, state = training.prepare(module, recipe, per_epoch=steps, seed=0)
    for number in range(2 * steps):
        rows = slice(64 * number, 64 * number + 64)
        state = trainer.update(state, x[rows], label[rows])
        optimizer.zero_grad()
        functional.cross_entropy(in_torch(weights, torch.tensor(x[rows])), torch.tensor(label[rows]).long()).backward()
        optimizer.step()
        scheduler.step()
    module = training.trained(module, state)
    for name, kind in NAMES:
        ours = np.asarray(getattr(getattr(module, name), kind)[...])
        np.testing.assert_allclose(ours, weights[f"{name}.{kind}"].detach().numpy(), rtol=1e-3, atol=2e-5, err_msg=f"{name}.{kind}")


NAMES = [(name, kind) for name in ("conv1", "conv2", "fc1", "fc2") for kind in ("kernel", "bias")]


def in_torch(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """`lenet_digits` on weights in Flax's layout."""
    x = functional.conv2d(2 * x.permute(0, 3, 1, 2) - 1, weights["conv1.kernel"].permute(3, 2, 0, 1), weights["conv1.bias"], padding=1)
    x = functional.conv2d(functional.relu(x), weights["conv2.kernel"].permute(3, 2, 0, 1), weights["conv2.bias"], padding=1)
    x = functional.relu(functional.max_pool2d(x, 2)).permute(0, 2, 3, 1).reshape(len(x), -1)
    x = functional.relu(x @ weights["fc1.kernel"] + weights["fc1.bias"])
    return x @ weights["fc2.kernel"] + weights["fc2.bias"]


def test_statistics_move_and_dropout_works_in_training_alone():
    """Protects both modes: batch norm learns from the batch as NumPy says, dropout changes the loss of every step and no evaluation."""
    x, label = (array[:256] for array in digits("train"))
    module = Small(nnx.Rngs(0))
    module.dropout.rate = 0.0
    hidden = x.reshape(256, 64) @ np.asarray(module.fc1.kernel[...])
    trainer, state = training.prepare(module, Recipe("sgd", 0.0), per_epoch=1, seed=0)
    state = trainer.update(state, x, label)
    np.testing.assert_allclose(state.rest["bn"]["mean"][...], 0.01 * hidden.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state.rest["bn"]["var"][...], 0.99 + 0.01 * hidden.var(0), rtol=1e-4)

    trainer, state = training.prepare(Small(nnx.Rngs(0)), Recipe("sgd", 0.0), per_epoch=1, seed=0)
    losses = []
    for _ in range(3):
        state = trainer.update(state, x, label)
        losses.append(float(state.loss))
    assert len(set(losses)) == 3
    assert int(trainer.right(state, x, label)) == int(trainer.right(state, x, label))
    evaluated = training.trained(Small(nnx.Rngs(0)), state)
    assert int(trainer.right(state, x, label)) == int((evaluated(x).argmax(-1) == label).sum())


def test_augmented_images_are_crops_of_the_image_or_its_mirror_image():
    """Protects augmentation: every result is one of the 2 x 81 that NumPy can cut, all of them occur, and the key decides."""
    x = np.random.default_rng(0).random((2000, 8, 8, 1)).astype(np.float32)
    x[:] = x[0]
    found = np.asarray(training.augment(jnp.asarray(x), jax.random.key(0)))
    bordered = np.pad(x[0], ((4, 4), (4, 4), (0, 0)))
    crops = [bordered[i : i + 8, j : j + 8] for i in range(9) for j in range(9)]
    wanted = {crop.tobytes() for crop in crops} | {crop[:, ::-1].tobytes() for crop in crops}
    assert {image.tobytes() for image in found} == wanted
    np.testing.assert_array_equal(found, training.augment(jnp.asarray(x), jax.random.key(0)))
    assert (found != training.augment(jnp.asarray(x), jax.random.key(1))).any()


def test_adversary_ends_where_a_linear_loss_is_largest():
    """Protects the attack of training: on a linear network it reaches the corner of the ball that NumPy names, from any start."""
    generator = np.random.default_rng(0)
    x, slope = generator.random((5, 8, 8, 1)).astype(np.float32), generator.normal(size=(8, 8, 1)).astype(np.float32)

    def two_classes(signs, x):
        value = (x * slope[None]).sum((1, 2, 3))
        return value[:, None] * signs

    linear, still = (from_function(two_classes, jnp.array([signs])) for signs in ((-1.0, 1.0), (1.0, 1.0)))
    label, keys = np.zeros(5, np.int32), jax.random.split(jax.random.key(0), 5)  # class 1 is what a step along the slope makes likely

    def attacked(classifier, adversary):
        result = drivers.attack(adversary, classifier, Example(x, label, keys), driver="run")
        assert (result.iterations == adversary.max_steps).all(), "it goes on after success"
        return result.x_adv

    np.testing.assert_allclose(attacked(linear, climbing(0.3, 0.1, 10)), np.clip(x + 0.3 * np.sign(slope), 0, 1), atol=1e-6)
    moved = (attacked(still, climbing(0.3, 0.1, 1)) - x)[(x > 0.3) & (x < 0.7)]  # no slope to climb: the random start itself
    assert np.abs(moved).max() <= 0.3 + 1e-6
    assert abs(moved.mean()) < 0.05
    assert abs(moved.std() - 0.3 / 3**0.5) < 0.02  # the deviation of a uniform distribution


@pytest.mark.slow
def test_adversarial_training_makes_robust(tmp_path):
    """Protects the purpose: far more test digits withstand PGD than after plain training of the same length, and the metrics say so."""
    pgd = ["--adversarial", "pgd", "--epsilon", "0.15", "--step-size", "0.05", "--updates", "5"]
    assert run([*DIGITS, "--epochs", "10", *pgd, "--out", str(tmp_path / "robust")]) == 0
    last = lines(tmp_path / "robust")[-1]
    assert last["robust_images"] == 645

    assert run([*DIGITS, "--epochs", "10", "--out", str(tmp_path / "plain")]) == 0
    assert "robust_accuracy" not in lines(tmp_path / "plain")[-1]
    plain = nnx.merge(*nnx.split(lenet_digits(nnx.Rngs(0))))
    trainer, state = training.prepare(plain, Recipe(), per_epoch=1, seed=0, adversary=climbing(0.15, 0.05, 5))
    weights = load_classifier("models.lenet:lenet_digits", tmp_path / "plain").classifier.variables
    state = state._replace(params=jax.tree.unflatten(jax.tree.structure(state.params), jax.tree.leaves(weights)))
    x, label = digits("test")
    assert int(trainer.right(state, x, label)) > 0.95 * 645
    assert last["test_accuracy"] > 0.9
    assert last["robust_accuracy"] > int(trainer.robust(state, x, label)) / 645 + 0.2


def test_weights_are_a_checkpoint_with_the_accuracy_reported(tmp_path):
    """Protects the end: `a2d --checkpoint` takes the folder, and its predictions are as good as the last line says."""
    assert run([*DIGITS, "--out", str(tmp_path / "out")]) == 0
    x, label = digits("test")
    loaded = load_classifier("models.lenet:lenet_digits", tmp_path / "out")
    accuracy = (predictions(loaded.classifier, x)[0] == label).mean()
    assert accuracy == pytest.approx(lines(tmp_path / "out")[-1]["test_accuracy"])
    assert accuracy > 0.97
    assert loaded.card["factory"] == "models.lenet:lenet_digits"
    assert [line["epoch"] for line in lines(tmp_path / "out")] == list(range(1, 21))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["classifier.json", "metrics.jsonl", "training.json", "weights"]


def test_training_begins_from_a_checkpoint(tmp_path, capsys):
    """Protects fine-tuning: the first weights are those of the checkpoint, and what is no checkpoint is told."""
    once = [*DIGITS, "--epochs", "1"]
    assert run([*once, "--out", str(tmp_path / "first")]) == 0
    still = [*once, "--learning-rate", "0", "--initial"]
    assert run([*still, str(tmp_path / "first"), "--out", str(tmp_path / "second")]) == 0
    first, second = (load_classifier("models.lenet:lenet_digits", tmp_path / name).classifier.variables for name in ("first", "second"))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    capsys.readouterr()
    assert run([*still, str(tmp_path), "--out", str(tmp_path / "third")]) == 1
    assert "expected an Orbax checkpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_training_ends_with_the_same_weights(tmp_path):
    """Protects long training: killed by the system in the middle of an epoch, the same command ends as if nothing had happened."""
    arguments = [*SMALL[:-1], "15", "--augment", "True"]
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-m", "models.train", *arguments, "--out", out], cwd=ROOT, stdout=subprocess.DEVNULL)
    metrics, end = out / folder.METRICS, time.monotonic() + 60
    while not (metrics.is_file() and metrics.read_text().count("\n") >= 2) and time.monotonic() < end and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / "classifier.json").exists()

    for place in (out, tmp_path / "whole"):
        assert run([*arguments, "--out", str(place)]) == 0
    for killed, whole in zip(arrays(out), arrays(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(killed, whole)
    killed, whole = ([line | {"seconds": 0} for line in lines(place)] for place in (out, tmp_path / "whole"))
    assert killed == whole
    assert [line["epoch"] for line in killed] == list(range(1, 16))


@pytest.mark.slow
def test_interrupted_in_an_epoch_goes_on_in_it(tmp_path, monkeypatch):
    """Protects states between epochs: Ctrl-C exits with 130, and what was trained on before is neither lost nor repeated."""
    assert run([*SMALL, "--out", str(tmp_path / "whole")]) == 0
    whole = command.fit
    seen = []

    def interrupted(trainer, state, batches):
        for step, moved in enumerate(whole(trainer, state, batches)):
            seen.append(int(moved.step))
            yield moved
            if step == 12:
                raise KeyboardInterrupt

    monkeypatch.setattr(command, "SAVE_EVERY", 0)
    monkeypatch.setattr(command, "fit", interrupted)
    assert run([*SMALL, "--out", str(tmp_path / "broken")]) == 130
    assert run([*SMALL, "--out", str(tmp_path / "broken")]) == 130
    assert run([*SMALL, "--out", str(tmp_path / "broken")]) == 0
    assert seen == list(range(1, 28))
    for broken, one in zip(arrays(tmp_path / "broken"), arrays(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(broken, one)


def test_settings_belong_to_a_training(tmp_path, capsys):
    """Protects results: other settings do not go on from a training, --force starts anew, a finished one is left alone."""
    out = tmp_path / "out"
    quick = [*SMALL[:-1], "1", "--out", str(out)]
    assert run(quick) == 0
    first = arrays(out)
    assert run(quick) == 0
    assert "trained already" in capsys.readouterr().out
    assert run([*quick, "--seed", "1"]) == 1
    said = capsys.readouterr().err
    assert "seed 0" in said
    assert "seed 1" in said
    assert said.count("\n") == 1
    assert run([*quick, "--seed", "1", "--force"]) == 0
    assert any((one != other).any() for one, other in zip(first, arrays(out), strict=True))
    assert len(lines(out)) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--classifier", "tests.models.test_train:large", "--data", "digits"], "expected images of 28 x 28 x 1"),
        (["--classifier", "models.lenet:nothing", "--data", "digits"], "got the name 'nothing', which it does not have"),
        (["--classifier", "builtins:dict", "--data", "digits"], "expected builtins:dict to make"),
        (["--classifier", SMALL[1], "--data", "letters"], "expected a data set among"),
        ([*SMALL, "--batch-size", "2000"], "batch size of at most 1152"),
        ([*SMALL, "--epochs", "0"], "--epochs of at least 1, got 0"),
        ([*SMALL, "--adversarial", "pgd"], "expected --epsilon, --step-size, --updates for digits"),
        ([*SMALL, "--updates", "3"], "expected --adversarial pgd with --updates"),
        ([*SMALL, "--optimizer", "sgd", "--learning-rate", "1e30"], "expected a finite loss"),
    ],
)
def test_bad_input_is_one_line(arguments, told, tmp_path, capsys):
    """Protects users: what cannot be trained is said in one line with what to do, exit code 1."""
    assert run([*arguments, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_strange_folders_are_left_alone(tmp_path, capsys):
    """Protects files: a folder that no training made is not replaced, not even by force."""
    (tmp_path / "thesis.txt").write_text("mine")
    assert run([*DIGITS, "--out", str(tmp_path), "--force"]) == 1
    assert "choose another name" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_two_trainings_in_one_folder_are_refused(tmp_path, capsys):
    """Protects a training from a second one with the same command: both would write states and metrics into each other."""
    with FileLock(tmp_path / ".out.lock"):
        assert run([*SMALL, "--out", str(tmp_path / "out")]) == 1
    assert "another one that writes to it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run([*SMALL, "--out", str(tmp_path / "out")]) == 0


def test_every_epoch_has_every_image_in_an_order_of_its_own(monkeypatch):
    """Protects the data: each image once per epoch but for the last odd ones, held or read in windows, and never twice the same way."""
    x = np.arange(103, dtype=np.float32)[:, None, None, None] / 103
    label = np.random.default_rng(0).integers(0, 10, 103)
    source = in_memory("numbers", x, label)
    for held in (reading.HELD, 4 * 40):
        monkeypatch.setattr(reading, "HELD", held)
        batches, per_epoch = reading.reader(source, 10, 0)
        orders = []
        for epoch in (0, 1, 0):
            pairs = [(images.copy(), labels.copy()) for images, labels in batches(epoch)]
            assert len(pairs) == per_epoch == 10
            numbers = np.rint(np.concatenate([images for images, _ in pairs]).ravel() * 103).astype(int)
            np.testing.assert_array_equal(np.concatenate([labels for _, labels in pairs]), label[numbers])
            assert len(set(numbers)) == 100
            orders.append(numbers.tolist())
        assert orders[0] == orders[2] != orders[1]
    batches, _ = reading.reader(in_memory("sorted", x, np.sort(label)), 10, 0)
    with pytest.raises(BadInput, match="random order"):
        next(batches(0))


def test_recipes_are_of_networks_that_exist():
    """Protects the table: every factory is there, and so are the layers whose weights decay."""
    for name, recipe in RECIPES.items():
        factory = import_factory(name)
        if recipe.decayed:
            module = nnx.eval_shape(factory)
            assert all(isinstance(getattr(module, layer), nnx.Module) for layer in recipe.decayed)
