"""Losses and criteria on logits, and the one look at a classifier that gives logits and gradient together."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from a2d_jax.types import Classifier


def cross_entropy(logits: Float[Array, " k"], label: Int[Array, ""]) -> Float[Array, ""]:
    """-log softmax(logits)[label]. A masked sum, not an index: the gradient of an index is a scatter, slow inside loops."""
    mine = _one_hot(logits, label)
    return -jnp.sum(jnp.where(mine, jax.nn.log_softmax(logits), 0))


def margin(logits: Float[Array, " k"], label: Int[Array, ""]) -> Float[Array, ""]:
    """Logit of `label` minus the largest other logit: positive while the label is predicted."""
    mine = _one_hot(logits, label)
    return jnp.sum(jnp.where(mine, logits, 0)) - jnp.max(jnp.where(mine, -jnp.inf, logits))


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
    """The class with the largest logit but that of the best ("target-2").

    The reference overwrites the top logit with the *smallest* one, which names the top class itself where all others tie, as
    they do with two classes. Here it is left out instead; everything else is the same.

    Args:
      logits: of one image.
      best: the class that is known to be the best; default the one with the largest logit.
    """
    return prediction(jnp.where(_one_hot(logits, prediction(logits) if best is None else best), -jnp.inf, logits))


def look(
    classifier: Classifier, loss: Callable[[Array], Array], x: Float[Array, "h w c"]
) -> tuple[Float[Array, " k"], Float[Array, "h w c"]]:
    """Logits at `x` and the gradient of `loss(logits)` to `x`, in one forward and one backward pass.

    Entries of the gradient that are not finite are 0: no attack may move a pixel to NaN.
    """

    def value(x: Array) -> tuple[Array, Array]:
        logits = classifier(x)
        return loss(logits), logits

    gradient, logits = jax.grad(value, has_aux=True)(x)
    return logits, jnp.where(jnp.isfinite(gradient), gradient, 0)


def _one_hot(logits: Float[Array, " k"], label: Int[Array, ""]) -> Bool[Array, " k"]:
    return jnp.arange(logits.shape[-1], dtype=jnp.int32) == label
