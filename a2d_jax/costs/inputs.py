"""Examples from images: the predicted class, a random key for each image, and a fingerprint that tells images apart."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, UInt

from a2d_jax import inputs
from a2d_jax.classifiers import predict_by
from a2d_jax.drivers.refill import default_lanes
from a2d_jax.errors import BadInput
from a2d_jax.types import Classifier, Example

LOW_BITS = 0xFFFFFFFF
KEYS = 256  # made at a time


def examples(
    classifier: Classifier,
    x: Float[Any, "n h w c"],
    label: Int[Any, " n"] | None = None,
    *,
    predicted: Bool[Any, " n"] | bool | None = None,
    index: Int[Any, " n"] | None = None,
    seed: int = 0,
    start: Float[Any, "n h w c"] | None = None,
) -> Example:
    """Examples for a driver, each with a label and a key. The label is the classifier's own prediction unless given.

    Args:
      classifier: one image to logits.
      x: images in [0, 1].
      label: classes that untargeted attacks start from; default the prediction, which attacks used as defence take. For targeted attacks:
        the class to reach, one for each image.
      predicted: which labels are the classifier's own predictions; default all if `label` is left out, none if it is given.
      index: numbers of the examples; keys derive from their low 32 bits. Default the fingerprints of the images.
      seed: seed of the random attacks.
      start: first points of the attacks, which project them onto their ball around the images; default the images themselves. Costs count
        updates from there, and a start that is a success costs 0: compare such costs only with each other.

    Raises:
      BadInput: no images, or some of another shape or type, outside [0, 1] or NaN; labels that are no classes of the classifier, one for
        each image; starting points that are not finite or of another shape; or logits that are not finite.
    """
    x = inputs.images(x)
    own = label is None if predicted is None else predicted
    if label is None:
        label = predictions(classifier, x)[0]
        if np.any(broken := np.asarray(label) < 0):
            raise not_finite(int(np.flatnonzero(broken)[0]))
    label = inputs.labels(label, len(x), inputs.class_count(classifier, x.shape[1:], "the images", x.dtype))
    numbers = fingerprints(x) if index is None else inputs.labels(index, len(x), what="index")
    made = keyed(x, label, np.broadcast_to(np.asarray(own, bool), (len(x),)), numbers, seed)
    points: Any = None if start is None else inputs.starts(start, x)
    return made._replace(key=jax.random.wrap_key_data(jnp.asarray(made.key)), start=points)


def not_finite(row: int) -> BadInput:
    """The error for logits that are no numbers."""
    return BadInput(f"expected finite logits, got NaN or infinity for image {row}; check the classifier's weights")


def predictions(classifier: Classifier, x: Float[Any, "n h w c"]) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Predicted class and its probability; the class is -1 where the logits are not finite.

    An image's class does not depend on the images around it, nor on how many there are.

    Raises:
      BadInput: no batch of images that the classifier takes.
    """
    x = inputs.images(x, pixels=False)
    inputs.class_count(classifier, x.shape[1:], "the images", x.dtype)
    return decided(logits_of(classifier, x))


def decided(logits: Float[np.ndarray, "n k"]) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The class that logits predict and its probability; the class is -1 where they are not finite."""
    label = logits.argmax(1).astype(np.int32)
    finite = np.asarray(np.isfinite(logits).all(1))
    safe = np.where(finite[:, None], logits, 0)  # in NumPy: JAX would compile for every number of images
    probability = 1 / np.sum(np.exp(safe - safe.max(1, keepdims=True)), axis=1)
    return np.where(finite, label, -1).astype(np.int32), np.where(finite, probability, np.nan).astype(np.float32)


def logits_of(classifier: Classifier, x: Float[Any, "n h w c"]) -> Float[np.ndarray, "n k"]:
    """Logits, computed in batches of one size whatever the number of images.

    Two batch sizes are two compiled programs. For an image that lies on the decision boundary to within rounding, two programs may predict
    different classes. One batch size gives every image one class.
    """
    x = np.asarray(x)
    return predict_by(classifier, x, default_lanes(x.shape[1:], jax.local_devices()[0].platform))


def fingerprints(x: Float[Any, "n h w c"]) -> Int[np.ndarray, " n"]:
    """A number for each image, 0 to 2^63 - 1: the first bits of the SHA-256 of its pixels (float32) and its shape.

    The random numbers of an image derive from its fingerprint, so that they do not depend on its batch.
    """
    pixels = np.ascontiguousarray(x, np.float32)
    shape = repr(pixels.shape[1:]).encode()
    heads = [hashlib.sha256(shape + image.tobytes()).digest()[:8] for image in pixels]
    return np.asarray([int.from_bytes(head, "big") >> 1 for head in heads], np.int64)


def keyed(
    x: Float[np.ndarray, "n h w c"],
    label: Int[np.ndarray, " n"],
    predicted: Bool[np.ndarray, " n"],
    index: Int[np.ndarray, " n"],
    seed: int,
) -> Example:
    """Examples of what is known to be right; keys as their data on the host, so that no number of examples compiles anything."""
    columns: Any = (x, np.asarray(label, np.int32), key_data(seed, np.asarray(index)), predicted)
    return Example(*columns)


def key_data(seed: int, index: Int[np.ndarray, " n"]) -> UInt[np.ndarray, "n words"]:
    """The keys of images as plain numbers, made in batches of one size."""
    numbers = (index & LOW_BITS).astype(np.uint32)
    padded = np.concatenate([numbers, np.zeros(-len(numbers) % KEYS, np.uint32)])
    parts = [np.asarray(_keys(seed, padded[begin : begin + KEYS])) for begin in range(0, len(padded), KEYS)]
    return np.concatenate(parts)[: len(numbers)]


@jax.jit
def _keys(seed: int, numbers: Int[Array, " n"]) -> UInt[Array, "n words"]:
    return jax.random.key_data(jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(numbers))
