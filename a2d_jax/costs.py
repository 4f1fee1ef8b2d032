"""Where the rooms meet: images and a classifier become examples, attacks give their costs, a detector judges the costs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from a2d_jax import detectors, drivers
from a2d_jax.classifiers import predict
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
    """
    if label is None:
        label = predictions(classifier, x)[0]
    numbers = jnp.asarray(np.arange(len(x)) if index is None else index, jnp.uint32)
    return Example(cast(Any, np.asarray(x)), cast(Any, np.asarray(label, np.int32)), _keys(seed, numbers))


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


@dataclass(frozen=True)
class Defense:
    """A classifier guarded by attacks and a detector.

    Attributes:
      classifier: one image to logits.
      attacks: by name; their costs are the columns that the detector reads.
      detector: unfitted or fitted, see `a2d_jax.detectors`.
      bound: stop each attack at the cost from which the verdict is benign whatever follows; verdicts are the same.

    Example:
      >>> defense = Defense(classifier, {"bim": bim()}, ZScore()).fit(benign)  # doctest: +SKIP
      >>> defense.predict(x)  # doctest: +SKIP
    """

    classifier: Classifier
    attacks: Mapping[str, Attack]
    detector: Any
    bound: bool = True

    def fit(self, benign: Float[Any, "n h w c"], adversarial: Float[Any, "m h w c"] | None = None, *, seed: int = 0) -> "Defense":
        """A new defense whose detector is fitted to the costs of these images."""
        negative = self.costs(benign, seed=seed)
        positive = None if adversarial is None else self.costs(adversarial, seed=seed)
        return replace(self, detector=self.detector.fit(negative, positive))

    def costs(self, x: Float[Any, "n h w c"], *, seed: int = 0) -> Int[np.ndarray, "n attacks"]:
        """Full costs, without a bound."""
        return costs(self.classifier, x, self.attacks, seed=seed)[0]

    def score(self, x: Float[Any, "n h w c"], *, seed: int = 0) -> Float[Array, " n"]:
        """Higher is more adversarial; from full costs, since a bound cuts off the ranking of benign images."""
        return self.detector.score(self.costs(x, seed=seed))

    def predict(self, x: Float[Any, "n h w c"], *, seed: int = 0) -> Bool[Array, " n"]:
        """True where the image is judged adversarial."""
        attacks = dict(self.attacks)
        if self.bound:
            attacks = bounded(attacks, detectors.bounds(self.detector, [int(attack.max_steps) + 1 for attack in attacks.values()]))
        return self.detector.predict(costs(self.classifier, x, attacks, seed=seed)[0])


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
