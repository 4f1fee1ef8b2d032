"""Checks of the arguments of all public Python functions: images, labels, examples and tables of numbers.

An empty batch of images is refused everywhere, because there is nothing to attack and the caller should know. Arrays of other libraries are
accepted if NumPy can read them. Nothing is scaled or transposed, and no axis is added.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from a2d_jax.errors import BadInput, require
from a2d_jax.imports import one_line

Shape = tuple[int, int, int]
"""Height, width, channels."""


def array(values: Any, what: str) -> np.ndarray:
    """Anything that NumPy reads, as an array of numbers or flags.

    Raises:
      BadInput: rows of different lengths, a tensor that NumPy cannot read, text, or objects.
    """
    try:
        read = np.asarray(values)
    except Exception as error:  # a foreign library says in its own way that it cannot
        why = " ".join(str(error).split())[:120]
        raise BadInput(f"expected {what} as one array, got {type(values).__name__}, which NumPy cannot read ({why}); convert it") from error
    if read.dtype.kind not in "biuf" and not jnp.issubdtype(read.dtype, jnp.floating):  # bfloat16 is a kind of its own
        raise BadInput(f"expected {what} as numbers, got {_typed(values, read)}; pass an array of numbers")
    return read


def images(x: Any, shape: Shape | None = None, *, pixels: bool = True) -> Float[np.ndarray, "n h w c"]:
    """Check images and return them as a NumPy array.

    Args:
      x: at least one image `h w c`, floating point in [0, 1], with a leading axis.
      shape: shape that every image must have, if it is known.
      pixels: False also accepts pixels that are NaN or outside [0, 1].

    Returns:
      Floating point of the type that JAX computes in: float32, unless 64-bit types are turned on.

    Raises:
      BadInput: not a batch of images, another shape or type, an empty batch, or pixels that are NaN or outside [0, 1].
    """
    x = array(x, "images")
    if x.ndim != 4:
        remedy = "write x[None] for a batch of one" if x.ndim == 3 and x.shape[-1] in (1, 2, 3, 4) else "add the missing axes"
        raise BadInput(f"expected images of shape (n, h, w, c), got {x.shape}; {remedy}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise BadInput(f"expected floating point images in [0, 1], got {x.dtype}; {'divide by 255' if x.dtype.kind in 'iu' else 'convert'}")
    if shape is not None and x.shape[1:] != tuple(shape):
        raise BadInput(f"expected images of {_text(shape)} (h x w x c), got {_text(x.shape[1:])}; {_other_shape(x.shape[1:], shape)}")
    if not len(x) or 0 in x.shape:
        raise BadInput(f"expected at least one image, got none (an array of shape {x.shape}); leave out empty batches")
    outside = pixels & ~((x >= 0) & (x <= 1)).all(axis=(1, 2, 3))  # true of NaN as well
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise BadInput(f"expected pixels in [0, 1], got {x[row].min()} to {x[row].max()} in image {row}; scale the images")
    wide = jax.dtypes.canonicalize_dtype(x.dtype)
    return x.astype(wide if wide.itemsize >= 4 else np.float32, copy=False)


def labels(label: Any, count: int, classes: int | None = None, what: str = "labels") -> Int[np.ndarray, " n"]:
    """Class numbers as int64, one for each image.

    Args:
      label: integers `n`.
      count: number of images.
      classes: number of classes of the classifier, if it is known.
      what: name of the labels in errors.

    Raises:
      BadInput: no integers, not one for each image, or a class that the classifier does not have.
    """
    y = array(label, what)
    if y.shape != (count,):
        remedy = "take the argmax of one-hot rows" if y.ndim == 2 and y.shape[0] == count else "give one class number for each image"
        raise BadInput(f"expected {what} of shape ({count},), got {y.shape}; {remedy}")
    if y.dtype.kind not in "iu":
        raise BadInput(f"expected {what} as whole numbers, got {y.dtype}; pass class numbers as integers")
    if classes is not None and (wrong := np.flatnonzero((y < 0) | (y >= classes))).size:
        one_based = int(y.min()) >= 1 and int(y.max()) == classes
        remedy = "they seem to count from 1: subtract 1" if one_based else "correct it"
        raise BadInput(f"expected {what} from 0 to {classes - 1}, got {y[wrong[0]]} for image {wrong[0]}; {remedy}")
    return y.astype(np.int64)


def examples(classifier: Callable[..., Any], given: Any) -> Any:
    """A batch of `Example`, refused unless a driver can attack it.

    Args:
      classifier: one image to logits.
      given: x `n h w c`, label `n`, key `n` (typed JAX keys, or on the host their data as NumPy), predicted `n` or None, start `n h w c` or
        None.

    Returns:
      The same, images and labels as NumPy arrays.

    Raises:
      BadInput: as `images`, `labels` and `class_count`, not one key for each image, or not one finite starting point for each image.
    """
    require(all(hasattr(given, name) for name in ("x", "label", "key")), "an Example", type(given).__name__, "make it with costs.examples")
    x = images(given.x)
    label = labels(given.label, len(x), class_count(classifier, x.shape[1:], "the examples", x.dtype))
    keys, typed = np.shape(given.key), jnp.issubdtype(getattr(given.key, "dtype", np.dtype(object)), jax.dtypes.prng_key)
    good = keys == (len(x),) if typed else isinstance(given.key, np.ndarray) and len(keys) == 2 and keys[0] == len(x)
    require(
        good, f"{len(x)} JAX keys, one for each image", f"{type(given.key).__name__} of shape {keys}", "make them with jax.random.split"
    )
    start = None if given.start is None else starts(given.start, x)
    return given._replace(x=x, label=label.astype(np.int32), start=start)


def starts(start: Any, x: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n h w c"]:
    """Check the starting points of attacks on images and return them in the type of the images. They may lie anywhere.

    Raises:
      BadInput: not one finite point of the image's shape for each image.
    """
    read = array(start, "starting points")
    require(read.shape == x.shape, f"starting points of shape {x.shape}, as the images", read.shape, "give one point for each image")
    require(bool(np.isfinite(read).all()), "finite starting points", "NaN or infinity", "give the image itself where there is none")
    return read.astype(x.dtype, copy=False)


def class_count(classifier: Callable[..., Any], shape: tuple[int, ...], origin: object, dtype: Any = np.float32) -> int:
    """Number of classes, found by a trace without any computation. A second call for the same network needs no trace either.

    Args:
      classifier: one image to logits.
      shape: height, width, channels of an image.
      origin: where images of this shape come from, for errors.
      dtype: of the images.

    Raises:
      BadInput: no classifier, one that does not take images of this shape, or one that does not give one logit per class.
    """
    require(
        callable(classifier) and hasattr(classifier, "variables"),
        "a Classifier",
        type(classifier).__name__,
        "make it with a2d_jax.classifiers, such as from_nnx(module)",
    )
    leaves, structure = jax.tree.flatten(classifier)
    kinds = tuple((np.shape(leaf), jnp.result_type(leaf), getattr(leaf, "weak_type", False)) for leaf in leaves)
    try:
        logits = _logits(structure, kinds, jax.ShapeDtypeStruct(shape, dtype))
    except Exception as error:  # a foreign module says in its own way that it does not fit
        remedy = f"; {_other_shape(shape)}" if _channels_first(shape) else ""
        raise BadInput(
            f"expected images of a shape that the classifier takes, got {_text(shape)} (h x w x c) in {origin}{remedy}; "
            f"its own code raises {one_line(error)}"
        ) from error
    got = getattr(logits, "shape", "?")
    if got == (1,):
        raise BadInput(
            "expected one logit for each of at least 2 classes, got one output; if the network gives one number z before a sigmoid, "
            "return the two logits (0, z)"
        )
    if getattr(logits, "ndim", 0) != 1 or logits.shape[0] < 2:
        raise BadInput(f"expected one logit for each of at least 2 classes, got an output of shape {got}; check the network")
    return int(logits.shape[0])


@functools.lru_cache(maxsize=64)
def _logits(structure: Any, kinds: tuple[Any, ...], image: jax.ShapeDtypeStruct) -> Any:
    """What a classifier of these weights gives for an image; keeps no weights."""
    leaves = [jax.ShapeDtypeStruct(dims, dtype, weak_type=weak) for dims, dtype, weak in kinds]
    return jax.eval_shape(lambda leaves, x: jax.tree.unflatten(structure, leaves)(x), leaves, image)


def _other_shape(got: tuple[int, ...], wanted: tuple[int, ...] | None = None) -> str:
    if _channels_first(got) and (wanted is None or (got[1], got[2], got[0]) == tuple(wanted)):
        return "channels seem to come first: transpose to n h w c"
    return "resize the images or take another classifier"


def _channels_first(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4)


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _typed(values: Any, read: np.ndarray) -> str:
    return f"{type(values).__name__} ({read.dtype})" if read.dtype.kind == "O" or not isinstance(values, np.ndarray) else str(read.dtype)
