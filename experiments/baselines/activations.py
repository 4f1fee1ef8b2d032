"""Inner activations of a network, and its outputs with dropout on: siblings of `a2d_jax.types.Classifier` for detectors that look inside.

Both are made of a classifier of a Flax NNX module, take one image, and are compared by value, so that new weights compile nothing. The
module names its layers itself by a method

    def activations(self, x: Array) -> dict[str, Array]:  # images n h w c; the output of every layer, in order, the logits last

as all networks of `models/` do. A module without it is refused: the order in which a call uses its sub-modules, and what happens between
them, cannot be read off the module.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float, Key

from a2d_jax.drivers.refill import default_lanes
from a2d_jax.errors import BadInput
from a2d_jax.types import STATIC, Classifier

INPUT = "input"
"""Name of the image itself, the first activation."""

_pytree = partial(jax.tree_util.register_dataclass, data_fields=["variables"], meta_fields=["apply"])


@_pytree
@dataclass(frozen=True)
class Activations:
    """A function from one image to its activations by name, in the order of the layers: the image first, the logits last.

    Attributes:
      variables: weights and statistics, those of the classifier.
      apply: `(variables, x) -> activations`; x `h w c`, float32 in [0, 1]; each activation without a batch axis.
    """

    variables: Any
    apply: Callable[[Any, Array], "OrderedDict[str, Array]"] = field(metadata=STATIC)

    def __call__(self, x: Float[Array, "h w c"]) -> "OrderedDict[str, Array]":
        return self.apply(self.variables, x)


@_pytree
@dataclass(frozen=True)
class Passes:
    """A function from one image and a random key to logits with dropout on; all else, batch norm too, stays in evaluation mode.

    Attributes:
      variables: weights and statistics, those of the classifier.
      apply: `(variables, x, key) -> logits`; x `h w c`, float32 in [0, 1]; logits `k`.
    """

    variables: Any
    apply: Callable[[Any, Array, Array], Array] = field(metadata=STATIC)

    def __call__(self, x: Float[Array, "h w c"], key: Key[Array, ""]) -> Float[Array, " k"]:
        return self.apply(self.variables, x, key)


@dataclass(frozen=True)
class _Activations:
    """Equal for modules of equal structure: a graph definition compares by value."""

    graphdef: Any

    def __call__(self, state: Any, x: Array) -> "OrderedDict[str, Array]":
        module = nnx.merge(self.graphdef, state, copy=True)
        named = {INPUT: x[None], **module.activations(x[None])}
        return OrderedDict((name, array[0]) for name, array in named.items())  # JAX sorts the keys of other dicts


@dataclass(frozen=True)
class _Passes:
    graphdef: Any

    def __call__(self, state: Any, x: Array, key: Array) -> Array:
        module = nnx.merge(self.graphdef, state, copy=True)
        for number, layer in enumerate(_dropouts(module)):
            layer.deterministic = False
            layer.rngs = nnx.RngStream(jax.random.fold_in(key, number), tag="dropout")
        return module(x[None])[0]


def activations_of(classifier: Classifier) -> Activations:
    """The activations inside a classifier.

    Raises:
      BadInput: the classifier was not made of a Flax NNX module with a method `activations`.
    """
    module = _module(classifier)
    if not callable(getattr(type(module), "activations", None)):
        raise BadInput(
            f"expected a network with a method activations(x) that names the output of every layer, got {type(module).__name__} "
            "without it; write the method as the networks of models/ do"
        )
    return Activations(classifier.variables, _Activations(classifier.apply.graphdef))


def passes_of(classifier: Classifier) -> Passes | None:
    """The classifier with dropout on; None if the network has no dropout.

    Raises:
      BadInput: the classifier was not made of a Flax NNX module, or its call has an argument that switches dropout.
    """
    module = _module(classifier)
    if not _dropouts(module):
        return None
    if classifier.apply.switches:
        named = ", ".join(name for name, _ in classifier.apply.switches)
        raise BadInput(
            f"expected a network whose nnx.Dropout layers decide by themselves, got {type(module).__name__} with the argument {named} in "
            "its call; leave the argument out"
        )
    return Passes(classifier.variables, _Passes(classifier.apply.graphdef))


def _module(classifier: Classifier) -> nnx.Module:
    graphdef = getattr(getattr(classifier, "apply", None), "graphdef", None)
    if graphdef is None:
        raise BadInput(
            "expected a classifier of a Flax NNX module, whose layers can be read, got another one; make it with "
            "a2d_jax.classifiers.from_nnx or a2d_jax.load_classifier"
        )
    return nnx.merge(graphdef, classifier.variables, copy=True)


def _dropouts(module: nnx.Module) -> list[nnx.Dropout]:
    return [part for _, part in nnx.iter_modules(module) if isinstance(part, nnx.Dropout)]


def inside(
    activations: Activations, x: Float[np.ndarray, "n h w c"], *, of: Callable[["OrderedDict[str, Array]"], Any] = lambda named: named
) -> Any:
    """Activations of many images on the host, or what a function of one image's activations makes of them; the leading axis is `n`.

    Args:
      activations: of a network.
      x: images.
      of: pure function of the activations of one image; the same object again compiles nothing.
    """
    return in_batches(partial(_inside, of, activations), x)


@partial(jax.jit, static_argnums=0)
def _inside(of: Callable[["OrderedDict[str, Array]"], Any], activations: Activations, x: Array) -> Any:
    return jax.vmap(lambda image: of(activations(image)))(x)


def in_batches(function: Callable[..., Any], x: Float[np.ndarray, "n h w c"], *others: np.ndarray) -> Any:
    """Apply a function of batches to many images, in batches of one size whatever their number, and join what it returns on the host.

    One batch size is one program, so no image's numbers depend on the images around it. The last batch is filled with copies of the
    last image.

    Args:
      function: takes images and the arrays beside them, each with a leading axis of one length, and returns arrays with that axis.
      x: images.
      others: arrays with an entry for each image.
    """
    size = default_lanes(x.shape[1:], jax.local_devices()[0].platform)
    parts: list[Any] = []
    for begin in range(0, len(x), size):
        rows = np.minimum(np.arange(begin, begin + size), len(x) - 1)
        parts.append(jax.tree.map(np.asarray, function(*(array[rows] for array in (x, *others)))))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(x)], *parts)


@partial(jax.jit, static_argnums=3)
def stochastic(passes: Passes, x: Float[Array, "n h w c"], key: Array, count: int) -> Float[Array, "n count k"]:
    """Logits of `count` passes with dropout on. Pass p of an image depends on the image, its key and p alone.

    Args:
      passes: of a network.
      x: images.
      key: data of a key for each image.
      count: number of passes.
    """

    def one(image: Array, own: Array) -> Array:
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.wrap_key_data(own)))(jnp.arange(count, dtype=jnp.uint32))
        return jax.vmap(partial(passes, image))(keys)  # what lies before the first dropout is computed once for all passes

    return jax.vmap(one)(x, key)
