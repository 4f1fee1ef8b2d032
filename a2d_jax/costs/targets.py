"""The class that a targeted attack tries to reach."""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from a2d_jax.errors import BadInput

Target = int | Literal["second", "least-likely", "random", "labels"]
"""A class; the one of the second largest or of the smallest logit; one drawn from all but the label; or the labels of the set."""


def read_target(target: Any) -> Target:
    """Read a target from text or a number.

    Raises:
      BadInput: neither a class nor one of the words.
    """
    match target:
        case "second" | "least-likely" | "random" | "labels":
            return target
        case str() if target.isdecimal():
            return int(target)
        case int() | np.integer() if not isinstance(target, bool) and target >= 0:
            return int(target)
        case _:
            raise BadInput(f"expected a target as a class number, second, least-likely, random or labels, got {target!r}; pass one of them")


def targets(
    target: Target,
    logits: Float[np.ndarray, "n k"],
    label: Int[np.ndarray, " n"],
    truth: Int[np.ndarray, " n"] | None,
    fingerprint: Int[np.ndarray, " n"],
    seed: int,
) -> Int[np.ndarray, " n"]:
    """The class to reach for each image.

    Args:
      target: as the user wants it.
      logits: of the images.
      label: the classes predicted.
      truth: labels of the set, if it has any.
      fingerprint: of the images, from which random targets derive.
      seed: of random targets.

    Raises:
      BadInput: the labels of a set without labels, or a class that the classifier does not have.
    """
    classes = logits.shape[1]
    if target == "labels":
        if truth is None:
            raise BadInput("expected a set with labels, since the target is labels, got a set without; give another target")
        return truth
    if isinstance(target, int):
        if target >= classes:
            raise BadInput(f"expected a target from 0 to {classes - 1}, got {target}; correct it")
        return np.full(len(label), target)
    if target == "random":
        drawn = np.asarray([np.random.default_rng((seed & 0xFFFFFFFF, int(number))).integers(classes - 1) for number in fingerprint])
        return drawn + (drawn >= label)
    order = np.argsort(-np.where(np.arange(classes) == label[:, None], np.inf, logits), axis=1, kind="stable")  # the label comes first
    return order[:, 1 if target == "second" else -1]
