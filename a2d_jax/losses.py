"""Losses and criteria on logits, and `view`, one evaluation of a classifier that gives logits, gradient and slope together.

`LOSSES` holds the losses that an attack can choose by name. An attack raises its loss to leave the label, and lowers it to reach the label.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from a2d_jax.errors import require
from a2d_jax.types import Classifier

LossFunction = Callable[[Array, Array], Array]
"""`(logits, label) -> scalar`. A program is compiled for each function, so define it once, at the top level of a module."""
Loss = Literal["ce", "margin", "dlr"] | LossFunction
"""A name of `LOSSES`, or a function of your own."""


def cross_entropy(logits: Float[Array, " k"], label: Int[Array, ""]) -> Float[Array, ""]:
    """-log softmax(logits)[label]. A masked sum, not an index: the gradient of an index is a scatter, slow inside loops."""
    mine = _one_hot(logits, label)
    return -jnp.sum(jnp.where(mine, jax.nn.log_softmax(logits), 0))


def margin(logits: Float[Array, " k"], label: Int[Array, ""]) -> Float[Array, ""]:
    """Logit of `label` minus the largest other logit: positive while the label is predicted."""
    mine = _one_hot(logits, label)
    return jnp.sum(jnp.where(mine, logits, 0)) - jnp.max(jnp.where(mine, -jnp.inf, logits))


def lead(logits: Float[Array, " k"], label: Int[Array, ""]) -> Float[Array, ""]:
    """Largest other logit minus that of `label`, the margin with its sign changed: it grows as the label is left."""
    return -margin(logits, label)


def dlr(logits: Float[Array, " k"], label: Int[Array, ""]) -> Float[Array, ""]:
    """The difference of logits ratio: negative while the label is predicted. It does not change with the scale of the logits.

        DLR = -(z_label - max of the others) / (largest z - third largest z)

    Raises:
      ValueError: for fewer than three classes.
    """
    require(logits.shape[-1] >= 3, "three classes or more", logits.shape[-1], 'use loss="ce"')
    largest = jnp.sort(logits)
    return -margin(logits, label) / (largest[-1] - largest[-3] + 1e-12)


LOSSES: Mapping[str, LossFunction] = {"ce": cross_entropy, "margin": lead, "dlr": dlr}


def loss_function(loss: Loss) -> LossFunction:
    """The function of a name, or the function itself.

    Raises:
      BadInput: neither a name of `LOSSES` nor a function.
    """
    if callable(loss):
        return loss
    known = f"a loss among {', '.join(LOSSES)}, or a function (logits, label) -> scalar"
    require(str(loss) in LOSSES, known, loss, "pass one of them")
    return LOSSES[loss]


def prediction(logits: Float[Array, " k"]) -> Int[Array, ""]:
    """The predicted class; ties go to the lowest index."""
    return jnp.argmax(logits).astype(jnp.int32)


def predicts(logits: Float[Array, " k"], label: Int[Array, ""]) -> Bool[Array, ""]:
    """`label` is the predicted class. Never true of logits that are not finite."""
    return (prediction(logits) == label) & jnp.isfinite(logits).all()


def misclassifies(logits: Float[Array, " k"], label: Int[Array, ""]) -> Bool[Array, ""]:
    """Another class than `label` is predicted. Never true of logits that are not finite: a broken model is no success."""
    return (prediction(logits) != label) & jnp.isfinite(logits).all()


def second_best(logits: Float[Array, " k"], best: Int[Array, ""] | None = None) -> Int[Array, ""]:
    """The class with the largest logit except that of the best class ("target-2").

    The reference overwrites the top logit with the *smallest* one. If all other logits tie, as with two classes, this gives the top class
    itself. Here the top logit is left out instead; everything else is the same.

    Args:
      logits: of one image.
      best: the class that is known to be the best; default the one with the largest logit.
    """
    return prediction(jnp.where(_one_hot(logits, prediction(logits) if best is None else best), -jnp.inf, logits))


class View(NamedTuple):
    """The result of one evaluation of a classifier."""

    logits: Float[Array, " k"]
    gradient: Float[Array, "h w c"]  # of the loss to x; entries that are not finite are 0: no attack may move a pixel to NaN
    slope: Float[Array, ""]  # see `slope_of`


def view(classifier: Classifier, loss: Callable[[Array], Array], x: Float[Array, "h w c"]) -> View:
    """Logits at `x`, the gradient of `loss(logits)` to `x` and its slope, in one forward and one backward pass."""

    def value(x: Array) -> tuple[Array, Array]:
        logits = classifier(x)
        return loss(logits), logits

    gradient, logits = jax.grad(value, has_aux=True)(x)
    return View(logits, jnp.where(jnp.isfinite(gradient), gradient, 0), slope_of(logits, gradient))


def look(
    classifier: Classifier, loss: Callable[[Array], Array], x: Float[Array, "h w c"]
) -> tuple[Float[Array, " k"], Float[Array, "h w c"]]:
    """The logits and the gradient of a `view`."""
    seen = view(classifier, loss, x)
    return seen.logits, seen.gradient


def slope_of(logits: Float[Array, " k"], gradient: Float[Array, "*d"]) -> Float[Array, ""]:
    """The largest absolute entry of the classifier's gradient. `Progress.judge` decides by it whether an attack can go on.

    0 means that there is no direction to follow. A value that is not finite means that the logits or the gradient are not finite. The
    entries are compared as whole numbers, which have the same order: this takes a hundredth of the time of a maximum of floats, and NaN
    comes last.
    """
    whole = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}[gradient.dtype.itemsize]
    largest = jnp.max(jax.lax.bitcast_convert_type(jnp.abs(gradient), whole))
    return jnp.where(jnp.isfinite(logits).all(), jax.lax.bitcast_convert_type(largest, gradient.dtype), jnp.nan)


def _one_hot(logits: Float[Array, " k"], label: Int[Array, ""]) -> Bool[Array, " k"]:
    return jnp.arange(logits.shape[-1], dtype=jnp.int32) == label
