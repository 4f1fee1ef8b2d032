"""Images become examples: the class that the classifier predicts, a key for each image, and a number that tells images apart."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from a2d_jax.classifiers import predict
from a2d_jax.drivers.refill import default_lanes
from a2d_jax.errors import BadInput
from a2d_jax.types import Classifier, Example

LOW_BITS = 0xFFFFFFFF


def examples(
    classifier: Classifier,
    x: Float[Any, "n h w c"],
    label: Int[Any, " n"] | None = None,
    *,
    predicted: Bool[Any, " n"] | bool | None = None,
    index: Int[Any, " n"] | None = None,
    seed: int = 0,
) -> Example:
    """Examples for a driver: the label is the model's own prediction unless given, the key belongs to the example.

    Args:
      classifier: one image to logits.
      x: images in [0, 1].
      label: classes to leave; default the prediction, as every attack used as defence takes it.
      predicted: which labels are the classifier's own predictions; default all or none, as `label` is left out or given.
      index: numbers of the examples, from whose low 32 bits their keys derive; default the fingerprints of the images.
      seed: of the random attacks.

    Raises:
      BadInput: images of another shape or type, outside [0, 1] or NaN; or logits that are not finite.
    """
    x = checked(x)
    own = label is None if predicted is None else predicted
    if label is None:
        label = predictions(classifier, x)[0]
        if np.any(broken := np.asarray(label) < 0):
            raise not_finite(int(np.flatnonzero(broken)[0]))
    numbers = jnp.asarray((fingerprints(x) if index is None else np.asarray(index)) & LOW_BITS, jnp.uint32)
    columns: Any = (x, np.asarray(label, np.int32), _keys(seed, numbers), np.broadcast_to(np.asarray(own, bool), (len(x),)))
    return Example(*columns)


def not_finite(row: int) -> BadInput:
    """The error for logits that are no numbers."""
    return BadInput(f"expected finite logits, got NaN or infinity for image {row}; check the classifier's weights")


def predictions(classifier: Classifier, x: Float[Any, "n h w c"]) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Predicted class and its probability; the class is -1 where the logits are not finite.

    An image's class does not depend on the images around it, nor on how many there are.
    """
    return decided(logits_of(classifier, x))


def decided(logits: Float[np.ndarray, "n k"]) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The class that logits predict and its probability; the class is -1 where they are not finite."""
    label = logits.argmax(1).astype(np.int32)
    probability = np.asarray(jax.nn.softmax(logits))[np.arange(len(label)), label]
    finite = np.isfinite(logits).all(1)
    return np.where(finite, label, -1).astype(np.int32), np.where(finite, probability, np.nan).astype(np.float32)


def logits_of(classifier: Classifier, x: Float[Any, "n h w c"]) -> Float[np.ndarray, "n k"]:
    """Logits, computed in batches of one size whatever the number of images.

    Two batch sizes are two compiled programs, and on an image that lies on the boundary to within rounding two programs may
    predict two classes: one size for all gives every image one class.
    """
    x = np.asarray(x)
    if not len(x):
        return np.zeros((0, *jax.eval_shape(classifier, jax.ShapeDtypeStruct(x.shape[1:], x.dtype)).shape), np.float32)
    size = default_lanes(x.shape[1:], jax.local_devices()[0].platform)
    short = -len(x) % size
    padded = np.concatenate([x, np.zeros((short, *x.shape[1:]), x.dtype)]) if short else x
    batches = [predict(classifier, padded[begin : begin + size]) for begin in range(0, len(padded), size)]
    return np.concatenate([np.asarray(batch) for batch in batches])[: len(x)]


def fingerprints(x: Float[Any, "n h w c"]) -> Int[np.ndarray, " n"]:
    """A number for each image, 0 to 2^63 - 1, from its pixels (float32) and its shape alone: the head of their SHA-256.

    What must be drawn for an image and for no other derives from it, so that it does not matter how images are batched.
    """
    pixels = np.ascontiguousarray(x, np.float32)
    shape = repr(pixels.shape[1:]).encode()
    heads = [hashlib.sha256(shape + image.tobytes()).digest()[:8] for image in pixels]
    return np.asarray([int.from_bytes(head, "big") >> 1 for head in heads], np.int64)


def checked(x: Any) -> np.ndarray:
    """The images as a numpy array, refused unless they are what every attack takes for granted."""
    x = np.asarray(x)
    if x.ndim != 4:
        raise BadInput(f"expected images of shape (n, h, w, c), got {x.shape}; add the missing axes")
    if not np.issubdtype(x.dtype, np.floating):
        raise BadInput(f"expected floating point images in [0, 1], got {x.dtype}; divide by 255")
    outside = ~((x >= 0) & (x <= 1)).all(axis=(1, 2, 3))  # true of NaN as well
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise BadInput(f"expected pixels in [0, 1], got {x[row].min()} to {x[row].max()} in image {row}; scale the images")
    return x


@jax.jit
def _keys(seed: int, numbers: Int[Array, " n"]) -> Array:
    return jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(numbers)
