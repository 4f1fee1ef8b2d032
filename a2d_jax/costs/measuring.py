"""From images to costs: what the classifier predicts, then one attack after the other, unit by unit.

A `Plan` says what is measured. `work` does what a ledger is missing: it feeds all missing images of a measurement to one stream, so that
lanes never wait at the border of a part, and commits each part when its last image is done. A set that is larger than memory needs the
images in flight and nothing else. Of a set in a store all measurements of some parts are done before those of others.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from numpy.typing import NDArray

from a2d_jax import drivers
from a2d_jax.console import Report, silent
from a2d_jax.costs.groups import in_groups
from a2d_jax.costs.inputs import decided, fingerprints, keyed, logits_of
from a2d_jax.costs.lanes import Lanes, fastest_lanes
from a2d_jax.costs.notes import Seen, still
from a2d_jax.costs.targets import Target, read_target, targets
from a2d_jax.costs.units import PREDICT, Filling, Ledger, Unit, joined
from a2d_jax.drivers.loops import MIN_WIDTH
from a2d_jax.drivers.refill import QUEUE_PER_LANE, default_lanes
from a2d_jax.errors import BadInput
from a2d_jax.inputs import class_count
from a2d_jax.io.source import Piece, Shape
from a2d_jax.specs import whole_attack
from a2d_jax.types import Attack, AttackResult, Classifier, Example

NOT_FINITE = "expected finite gradients and logits, got NaN or infinity during {}; check what the network computes for this image"
"""The error of an image on which an attack met numbers that are none."""
ALL, ERRORS = "all together", "images with an error"
"""Stages of the progress, beside the measurements."""
CHANGED = "expected the same image at every reading, got another one; do not change the set while it is measured"
"""The error of an image that changed between two readings."""


class NothingUsable(BadInput):
    """No image of a set can be used: nothing that was done for it is worth keeping."""


class ImageSet(Protocol):
    """A set of images to measure: `a2d_jax.io.source.ImageSource`, or arrays in memory."""

    @property
    def path(self) -> Path: ...
    @property
    def shape(self) -> Shape: ...
    @property
    def labels(self) -> bool: ...
    def __len__(self) -> int: ...
    def spans(self, spans: Sequence[tuple[int, int]]) -> Iterator[Piece]:
        """The images of some ranges, in order, in pieces that lie within one range; as often as they are asked for."""
        ...


@dataclass(frozen=True)
class Plan:
    """What is measured on which images; `planned` makes it.

    Attributes:
      classifier: one image to logits.
      source: the images.
      attacks: the attacks by name.
      seed: seed of random attacks and random targets. Each image's key derives from this seed and its pixels, not from its position in the
        set.
      lanes: number of images that each device works on at the same time; `auto` tries some numbers first.
      devices: default all local devices.
      report: is told the progress.
      labels: class that untargeted attacks start from: the `prediction`, or the label of the `set`. If it is the predicted class, no attack
        succeeds before its first update.
      target: class that targeted attacks try to reach.
      keep_x_adv: keep the attacked images, in a column `x_adv` of the units.
      classes: number of classes of the classifier.
    """

    classifier: Classifier
    source: ImageSet
    attacks: Mapping[str, Attack]
    seed: int
    lanes: Lanes
    devices: Sequence[Any] | None
    report: Report
    labels: str
    target: Target | None
    keep_x_adv: bool
    classes: int

    @property
    def measurements(self) -> list[str]:
        """All measurements, in the order in which they are done."""
        return [PREDICT, *self.attacks]

    def start(self, known: Mapping[str, Any]) -> NDArray[np.int64]:
        """The class that untargeted attacks leave, from the columns of a unit of predictions."""
        return known["truth"] if self.labels == "set" and self.source.labels else known["label"]

    def aims(self, name: str) -> bool:
        """Whether the attack must reach a class."""
        return self.target is not None and _targeted(self.attacks[name])


def planned(
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
    keep_x_adv: bool = False,
) -> Plan:
    """Check what shall be measured. See `Plan` for the arguments.

    Raises:
      BadInput: no image, a targeted attack without a target, too few lanes, a seed that is too large, or images that the classifier does
        not take.
    """
    if not (lanes in (None, "auto") or (type(lanes) is int and lanes >= MIN_WIDTH)):
        raise BadInput(f"expected at least {MIN_WIDTH} lanes, got {lanes}; leave it out to take the default")
    if not len(source):
        raise BadInput(f"expected at least one image, got none in {source.path}; give some")
    if PREDICT in attacks:
        raise BadInput(f"expected another name for an attack than {PREDICT}, under which predictions are kept; choose one")
    for name, attack in attacks.items():
        whole_attack(attack, f"{name} to be an attack")
    if not -(2**31) <= seed < 2**31:
        raise BadInput(f"expected a seed of at most 31 bits, got {seed}; choose a smaller one")
    if labels not in ("prediction", "set"):
        raise BadInput(f"expected labels among prediction, set, got {labels!r}; pass one of them")
    target = None if target is None else read_target(target)
    classes = class_count(classifier, source.shape, source.path)
    if attacks:
        _target_where_needed(attacks, target)
    return Plan(classifier, source, attacks, seed, lanes, devices, report, labels, target, keep_x_adv, classes)


def work(plan: Plan, ledger: Ledger) -> None:
    """Do all that the ledger is missing, one group of parts after the other (`a2d_jax.costs.groups`).

    Raises:
      NothingUsable: no image of the set can be used.
    """
    plan = replace(plan, report=_Overall(plan, ledger))
    for some, group in in_groups(plan, ledger, plan.measurements):
        predict(some, group)
        for name in some.attacks:
            attack(some, name, group)


class _Overall:
    """Reports the progress of each measurement, and of all together."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self._report = plan.report
        self._done = dict.fromkeys(plan.measurements, 0)
        self._total = sum(ledger.cut.length(ledger.missing(name)) for name in plan.measurements)

    def __call__(self, what: str, done: int, total: int) -> None:
        self._report(what, done, total)
        if what in self._done and len(self._done) > 1:
            self._done[what] = done
            self._report(ALL, sum(self._done.values()), self._total)


def predict(plan: Plan, ledger: Ledger) -> None:
    """Do the missing units of predictions.

    Their columns: index, id, label (the class that is predicted), probability, fingerprint, truth (the label of the set), target (the class
    to reach; both only where there is one) and error.

    Raises:
      NothingUsable: no image of the set can be used.
    """
    left = ledger.missing(PREDICT)
    total = ledger.cut.length(left)
    waiting: list[Unit] = []
    seen, begin, done, failed = Seen(), time.perf_counter(), 0, 0
    for piece in plan.source.spans([ledger.cut.span(part) for part in left]):
        waiting.append(Unit(_predicted(plan, piece, seen)))
        done += len(piece.error)
        part = int(piece.index[0]) // ledger.cut.size
        plan.report(PREDICT, done, total)
        failed += sum(error is not None for error in waiting[-1].columns["error"])
        if failed:
            plan.report(ERRORS, failed, total)
        if int(piece.index[-1]) + 1 == ledger.cut.span(part)[1]:
            now = time.perf_counter()
            columns = joined(waiting)
            good = np.asarray([error is None for error in columns["error"]])
            wrong = int((columns["label"] != columns["truth"])[good].sum()) if "truth" in columns else None
            facts: dict[str, Any] = {"seconds": now - begin, "good": int(good.sum()), "wrong": wrong, "seen": seen.as_json()}
            if (read := getattr(plan.source, "seen", None)) is not None:  # of a reader of files
                facts["pixels"] = read.facts(*ledger.cut.span(part))
            ledger.commit(PREDICT, part, Unit(columns, facts))
            waiting, seen, begin = [], Seen(), now
    if len(left) == len(ledger.cut.parts):
        _some_good(plan, ledger)


def _predicted(plan: Plan, piece: Piece, seen: Seen) -> dict[str, Any]:
    """What the classifier predicts of a piece."""
    n, error = len(piece.error), list(piece.error)
    good = np.asarray([one is None for one in error])
    label, probability, fingerprint = np.full(n, -1, np.int64), np.zeros(n, np.float32), fingerprints(piece.x)
    aim = None if plan.target is None else np.full(n, -1, np.int64)
    if good.any():
        logits = logits_of(plan.classifier, piece.x[good])
        label[good], probability[good] = decided(logits)
        seen.add(logits, label[good], None if piece.label is None else piece.label[good], fingerprint[good])
        if aim is not None and plan.target is not None:
            truth = None if piece.label is None else piece.label[good]
            aim[good] = targets(plan.target, logits, label[good], truth, fingerprint[good], plan.seed)
    for row in np.flatnonzero(good & (label < 0)):
        error[row] = "expected finite logits, got NaN or infinity from the classifier; check its weights"
    columns = {"index": piece.index, "id": piece.id, "label": label, "probability": probability, "fingerprint": fingerprint}
    columns |= ({} if piece.label is None else {"truth": piece.label}) | ({} if aim is None else {"target": aim})
    for classes in (plan.start(columns), *([] if aim is None else [aim])):
        for row in np.flatnonzero((classes < 0) | (classes >= plan.classes)):
            error[row] = error[row] or f"expected a label from 0 to {plan.classes - 1}, got {classes[row]}; correct it"
    return columns | {"error": error}


def _some_good(plan: Plan, ledger: Ledger) -> None:
    units = (ledger.read(PREDICT, part).columns for part in ledger.cut.parts)
    first = None
    for unit in units:
        if None in unit["error"]:
            return
        first = first or f"{unit['id'][0]}: {unit['error'][0]}"
    raise NothingUsable(
        f"expected at least one image that can be used in {plan.source.path}, got errors in all {len(plan.source)}; the first is {first}"
    )


def attack(plan: Plan, name: str, ledger: Ledger) -> None:
    """Do the missing units of an attack.

    Their columns: index, id, fingerprint, label (the class to leave), target (only of a targeted attack), the numbers of an `AttackResult`,
    `x_adv` if it is kept, and error. Rows with an error have no meaning but for what identifies the image.
    """
    left = ledger.missing(name)
    if not left:
        return
    one, lanes = plan.attacks[name], plan.lanes
    if lanes == "auto":
        plan.report(f"{name}, trying lanes", 0, 1)
        first = next(iter(_Feed(plan, name, ledger, left)), None)
        lanes = None if first is None else fastest_lanes(one, plan.classifier, first, plan.keep_x_adv)
        plan.report(f"{name}, trying lanes", 1, 1)
    feed = _Feed(plan, name, ledger, left)
    stream = drivers.stream(one, plan.classifier, feed, lanes=lanes, devices=plan.devices, keep_x_adv=plan.keep_x_adv)
    told, total = _Told(name, stream.stats), ledger.cut.length(left)
    for finished in stream:
        numbers = finished.result._asdict()
        feed.filling.add(feed.places[finished.index], numbers if plan.keep_x_adv else {k: v for k, v in numbers.items() if k != "x_adv"})
        for part, columns in feed.filling.whole():
            ledger.commit(name, part, told.unit(columns))
        plan.report(name, stream.stats.finished + feed.unusable, total)
    for part, columns in feed.filling.whole():  # in which no image can be attacked
        ledger.commit(name, part, told.unit(columns))
    plan.report(name, total, total)


class _Feed:
    """The examples of an attack, piece by piece, and where their results belong.

    Attributes:
      filling: the parts of which some examples are on their way.
      places: in the set, of the examples in the order in which they were fed.
      unusable: images so far that cannot be attacked.
    """

    def __init__(self, plan: Plan, name: str, ledger: Ledger, parts: Sequence[int]) -> None:
        self.filling = Filling(ledger.cut)
        self.places = np.zeros(ledger.cut.length(parts), np.int64)
        self.unusable = 0
        self._plan, self._name, self._ledger, self._parts = plan, name, ledger, parts
        self._fed = 0

    def __iter__(self) -> Iterator[Example]:
        """Examples in the order of the set, but for the last ones: of these the surest come first.

        Sure images resist longest, and would keep lanes waiting at the end (docs/performance_notebook.md).
        """
        cut, part, left = self._ledger.cut, -1, len(self.places)
        last = in_flight(self._plan.source.shape, self._plan.lanes, self._plan.devices)
        known: Mapping[str, Any] = {}
        waiting: list[_Rows] = []
        for piece in self._plan.source.spans([cut.span(part) for part in self._parts]):
            if int(piece.index[0]) // cut.size != part:
                part = int(piece.index[0]) // cut.size
                known = self._ledger.read(PREDICT, part).columns
                self._begin(part, known)
            waiting.append(self._usable(piece, known, int(piece.index[0]) - cut.span(part)[0]))
            left -= len(piece.error)
            if left >= last:
                yield from self._examples(waiting, surest_first=False)
                waiting = []
        yield from self._examples(waiting, surest_first=True)

    def _begin(self, part: int, known: Mapping[str, Any]) -> None:
        good = sum(error is None for error in known["error"])
        self.unusable += len(known["error"]) - good
        columns: dict[str, Any] = {name: known[name] for name in ("index", "id", "fingerprint")} | {"label": self._plan.start(known)}
        if self._plan.aims(self._name):
            columns["target"] = known["target"]
        columns["error"] = np.asarray(known["error"], object)
        shape = self._plan.source.shape if self._plan.keep_x_adv else None
        self.filling.expect(part, columns | _columns(len(known["error"]), shape), good)

    def _usable(self, piece: Piece, known: Mapping[str, Any], begin: int) -> "_Rows":
        """The images of a piece that can be attacked. `begin` is the place of the first one in its part."""
        here = slice(begin, begin + len(piece.error))
        usable = np.asarray([error is None for error in known["error"][here]], bool)
        changed = usable & (fingerprints(piece.x) != known["fingerprint"][here])
        for row in np.flatnonzero(changed):
            self.filling.add(piece.index[[row]], {"error": np.asarray([piece.error[row] or CHANGED], object)})
        self.unusable += int(changed.sum())
        rows = np.flatnonzero(usable & ~changed)
        aims = self._plan.aims(self._name)
        label = known["label"][here][rows]
        goal = (known["target"] if aims else self._plan.start(known))[here][rows]
        known_to_be = {name: known[name][here][rows] for name in ("fingerprint", "probability")}
        return _Rows(piece.index[rows], piece.x[rows], goal, (goal == label) & (not aims), **known_to_be)

    def _examples(self, some: "Sequence[_Rows]", surest_first: bool) -> Iterator[Example]:
        """Examples of some rows; none of no rows."""
        columns: list[Any] = [np.concatenate(column) if len(some) > 1 else column[0] for column in zip(*some, strict=True)]
        if not columns or not len(columns[0]):
            return
        rows = _Rows(*columns)
        if surest_first:
            order = np.argsort(-rows.probability, kind="stable")
            rows = _Rows(*(column[order] for column in columns))
        self.places[self._fed : self._fed + len(rows.place)] = rows.place
        self._fed += len(rows.place)
        yield keyed(rows.x, rows.goal, rows.own, rows.fingerprint, self._plan.seed)


def in_flight(shape: Sequence[int], lanes: Lanes, devices: Sequence[Any] | None) -> int:
    """Images that are in the lanes of all devices or wait for them."""
    devices = jax.local_devices() if devices is None else devices
    width = lanes if isinstance(lanes, int) else default_lanes(shape, devices[0].platform)
    return QUEUE_PER_LANE * width * len(devices)


class _Rows(NamedTuple):
    """Images that can be attacked."""

    place: NDArray[np.int64]  # in the set
    x: NDArray[np.float32]
    goal: NDArray[np.int64]  # class to leave or to reach
    own: NDArray[np.bool_]  # it is the predicted one
    fingerprint: NDArray[np.int64]
    probability: NDArray[np.float32]


class _Told:
    """What is said of each unit of an attack: what the lanes did since the unit before it."""

    def __init__(self, name: str, stats: drivers.Stats) -> None:
        self._name, self._stats = name, stats
        self._last = (time.perf_counter(), 0, 0)

    def unit(self, columns: dict[str, Any]) -> Unit:
        now = (time.perf_counter(), self._stats.useful_steps, self._stats.lane_steps)
        seconds, useful, steps = (here - before for here, before in zip(now, self._last, strict=True))
        self._last = now
        error, broken = columns["error"].tolist(), columns["broken"]
        for row in np.flatnonzero(broken):
            error[row] = error[row] or NOT_FINITE.format(self._name)
        good = np.asarray([one is None for one in error])
        facts = {"seconds": seconds, "lanes": self._stats.lanes, "useful_steps": useful, "lane_steps": steps}
        facts |= {"good": int(good.sum()), "still": still(columns, good)}
        return Unit({**columns, "error": error}, facts)


def _columns(count: int, shape: Shape | None) -> dict[str, NDArray[Any]]:
    """Empty columns for the numbers of a result, and for images of a shape."""
    types = {"distance": np.float32, "crossing": np.float32} | dict.fromkeys(("success", "censored", "broken", "flat"), np.bool_)
    numbers = {field: np.zeros(count, types.get(field, np.int64)) for field in AttackResult._fields if field != "x_adv"}
    return numbers if shape is None else numbers | {"x_adv": np.zeros((count, *shape), np.float32)}


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
