"""The Python API: costs of image arrays, and a classifier guarded by attacks and a detector."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from a2d_jax import drivers, inputs
from a2d_jax.costs.folder import Parts, read_folder, write_folder
from a2d_jax.costs.inputs import key_data, logits_of, not_finite
from a2d_jax.costs.judging import Judged, bounded, judge_images, read_columns, stops_of
from a2d_jax.costs.lanes import Lanes
from a2d_jax.costs.measured import Measured, measure
from a2d_jax.costs.notes import warn
from a2d_jax.costs.targets import Target
from a2d_jax.detectors import Detector, FittedDetector
from a2d_jax.errors import BadInput
from a2d_jax.inputs import Shape
from a2d_jax.io.source import Piece
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
      attacks: the attacks by name.
      label: classes that untargeted attacks start from; default the classifier's own predictions, with which no cost is 0.
      target: class that targeted attacks try to reach, see `a2d_jax.costs.targets`; `labels` takes `label`.
      seed: seed of the random attacks.
      lanes: number of images that each device works on at the same time; no cost depends on it.
      devices: default all local devices.

    Raises:
      BadInput: no images, or some of another shape or type, outside [0, 1] or NaN; logits or gradients that are not finite; labels that
        the classifier does not have; a targeted attack without a target.

    Warns:
      InputWarning: outputs that are probabilities, labels that seem shifted, or an attack that could not move some images.
    """
    x = inputs.images(x)
    if label is not None:
        label = inputs.labels(label, len(x), inputs.class_count(classifier, x.shape[1:], "the images", x.dtype))
    images = Arrays(x, label)
    how: dict[str, Any] = {"seed": seed, "lanes": lanes, "devices": devices, "target": target}
    how["labels"] = "prediction" if label is None else "set"
    measured = whole(measure(classifier, images, attacks, keep_x_adv=True, **how))
    warn(measured.told.notes, 2)
    return np.stack([np.asarray(result.cost) for result in measured.results.values()], axis=1), measured.results


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

    def spans(self, spans: Sequence[tuple[int, int]]) -> Iterator[Piece]:
        for begin, end in spans:
            index = np.arange(begin, end)
            label = None if self.label is None else self.label[begin:end]
            yield Piece(index, list(map(str, index)), self.x[begin:end], label, [None] * len(index))


def whole(measured: Measured) -> Measured:
    """Refuse a result in which an image has an error.

    Raises:
      BadInput: an image has an error; the message names the first such image and its error.
    """
    for row in np.flatnonzero(~measured.good):
        raise not_finite(int(row)) if measured.label[row] == -1 else BadInput(f"{measured.error[row]} (image {row})")
    return measured


@dataclass(frozen=True)
class Defense:
    """A classifier guarded by attacks and a detector.

    Attributes:
      classifier: one image to logits.
      attacks: the attacks by name.
      detector: the detector that judges their costs, see `a2d_jax.detectors`.
      columns: the numbers that the detector reads, such as `fmn.distance`; default the cost of each attack, in their order.
      target: class that targeted attacks try to reach.

    Example:
      ```python
      defense = Defense(classifier, {"bim": bim()}, ZScore()).fit(benign)
      defense.predict(x)  # True where adversarial
      defense.save("guard")
      defense = Defense.load("guard")
      ```
    """

    classifier: Classifier
    attacks: Mapping[str, Attack]
    detector: Detector
    columns: Sequence[str] | None = None
    target: Target | None = None

    def fit(self, benign: Float[Any, "n h w c"], adversarial: Float[Any, "m h w c"] | None = None, *, seed: int = 0) -> "FittedDefense":
        """Measure the full costs of these images and fit the detector to them.

        Raises:
          BadInput: as `costs`, or what the detector refuses.

        Warns:
          InputWarning: as `costs`.
        """
        columns = Column.all_named(list(self.attacks) if self.columns is None else self.columns, self.attacks)

        def read(x: Float[np.ndarray, "n h w c"]) -> tuple[np.ndarray, np.ndarray]:
            images = Arrays(x)
            measured = whole(measure(self.classifier, images, self.attacks, seed=seed, target=self.target))
            warn(measured.told.notes, 3)
            return read_columns(measured, self.attacks, columns, images.shape), measured.label

        x = inputs.images(benign)
        x_adv = None if adversarial is None else inputs.images(adversarial, x.shape[1:])
        negative, labels = read(x)
        positive = None if x_adv is None else read(x_adv)[0]
        fitted = self.detector.fit(negative, positive, labels=labels)
        return FittedDefense(self.classifier, self.attacks, fitted, columns, self.target, Arrays(x).shape)

    @staticmethod
    def load(folder: str | Path, *, plugins: Sequence[str] = ()) -> "FittedDefense":
        """Read a folder of `FittedDefense.save`. The verdicts are the same in every bit.

        Args:
          folder: folder that `save` wrote. It contains no code and imports none: the program must import the module of the classifier's
            factory, or name it as a plugin.
          plugins: modules that may be imported if the folder names them, for the factory or for the user's own attacks and detector.

        Raises:
          BadInput: no such folder, a damaged or foreign folder, or a folder that needs a module that is neither imported nor named.
        """
        return FittedDefense(**read_folder(folder, plugins)._asdict())


class Verdicts(NamedTuple):
    """The verdicts of a defense with their scores and costs; NumPy arrays with one entry for each image."""

    adversarial: Bool[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]  # higher is more adversarial
    costs: Float[np.ndarray, "n columns"]  # the numbers that the detector read, in the order of `columns`
    label: Int[np.ndarray, " n"]  # class that the classifier predicts


@dataclass(frozen=True)
class FittedDefense:
    """A classifier guarded by attacks and a fitted detector; see `Defense`.

    A verdict depends on the image alone, not on its batch: the random numbers of attacks and the jitter of a conformal p-value derive from
    the pixels. Threads may share a defense.

    Attributes:
      classifier: one image to logits.
      attacks: the attacks by name.
      detector: the fitted detector.
      columns: the numbers that it reads.
      target: class that targeted attacks try to reach.
      shape: height, width, channels of the images it was fitted to; other images are refused. None takes all images that the classifier
        takes.
    """

    classifier: Classifier
    attacks: Mapping[str, Attack]
    detector: FittedDetector
    columns: tuple[Column, ...]
    target: Target | None = None
    shape: Shape | None = None

    def score(self, x: Float[Any, "n h w c"], *, seed: int = 0) -> Float[np.ndarray, " n"]:
        """Scores from full costs, because a bound would cut off the ranking of benign images. Higher is more adversarial."""
        return self._judge(x, bound=False, seed=seed).score

    def predict(self, x: Float[Any, "n h w c"], *, seed: int = 0, bound: bool = True) -> Bool[np.ndarray, " n"]:
        """True where the image is judged adversarial.

        Args:
          x: images in [0, 1].
          seed: seed of the random attacks.
          bound: stop each attack as soon as the verdict must be benign; the verdicts are the same.

        Raises:
          BadInput: no images, or some of another shape or type, outside [0, 1] or NaN; logits or gradients that are not finite.

        Warns:
          InputWarning: as `costs`.
        """
        return self._judge(x, bound=bound, seed=seed).adversarial

    def judge(self, x: Float[Any, "n h w c"], *, seed: int = 0, bound: bool = False) -> Verdicts:
        """Verdicts with their scores and costs.

        Args:
          x: images in [0, 1].
          seed: seed of the random attacks.
          bound: as for `predict`. It saves time, but cuts off scores and costs of benign images where their attacks stopped.

        Raises:
          BadInput: as `predict`.
        """
        judged = self._judge(x, bound=bound, seed=seed)
        return Verdicts(judged.adversarial, judged.score, judged.table, judged.measured.label)

    def warmup(self, shape: Shape | None = None) -> None:
        """Compile all programs for images of one shape, so that no later call compiles, whatever its number of images.

        Args:
          shape: height, width, channels; default the shape of the images that the defense was fitted to.

        Raises:
          BadInput: no shape is known, or the defense takes images of another shape.
        """
        shape = shape or self.shape
        if shape is None:
            raise BadInput("expected the shape of the images, got none, and the defense knows none; pass shape=(height, width, channels)")
        h, w, c = shape
        if self.shape is not None and (h, w, c) != self.shape:
            raise BadInput(f"expected images of the shape {self.shape}, to which the defense was fitted, got {(h, w, c)}; leave shape out")
        inputs.class_count(self.classifier, (h, w, c), "warmup")
        zeros = np.zeros((1, h, w, c), np.float32)
        logits_of(self.classifier, zeros)
        key_data(0, np.zeros(1, np.int64))
        for bound in (True, False):
            for attack in self._stopped((h, w, c), bound).values():
                drivers.warm(attack, self.classifier, (h, w, c), keep_x_adv=False)
        self.detector.score(np.zeros((1, len(self.columns))), labels=np.zeros(1, int), index=np.zeros(1, int))

    def save(self, folder: str | Path, *, factory: str | None = None, force: bool = False) -> None:
        """Write a folder from which `Defense.load` makes the same defense, on other machines too. It appears complete or not at all.

        Args:
          folder: new folder; its parent must exist.
          factory: import string `module:factory` of a function without arguments that makes the classifier or its module, as for
            `a2d cost --classifier`; default the factory that the classifier was loaded with.
          force: replace a folder that `save` wrote.

        Raises:
          BadInput: the folder cannot or must not be written, or the factory of the classifier is not known.
        """
        if self.shape is None:
            raise BadInput("expected a defense that knows the shape of its images, got one without; make it with Defense.fit")
        parts = Parts(self.classifier, self.attacks, self.detector, self.columns, self.target, self.shape)
        write_folder(parts, folder, factory, force)

    def _judge(self, x: Float[Any, "n h w c"], *, bound: bool, seed: int) -> Judged:
        images = Arrays(inputs.images(x, self.shape))
        how: dict[str, Any] = {"bound": bound, "stops": self._stops(images.shape), "seed": seed, "target": self.target}
        judged = judge_images(self.classifier, images, self.attacks, self.columns, self.detector, **how)
        whole(judged.measured)
        warn(judged.measured.told.notes, 3)
        return judged

    def _stopped(self, shape: Shape, bound: bool) -> Mapping[str, Attack]:
        """The attacks as they run."""
        read = {column.measurement: stop for column, stop in zip(self.columns, self._stops(shape), strict=True)}
        attacks = {name: self.attacks[name] for name in read}
        return bounded(attacks, read.values()) if bound else attacks

    def _stops(self, shape: Shape) -> tuple[float | None, ...]:
        return self._known_stops if shape == self.shape else stops_of(self.attacks, self.columns, self.detector, shape)

    @functools.cached_property
    def _known_stops(self) -> tuple[float | None, ...]:
        """Asked of the detector once: it may judge thousands of costs for it."""
        return stops_of(self.attacks, self.columns, self.detector, self.shape or ())
