"""BB, the black-box attack on a classifier that gives only labels: train a substitute, attack it, keep the images that transfer.

    python -m experiments.substitute --classifier models.lenet:lenet5 --checkpoint lenet5 --data mnist --out bb
    a2d cost --classifier models.lenet:lenet5 --checkpoint lenet5 --images bb/adversarial.npz --attacks bim --out bb.parquet

The attack starts with a few test images (`--seeds`). Each round asks the target for the labels of the new images, trains a fresh substitute
on all images, and doubles their number: x + step_size * sign(gradient of the substitute's logit of the label). Then FGSM attacks the last
substitute, without bounds on pixels, on those training and test images that it and the target classify correctly. Images that fool the
substitute are stored as 8-bit images, each stretched to its own range, and shown to the target. Those that fool the target too are the
result.

OUT contains

    labels-1.npz, ...     the new images of a round and the target's labels: these are the queries
    substitute-1/, ...    the substitute trained on all images up to this round, for `a2d ... --checkpoint`
    adversarial.npz       as `a2d attack` writes it: x, y (the true class), index (position in the training set followed by the test
                          set), and under `a2d` the settings, sizes, queries, accuracies and the transfer rate
    .a2d/                 what OUT was begun with, and which labels and substitutes are done (`a2d status OUT`)

If the process is killed, the same command continues from the last labels or the last substitute and gives the same images bit for bit.
Queries are counted when they are answered; answers lost in a kill are asked for again and not counted twice.

Source: Papernot et al., "Practical black-box attacks against machine learning", arXiv:1602.02697; numbers of Wang et al.,
arXiv:1812.05793, where 0.1 and 0.35 are in units of 0.3081. Differs from the code of Wang et al.: a label is asked for once, not in every
round; the images of the rounds stay in [0, 1]; FGSM increases the cross entropy, not minus the logit; images that the target misclassifies
from the start are left out, which costs queries that an attacker would not spend (`clean`).

Run time: 4 to 5 minutes by the clock, 2.7 minutes of processor time, on one shared core.
Expected (LeNet-5, 2026-11-22, CPU): the last substitute is right on 84.0 % of the hold-out; 29,039 of 57,807 images fool it, and 433 of
these fool the target (1.5 %), after queries for 6,400 labels, 58,095 clean and 29,039 crafted images; AUROC of BIM costs 0.997 against 433
test digits (the paper: 0.990).
"""

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from jax import Array
from rich.console import Console

from a2d_jax import drivers
from a2d_jax.attacks import fgsm
from a2d_jax.classifiers import input_shape
from a2d_jax.console import Report, progress
from a2d_jax.console import run as run_command
from a2d_jax.costs import examples, predictions
from a2d_jax.errors import BadInput
from a2d_jax.io import checkpoints
from a2d_jax.io.datasets import SPLITS, load
from a2d_jax.io.files import atomic
from a2d_jax.io.provenance import versions, weights_digest
from a2d_jax.io.source import ImageSource
from a2d_jax.io.tables import npz_writer, stretched
from a2d_jax.losses import look
from a2d_jax.scale.steps import Steps, open_steps
from a2d_jax.types import Classifier, Example
from models.training import RECIPES, Recipe, fit, good, make_module, prepare, shuffled, trained, whole

RESULT = "adversarial.npz"
LEAST_CHANGE = 1e-5  # of the mean loss from one epoch to the next: less ends the training of a substitute
UNIT = 0.3081  # one unit of the network that Wang et al. attack, in pixel units

Target = Callable[[np.ndarray], np.ndarray]
"""All that is known of the classifier under attack: images `n h w c` to labels `n`."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Attack a classifier through a substitute. After an interruption the same command continues where it stopped."""

    classifier: str
    """Import string `module:factory` of the target."""
    checkpoint: Path | None = None
    """Weights of the target, as `a2d convert` writes them."""
    data: str
    """Data set by name: mnist, cifar10, digits."""
    out: Path
    """Folder for labels, substitutes and the result."""
    substitute: str = "models.substitute:substitute_mnist"
    """Import string of the network to train. Its recipe (`models.training.RECIPES`) is used."""
    rounds: int = 6
    """Number of substitutes trained, each on twice as many images as the one before."""
    seeds: int = 200
    """Number of test images at the start."""
    step_size: float = 0.1 * UNIT
    """Distance of the new images of a round from the images they are made of: change of a pixel, in [0, 1]."""
    epsilon: float = 0.35 * UNIT
    """Radius of FGSM: change of a pixel, in [0, 1]."""
    images: int = 1000
    """Largest number of images in the result, drawn from all that succeed."""
    seed: int = 0
    """Seed of all random draws."""
    restart: bool = False
    """Remove the folder with all that is in it, and begin anew."""


def main(settings: Settings, console: Console) -> dict[str, Any]:
    """Do what is missing; returns what the result says of itself."""
    steps = _begun(settings)
    if (settings.out / RESULT).is_file():
        console.out(f"{settings.out / RESULT} is there already", highlight=False)
        with np.load(settings.out / RESULT, allow_pickle=False) as file:
            return json.loads(str(file["a2d"]))
    shape = input_shape(make_module(settings.substitute, settings.seed))
    sources = [load(settings.data, split, shape=shape) for split in SPLITS[settings.data]]
    drawn = np.random.default_rng(settings.seed).permutation(len(sources[-1]))
    test_x, test_label = whole(sources[-1])
    hold_out = drawn[settings.seeds :]
    target = oracle(settings)

    sizes: list[int] = []
    accuracies: list[float] = []
    x, label = test_x[:0], test_label[:0]
    new = test_x[drawn[: settings.seeds]]
    with progress(console=console) as report:
        for number in range(1, settings.rounds + 1):
            new, answers = _labelled(steps, number, new, target)
            x, label = np.concatenate([x, new]), np.concatenate([label, answers])
            substitute = _substitute(steps, settings, number, x, label, report)
            sizes.append(len(x))
            accuracies.append(float(np.mean(predictions(substitute, test_x[hold_out])[0] == test_label[hold_out])))
            console.out(f"round {number}: {sizes[-1]} images, substitute right on {accuracies[-1]:.2%} of the hold-out", highlight=False)
            new = _moved(substitute, x, label, settings)
        found = craft(settings, substitute, target, sources, report)
    told = {"sizes": sizes, "substitute accuracy": accuracies, **found.told, "queries": {"labels": sizes[-1], **found.queries}}
    told["queries"]["all"] = sum(told["queries"].values())
    meta = {"attack": "substitute model", "settings": _said(settings), "versions": versions(), **told}
    with npz_writer(settings.out / RESULT, len(found.x), found.x.shape[1:], meta) as write:
        nothing = [None] * len(found.x)
        write(x=found.x, y=found.label, success=np.ones(len(found.x), bool), index=found.index, error=nothing)
    console.out(f"{json.dumps(told)}\nwrote {settings.out / RESULT}", highlight=False)
    return meta


def oracle(settings: Settings) -> Target:
    """The classifier under attack, reduced to what may be asked."""
    classifier = checkpoints.load(settings.classifier, settings.checkpoint).classifier
    return lambda x: predictions(classifier, x)[0]


def _labelled(steps: Steps, number: int, x: np.ndarray, target: Target) -> tuple[np.ndarray, np.ndarray]:
    """The images of a round and what the target says of them, asked once and kept."""
    path = steps.folder / f"labels-{number}.npz"

    def ask() -> dict[str, Any]:
        label = target(x)
        if (label < 0).any():
            raise BadInput("expected labels from the target, got logits that are not finite; check its weights")
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez(file, x=x, label=label.astype(np.int32))
        return {"images": len(x)}

    steps.once(path.stem, ask)
    with np.load(path, allow_pickle=False) as kept:
        return kept["x"], kept["label"]


def _substitute(steps: Steps, settings: Settings, number: int, x: np.ndarray, label: np.ndarray, report: Report) -> Classifier:
    """The substitute of a round, trained unless it has been."""
    place = steps.folder / f"substitute-{number}"

    def train() -> dict[str, Any]:
        module = make_module(settings.substitute, 1000 * settings.seed + number)  # each round its own first weights
        recipe = RECIPES.get(settings.substitute, Recipe())
        per_epoch = len(x) // recipe.batch_size
        if not per_epoch:
            raise BadInput(f"expected at least {recipe.batch_size} seeds, a batch of the substitute, got {len(x)}; give more")
        what, total = f"round {number}: steps on {len(x)} images", per_epoch * recipe.epochs
        module = _trained(module, recipe, x, label, 1000 * settings.seed + number, lambda step: report(what, step, total))
        checkpoints.save(module, place, factory=settings.substitute, force=True)
        return {"images": len(x)}

    steps.once(place.name, train)
    return checkpoints.load(settings.substitute, place).classifier


def _trained(module: nnx.Module, recipe: Recipe, x: np.ndarray, label: np.ndarray, seed: int, report: Callable[[int], None]) -> nnx.Module:
    """Train by the recipe, or until an epoch leaves the loss where it was."""
    per_epoch, previous = len(x) // recipe.batch_size, math.inf
    trainer, state = prepare(module, recipe, per_epoch=per_epoch, seed=seed)
    batches = fit(trainer, state, lambda epoch: shuffled(x, label, recipe.batch_size, (seed, epoch)))
    for step, state in enumerate(batches, 1):
        report(step)
        if step % per_epoch == 0:
            loss = float(state.loss) / per_epoch
            if not math.isfinite(loss):
                raise BadInput(f"expected a finite loss of the substitute, got {loss} after {step} steps; choose another network")
            if abs(previous - loss) < LEAST_CHANGE:
                break
            previous = loss
    return trained(module, state)


def _moved(substitute: Classifier, x: np.ndarray, label: np.ndarray, settings: Settings) -> np.ndarray:
    """From each image another, moved along the sign of the gradient of its label's logit; as many at a time as there are seeds."""
    starts = range(0, len(x), settings.seeds)
    moved = [_step(substitute, x[i : i + settings.seeds], label[i : i + settings.seeds], settings.step_size) for i in starts]
    return np.concatenate(moved)


@jax.jit
def _step(classifier: Classifier, x: Array, label: Array, step_size: float) -> Array:
    _, gradient = jax.vmap(lambda x, label: look(classifier, lambda logits: logits[label], x))(x, label)
    return jnp.clip(x + step_size * jnp.sign(gradient), 0, 1)


@dataclass(frozen=True)
class Crafted:
    """What came of the last substitute.

    Attributes:
      x: images that fool both, as they are stored.
      label: their true classes.
      index: their places in the training set followed by the test set.
      queries: of the target, by what it was asked for.
      told: numbers for the reader.
    """

    x: np.ndarray
    label: np.ndarray
    index: np.ndarray
    queries: dict[str, int]
    told: dict[str, float]


def craft(settings: Settings, substitute: Classifier, target: Target, sources: Sequence[ImageSource], report: Report) -> Crafted:
    """FGSM on the substitute, for the images of all sources that both classify correctly; what fools both is kept."""
    queries = {"clean": 0, "crafted": 0}
    numbers: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    total, border = sum(map(len, sources)), settings.epsilon

    def feed() -> Iterator[Example]:
        before = 0
        for source in sources:
            for piece in source.pieces():
                (x, label), index = good(source, piece), piece.index
                report("craft", before + int(index[-1]) + 1, total)
                right = predictions(substitute, x)[0] == label
                queries["clean"] += int(right.sum())
                right[right] = target(x[right]) == label[right]
                numbers.append(before + index[right])
                labels.append(label[right])
                if right.any():
                    yield examples(substitute, (x[right] + border) / (1 + 2 * border), label[right])
            before += len(source)

    kept: list[tuple[np.ndarray, np.ndarray]] = []
    for finished in drivers.stream(fgsm(border / (1 + 2 * border)), widened(substitute, border), feed()):
        fooled = np.asarray(finished.result.success)
        if fooled.any():
            place, x = finished.index[fooled], stretched(np.asarray(finished.result.x_adv)[fooled])
            queries["crafted"] += len(x)
            fooled = target(x) != np.concatenate(labels)[place]
            kept.append((place[fooled], (x[fooled] * 255).round().astype(np.uint8)))
    place, pixels = (np.concatenate(columns) for columns in zip(*kept, strict=True)) if kept else (np.zeros(0, int), np.zeros(0))
    if not len(place):
        raise BadInput("expected at least one image that fools the target, got none; give a larger --epsilon or more --rounds")
    fooling = len(place)
    order = np.argsort(place)  # they come as they finish
    order = order[np.sort(np.random.default_rng(settings.seed).permutation(fooling)[: settings.images])]
    told = {
        "attacked": sum(map(len, labels)),
        "fool the substitute": queries["crafted"],
        "fool both": fooling,
        "transfer rate": fooling / queries["crafted"],
    }
    x, label, index = pixels[order].astype(np.float32) / 255, np.concatenate(labels)[place[order]], np.concatenate(numbers)[place[order]]
    return Crafted(x, label, index, queries, told)


@dataclass(frozen=True)
class _WidenedApply:
    apply: Callable[[Any, Array], Array]

    def __call__(self, variables: Any, x: Array) -> Array:
        weights, border = variables
        return self.apply(weights, x * (1 + 2 * border) - border)


def widened(classifier: Classifier, border: float) -> Classifier:
    """The classifier for images in which 0 and 1 stand for pixels of -border and 1 + border: no attack of that radius meets a bound."""
    return Classifier((classifier.variables, border), _WidenedApply(classifier.apply))


def _said(settings: Settings) -> dict[str, Any]:
    said = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(settings).items()}
    return {name: value for name, value in said.items() if name not in ("out", "restart")}


def _begun(settings: Settings) -> Steps:
    """Make the folder, or find the one that these settings began.

    Raises:
      BadInput: a setting out of range, or a folder of something else.
    """
    for name, least in {"rounds": 1, "seeds": 1, "images": 1, "step_size": 0, "epsilon": 0}.items():
        if not getattr(settings, name) >= least:
            raise BadInput(f"expected --{name.replace('_', '-')} of at least {least}, got {getattr(settings, name)}; correct it")
    if settings.data not in SPLITS or settings.data == "imagenet":
        raise BadInput(f"expected a data set among mnist, cifar10, digits, got {settings.data!r}; name one of them")
    weights = weights_digest(checkpoints.load(settings.classifier, settings.checkpoint).classifier)
    return open_steps(settings.out, _said(settings) | {"checkpoint": weights, "versions": versions()}, settings.restart)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""

    def work() -> None:
        main(tyro.cli(Settings, prog="python -m experiments.substitute", args=arguments), Console())

    return run_command("experiments.substitute", work)


if __name__ == "__main__":
    sys.exit(run())
