"""The binarisation test: a defence altered so that an adversarial image is known to exist must fall to the attack.

For each image the network's last layer is replaced by a classifier of two classes: "near" (random points within `inner` of the radius)
and "rim" (one random point at the radius itself). Its boundary is put just before the rim point, so that hardly anything but this
point is of the class "rim", and yet one image within the budget is. An attack that does not find it would not find an adversarial image
of the real defence either. With a detector, the rim point is drawn until the detector accepts it, and success is "rim and accepted".

Source: Zimmermann et al., "Increasing Confidence in Adversarial Robustness Evaluations", arXiv:2206.13991; reference code
google-research/active-adversarial-tests, `decision_boundary_binarization.py`. Its inner radius (.95) and the closeness of the boundary
(.999) are kept. Differs: rim points in Linf are corners of the ball (there an option, and the one whose class is surely reachable); where
the caller names no inner layer the logits are the features; images whose points no hyperplane tells apart are left out and counted; the
share that random points find is reported beside the attack's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int
from sklearn.svm import SVC

from a2d_jax import inputs
from a2d_jax.adaptive.indicators import Finding, found
from a2d_jax.classifiers import predict_by
from a2d_jax.errors import BadInput, require
from a2d_jax.types import Classifier

Attacker = Callable[[Classifier, Float[np.ndarray, "n h w c"], Int[np.ndarray, " n"]], Float[np.ndarray, "n h w c"]]
"""`(classifier, x, label) -> x_adv`: any attack, away from the labels, with its budget already chosen."""
Accepts = Callable[[Float[np.ndarray, "n h w c"]], Bool[np.ndarray, " n"]]
"""`(x) -> flags`: which images the detector accepts."""

INNER, CLOSENESS = 0.95, 0.999
MISSED = 0.05
"""Share of images on which the attack may miss the image that is there."""
BATCH = 100


@dataclass(frozen=True)
class _Binary:
    """Equal for equal features: one program serves the classifiers of all images."""

    features: Callable[[Any, Array], Array]

    def __call__(self, variables: tuple[Any, Array, Array], x: Float[Array, "h w c"]) -> Float[Array, " 2"]:
        weights, normal, offset = variables
        rim = jnp.dot(self.features(weights, x).ravel(), normal) + offset
        return jnp.stack([jnp.zeros_like(rim), rim])


def binarisation(
    classifier: Classifier,
    x: Float[Any, "n h w c"],
    attack: Attacker,
    epsilon: float,
    *,
    norm: Literal["linf", "l2"] = "linf",
    features: Callable[[Any, Array], Array] | None = None,
    accepts: Accepts | None = None,
    points: int = 200,
    seed: int = 0,
) -> Finding:
    """Run the test on images and count those whose rim image the attack does not find.

    Args:
      classifier: one image to logits, without a detector.
      x: images `n h w c`.
      attack: attacks the altered classifiers, whose class 0 is the label. An attack that knows a detector makes its guarded classifier
        inside. The detector's measurement is that of the original network: `unaltered` gives it back.
      epsilon: budget, in the units of `norm`.
      norm: of the budget.
      features: `(variables, x) -> d numbers`, the output of an inner layer; default the logits. The more there are, the more images can be
        tested.
      accepts: which images the detector accepts; default all.
      points: inner points of each image.
      seed: of the points.

    Returns:
      A finding whose number is the share of testable images on which the attack misses; None if no image could be tested.

    Raises:
      BadInput: images or settings that cannot be used, or an attack that returns images beyond its budget or of another shape.
    """
    require(epsilon > 0, "epsilon > 0", epsilon, "give the budget in the units of the norm")
    require(norm in ("linf", "l2"), "a norm among linf, l2", norm, "pass one of them")
    require(points >= 1, "points >= 1", points, "give the number of inner points")
    images, random = inputs.images(x), np.random.default_rng(seed)
    apply = _Binary(classifier.apply if features is None else features)
    altered = [_altered(classifier, apply, image, epsilon, norm, accepts, points, random) for image in images]
    testable = [(image, binary) for image, binary in zip(images, altered, strict=True) if binary is not None]

    hit, by_chance = 0, 0
    for image, binary in testable:
        returned = inputs.images(attack(binary, image[None], np.zeros(1, np.int64)), image.shape)
        if len(returned) != 1 or _length(returned - image, norm)[0] > epsilon * (1 + 1e-5) + 1e-6:
            raise BadInput(
                f"expected one image within {epsilon:g} of the input, got another one from the attack; give it the test's budget"
            )
        hit += int(_succeeds(binary, returned, accepts)[0])
        by_chance += int(_succeeds(binary, _within(image, epsilon, norm, points, random), accepts).any())
    n, rest = len(testable), len(images) - len(testable)
    left_out = f" {rest} of {len(images)} images could not be tested." if rest else ""
    if not n:
        return found("binarisation test", None, MISSED, f"No image could be tested: give features of an inner layer.{left_out}", "")
    share = f"The attack finds the image that is there on {hit} of {n} altered networks; {points} random points find it on {by_chance}."
    return found("binarisation test", (n - hit) / n, MISSED, share + left_out, f"{share} It would miss others as well.{left_out}")


def unaltered(classifier: Classifier, original: Classifier) -> Classifier:
    """The original network of an altered one, inside a traced measurement; any other classifier as it is.

    Args:
      classifier: what a measurement is given.
      original: the classifier that was tested.
    """
    return Classifier(classifier.variables[0], original.apply) if isinstance(classifier.apply, _Binary) else classifier


def _altered(
    classifier: Classifier,
    apply: _Binary,
    image: Float[np.ndarray, "h w c"],
    epsilon: float,
    norm: str,
    accepts: Accepts | None,
    points: int,
    random: np.random.Generator,
) -> Classifier | None:
    """The classifier of one image, or None if no rim point is accepted or no hyperplane tells it from the inner points."""
    rims = _rims(image, epsilon, norm, BATCH if accepts else 1, random)
    rims = rims[accepts(rims)] if accepts else rims
    if not len(rims):
        return None
    everything = np.concatenate([image[None], _within(image, INNER * epsilon, norm, points, random), rims[:1]])
    rows = predict_by(Classifier(classifier.variables, _Flat(apply.features)), everything, BATCH).astype(np.float64)
    middle = rows.mean(axis=0)
    spread = float(
        np.sqrt(((rows - middle) ** 2).mean())
    )  # one for all: alone, a unit that only the rim wakes would decide, without a slope
    if spread == 0:
        return None
    rows = (rows - middle) / spread
    fitted = SVC(kernel="linear", C=1e6, class_weight="balanced", max_iter=100_000).fit(rows, np.arange(len(rows)) == len(rows) - 1)
    normal = fitted.coef_[0]
    along = rows @ normal
    nearest, rim = along[:-1].max(), along[-1]
    if not rim > nearest:
        return None
    normal = normal / (spread * (rim - nearest))
    offset = -(nearest / (rim - nearest) + CLOSENESS) - middle @ normal
    binary = Classifier((classifier.variables, jnp.asarray(normal, float), jnp.asarray(offset, float)), apply)
    said = predict_by(binary, everything, BATCH).argmax(axis=1)
    return binary if said[-1] == 1 and not said[:-1].any() else None  # rounding may take back what float64 found


@dataclass(frozen=True)
class _Flat:
    features: Callable[[Any, Array], Array]

    def __call__(self, variables: Any, x: Float[Array, "h w c"]) -> Float[Array, " d"]:
        return self.features(variables, x).ravel()


def _succeeds(binary: Classifier, x: Float[np.ndarray, "n h w c"], accepts: Accepts | None) -> Bool[np.ndarray, " n"]:
    rim = predict_by(binary, x, BATCH).argmax(axis=1) == 1
    return rim & np.asarray(accepts(x), bool) if accepts else rim


def _rims(
    image: Float[np.ndarray, "h w c"], epsilon: float, norm: str, count: int, random: np.random.Generator
) -> Float[np.ndarray, "m h w c"]:
    """Points at the radius: corners in Linf, else directions of their own, shorter where the box is in the way."""
    shape = (count, *image.shape)
    if norm == "linf":
        delta = epsilon * random.choice([-1.0, 1.0], shape)
    else:
        delta = random.normal(size=shape)
        delta *= epsilon / _length(delta, norm)[:, None, None, None]
    return np.clip(image + delta, 0, 1).astype(image.dtype)


def _within(
    image: Float[np.ndarray, "h w c"], radius: float, norm: str, count: int, random: np.random.Generator
) -> Float[np.ndarray, "m h w c"]:
    """Points drawn uniformly from the ball, cut by the box."""
    shape = (count, *image.shape)
    if norm == "linf":
        delta = radius * random.uniform(-1, 1, shape)
    else:
        delta = random.normal(size=shape)
        lengths = radius * random.uniform(size=count) ** (1 / image.size)
        delta *= (lengths / _length(delta, norm))[:, None, None, None]
    return np.clip(image + delta, 0, 1).astype(image.dtype)


def _length(delta: Float[np.ndarray, "n h w c"], norm: str) -> Float[np.ndarray, " n"]:
    flat = delta.reshape(len(delta), -1)
    return np.abs(flat).max(axis=1) if norm == "linf" else np.linalg.norm(flat, axis=1)
