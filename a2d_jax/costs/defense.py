"""Costs of arrays, and a classifier guarded by attacks and a detector: the product from Python."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from a2d_jax.costs.inputs import checked, not_finite
from a2d_jax.costs.judging import Judged, judge_images, read_columns
from a2d_jax.costs.lanes import Lanes
from a2d_jax.costs.measuring import Measured, measure
from a2d_jax.costs.targets import Target
from a2d_jax.detectors import Detector, FittedDetector
from a2d_jax.errors import BadInput
from a2d_jax.io.source import Piece, Shape, integer_labels
from a2d_jax.measurements import Column
from a2d_jax.types import Attack, AttackResult, Classifier


def costs(
    classifier: Classifier,
    x: Float[Any, "n h w c"],
    attacks: Mapping[str, Attack],
    *,
    label: Int[Any, " n"] | None = None,
    target: Target | None = None,
    seed: int = 0,
    lanes: Lanes = None,
    devices: Sequence[Any] | None = None,
) -> tuple[Int[np.ndarray, "n attacks"], dict[str, AttackResult]]:
    """The cost of every attack on every image, and the full results by attack.

    Args:
      classifier: one image to logits.
      x: images in [0, 1].
      attacks: by name.
      label: classes to leave; default the classifier's own predictions, with which no cost is 0.
      target: class that targeted attacks reach, see `a2d_jax.costs.targets`; `labels` takes `label`.
      seed: of the random attacks.
      lanes: images in work at a time on each device; no cost depends on it.
      devices: default all local devices.

    Raises:
      BadInput: images of another shape or type, outside [0, 1] or NaN; logits that are not finite; labels that the classifier does not
        have; a targeted attack without a target.
    """
    images = Arrays(checked(x), None if label is None else integer_labels(np.asarray(label), len(x), Path("the arrays")))
    x_adv = {name: np.zeros_like(images.x) for name in attacks}

    def keep(name: str, rows: np.ndarray, attacked: np.ndarray) -> None:
        x_adv[name][rows] = attacked

    how: dict[str, Any] = {"seed": seed, "lanes": lanes, "devices": devices, "target": target}
    how["labels"] = "prediction" if label is None else "set"
    measured = whole(measure(classifier, images, attacks, keep_x_adv=keep, **how))
    results = {name: result._replace(x_adv=x_adv[name]) for name, result in measured.results.items()}  # pyright: ignore[reportArgumentType]
    return np.stack([np.asarray(result.cost) for result in results.values()], axis=1), results


@dataclass(frozen=True)
class Arrays:
    """A set of images that a caller holds, as one piece; see `a2d_jax.costs.measuring.ImageSet`."""

    x: Float[np.ndarray, "n h w c"]
    label: Int[np.ndarray, " n"] | None = None
    path: Path = field(default=Path("the images"))

    @property
    def shape(self) -> Shape:
        h, w, c = self.x.shape[1:]
        return h, w, c

    @property
    def labels(self) -> bool:
        return self.label is not None

    def __len__(self) -> int:
        return len(self.x)

    def pieces(self) -> Iterator[Piece]:
        if len(self.x):
            index = np.arange(len(self.x))
            yield Piece(index, list(map(str, index)), self.x, self.label, [None] * len(index))


def whole(measured: Measured) -> Measured:
    """Refuse what has an image without a result.

    Raises:
      BadInput: the first one, and what is wrong with it.
    """
    for row in np.flatnonzero(~measured.good):
        raise not_finite(int(row)) if measured.label[row] == -1 else BadInput(f"{measured.error[row]} (image {row})")
    return measured


@dataclass(frozen=True)
class Defense:
    """A classifier guarded by attacks and a detector.

    Attributes:
      classifier: one image to logits.
      attacks: by name.
      detector: how to judge what they cost, see `a2d_jax.detectors`.
      columns: what the detector reads, such as `fmn.distance`; default the cost of each attack, in their order.
      target: class that targeted attacks reach.

    Example:
      defense = Defense(classifier, {"bim": bim()}, ZScore()).fit(benign)
      defense.predict(x)  # True where adversarial
    """

    classifier: Classifier
    attacks: Mapping[str, Attack]
    detector: Detector
    columns: Sequence[str] | None = None
    target: Target | None = None

    def fit(self, benign: Float[Any, "n h w c"], adversarial: Float[Any, "m h w c"] | None = None, *, seed: int = 0) -> "FittedDefense":
        """Measure these images, in full, and fit the detector to them."""
        columns = Column.all_named(list(self.attacks) if self.columns is None else self.columns, self.attacks)

        def read(x: Float[Any, "n h w c"]) -> tuple[np.ndarray, np.ndarray]:
            images = Arrays(checked(x))
            measured = whole(measure(self.classifier, images, self.attacks, seed=seed, target=self.target))
            return read_columns(measured, self.attacks, columns, images.shape), measured.label

        negative, labels = read(benign)
        positive = None if adversarial is None else read(adversarial)[0]
        return FittedDefense(self.classifier, self.attacks, self.detector.fit(negative, positive, labels=labels), columns, self.target)


@dataclass(frozen=True)
class FittedDefense:
    """A classifier guarded by attacks and a fitted detector; see `Defense`.

    A verdict is that of the image: whatever is drawn for it, by a random attack or as the jitter of a conformal p-value, derives from its
    pixels, so that it does not matter how images are batched.
    """

    classifier: Classifier
    attacks: Mapping[str, Attack]
    detector: FittedDetector
    columns: tuple[Column, ...]
    target: Target | None = None

    def score(self, x: Float[Any, "n h w c"], *, seed: int = 0) -> Float[np.ndarray, " n"]:
        """Higher is more adversarial. From full costs: a bound would cut off the ranking of benign images."""
        return self._judge(x, bound=False, seed=seed).score

    def predict(self, x: Float[Any, "n h w c"], *, seed: int = 0, bound: bool = True) -> Bool[np.ndarray, " n"]:
        """True where the image is judged adversarial.

        Args:
          x: images in [0, 1].
          seed: of the random attacks.
          bound: stop each attack at the cost from which the verdict is benign whatever follows; the verdicts are the same.
        """
        return self._judge(x, bound=bound, seed=seed).adversarial

    def _judge(self, x: Float[Any, "n h w c"], *, bound: bool, seed: int) -> Judged:
        how: dict[str, Any] = {"bound": bound, "seed": seed, "target": self.target}
        judged = judge_images(self.classifier, Arrays(checked(x)), self.attacks, self.columns, self.detector, **how)
        whole(judged.measured)
        return judged
