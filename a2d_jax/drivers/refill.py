"""`stream`: a fixed number of lanes per device, refilled from a queue, so that no lane waits for the slowest example.

A finished lane returns its result and takes the next example inside one compiled loop (`lanes.py`). Data arrives in pieces: when a device's
queue is empty, the loop returns to the host, which brings the next piece while the lanes keep their examples. When no pieces are left, the
number of lanes shrinks in a few static sizes, so that the last hard examples do not run beside empty lanes. It does not shrink if compiling
the smaller program would take longer than these examples. Each device has its own loop (`shard_map`): no device waits for another within a
piece.

The result of an example does not depend on its lane, on its neighbours or on the time when it was taken.
"""

import itertools
import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from a2d_jax import inputs
from a2d_jax.drivers.lanes import Counts
from a2d_jax.drivers.loops import MIN_WIDTH
from a2d_jax.drivers.program import Program, program
from a2d_jax.drivers.queue import AXIS, pieces_of
from a2d_jax.types import Attack, AttackResult, Classifier, Example

LANES, FEWEST, NUMBERS = 32, 4, 1 << 15  # of a CPU device: a small batch keeps the working set in its caches, see `default_lanes`
LANES_ELSEWHERE = 256
QUEUE_PER_LANE = 4  # examples brought to a device at a time, per lane
SHRINK = 4  # with nothing left to bring, the lanes shrink by this factor; few examples start with fewer by the same factor
PATIENCE = 1.0  # they shrink once they have been mostly free for as long as the smaller program should take to compile
TRIPS = 32  # steps of the first call, of which nobody knows how long they take
CALL_SECONDS = 0.5  # aim for one call of the compiled loop: how often the host hears of progress and of Ctrl-C

Clock = Callable[[], float]
"""Seconds since some moment."""


@dataclass(frozen=True)
class Finished:
    """Examples that are done, in the order in which they finished."""

    index: Int[np.ndarray, " n"]  # position in the input
    result: AttackResult  # numpy arrays with leading axis n


@dataclass
class Stats:
    """Statistics of a stream so far."""

    lanes: int = 0  # of each device at the start, known with the first result
    finished: int = 0  # examples
    useful_steps: int = 0  # steps of examples that were not done
    lane_steps: int = 0  # steps executed, free and finished lanes included

    @property
    def useful_fraction(self) -> float:
        """Useful steps per executed lane step; 1 is perfect."""
        return self.useful_steps / max(self.lane_steps, 1)


class Stream:
    """An iterable over `Finished` results; `stats` has the statistics so far at any time."""

    def __init__(self, results: Iterator[Finished], stats: Stats) -> None:
        self.stats = stats
        self._results = results

    def __iter__(self) -> Iterator[Finished]:
        return self._results


def stream(
    attack: Attack,
    classifier: Classifier,
    examples: Iterable[Example],
    *,
    lanes: int | None = None,
    devices: Sequence[Any] | None = None,
    keep_x_adv: bool = True,
    clock: Clock = time.perf_counter,
) -> Stream:
    """Attack examples that arrive in pieces of any size, on all local devices.

    Args:
      attack: any attack.
      classifier: one image to logits; copied to every device.
      examples: pieces with a leading axis (numpy or JAX arrays; keys are typed JAX keys), read as lanes become free.
      lanes: number of examples that each device works on at the same time, at least 2; default `default_lanes`.
      devices: default all local devices.
      keep_x_adv: return the attacked images too; without them a large job moves costs only.
      clock: measures calls, to decide how long a call runs and when lanes shrink. It never changes a result.

    Returns:
      A `Stream` over `Finished(index, result)` in order of completion; `index` counts the examples as they arrived.

    Raises:
      ValueError: if `lanes` is below 2; or, during the iteration, for a piece that cannot be attacked, see `a2d_jax.inputs.examples`.
        A piece without examples is skipped.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    if lanes is not None and lanes < MIN_WIDTH:
        raise ValueError(f"expected lanes >= {MIN_WIDTH}, got {lanes}; give the number of examples that each device works on at once")
    if not devices:
        raise ValueError("expected at least one device, got none; leave devices out to take all")
    stats = Stats()
    compiled = program(Mesh(np.array(devices), (AXIS,)))
    return Stream(_results(attack, classifier, examples, lanes, compiled, keep_x_adv, stats, clock), stats)


def default_lanes(shape: Sequence[int], platform: str) -> int:
    """Lanes of a device by the shape of an image: 256 on an accelerator; on a CPU 32 for digits, 8 for 32 x 32 x 3, 4 for photographs.

    On a CPU more lanes were not faster for the networks that we tried on such images (`calibrate` tries yours). With few images, more lanes
    are idle at the end.
    """
    if platform != "cpu":
        return LANES_ELSEWHERE
    fit = max(NUMBERS // math.prod(shape), 1)
    return min(LANES, max(FEWEST, 1 << (fit.bit_length() - 1)))


def fewer(width: int) -> int:
    """The next smaller number of lanes: those between the usual one and `MIN_WIDTH` are all that there are, so that few programs do."""
    return max(width // SHRINK, MIN_WIDTH)


def warm(
    attack: Attack,
    classifier: Classifier,
    shape: Sequence[int],
    *,
    lanes: int | None = None,
    devices: Sequence[Any] | None = None,
    keep_x_adv: bool = True,
    starts: bool = False,
    clock: Clock = time.perf_counter,
) -> None:
    """Compile all programs that a stream of any length may need, without attacking anything.

    Args:
      attack: as for `stream`; its numbers may change afterwards.
      classifier: one image to logits.
      shape: height, width, channels of the images.
      lanes: as for `stream`.
      devices: as for `stream`.
      keep_x_adv: as for `stream`.
      starts: the examples will have a starting point, `Example.start`, which is another program.
      clock: as for `stream`.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    compiled = program(Mesh(np.array(devices), (AXIS,)))
    width = default_lanes(shape, devices[0].platform) if lanes is None else lanes
    key: Any = np.asarray(jax.random.key_data(jax.random.key(0)))[None]
    x: Any = np.zeros((1, *shape), jax.dtypes.canonicalize_dtype(np.float32))
    example = Example(x, np.zeros(1, np.int32), key, np.zeros(1, bool), x if starts else None)  # pyright: ignore[reportArgumentType] (NumPy on the host)
    (piece,) = pieces_of([example], width * QUEUE_PER_LANE, compiled.mesh)
    classifier = jax.device_put(classifier, NamedSharding(compiled.mesh, PartitionSpec()))
    nothing, none = np.int32(0), np.zeros(compiled.mesh.size, np.int32)
    pace = Pace(compiled, what_of(attack, classifier, piece.example, keep_x_adv), clock)
    while True:
        in_work = compiled.empty(attack, piece, width)
        pace.start(width)
        in_work, *_, counts = compiled.advance(attack, classifier, in_work, piece, none, nothing, nothing, keep_x_adv=keep_x_adv)
        jax.block_until_ready(counts)
        pace.stop(0)
        if fewer(width) == width:
            return
        compiled.shrink(in_work, fewer(width))
        width = fewer(width)


def what_of(attack: Attack, classifier: Classifier, waiting: Example, keep_x_adv: bool) -> Hashable:
    """A program but for its number of lanes; `waiting` are the examples of a queue."""
    return jax.tree.structure((attack, classifier, waiting)), waiting.x.shape, keep_x_adv


def _results(
    attack: Attack,
    classifier: Classifier,
    examples: Iterable[Example],
    lanes: int | None,
    compiled: Program,
    keep_x_adv: bool,
    stats: Stats,
    clock: Clock,
) -> Iterator[Finished]:
    """The host's loop: bring pieces, call the compiled loop, hand out what finished, shrink the lanes at the end."""
    mesh = compiled.mesh
    given = [examples] if isinstance(examples, Example) else examples
    arriving = (inputs.examples(classifier, piece) if np.size(piece.label) else piece for piece in given)
    first = next(arriving, None)
    if first is None:
        return
    width = default_lanes(first.x.shape[1:], mesh.devices.flat[0].platform) if lanes is None else lanes
    pieces = pieces_of(itertools.chain([first], arriving), width * QUEUE_PER_LANE, mesh)
    piece, following = next(pieces, None), next(pieces, None)
    if piece is None:
        return
    most = int(np.max(np.asarray(piece.size)))  # asked on the host: JAX would compile for it
    if following is None:  # everything is here: about as many lanes as examples
        while width > fewer(width) and most <= 2 * fewer(width):
            width = fewer(width)
    stats.lanes = width
    classifier = jax.device_put(classifier, NamedSharding(mesh, PartitionSpec()))
    in_work = compiled.empty(attack, piece, width)
    taken = np.zeros(mesh.size, np.int32)
    pace = Pace(compiled, what_of(attack, classifier, piece.example, keep_x_adv), clock)
    while True:
        smaller = fewer(width)
        floor = width - 1 if following is not None else smaller if smaller < width and not pace.waits else 0
        pace.start(width)
        in_work, index, result, counts = compiled.advance(
            attack, classifier, in_work, piece, taken, np.int32(floor), np.int32(pace.trips), keep_x_adv=keep_x_adv
        )
        counts = Counts(*(np.asarray(count) for count in counts))  # waits for the devices
        pace.stop(int(np.max(counts.executed)) // width)
        stats.useful_steps += int(np.sum(counts.useful))
        stats.lane_steps += int(np.sum(counts.executed))
        stats.finished += int(np.sum(counts.emitted))
        if np.any(counts.emitted):
            yield Finished(*_gather((index, result), np.asarray(counts.emitted)))

        taken = np.asarray(counts.taken)
        if np.any(taken < np.asarray(piece.size)):
            continue
        if following is not None:
            piece, following, taken = following, next(pieces, None), np.zeros_like(taken)
        elif not np.any(counts.active):
            return
        elif np.max(counts.active) <= smaller < width and pace.shrinking_pays(smaller):
            width = smaller
            in_work = compiled.shrink(in_work, width)


class Pace:
    """The host's judgement of time: how long a call may be, and when fewer lanes are worth another program.

    Args:
      compiled: whose times are read and entered.
      what: the program but for its number of lanes.
      clock: seconds since some moment.
    """

    def __init__(self, compiled: Program, what: Hashable, clock: Clock) -> None:
        self.trips = TRIPS  # steps that the next call may make
        self.waits = False  # most lanes are free, and the same program goes on
        self._compiled, self._trips, self._what, self._clock = compiled.seconds, compiled.trips, what, clock
        self._free_since = 0.0

    def start(self, width: int) -> None:
        self._key = (self._what, width)
        self.trips = self._trips.get(self._key, self.trips)
        self._begin = self._clock()

    def stop(self, steps: int) -> None:
        seconds = self._clock() - self._begin
        if self._key not in self._compiled:
            self._compiled[self._key] = seconds
        elif steps:
            self.trips = self._trips[self._key] = min(max(int(CALL_SECONDS * steps / max(seconds, 1e-9)), 1), 1 << 20)

    def shrinking_pays(self, smaller: int) -> bool:
        """The smaller program exists, or most lanes have been free for as long as it takes to compile: waiting was no cheaper."""
        now = self._clock()
        if not self.waits:
            self.waits, self._free_since = True, now
        known = (self._what, smaller) in self._compiled
        if not known and now - self._free_since < PATIENCE * self._compiled[self._key]:
            return False
        self.waits = False
        return True


def _gather(outbox: Any, emitted: np.ndarray) -> Any:
    """The filled part of every device's outbox, as numpy arrays."""

    def leaf(array: Array) -> np.ndarray:
        shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data)[:count] for shard, count in zip(shards, emitted, strict=True)])

    return jax.tree.map(leaf, outbox)
