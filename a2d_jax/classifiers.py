"""Classifiers from Flax NNX modules, Flax Linen modules and plain functions.

Modules take batches `n h w c` in [0, 1] and normalise inside; a `Classifier` takes one image. The callable between the two is compared by
its computation, not by identity, so that loading a network again needs no compilation.

A classifier is always in evaluation mode. If a module or a function has a switch between training and evaluation (`SWITCHES`), as an
argument of its call or as an attribute, this file sets the switch.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax import Array
from jaxtyping import Float

from a2d_jax.errors import BadInput
from a2d_jax.imports import one_line
from a2d_jax.types import Classifier

TRAINING = ("train", "training", "is_train", "is_training")
EVALUATION = ("deterministic", "use_running_average", "inference", "eval", "eval_mode")
SWITCHES: dict[str, Any] = {**dict.fromkeys(TRAINING, False), **dict.fromkeys(EVALUATION, True)}
"""What modules call the switch between training and evaluation, and its value in evaluation."""

Switches = tuple[tuple[str, Any], ...]


def switches(call: Callable[..., Any]) -> Switches:
    """The switches among the arguments of a call, with their values in evaluation."""
    try:
        taken = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):  # a callable of another language tells no arguments
        return ()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return tuple((one.name, SWITCHES[one.name]) for one in taken if one.name in SWITCHES and one.kind in named)


@dataclass(frozen=True)
class _NnxApply:
    """Equal for modules of equal structure: a graph definition compares by value."""

    graphdef: Any
    switches: Switches = ()

    def __call__(self, state: Any, x: Array) -> Array:
        module = nnx.merge(self.graphdef, state, copy=True)  # a call may change statistics: those of the copy, which is forgotten
        return module(x[None], **dict(self.switches))[0]


@dataclass(frozen=True)
class _LinenApply:
    """Equal for equal modules; `module.apply` itself would not be, since bound methods compare by identity."""

    module: linen.Module
    switches: Switches = ()

    def __call__(self, variables: Any, x: Array) -> Array:
        return self.module.apply(variables, x[None], **dict(self.switches))[0]


@dataclass(frozen=True)
class _FunctionApply:
    fn: Callable[..., Array]
    switches: Switches = ()

    def __call__(self, variables: Any, x: Array) -> Array:
        return self.fn(variables, x[None], **dict(self.switches))[0]


@dataclass(frozen=True)
class _Bfloat16Apply:
    """Equal for what is equal in float32."""

    apply: Callable[[Any, Array], Array]

    def __call__(self, variables: Any, x: Array) -> Array:
        return self.apply(variables, x.astype(jnp.bfloat16)).astype(x.dtype)


def in_bfloat16(classifier: Classifier) -> Classifier:
    """The same classifier with weights and arithmetic in bfloat16; for the caller, images, logits and gradients keep their type.

    It is meant for accelerators. Logits are rounded to 8 bits, so costs change: models/README.md shows the effect on CIFAR-10.
    """

    def narrow(array: Array) -> Array:
        return array.astype(jnp.bfloat16) if jnp.issubdtype(array.dtype, jnp.floating) else array

    card = {**classifier.card, "precision": "bfloat16"}
    return Classifier(jax.tree.map(narrow, classifier.variables), _Bfloat16Apply(classifier.apply), card)


def precision(classifier: Classifier) -> str:
    """`bfloat16` for a classifier from `in_bfloat16`, else `float32`."""
    return "bfloat16" if isinstance(classifier.apply, _Bfloat16Apply) else "float32"


def from_nnx(module: nnx.Module) -> Classifier:
    """Make a classifier of a Flax NNX module, in evaluation mode; the module itself is not changed."""
    module = nnx.clone(module)
    module.eval()
    for _, part in nnx.iter_modules(module):
        for name, value in SWITCHES.items():
            if isinstance(vars(part).get(name), bool):
                setattr(part, name, value)
        if isinstance(part, nnx.Dropout):
            part.rngs = None  # draws nothing in evaluation; its random keys would be weights of the classifier
    graphdef, state = nnx.split(module)
    return Classifier(state, _NnxApply(graphdef, switches(type(module).__call__)))


def from_linen(module: linen.Module, variables: Any) -> Classifier:
    """Join a Flax Linen module, in evaluation mode, and its variables."""
    return Classifier(variables, _linen(module))


def from_function(fn: Callable[..., Array], variables: Any) -> Classifier:
    """Join a function `(variables, batch n h w c) -> logits n k` and its variables."""
    return Classifier(variables, _FunctionApply(fn, switches(fn)))


def as_classifier(obj: object) -> Classifier:
    """Make a `Classifier` of a factory's result: a Flax module, or a `Classifier`, which is returned as it is.

    A Linen module holds no weights; it is initialised for its attribute `input_shape` (h, w, c).

    Raises:
      BadInput: anything else, or a Linen module whose own code raises while it is initialised (with its message).
    """
    if isinstance(obj, Classifier):
        return obj
    if isinstance(obj, nnx.Module):
        return from_nnx(obj)
    if isinstance(obj, linen.Module):
        shape = input_shape(obj)
        if shape is None:
            raise BadInput(
                f"expected a Linen module with an attribute input_shape (h, w, c), got {type(obj).__name__} without it; add it to the class"
            )
        apply = _linen(obj)
        try:
            variables = apply.module.init(jax.random.key(0), jnp.zeros((1, *shape)), **dict(apply.switches))
        except Exception as error:  # the user's own module, which may raise anything
            raise BadInput(
                f"expected {type(obj).__name__} to take images {shape} in evaluation mode, got {one_line(error)}, "
                "raised by its own code; correct the module"
            ) from error
        return Classifier(variables, apply)
    raise BadInput(
        f"expected a Flax NNX module, a Flax Linen module or a Classifier, got {type(obj).__name__}; "
        "wrap a function with a2d_jax.classifiers.from_function"
    )


def _linen(module: linen.Module) -> _LinenApply:
    """Flax refuses a switch that is set both as a field and as an argument whose default leaves the choice to the field."""
    fields = {name: value for name, value in SWITCHES.items() if name in vars(module) and isinstance(getattr(module, name), bool)}
    call = type(module).__call__
    of_call = [(name, value) for name, value in switches(call) if name not in fields or _default(call, name) is not None]
    return _LinenApply(module.clone(**fields) if fields else module, tuple(of_call))


def _default(call: Callable[..., Any], name: str) -> object:
    return inspect.signature(call).parameters[name].default


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


def predict_by(classifier: Classifier, x: Float[np.ndarray, "n h w c"], size: int) -> Float[np.ndarray, "n k"]:
    """Logits, computed in batches of `size` whatever the number of images: one program, in which no image depends on the others."""
    short = -len(x) % size
    padded = np.concatenate([x, np.zeros((short, *x.shape[1:]), x.dtype)]) if short else x
    batches = [predict(classifier, padded[begin : begin + size]) for begin in range(0, len(padded), size)]
    return np.concatenate([np.asarray(batch) for batch in batches])[: len(x)]
