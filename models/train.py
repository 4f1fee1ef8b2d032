"""Train a network on a labelled data set.

    python -m models.train --classifier models.lenet:lenet_env1 --data mnist --out lenet
    a2d predict --classifier models.lenet:lenet_env1 --checkpoint lenet --images digits/ --out predictions.parquet

OUT holds

    training.json     the settings, complete
    metrics.jsonl     a line per epoch: loss, accuracies, learning rate, seconds so far
    state/            Orbax: where training stands, until it ends
    weights/, classifier.json   at the end, as `a2d ... --checkpoint OUT` takes them

Settings that are not given are those of the network's recipe (`models.training.RECIPES`). After a kill at any time the same command
goes on from the last state, which is a minute old at most, and reaches the weights that it would have reached, bit for bit.
Expected results and times are in models/README.md.
"""

import inspect
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from filelock import FileLock, Timeout
from flax import nnx
from orbax.checkpoint import v1 as ocp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from a2d_jax.classifiers import input_shape
from a2d_jax.errors import BadInput
from a2d_jax.io.checkpoints import CARD, WEIGHTS, import_factory, save
from a2d_jax.io.checkpoints import load as load_checkpoint
from a2d_jax.io.datasets import SPLITS, load
from a2d_jax.io.photographs import preprocessing_from
from a2d_jax.io.source import ImageSource, Piece
from a2d_jax.jobs.common import versions
from models.training import PGD, RECIPES, Batch, Pgd, Recipe, State, Trainer, fit, prepare, shuffled, trained

SETTINGS, METRICS, STATE, FINAL = "training.json", "metrics.jsonl", "state", "final"
SAVE_EVERY = 60  # seconds; and after every epoch
HELD = 4 << 30  # bytes of images in memory at a time, as float32
ROBUST = 1024  # test images that are attacked after every epoch


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train a network; the same command goes on where an interrupted one stopped."""

    classifier: str
    """Import string `module:factory` of a Flax NNX module."""
    data: str
    """Data set by name: mnist, cifar10, digits, imagenet (tested on its validation images)."""
    out: Path
    """Folder for settings, metrics and weights."""
    initial: Path | None = None
    """Checkpoint whose weights are the first ones: of an earlier training, or from a2d convert; default drawn by the seed."""
    seed: int = 0
    """Of weights, order, dropout, augmentation and random starts."""
    epochs: int | None = None
    """Passes over the training images; this and what follows is left to the network's recipe unless given."""
    batch_size: int | None = None
    """Images per step."""
    optimizer: Literal["adadelta", "adam", "sgd"] | None = None
    """Adadelta has rho 0.95."""
    learning_rate: float | None = None
    """At the start."""
    schedule: Literal["constant", "cosine", "steps"] | None = None
    """The learning rate stays, falls to zero as a cosine, or is divided by ten after half and after three quarters."""
    momentum: float | None = None
    """Of SGD."""
    weight_decay: float | None = None
    """This times the weight is added to its gradient."""
    augment: bool | None = None
    """Crop at random from the image with a border of 4 black pixels, and mirror every other image."""
    adversarial: Literal["pgd"] | None = None
    """Train on adversarial images alone, and report the accuracy under the same attack."""
    epsilon: float | None = None
    """Radius of PGD in the maximum norm, in pixel units; default mnist 0.3, cifar10 8/255."""
    step_size: float | None = None
    """Length of one update of PGD, in pixel units; default mnist 0.01, cifar10 2/255."""
    updates: int | None = None
    """Updates of PGD; default mnist 40, cifar10 10."""
    force: bool = False
    """Start anew where another training lies."""


def main(args: Args, console: Console) -> None:
    """Train, or go on training, and write the weights, alone in the folder.

    Raises:
      BadInput: arguments that cannot be, or another training that writes to the same folder.
    """
    out = args.out.absolute()
    if not out.parent.is_dir():
        raise BadInput(f"expected an existing folder for the output {args.out}, got {out.parent}; create it")
    try:
        with FileLock(out.with_name(f".{out.name}.lock"), timeout=0):  # beside it: --force puts another folder in its place
            _train(args, console)
    except Timeout as error:
        raise BadInput(f"expected {args.out} for this training alone, got another one that writes to it; wait or choose another") from error


def _train(args: Args, console: Console) -> None:
    recipe, pgd = settings(args)
    wanted = {name: getattr(args, name) for name in ("classifier", "data", "seed", "adversarial")}
    wanted |= {"initial": str(args.initial) if args.initial else None}
    wanted |= asdict(recipe) | {"decayed": list(recipe.decayed)} | (asdict(pgd) if pgd else {})
    goes_on = _goes_on(args, wanted)
    if goes_on and (args.out / CARD).is_file():
        console.out(f"{args.out} is trained already; --force trains anew", highlight=False)
        return
    module = make_module(args.classifier, args.seed)
    if args.initial is not None:
        nnx.update(module, load_checkpoint(args.classifier, args.initial).classifier.variables)
    shape = input_shape(module)
    sized = preprocessing_from(getattr(module, "photographs", None), shape)
    train, test = (load(args.data, split, shape=shape, preprocessing=sized) for split in SPLITS.get(args.data, ("train", "test")))
    batches, per_epoch = reader(train, recipe.batch_size, args.seed)
    if not goes_on:
        _begin(args, wanted)

    trainer, state = prepare(module, recipe, per_epoch=per_epoch, seed=args.seed, pgd=pgd)
    newest = ocp.training.preservation_policies.LatestN(1)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        ocp.training.Checkpointer(str((args.out / STATE).absolute()), preservation_policy=newest, cleanup_tmp_directories=True) as states,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        state, begin = _resumed(args, states, state)
        saved, done = time.perf_counter(), int(state.step)
        task = bar.add_task("epoch 1", total=per_epoch * recipe.epochs)
        steps = fit(trainer, state, batches)
        for step, state in enumerate(steps, done + 1):
            bar.update(task, completed=step, description=f"epoch {math.ceil(step / per_epoch)}")
            if ends := step % per_epoch == 0:
                line = _measured(trainer, state, test, recipe, pgd) | {"seconds": time.perf_counter() - begin}
                with (args.out / METRICS).open("a") as file:
                    file.write(json.dumps(line) + "\n")
                console.out(_told(line), highlight=False)
            if ends or time.perf_counter() - saved > SAVE_EVERY:
                states.save(step, {"state": state, "seconds": time.perf_counter() - begin})
                saved = time.perf_counter()
    _finish(trained(module, state), args)
    console.out(f"wrote {args.out}; use it as --classifier {args.classifier} --checkpoint {args.out}", highlight=False)


def settings(args: Args) -> tuple[Recipe, Pgd | None]:
    """The recipe and the attack, with what was given instead of what is usual.

    Raises:
      BadInput: a value out of range, or an attack without its settings.
    """
    recipe = _given(RECIPES.get(args.classifier, Recipe()), args)
    for name, least in {"epochs": 1, "batch_size": 1, "learning_rate": 0, "momentum": 0, "weight_decay": 0}.items():
        if not getattr(recipe, name) >= least:
            raise BadInput(f"expected --{name.replace('_', '-')} of at least {least}, got {getattr(recipe, name)}; correct it")
    names = [field.name for field in fields(Pgd)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.adversarial is None:
        if given:
            raise BadInput(f"expected --adversarial pgd with {', '.join(map(_flag, given))}, got none; add it or leave them out")
        return recipe, None
    if args.data not in PGD and len(given) < len(names):
        raise BadInput(f"expected {', '.join(map(_flag, names))} for {args.data}, which has no usual ones; give all three")
    pgd = _given(PGD.get(args.data, Pgd(0, 0, 0)), args)
    if not (pgd.epsilon > 0 and pgd.step_size > 0 and pgd.updates > 0):
        raise BadInput(f"expected {', '.join(map(_flag, names))} above 0, got {pgd}; correct them")
    return recipe, pgd


def make_module(classifier: str, seed: int) -> nnx.Module:
    """The module of a factory, with first weights drawn by the seed if the factory takes `rngs`."""
    factory = import_factory(classifier)
    try:
        module = factory(rngs=nnx.Rngs(seed)) if "rngs" in inspect.signature(factory).parameters else factory()
    except Exception as error:  # the user's own function, which may raise anything
        raise BadInput(f"expected {classifier} to make a network, got {type(error).__name__}: {error}; check the factory") from error
    if not isinstance(module, nnx.Module):
        raise BadInput(f"expected {classifier} to make a Flax NNX module, got a {type(module).__name__}; write the network in NNX")
    return module


def reader(source: ImageSource, size: int, seed: int) -> tuple[Callable[[int], Iterator[Batch]], int]:
    """Batches by epoch, and how many an epoch has.

    A set of up to 4 GiB is read once and shuffled as a whole. A larger one is read again for every epoch, in its own order, through a
    window of 4 GiB that is shuffled each time it is full: such a set must not be sorted by class.
    """
    if not source.labels:
        raise BadInput(f"expected labelled images, got {source.path} without labels; choose another data set")
    if size > len(source):
        raise BadInput(f"expected a batch size of at most {len(source)}, the number of images, got {size}; choose a smaller one")
    window = max(HELD // (4 * math.prod(source.shape)) // size, 1) * size
    if len(source) <= window:
        (held,) = _windows(source, window, size)
        return lambda epoch: shuffled(*held, size, (seed, epoch)), len(source) // size

    def batches(epoch: int) -> Iterator[Batch]:
        for number, (x, label) in enumerate(_windows(source, window, size)):
            if number == 0 and (np.diff(label) >= 0).all():
                raise BadInput(f"expected images in random order, got {source.path}, sorted by class and too large to hold; shuffle it")
            yield from shuffled(x, label, size, (seed, epoch, number))

    return batches, len(source) // size


def _windows(source: ImageSource, count: int, size: int) -> Iterator[Batch]:
    """The set in order, `count` images at a time (a multiple of `size`); each is valid until the next is asked for."""
    x, label = np.empty((min(count, len(source)), *source.shape), np.float32), np.empty(min(count, len(source)), np.int32)
    filled = 0
    for piece in source.pieces(size):
        here = slice(filled, filled + len(piece.x))
        x[here], label[here] = _good(source, piece)
        filled = here.stop
        if filled == len(x):
            yield x, label
            filled = 0
    if filled:
        yield x[:filled], label[:filled]


def _good(source: ImageSource, piece: Piece) -> Batch:
    for name, error in zip(piece.id, piece.error, strict=True):
        if error:
            raise BadInput(f"expected good images in {source.path}, got the image {name}: {error}")
    return piece.x, np.asarray(piece.label, np.int32)


def _measured(trainer: Trainer, state: State, test: ImageSource, recipe: Recipe, pgd: Pgd | None) -> dict[str, Any]:
    """What is known at the end of an epoch. Loss and training accuracy are of the batches as they were trained on.

    Raises:
      BadInput: the loss is not finite.
    """
    step, loss = int(state.step), float(state.loss) / trainer.per_epoch
    if not math.isfinite(loss):
        raise BadInput(f"expected a finite loss, got {loss} after {step} steps; lower --learning-rate")
    right = robust = 0
    for piece in test.pieces():
        x, label = _good(test, piece)
        missing = test.piece_size - len(x)
        x = np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])
        label = np.concatenate([label, np.full(missing, -1, label.dtype)])  # fillers are never right
        right += int(trainer.right(state, x, label))
        if pgd and piece.index[0] < ROBUST:
            robust += int(trainer.robust(state, x, label))
    attacked = min(ROBUST, len(test))
    return {
        "epoch": step // trainer.per_epoch,
        "step": step,
        "train_loss": loss,
        "train_accuracy": int(state.right) / (trainer.per_epoch * recipe.batch_size),
        "test_accuracy": right / len(test),
        **({"robust_accuracy": robust / attacked, "robust_images": attacked} if pgd else {}),
        "learning_rate": float(trainer.rate(step - 1)),
    }


def _goes_on(args: Args, wanted: dict[str, Any]) -> bool:
    """Whether a training with these settings is there to go on from.

    Raises:
      BadInput: something else is there.
    """
    file = args.out / SETTINGS
    if args.out.exists() and not file.is_file():
        raise BadInput(f"expected a new output or that of a training, got {args.out}, which has no {SETTINGS}; choose another name")
    if args.force or not args.out.exists():
        return False
    found = json.loads(file.read_text())
    other = [name for name in wanted.keys() | found.keys() - {"versions"} if found.get(name) != wanted.get(name)]
    if other:
        theirs, ours = (", ".join(f"{name} {it.get(name)}" for name in sorted(other)) for it in (found, wanted))
        raise BadInput(f"expected the settings of the training in {args.out} ({theirs}), got {ours}; pass --force to start anew")
    return True


def _begin(args: Args, wanted: dict[str, Any]) -> None:
    """Make the folder with its settings, whole or not at all, in the place of another training."""
    temporary = args.out.with_name(f".{args.out.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    (temporary / SETTINGS).write_text(json.dumps(wanted | {"versions": versions()}, indent=2) + "\n")
    if args.out.exists():
        shutil.rmtree(args.out)
    temporary.rename(args.out)


def _resumed(args: Args, states: ocp.training.Checkpointer, fresh: State) -> tuple[State, float]:
    """The last state, and when training would have begun without interruption; lines of epochs that will be made again are dropped."""
    found: dict[str, Any] = {"state": fresh, "seconds": 0.0}
    if states.latest is not None:
        try:
            found = states.load(None, found)
        except Exception as error:  # a damaged checkpoint raises whatever the damage leads to
            reason = str(error).partition("\n")[0]
            raise BadInput(f"expected a state to go on from in {args.out / STATE}, got {reason}; pass --force to start anew") from error
    path = args.out / METRICS
    if path.is_file():
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(line for line in lines if json.loads(line)["step"] <= int(found["state"].step)))
        temporary.replace(path)
    return found["state"], time.perf_counter() - found["seconds"]


def _finish(module: nnx.Module, args: Args) -> None:
    """Write the weights, the card last: the folder is a checkpoint when it is whole."""
    final = args.out / FINAL
    for leftover in (final, args.out / WEIGHTS, *args.out.glob(f".{FINAL}.*")):
        shutil.rmtree(leftover, ignore_errors=True)
    save(module, final, factory=args.classifier)
    (final / WEIGHTS).rename(args.out / WEIGHTS)
    (final / CARD).rename(args.out / CARD)
    final.rmdir()
    shutil.rmtree(args.out / STATE)


def _given(usual: Any, args: Args) -> Any:
    """`usual`, except for what the command line says."""
    own = {field.name: getattr(args, field.name, None) for field in fields(usual)}
    return replace(usual, **{name: value for name, value in own.items() if value is not None})


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _told(line: dict[str, Any]) -> str:
    robust = f", under PGD {line['robust_accuracy']:.2%}" if "robust_accuracy" in line else ""
    return (
        f"epoch {line['epoch']}: loss {line['train_loss']:.4f}, accuracy {line['train_accuracy']:.2%} in training, "
        f"{line['test_accuracy']:.2%} on test images{robust}; {line['seconds']:.0f} s"
    )


def run(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = tyro.cli(Args, prog="python -m models.train", args=arguments)
    try:
        main(args, Console())
    except (BadInput, OSError) as error:
        print(f"models.train: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"models.train: interrupted; the same command goes on from the state in {args.out}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run())
