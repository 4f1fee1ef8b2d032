"""A classifier joined with a detector, so that every attack of the library runs against both.

A detector that flags an image where a differentiable measurement M leaves [threshold, upper] becomes one more class, "flagged":

    logits(x) = ( Z_1, ..., Z_k, max_j Z_j + gain * max(threshold - M(x), M(x) - upper) )

"Flagged" is the largest logit exactly where the detector flags. On a tie the first class wins, so that a measurement on the threshold is
accepted. The gain changes no verdict. It only sets how steep the wall is that an attack sees: a small gain hides the detector, and a large
one puts a wall along the boundaries between classes. Sweep it and keep the best of each image; never trust one value.

A targeted attack needs nothing else: the class that it reaches wins over "flagged" too. An untargeted attack must not count "flagged" as
a class to end in. No function of the image alone can say so, because it would have to give each image its own label where it is flagged.
An attack knows the label. `Evade` therefore hands the attack k logits, in which "flagged" has been folded into the label:

    z_label = max(Z_label, Z_flagged),    z_j = Z_j for the others

The label is then predicted wherever the classifier is right *or* the image is flagged, so that the library's one criterion of success,
another class than the label, is "fooled and accepted". The gradient is that of the larger of the two: the attack works on whatever stops
it at the moment, as selective PGD does (Bryniarski et al., arXiv:2106.15023).

Source: Carlini and Wagner, "Adversarial Examples Are Not Easily Detected", arXiv:1705.07263. Differs: their logit of "flagged" is
(Z_D + 1) max_j Z_j, which is the largest only where max_j Z_j is positive, and depends on a constant added to all logits. The sum does not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from a2d_jax.errors import BadInput, require
from a2d_jax.types import Attack, Classifier, Example, Norm

Measurement = Callable[[Classifier, Array], Array]
"""`(classifier, x) -> number`, traceable, for one image; low is suspicious, as for the cost of an attack."""

FAR = 1e6
"""Logits that stand for an infinite distance from the threshold, such as that of an image without a gradient: they stay numbers."""


class Guard(NamedTuple):
    """The variables of a guarded classifier: all of it is data, so that a sweep compiles nothing."""

    classifier: Classifier
    threshold: Float[Array, ""]
    upper: Float[Array, ""]
    gain: Float[Array, ""]


@dataclass(frozen=True)
class _Guarded:
    """Equal for equal measurements."""

    measurement: Measurement

    def __call__(self, guard: Guard, x: Float[Array, "h w c"]) -> Float[Array, " k+1"]:
        logits = guard.classifier(x)
        measured = self.measurement(guard.classifier, x)
        if measured.shape:
            raise BadInput(f"expected a measurement of one number for one image, got shape {measured.shape}; reduce it")
        measured, low, high, gain = (value.astype(logits.dtype) for value in (measured, guard.threshold, guard.upper, guard.gain))
        below = jnp.where(jnp.isneginf(low), low, low - measured)  # an end that is not there is never left, not even by infinity
        above = jnp.where(jnp.isposinf(high), -high, measured - high)
        beyond = jnp.nan_to_num(gain * jnp.maximum(below, above), nan=jnp.nan, posinf=FAR, neginf=-FAR)
        return jnp.concatenate([logits, (jnp.max(logits) + beyond)[None]])


def guarded(
    classifier: Classifier, measurement: Measurement, threshold: float | Array, gain: float | Array = 1.0, *, upper: float | Array = jnp.inf
) -> Classifier:
    """Join a classifier of k classes and a detector to a classifier of k + 1 classes, of which the last is "flagged".

    Args:
      classifier: one image to logits.
      measurement: `(classifier, x) -> number`, traceable and differentiable, for one image. It is part of the program: pass the same
        function again and nothing is compiled anew. A detector's *score*, which is high for adversarial images, enters by its negative.
      threshold: the image is flagged where the measurement is below it.
      gain: logits per unit of the measurement, above 0.
      upper: the image is flagged where the measurement is above it, for two-sided detectors.

    Returns:
      A classifier. Run targeted attacks on it as they are and untargeted ones in `Evade`. Where a measurement is within rounding of the
      threshold, the verdict of the detector itself is the right one.

    Raises:
      BadInput: a gain that is not above 0, a threshold above `upper`, NaN, or a classifier that is guarded already.
    """
    require(not is_guarded(classifier), "a classifier without a detector", "a guarded one", "join two detectors in one measurement")
    for name, value in (("threshold", threshold), ("upper", upper), ("gain", gain)):
        if isinstance(value, int | float):
            require(value == value, f"a number as {name}", value, "correct it")
    if isinstance(gain, int | float):
        require(
            0 < gain < jnp.inf, "a gain above 0", gain, "give logits per unit of the measurement; without a detector attack the classifier"
        )
    if isinstance(threshold, int | float) and isinstance(upper, int | float):
        require(threshold <= upper, f"a threshold of at most upper = {upper}", threshold, "between both an image is accepted")
    return Classifier(Guard(classifier, *(jnp.asarray(value, float) for value in (threshold, upper, gain))), _Guarded(measurement))


def is_guarded(classifier: Classifier) -> bool:
    """Whether a classifier is one of `guarded`."""
    return isinstance(classifier.apply, _Guarded)


@dataclass(frozen=True)
class _Folded:
    """The guarded classifier as one example sees it: a label that no class has (an image that was flagged from the start) breaks it."""

    apply: Callable[[Any, Array], Array]

    def __call__(self, variables: tuple[Any, Array], x: Float[Array, "h w c"]) -> Float[Array, " k"]:
        guard, label = variables
        logits = self.apply(guard, x)
        classes, flagged = logits[:-1], logits[-1:]
        flagged = jnp.where(flagged == jnp.max(classes), -jnp.inf, flagged)  # on the threshold: accepted, also if the label comes first
        own = jnp.arange(classes.shape[0], dtype=label.dtype) == label
        return jnp.where(jnp.any(own), jnp.where(own, jnp.maximum(classes, flagged), classes), jnp.nan)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Evade:
    """Any attack, against a guarded classifier: its success is "fooled and accepted", whatever the attack is.

    A targeted attack (its attribute `targeted` is true) sees all k + 1 classes, any other attack the k classes of the module's docstring.
    The label of an example is a class of the classifier. With the label "flagged" the example is `broken`.

    Attributes:
      attack: the attack, as it would be run on a classifier without a detector.
    """

    attack: Attack

    @property
    def norm(self) -> Norm:
        return self.attack.norm

    @property
    def max_steps(self) -> int | Array:
        return self.attack.max_steps

    @property
    def targeted(self) -> bool:
        """`label` is the class to reach rather than the class to leave."""
        return bool(getattr(self.attack, "targeted", False))

    @property
    def takes_start(self) -> bool:
        """It reads a starting point of the example, if the attack within does."""
        return bool(getattr(self.attack, "takes_start", False))

    def init(self, example: Example) -> Any:
        return self.attack.init(example)

    def step(self, classifier: Classifier, example: Example, state: Any) -> Any:
        if not is_guarded(classifier):
            raise BadInput("expected a guarded classifier for Evade, got one without a detector; make it with a2d_jax.adaptive.guarded")
        if not self.targeted:
            classifier = Classifier((classifier.variables, example.label), _Folded(classifier.apply))
        return self.attack.step(classifier, example, state)

    def length(self) -> int:
        return self.attack.length()
