"""Classifiers from Flax NNX modules, Flax Linen modules and plain functions.

Modules take batches `n h w c` in [0, 1] and normalise inside; a `Classifier` takes one image. The callable that joins the two is
compared by what it computes, not by identity, so that loading a network again compiles nothing anew.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax import Array
from jaxtyping import Float

from a2d_jax.errors import BadInput
from a2d_jax.types import Classifier


@dataclass(frozen=True)
class _NnxApply:
    """Equal for modules of equal structure: a graph definition compares by value."""

    graphdef: Any

    def __call__(self, state: Any, x: Array) -> Array:
        return nnx.merge(self.graphdef, state)(x[None])[0]


@dataclass(frozen=True)
class _LinenApply:
    """Equal for equal modules; `module.apply` itself would not be, since bound methods compare by identity."""

    module: linen.Module

    def __call__(self, variables: Any, x: Array) -> Array:
        return self.module.apply(variables, x[None])[0]


@dataclass(frozen=True)
class _FunctionApply:
    fn: Callable[[Any, Array], Array]

    def __call__(self, variables: Any, x: Array) -> Array:
        return self.fn(variables, x[None])[0]


@dataclass(frozen=True)
class _Bfloat16Apply:
    """Equal for what is equal in float32."""

    apply: Callable[[Any, Array], Array]

    def __call__(self, variables: Any, x: Array) -> Array:
        return self.apply(variables, x.astype(jnp.bfloat16)).astype(x.dtype)


def in_bfloat16(classifier: Classifier) -> Classifier:
    """The same classifier with weights and arithmetic in bfloat16; images, logits and gradients keep their type for the outside.

    Made for accelerators. Logits are rounded to 8 bits, so costs change: models/README.md has what that does on CIFAR-10.
    """

    def narrow(array: Array) -> Array:
        return array.astype(jnp.bfloat16) if jnp.issubdtype(array.dtype, jnp.floating) else array

    card = {**classifier.card, "precision": "bfloat16"}
    return Classifier(jax.tree.map(narrow, classifier.variables), _Bfloat16Apply(classifier.apply), card)


def from_nnx(module: nnx.Module) -> Classifier:
    """Take a Flax NNX module as it is, in evaluation mode; the module itself is not changed."""
    module = nnx.clone(module)
    module.eval()
    for _, part in nnx.iter_modules(module):
        if isinstance(part, nnx.Dropout):
            part.rngs = None  # draws nothing in evaluation; its random keys would be weights of the classifier
    graphdef, state = nnx.split(module)
    return Classifier(state, _NnxApply(graphdef))


def from_linen(module: linen.Module, variables: Any) -> Classifier:
    """Join a Flax Linen module and its variables; the module must be in evaluation mode by its own defaults."""
    return Classifier(variables, _LinenApply(module))


def from_function(fn: Callable[[Any, Array], Array], variables: Any) -> Classifier:
    """Join a function `(variables, batch n h w c) -> logits n k` and its variables."""
    return Classifier(variables, _FunctionApply(fn))


def as_classifier(obj: object) -> Classifier:
    """Make a `Classifier` of what a factory returns: a Flax module, or a `Classifier` as it is.

    A Linen module holds no weights; it is initialised for its attribute `input_shape` (h, w, c).

    Raises:
      BadInput: anything else.
    """
    if isinstance(obj, Classifier):
        return obj
    if isinstance(obj, nnx.Module):
        return from_nnx(obj)
    if isinstance(obj, linen.Module):
        shape = input_shape(obj)
        if shape is None:
            raise BadInput(
                f"expected a Linen module with an attribute input_shape (h, w, c), got {type(obj).__name__} without; add it to the class"
            )
        return from_linen(obj, obj.init(jax.random.key(0), jnp.zeros((1, *shape))))
    raise BadInput(
        f"expected a Flax NNX module, a Flax Linen module or a Classifier, got {type(obj).__name__}; "
        "wrap a function with a2d_jax.classifiers.from_function"
    )


def input_shape(obj: object) -> tuple[int, int, int] | None:
    """Shape (h, w, c) that a module says it takes, or None if it does not say."""
    shape = getattr(obj, "input_shape", None)
    if shape is None:
        return None
    h, w, c = shape
    return int(h), int(w), int(c)


@jax.jit
def predict(classifier: Classifier, x: Float[Array, "n h w c"]) -> Float[Array, "n k"]:
    """Logits of a batch."""
    return jax.vmap(classifier)(x)
