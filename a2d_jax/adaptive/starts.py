"""Transplanted starts: an attack that begins at a benign image of another class, moved onto its ball.

Where gradients are masked, an ascent from the input stands still, and its failure proves nothing. A benign image of another class is
misclassified by definition and costs what benign images cost; the point of the ball nearest to it may be so too. So an attack from there
needs no gradient to be fooled first. `Example.start` takes it there; attacks that read it project it onto their ball themselves.

Source: starts from another class are those of decision-based attacks (Brendel et al., arXiv:1712.04248). Differs: projected onto the ball.
"""

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

from a2d_jax import inputs
from a2d_jax.errors import BadInput, require
from a2d_jax.types import Example, Norm


def donors(
    x: ArrayLike, label: ArrayLike, pool: ArrayLike, pool_label: ArrayLike, *, epsilon: float, norm: Norm = "linf", count: int = 1
) -> Int[np.ndarray, "n count"]:
    """Choose for each image those of another class that lie nearest to its ball, nearest first.

    The distance is that in L2 between an image of the pool and its projection onto the ball: what the projection takes away. In `l2` and
    `rms` the order is that of the plain distance. In `linf` the plain distance of two digits is nearly always 1 and orders nothing.

    Args:
      x: images to attack, `n h w c`.
      label: their classes, `n`.
      pool: benign images, `p h w c`. Best are those that the classifier predicts rightly.
      pool_label: their classes, `p`.
      epsilon: radius of the ball, in the units of `norm`.
      norm: `linf`, `l2` or `rms`.
      count: how many for each image.

    Returns:
      Numbers of images in the pool.

    Raises:
      BadInput: shapes do not agree, or an image has fewer than `count` images of other classes in the pool.
    """
    require(norm in ("linf", "l2", "rms"), "a norm among linf, l2, rms", norm, "pass one of them")
    require(count >= 1, "count >= 1", count, "give the number of donors for each image")
    require(epsilon >= 0, "epsilon >= 0", epsilon, "give it in pixel units, such as 8/255")
    images, others = inputs.images(x), inputs.images(pool)
    if images.shape[1:] != others.shape[1:]:
        raise BadInput(f"expected images of the pool of shape {images.shape[1:]}, got {others.shape[1:]}; prepare both in the same way")
    classes = inputs.labels(label, len(images))
    other_classes = inputs.labels(pool_label, len(others), what="labels of the pool")
    chosen = np.empty((len(images), count), np.int64)
    for i, image in enumerate(images):
        other = np.flatnonzero(other_classes != classes[i])
        if len(other) < count:
            raise BadInput(f"expected {count} images of other classes than {classes[i]} in the pool, got {len(other)}; give a larger pool")
        apart = np.abs(others[other] - image).reshape(len(other), -1)
        left = np.maximum(apart - epsilon, 0) if norm == "linf" else apart
        chosen[i] = other[np.argsort(np.einsum("pd,pd->p", left, left), kind="stable")[:count]]
    return chosen


def transplanted(
    examples: Example, pool: ArrayLike, pool_label: ArrayLike, *, epsilon: float, norm: Norm = "linf", rank: int = 0
) -> Example:
    """The same examples, each starting from the image of another class that lies nearest to its ball, or the next one.

    Args:
      examples: a batch with classes to leave as labels.
      pool: benign images, `p h w c`.
      pool_label: their classes, `p`.
      epsilon: radius of the ball, in the units of `norm`.
      norm: `linf`, `l2` or `rms`.
      rank: 0 for the nearest, 1 for the next, and so on: one try each.

    Raises:
      BadInput: see `donors`.
    """
    require(rank >= 0, "rank >= 0", rank, "count from 0")
    chosen = donors(examples.x, examples.label, pool, pool_label, epsilon=epsilon, norm=norm, count=rank + 1)[:, rank]
    return examples._replace(start=np.asarray(pool, np.asarray(examples.x).dtype)[chosen])
