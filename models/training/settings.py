"""The settings of a training: the command's options, and the defaults for the network and the data set."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from a2d_jax.errors import BadInput
from models.training.recipes import PGD_SETTINGS, RECIPES, Recipe


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train a network. After an interruption the same command continues where it stopped."""

    classifier: str
    """Import string `module:factory` of a Flax NNX module."""
    data: str
    """Data set by name: mnist, cifar10, digits, imagenet (tested on its validation images)."""
    out: Path
    """Folder for settings, metrics and weights."""
    initial: Path | None = None
    """Checkpoint with the initial weights, from an earlier training or from `a2d convert`. By default the seed draws them."""
    seed: int = 0
    """Seed of weights, order, dropout, augmentation and random starts."""
    epochs: int | None = None
    """Passes over the training images. By default the network's recipe sets this and the following options."""
    batch_size: int | None = None
    """Images per step."""
    optimizer: Literal["adadelta", "adam", "sgd"] | None = None
    """Optimizer. Adadelta has rho 0.95."""
    learning_rate: float | None = None
    """Learning rate at the start."""
    schedule: Literal["constant", "cosine", "steps"] | None = None
    """Learning rate over time: constant, falling to zero as a cosine, or divided by ten after half and after three quarters."""
    momentum: float | None = None
    """Momentum of SGD."""
    weight_decay: float | None = None
    """Weight decay: this number times the weight is added to its gradient."""
    augment: bool | None = None
    """Crop at random from the image with a border of 4 black pixels, and mirror every other image."""
    adversarial: Literal["pgd"] | None = None
    """Train on adversarial images only, and report the accuracy under the same attack."""
    epsilon: float | None = None
    """Radius of PGD in the maximum norm, in pixel units; default mnist 0.3, cifar10 8/255."""
    step_size: float | None = None
    """Length of one update of PGD, in pixel units; default mnist 0.01, cifar10 2/255."""
    updates: int | None = None
    """Updates of PGD; default mnist 40, cifar10 10."""
    force: bool = False
    """Replace an existing training in the folder and start again."""


def settings(args: Args) -> tuple[Recipe, dict[str, Any] | None]:
    """The recipe and what `climbing` takes, with what was given instead of what is usual; None without an attack.

    Raises:
      BadInput: a value out of range, or an attack without its settings.
    """
    usual = RECIPES.get(args.classifier, Recipe())
    recipe = replace(usual, **_given(args, asdict(usual)))
    for name, least in {"epochs": 1, "batch_size": 1, "learning_rate": 0, "momentum": 0, "weight_decay": 0}.items():
        if not getattr(recipe, name) >= least:
            raise BadInput(f"expected {_flag(name)} of at least {least}, got {getattr(recipe, name)}; correct it")
    names = ("epsilon", "step_size", "updates")
    given = _given(args, names)
    if args.adversarial is None:
        if given:
            raise BadInput(f"expected --adversarial pgd with {', '.join(map(_flag, given))}, got none; add it or leave them out")
        return recipe, None
    if args.data not in PGD_SETTINGS and len(given) < len(names):
        raise BadInput(f"expected {', '.join(map(_flag, names))} for {args.data}, which has no usual ones; give all three")
    pgd = PGD_SETTINGS.get(args.data, {}) | given
    if not all(value > 0 for value in pgd.values()):
        raise BadInput(f"expected {', '.join(map(_flag, names))} above 0, got {', '.join(map(str, pgd.values()))}; correct them")
    return recipe, pgd


def _given(args: Args, names: Iterable[str]) -> dict[str, Any]:
    """What the command line says of these settings."""
    return {name: value for name in names if (value := getattr(args, name, None)) is not None}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
