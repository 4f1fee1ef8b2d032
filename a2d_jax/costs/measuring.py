"""From images to costs, for a set that may be larger than memory: predict, then run one attack after the other."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from a2d_jax import drivers
from a2d_jax.console import Report, silent
from a2d_jax.costs.inputs import decided, fingerprints, keyed, logits_of
from a2d_jax.costs.lanes import Lanes, fastest_lanes
from a2d_jax.costs.notes import Seen, unmoved
from a2d_jax.costs.targets import Target, read_target, targets
from a2d_jax.drivers.loops import MIN_WIDTH
from a2d_jax.errors import BadInput
from a2d_jax.inputs import class_count
from a2d_jax.io.source import Piece, Shape
from a2d_jax.specs import whole_attack
from a2d_jax.types import Attack, AttackResult, Classifier, Example

Keep = Callable[[str, NDArray[np.int64], NDArray[np.float32]], None]
"""Takes the name of an attack, the places in the set of some images, and their attacked versions, as they finish."""

NOT_FINITE = "expected finite gradients and logits, got NaN or infinity during {}; check what the network computes for this image"
"""The error of an image on which an attack met numbers that are none."""


class ImageSet(Protocol):
    """A set of images to measure: `a2d_jax.io.source.ImageSource`, or arrays in memory."""

    @property
    def path(self) -> Path: ...
    @property
    def shape(self) -> Shape: ...
    @property
    def labels(self) -> bool: ...
    def __len__(self) -> int: ...
    def pieces(self) -> Iterator[Piece]:
        """The set in order, as often as it is asked for."""
        ...


@dataclass(frozen=True)
class Predicted:
    """A piece of a set with its predictions."""

    index: NDArray[np.int64]
    id: list[str]
    truth: NDArray[np.int64] | None  # label of the set
    label: NDArray[np.int64]  # class that is predicted
    probability: NDArray[np.float32]
    fingerprint: NDArray[np.int64]
    target: NDArray[np.int64] | None  # class to reach, if one was asked for
    error: list[str | None]


@dataclass(frozen=True)
class Measured:
    """The results of attacks on every image of a set; rows with an error have no result.

    Attributes:
      index: position in the set.
      id: name of each image.
      fingerprint: fingerprint of its pixels.
      label: class that untargeted attacks started from.
      target: class that targeted attacks tried to reach; None without targets.
      error: why an image has no result.
      good: images with a result.
      results: results by attack; every field has the leading axis `n`, `x_adv` is None.
      stats: statistics of the lanes by attack.
      labels: source of `label`, `prediction` or `set`.
      wrong: number of images that the classifier gets wrong, by the labels of the set; None for a set without labels.
      notes: notes for the caller on the network, the labels and the attacks.
    """

    index: NDArray[np.int64]
    id: list[str]
    fingerprint: NDArray[np.int64]
    label: NDArray[np.int64]
    target: NDArray[np.int64] | None
    error: list[str | None]
    good: NDArray[np.bool_]
    results: dict[str, AttackResult]
    stats: dict[str, drivers.Stats]
    labels: str
    wrong: int | None
    notes: list[str]

    @property
    def failed(self) -> int:
        """Number of images without a result."""
        return int((~self.good).sum())


def predicted(
    classifier: Classifier,
    source: ImageSet,
    report: Report = silent,
    *,
    target: Target | None = None,
    seed: int = 0,
    seen: Seen | None = None,
) -> Iterator[Predicted]:
    """The predicted class of every image, piece by piece.

    Args:
      classifier: one image to logits.
      source: the images.
      report: is told the progress.
      target: class that targeted attacks try to reach.
      seed: seed of random targets.
      seen: collects facts about outputs and labels.

    Raises:
      BadInput: at the end, if no image could be used.
    """
    failed, first = 0, None
    for piece in source.pieces():
        n, error = len(piece.error), list(piece.error)
        good = np.asarray([one is None for one in error])
        label, probability, fingerprint = np.full(n, -1, np.int64), np.zeros(n, np.float32), fingerprints(piece.x)
        aim = None if target is None else np.full(n, -1, np.int64)
        if good.any():
            logits = logits_of(classifier, piece.x[good])
            label[good], probability[good] = decided(logits)
            if seen is not None:
                seen.add(logits, label[good], None if piece.label is None else piece.label[good], fingerprint[good])
            if aim is not None and target is not None:
                truth = None if piece.label is None else piece.label[good]
                aim[good] = targets(target, logits, label[good], truth, fingerprint[good], seed)
        for row in np.flatnonzero(good & (label < 0)):
            error[row] = "expected finite logits, got NaN or infinity from the classifier; check its weights"
        yield Predicted(piece.index, piece.id, piece.label, label, probability, fingerprint, aim, error)
        failed += sum(one is not None for one in error)
        first = first or next((f"{name}: {one}" for name, one in zip(piece.id, error, strict=True) if one), None)
        report("predict", int(piece.index[-1]) + 1, len(source))
    if failed == len(source):
        raise BadInput(f"expected at least one image that can be used in {source.path}, got errors in all {failed}; the first is {first}")


def measure(
    classifier: Classifier,
    source: ImageSet,
    attacks: Mapping[str, Attack],
    *,
    seed: int = 0,
    lanes: Lanes = None,
    devices: Sequence[Any] | None = None,
    report: Report = silent,
    labels: str = "prediction",
    target: Target | str | None = None,
    keep_x_adv: Keep | None = None,
) -> Measured:
    """Run every attack on every image.

    The set is read once for the predicted classes and once for each attack. The images are never all in memory; only the resulting numbers
    are.

    Args:
      classifier: one image to logits.
      source: the images.
      attacks: the attacks by name.
      seed: seed of random attacks. Each image's key derives from this seed and its pixels, not from its position in the set.
      lanes: number of images that each device works on at the same time; `auto` tries some numbers first.
      devices: default all local devices.
      report: is told the progress.
      labels: class that untargeted attacks start from: the `prediction`, or the label of the `set`. If it is the predicted class, no attack
        succeeds before its first update.
      target: class that targeted attacks try to reach.
      keep_x_adv: receives the attacked images.

    Raises:
      BadInput: no image that can be attacked, a targeted attack without a target, or too few lanes.
    """
    if not (lanes in (None, "auto") or (type(lanes) is int and lanes >= MIN_WIDTH)):
        raise BadInput(f"expected at least {MIN_WIDTH} lanes, got {lanes}; leave it out to take the default")
    if not attacks or not len(source):
        raise BadInput(f"expected at least one attack and one image, got {len(attacks)} attack(s) and {len(source)} image(s); give both")
    for name, attack in attacks.items():
        whole_attack(attack, f"{name} to be an attack")
    if not -(2**31) <= seed < 2**31:
        raise BadInput(f"expected a seed of at most 31 bits, got {seed}; choose a smaller one")
    target = None if target is None else read_target(target)
    classes = class_count(classifier, source.shape, source.path)
    _target_where_needed(attacks, target)
    seen = Seen()
    known = _known(list(predicted(classifier, source, report, target=target, seed=seed, seen=seen)), labels, target is not None)
    for column in (known.label, *([] if known.target is None else [known.target])):
        for row in np.flatnonzero((column < 0) | (column >= classes)):
            known.error[row] = known.error[row] or f"expected a label from 0 to {classes - 1}, got {column[row]}; correct it"
    good = _some_good(known, source)
    places = np.zeros(int(good.sum()), np.int64)  # in the set, of the examples in the order in which they are fed

    def feed(goal: NDArray[np.int64], own: NDArray[np.bool_]) -> Iterator[Example]:
        """The surest images of each piece first: they resist longest, and would keep lanes waiting at the end (docs/performance.md)."""
        begin = 0
        for piece in source.pieces():
            rows = np.flatnonzero(good[piece.index])
            rows = rows[np.argsort(-known.probability[piece.index[rows]], kind="stable")]
            if len(rows):
                numbers = piece.index[rows]
                places[begin : begin + len(rows)] = numbers
                begin += len(rows)
                who = known.fingerprint[numbers]
                yield keyed(piece.x[rows], goal[numbers], own[numbers], who, seed)

    results: dict[str, AttackResult] = {}
    stats: dict[str, drivers.Stats] = {}
    for name, attack in attacks.items():
        columns = _columns(len(source))
        goal = known.target if known.target is not None and _targeted(attack) else known.label
        own = (goal == known.predicted) & (goal is known.label)
        width, keep = lanes, keep_x_adv is not None
        if width == "auto":
            report(f"{name}, trying lanes", 0, 1)
            width = fastest_lanes(attack, classifier, next(feed(goal, own)), keep)
            report(f"{name}, trying lanes", 1, 1)
        stream = drivers.stream(attack, classifier, feed(goal, own), lanes=width, devices=devices, keep_x_adv=keep)
        for finished in stream:
            rows = places[finished.index]
            for field, column in columns.items():
                column[rows] = getattr(finished.result, field)
            if keep_x_adv:
                keep_x_adv(name, rows, np.asarray(finished.result.x_adv))
            report(name, stream.stats.finished, len(places))
        stats[name] = stream.stats
        results[name] = AttackResult(x_adv=None, **columns)  # pyright: ignore[reportArgumentType] (NumPy here; the images lie elsewhere)
    for row in np.flatnonzero(good & np.any([result.broken for result in results.values()], axis=0)):
        known.error[row] = NOT_FINITE.format(" and ".join(name for name, result in results.items() if result.broken[row]))
    good = _some_good(known, source)
    return Measured(
        known.index,
        known.id,
        known.fingerprint,
        known.label,
        known.target,
        known.error,
        good,
        results,
        stats,
        labels,
        None if known.truth is None else int((known.predicted != known.truth)[good].sum()),
        seen.notes() + [note for name, result in results.items() for note in unmoved(name, result, good)],
    )


def _some_good(known: "_Known", source: ImageSet) -> NDArray[np.bool_]:
    """Which images have no error.

    Raises:
      BadInput: all have one.
    """
    good = np.asarray([one is None for one in known.error])
    if not good.any():
        raise BadInput(
            f"expected at least one image that can be attacked in {source.path}, got errors in all; the first is {known.error[0]}"
        )
    return good


@dataclass(frozen=True)
class _Known:
    """All pieces of `Predicted` as one, with the label that attacks leave."""

    index: NDArray[np.int64]
    id: list[str]
    fingerprint: NDArray[np.int64]
    predicted: NDArray[np.int64]
    label: NDArray[np.int64]
    target: NDArray[np.int64] | None
    truth: NDArray[np.int64] | None
    probability: NDArray[np.float32]
    error: list[str | None]


def _known(pieces: Sequence[Predicted], labels: str, aimed: bool) -> _Known:
    if labels not in ("prediction", "set"):
        raise BadInput(f"expected labels among prediction, set, got {labels!r}; pass one of them")

    def label(piece: Predicted) -> NDArray[np.int64]:
        return piece.truth if labels == "set" and piece.truth is not None else piece.label

    return _Known(
        index=np.concatenate([piece.index for piece in pieces]),
        id=[name for piece in pieces for name in piece.id],
        fingerprint=np.concatenate([piece.fingerprint for piece in pieces]),
        predicted=np.concatenate([piece.label for piece in pieces]),
        label=np.concatenate([label(piece) for piece in pieces]),
        target=np.concatenate([piece.target for piece in pieces if piece.target is not None]) if aimed else None,
        truth=np.concatenate([piece.truth for piece in pieces if piece.truth is not None]) if pieces[0].truth is not None else None,
        probability=np.concatenate([piece.probability for piece in pieces]),
        error=[one for piece in pieces for one in piece.error],
    )


def _columns(count: int) -> dict[str, NDArray[Any]]:
    """Empty columns for the numbers of a result."""
    types = {"distance": np.float32, "crossing": np.float32} | dict.fromkeys(("success", "censored", "broken", "flat"), np.bool_)
    return {field: np.zeros(count, types.get(field, np.int64)) for field in AttackResult._fields if field != "x_adv"}


def _targeted(attack: Attack) -> bool:
    return bool(getattr(attack, "targeted", False))


def _target_where_needed(attacks: Mapping[str, Attack], target: Target | None) -> None:
    aiming = [name for name, attack in attacks.items() if _targeted(attack)]
    if aiming and target is None:
        raise BadInput(
            f"expected a target for {', '.join(aiming)}, which must reach a given class, got none; "
            "give a class number, second, least-likely, random or labels as the target"
        )
    if target is not None and not aiming:
        raise BadInput(f"expected a targeted attack for the target {target}, got {', '.join(attacks)}; set targeted=true or give no target")
