"""Where the rooms meet: images and a classifier become examples, attacks give their costs, a detector judges the costs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from a2d_jax import drivers
from a2d_jax.classifiers import predict
from a2d_jax.detectors import Detector, FittedDetector
from a2d_jax.errors import BadInput
from a2d_jax.types import Attack, AttackResult, Classifier, Example

PREDICT_BATCH = 256


def examples(
    classifier: Classifier,
    x: Float[Any, "n h w c"],
    label: Int[Any, " n"] | None = None,
    *,
    index: Int[Any, " n"] | None = None,
    seed: int = 0,
) -> Example:
    """Examples for a driver: the label is the model's own prediction unless given, the key belongs to the example.

    Args:
      classifier: one image to logits.
      x: images in [0, 1].
      label: classes to leave; default the prediction, as every attack used as defence takes it.
      index: numbers of the examples, from which their keys derive; default 0, 1, ...
      seed: of the random attacks.

    Raises:
      BadInput: images of another shape or type, outside [0, 1] or NaN; or logits that are not finite.
    """
    x = _checked(x)
    if label is None:
        label = predictions(classifier, x)[0]
        if np.any(broken := np.asarray(label) < 0):
            raise BadInput(
                f"expected finite logits, got NaN or infinity for image {np.flatnonzero(broken)[0]}; check the classifier's weights"
            )
    numbers = jnp.asarray(np.arange(len(x)) if index is None else index, jnp.uint32)
    return Example(x, cast(Any, np.asarray(label, np.int32)), _keys(seed, numbers))


def predictions(classifier: Classifier, x: Float[Any, "n h w c"]) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Predicted class and its probability, in batches of fixed size; the class is -1 where the logits are not finite."""
    logits = np.concatenate([_predict_padded(classifier, np.asarray(x[i : i + PREDICT_BATCH])) for i in range(0, len(x), PREDICT_BATCH)])
    label = logits.argmax(1).astype(np.int32)
    probability = np.asarray(jax.nn.softmax(logits))[np.arange(len(label)), label]
    finite = np.isfinite(logits).all(1)
    return np.where(finite, label, -1).astype(np.int32), np.where(finite, probability, np.nan).astype(np.float32)


def bounded(attacks: Mapping[str, Attack], bounds: Iterable[int | None]) -> dict[str, Attack]:
    """The same attacks, stopped at the cost from which a detector's verdict is benign whatever follows.

    A success at `bound` updates or later then reads `bound`, as a failure does: both are benign.
    """
    pairs = zip(attacks.items(), bounds, strict=True)
    return {name: attack if bound is None else _shorten(attack, bound) for (name, attack), bound in pairs}


def costs(
    classifier: Classifier,
    x: Float[Any, "n h w c"],
    attacks: Mapping[str, Attack],
    *,
    label: Int[Any, " n"] | None = None,
    seed: int = 0,
    **driver: Any,
) -> tuple[Int[np.ndarray, "n attacks"], dict[str, AttackResult]]:
    """The cost of every attack on every image, and the full results by attack. `driver` goes to `drivers.attack`."""
    batch = examples(classifier, x, label, seed=seed)
    results = {name: drivers.attack(attack, classifier, batch, **driver) for name, attack in attacks.items()}
    return np.stack([result.cost for result in results.values()], axis=1), results


def judge(
    detector: FittedDetector, table: Int[Any, "n attacks"], label: Int[Any, " n"], index: Int[Any, " n"] | None = None
) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Scores and verdicts on costs, given the predicted classes and which images these are."""
    return detector.score(table, labels=label, index=index), detector.predict(table, labels=label, index=index)


@dataclass(frozen=True)
class Defense:
    """A classifier guarded by attacks and a detector.

    Attributes:
      classifier: one image to logits.
      attacks: by name; their costs are the columns that the detector reads.
      detector: how to judge costs, see `a2d_jax.detectors`.

    Example:
      defense = Defense(classifier, {"bim": bim()}, ZScore()).fit(benign)
      defense.predict(x)  # True where adversarial
    """

    classifier: Classifier
    attacks: Mapping[str, Attack]
    detector: Detector

    def fit(self, benign: Float[Any, "n h w c"], adversarial: Float[Any, "m h w c"] | None = None, *, seed: int = 0) -> "FittedDefense":
        """Measure the costs of these images, in full, and fit the detector to them."""
        negative, _ = costs(self.classifier, benign, self.attacks, seed=seed)
        positive = None if adversarial is None else costs(self.classifier, adversarial, self.attacks, seed=seed)[0]
        fitted = self.detector.fit(negative, positive, labels=predictions(self.classifier, benign)[0])
        return FittedDefense(self.classifier, self.attacks, fitted)


@dataclass(frozen=True)
class FittedDefense:
    """A classifier guarded by attacks and a fitted detector; see `Defense`."""

    classifier: Classifier
    attacks: Mapping[str, Attack]
    detector: FittedDetector

    def score(self, x: Float[Any, "n h w c"], *, seed: int = 0) -> Float[np.ndarray, " n"]:
        """Higher is more adversarial. From full costs: a bound would cut off the ranking of benign images."""
        return self._judge(x, self.attacks, seed)[0]

    def predict(self, x: Float[Any, "n h w c"], *, seed: int = 0, bound: bool = True) -> Bool[np.ndarray, " n"]:
        """True where the image is judged adversarial.

        Args:
          x: images in [0, 1].
          seed: of the random attacks.
          bound: stop each attack at the cost from which the verdict is benign whatever follows; the verdicts are the same.
        """
        attacks = self.attacks
        if bound:
            attacks = bounded(attacks, self.detector.bounds([int(attack.max_steps) + 1 for attack in attacks.values()]))
        return self._judge(x, attacks, seed)[1]

    def _judge(self, x: Float[Any, "n h w c"], attacks: Mapping[str, Attack], seed: int) -> tuple[np.ndarray, np.ndarray]:
        label = predictions(self.classifier, x)[0]
        table, _ = costs(self.classifier, x, attacks, label=label, seed=seed)
        return judge(self.detector, table, label)


def _checked(x: Any) -> np.ndarray:
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


def _shorten(attack: Any, bound: int) -> Attack:
    return replace(attack, max_steps=min(int(attack.max_steps), max(bound - 1, 0)))


def _predict_padded(classifier: Classifier, x: np.ndarray) -> np.ndarray:
    """Logits of up to `PREDICT_BATCH` images at one compiled batch size, or at a smaller power of two for few images."""
    size = min(PREDICT_BATCH, max(2, 1 << (len(x) - 1).bit_length()))
    padded = np.concatenate([x, np.zeros((size - len(x), *x.shape[1:]), x.dtype)])
    return np.asarray(predict(classifier, padded))[: len(x)]


@jax.jit
def _keys(seed: int, numbers: Int[Array, " n"]) -> Array:
    return jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(numbers)
