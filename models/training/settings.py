"""What is asked of a training: the command's options, and what is usual for the network and the data set where they are silent."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from a2d_jax.errors import BadInput
from models.training.recipes import PGD_SETTINGS, RECIPES, Recipe


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
