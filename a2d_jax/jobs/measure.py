"""Run a classifier and attacks over a set of images that may be larger than memory."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from a2d_jax import drivers
from a2d_jax.costs import examples, predictions
from a2d_jax.drivers.loops import MIN_WIDTH
from a2d_jax.errors import BadInput
from a2d_jax.io.images import ImageSource
from a2d_jax.io.source import Shape, text
from a2d_jax.jobs.common import Report
from a2d_jax.jobs.lanes import Lanes, fastest_lanes
from a2d_jax.types import Attack, AttackResult, Classifier, Example


@dataclass(frozen=True)
class Predicted:
    """Some consecutive images and their predicted classes."""

    index: NDArray[np.int64]
    id: list[str]
    truth: NDArray[np.int64] | None  # label of the set
    label: NDArray[np.int64]
    probability: NDArray[np.float32]
    error: list[str | None]


def predicted(classifier: Classifier, source: ImageSource, report: Report) -> Iterator[Predicted]:
    """The predicted class of every image, piece by piece.

    Raises:
      BadInput: at the end, if no image could be used.
    """
    failed, first = 0, None
    for piece in source.pieces():
        error = list(piece.error)
        good = np.asarray([one is None for one in error])
        label, probability = np.full(len(error), -1, np.int64), np.zeros(len(error), np.float32)
        if good.any():
            label[good], probability[good] = predictions(classifier, piece.x[good])
        for row in np.flatnonzero(good & (label < 0)):
            error[row] = "expected finite logits, got NaN or infinity from the classifier; check its weights"
        yield Predicted(piece.index, piece.id, piece.label, label, probability, error)
        failed += sum(one is not None for one in error)
        first = first or next((f"{name}: {one}" for name, one in zip(piece.id, error, strict=True) if one), None)
        report("predict", int(piece.index[-1]) + 1, len(source))
    if failed == len(source):
        raise BadInput(f"expected at least one image that can be used in {source.path}, got errors in all {failed}; the first is {first}")


@dataclass(frozen=True)
class Measured:
    """What attacks did to every image of a set; rows with an error hold no result.

    Attributes:
      index: place in the set.
      id: name of each image.
      label: class that was attacked.
      error: why an image has no result.
      good: images with a result.
      results: by attack; every field has the leading axis `n`, `x_adv` is None.
      stats: by attack, what the lanes did.
    """

    index: NDArray[np.int64]
    id: list[str]
    label: NDArray[np.int64]
    error: list[str | None]
    good: NDArray[np.bool_]
    results: dict[str, AttackResult]
    stats: dict[str, drivers.Stats]

    @property
    def failed(self) -> int:
        """Number of images without a result."""
        return int((~self.good).sum())


def measure(
    classifier: Classifier,
    source: ImageSource,
    attacks: Mapping[str, Attack],
    seed: int,
    lanes: Lanes,
    report: Report,
    *,
    own_label: bool = False,
    keep_x_adv: Callable[[NDArray[np.int64], NDArray[np.float32]], None] | None = None,
) -> Measured:
    """Run every attack on every image.

    The set is read once for the predicted classes and once for each attack, so that what is held in memory does not grow
    with the images but only with the numbers that come out.

    Args:
      classifier: one image to logits.
      source: the images.
      attacks: by name.
      seed: each image's key is that of its place in the set under this seed.
      lanes: images in work at a time on each device; `auto` tries some numbers first.
      report: told of progress.
      own_label: attack the label of the set rather than the predicted class.
      keep_x_adv: takes the places in the set of some images and their attacked versions, as they finish.
    """
    if isinstance(lanes, int) and lanes < MIN_WIDTH:
        raise BadInput(f"expected at least {MIN_WIDTH} lanes, got {lanes}; leave it out to take the default")
    parts = list(predicted(classifier, source, report))
    index = np.concatenate([part.index for part in parts])
    label = np.concatenate([part.label if not own_label or part.truth is None else part.truth for part in parts])
    error = [one for part in parts for one in part.error]
    classes = class_count(classifier, source.shape, source.path)
    for row in np.flatnonzero((label < 0) | (label >= classes)):
        error[row] = error[row] or f"expected a label from 0 to {classes - 1}, got {label[row]}; correct it"
    good = np.asarray([one is None for one in error])
    if not good.any():
        raise BadInput(f"expected at least one image that can be attacked in {source.path}, got errors in all; the first is {error[0]}")
    probability = np.concatenate([part.probability for part in parts])
    places = np.zeros(int(good.sum()), np.int64)  # in the set, of the examples in the order in which they are fed

    def feed() -> Iterator[Example]:
        """The surest images of each piece first: they resist longest, and would keep lanes waiting at the end (docs/performance.md)."""
        begin = 0
        for piece in source.pieces():
            rows = np.flatnonzero(good[piece.index])
            rows = rows[np.argsort(-probability[piece.index[rows]], kind="stable")]
            if len(rows):
                numbers = piece.index[rows]
                places[begin : begin + len(rows)] = numbers
                begin += len(rows)
                yield examples(classifier, piece.x[rows], label[numbers], index=numbers, seed=seed)

    results: dict[str, AttackResult] = {}
    stats: dict[str, drivers.Stats] = {}
    for name, attack in attacks.items():
        columns = {
            field: np.zeros(len(source), np.float32 if field == "distance" else np.int64)
            for field in AttackResult._fields
            if field != "x_adv"
        }
        keep, width = keep_x_adv is not None, lanes
        if width == "auto":
            report(f"{name}, trying lanes", 0, 1)
            width = fastest_lanes(attack, classifier, next(feed()), keep)
            report(f"{name}, trying lanes", 1, 1)
        stream = drivers.stream(attack, classifier, feed(), lanes=width, keep_x_adv=keep)
        for finished in stream:
            rows = places[finished.index]
            for field, column in columns.items():
                column[rows] = getattr(finished.result, field)
            if keep_x_adv:
                keep_x_adv(rows, np.asarray(finished.result.x_adv))
            report(name, stream.stats.finished, len(places))
        stats[name] = stream.stats
        flags = {field: columns.pop(field).astype(bool) for field in ("success", "censored")}
        results[name] = AttackResult(x_adv=None, **columns, **flags)  # pyright: ignore[reportArgumentType] (NumPy here; the images lie elsewhere)
    return Measured(index, [name for part in parts for name in part.id], label, error, good, results, stats)


def class_count(classifier: Classifier, shape: Shape, origin: object) -> int:
    """Number of classes, found without computing anything.

    Args:
      classifier: one image to logits.
      shape: height, width, channels of an image.
      origin: who has images of this shape.

    Raises:
      BadInput: the classifier does not take images of this shape, or does not give one logit per class.
    """
    try:
        logits = jax.eval_shape(classifier, jax.ShapeDtypeStruct(shape, jnp.float32))
    except Exception as error:  # a foreign module says in its own way that it does not fit
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(
            f"expected images of a shape that the classifier takes, got {text(shape)} (h x w x c) in {origin}; it says: {why}"
        ) from error
    if getattr(logits, "ndim", 0) != 1 or logits.shape[0] < 2:
        raise BadInput(
            f"expected one logit for each of at least 2 classes, got an output of shape {getattr(logits, 'shape', '?')}; check it"
        )
    return int(logits.shape[0])
