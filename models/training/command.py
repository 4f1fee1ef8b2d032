"""Train a network on a labelled data set.

    python -m models.train --classifier models.lenet:lenet_env1 --data mnist --out lenet
    a2d predict --classifier models.lenet:lenet_env1 --checkpoint lenet --images digits/ --out predictions.parquet

OUT contains

    training.json     all settings
    metrics.jsonl     a line per epoch: loss, accuracies, learning rate, seconds so far
    state/            Orbax: the state of the training, until it ends
    weights/, classifier.json   at the end, for `a2d ... --checkpoint OUT`

Settings that are not given come from the network's recipe (`models.training.RECIPES`). If the process is killed, the same command continues
from the last state, which is at most a minute old. It reaches the same weights as without the kill, bit for bit.
Expected results and times are in models/README.md.
"""

import json
import math
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import tyro
from filelock import FileLock, Timeout
from flax import nnx
from rich.console import Console

from a2d_jax.classifiers import input_shape
from a2d_jax.console import progress
from a2d_jax.console import run as run_command
from a2d_jax.errors import BadInput
from a2d_jax.io.checkpoints import CARD
from a2d_jax.io.checkpoints import load as load_checkpoint
from a2d_jax.io.datasets import SPLITS, load
from a2d_jax.io.photographs import preprocessing_from
from a2d_jax.io.source import ImageSource
from models.training import folder
from models.training.loop import State, Trainer, fit, make_module, prepare, trained
from models.training.reading import good, reader
from models.training.recipes import Recipe, climbing
from models.training.settings import Args, settings

SAVE_EVERY = 60  # seconds; and after every epoch
ROBUST = 1024  # test images that are attacked after every epoch


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
    wanted |= asdict(recipe) | {"decayed": list(recipe.decayed)} | (pgd or {})
    goes_on = folder.goes_on(args.out, wanted, args.force)
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
        folder.begin(args.out, wanted)

    trainer, state = prepare(module, recipe, per_epoch=per_epoch, seed=args.seed, adversary=climbing(**pgd) if pgd else None)
    with folder.states(args.out) as states, progress(console=console) as report:
        state, begin = folder.resumed(args.out, states, state)
        saved, done = time.perf_counter(), int(state.step)
        steps = fit(trainer, state, batches)
        for step, state in enumerate(steps, done + 1):
            report("train, steps", step, per_epoch * recipe.epochs)
            if ends := step % per_epoch == 0:
                line = _measured(trainer, state, test, recipe, pgd is not None) | {"seconds": time.perf_counter() - begin}
                with (args.out / folder.METRICS).open("a") as file:
                    file.write(json.dumps(line) + "\n")
                console.out(_told(line), highlight=False)
            if ends or time.perf_counter() - saved > SAVE_EVERY:
                states.save(step, {"state": state, "seconds": time.perf_counter() - begin})
                saved = time.perf_counter()
    folder.finish(args.out, trained(module, state), args.classifier)
    for note in (f"{source.path}: {note}" for source in (train, test) for note in source.notes):
        console.out(note, highlight=False)
    console.out(f"wrote {args.out}; use it as --classifier {args.classifier} --checkpoint {args.out}", highlight=False)


def _measured(trainer: Trainer, state: State, test: ImageSource, recipe: Recipe, attacked: bool) -> dict[str, Any]:
    """What is known at the end of an epoch. Loss and training accuracy are of the batches as they were trained on.

    Raises:
      BadInput: the loss is not finite.
    """
    step, loss = int(state.step), float(state.loss) / trainer.per_epoch
    if not math.isfinite(loss):
        raise BadInput(f"expected a finite loss, got {loss} after {step} steps; lower --learning-rate")
    right = robust = 0
    for piece in test.pieces():
        x, label = good(test, piece)
        missing = test.piece_size - len(x)
        x = np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])
        label = np.concatenate([label, np.full(missing, -1, label.dtype)])  # fillers are never right
        right += int(trainer.right(state, x, label))
        if attacked and piece.index[0] < ROBUST:
            robust += int(trainer.robust(state, x, label))
    images = min(ROBUST, len(test))
    return {
        "epoch": step // trainer.per_epoch,
        "step": step,
        "train_loss": loss,
        "train_accuracy": int(state.right) / (trainer.per_epoch * recipe.batch_size),
        "test_accuracy": right / len(test),
        **({"robust_accuracy": robust / images, "robust_images": images} if attacked else {}),
        "learning_rate": float(trainer.rate(step - 1)),
    }


def _told(line: dict[str, Any]) -> str:
    robust = f", under PGD {line['robust_accuracy']:.2%}" if "robust_accuracy" in line else ""
    return (
        f"epoch {line['epoch']}: loss {line['train_loss']:.4f}, accuracy {line['train_accuracy']:.2%} in training, "
        f"{line['test_accuracy']:.2%} on test images{robust}; {line['seconds']:.0f} s"
    )


def run(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""

    def work() -> None:
        main(tyro.cli(Args, prog="python -m models.train", args=arguments), Console())

    return run_command("models.train", work, interrupted="the same command goes on from the last state in its folder")
