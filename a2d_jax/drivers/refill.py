"""`stream`: a fixed number of lanes per device, refilled from a queue, so that no lane waits for the slowest example.

A finished lane hands in its result and takes the next example inside one compiled loop. Data arrives in pieces: when a
device's queue runs dry the loop returns to the host, which brings the next piece while the lanes keep their examples. When
nothing is left to bring, the lanes shrink in a few static sizes, so that the last hard examples do not run beside empty
lanes (unless compiling the smaller program would take longer than they do). Each device has its own loop (`shard_map`): no
device waits for another within a piece.

Nothing an example computes depends on its lane, on its neighbours or on when it was taken.
"""

import functools
import itertools
import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Int

from a2d_jax.drivers.loops import MIN_WIDTH, advance, finish
from a2d_jax.drivers.queue import AXIS, Queue, pieces_of
from a2d_jax.types import AnyArray, Attack, AttackResult, Classifier, Example

LANES, FEWEST, NUMBERS = 32, 4, 1 << 15  # of a CPU device: a small batch keeps the working set in its caches, see `default_lanes`
LANES_ELSEWHERE = 256
QUEUE_PER_LANE = 4  # examples brought to a device at a time, per lane
SHRINK = 4  # with nothing left to bring, the lanes shrink by this factor
PATIENCE = 1.0  # they shrink once they have been mostly free for as long as the smaller program should take to compile
CALL_SECONDS = 0.5  # aim for one call of the compiled loop: how often the host hears of progress and of Ctrl-C


class Lanes(NamedTuple):
    """What a device works on."""

    position: Int[Array, " lanes"]  # position of the example in the input; -1: the lane is free
    example: Example
    state: Any

    def active(self) -> Bool[Array, " lanes"]:
        return (self.position >= 0) & ~self.state.progress.done


class Counts(NamedTuple):
    """What one call of the compiled loop tells the host, one row per device."""

    emitted: Int[AnyArray, " 1"]  # examples that finished
    active: Int[AnyArray, " 1"]  # examples still in the lanes
    taken: Int[AnyArray, " 1"]  # examples taken from the queue so far
    useful: Int[AnyArray, " 1"]  # steps of examples that were not done
    executed: Int[AnyArray, " 1"]  # steps of all lanes


@dataclass(frozen=True)
class Finished:
    """Examples that are done, in the order in which they finished."""

    index: Int[np.ndarray, " n"]  # position in the input
    result: AttackResult  # numpy arrays with leading axis n


@dataclass
class Stats:
    """What a stream has done so far."""

    lanes: int = 0  # of each device at the start, known with the first result
    finished: int = 0  # examples
    useful_steps: int = 0  # steps of examples that were not done
    lane_steps: int = 0  # steps executed, free and finished lanes included

    @property
    def useful_fraction(self) -> float:
        """Useful steps per executed lane step; 1 is perfect."""
        return self.useful_steps / max(self.lane_steps, 1)


class Stream:
    """An iterable over `Finished` results; `stats` tells at any time what has been done."""

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
) -> Stream:
    """Attack examples that arrive in pieces of any size, on all local devices.

    Args:
      attack: any attack.
      classifier: one image to logits; copied to every device.
      examples: pieces with a leading axis (numpy or JAX arrays; keys are typed JAX keys), consumed as lanes fall free.
      lanes: examples in work at a time on each device, at least 2; default that of `default_lanes`.
      devices: default all local devices.
      keep_x_adv: hand out the attacked images too; without them a large job moves costs only.

    Returns:
      A `Stream` over `Finished(index, result)` in order of completion; `index` counts the examples as they arrived.

    Raises:
      ValueError: if `lanes` is below 2.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    if lanes is not None and lanes < MIN_WIDTH:
        raise ValueError(f"expected lanes >= {MIN_WIDTH}, got {lanes}; give the number of examples in work on each device")
    mesh, stats = Mesh(np.array(devices), (AXIS,)), Stats()
    return Stream(_results(attack, classifier, examples, lanes, mesh, keep_x_adv, stats), stats)


def default_lanes(shape: Sequence[int], platform: str) -> int:
    """Lanes of a device by the shape of an image: 256 on an accelerator; on a CPU 32 for digits, 8 for 32 x 32 x 3, 4 for photographs.

    There more are not faster for networks of such images, as far as tried (`calibrate` tries yours), and few images leave more of them idle
    at the end.
    """
    if platform != "cpu":
        return LANES_ELSEWHERE
    fit = max(NUMBERS // math.prod(shape), 1)
    return min(LANES, max(FEWEST, 1 << (fit.bit_length() - 1)))


def _results(
    attack: Attack, classifier: Classifier, examples: Iterable[Example], lanes: int | None, mesh: Mesh, keep_x_adv: bool, stats: Stats
) -> Iterator[Finished]:
    """The host's loop: bring pieces, call the compiled loop, hand out what finished, shrink the lanes at the end."""
    arriving = iter([examples] if isinstance(examples, Example) else examples)
    first = next(arriving, None)
    if first is None:
        return
    width = default_lanes(first.x.shape[1:], mesh.devices.flat[0].platform) if lanes is None else lanes
    pieces = pieces_of(itertools.chain([first], arriving), width * QUEUE_PER_LANE, mesh)
    piece, following = next(pieces, None), next(pieces, None)
    if piece is None:
        return
    if following is None:  # everything is here: no more lanes than examples
        width = min(width, max(_power_of_two(int(np.max(piece.size))), MIN_WIDTH))
    stats.lanes = width
    classifier = jax.device_put(classifier, NamedSharding(mesh, PartitionSpec()))
    in_work = _empty_lanes(mesh, width)(attack, piece)
    taken, advance_lanes = np.zeros(mesh.size, np.int32), _advance_lanes(mesh, keep_x_adv)
    pace = Pace((advance_lanes, jax.tree.structure((attack, classifier)), piece.example.x.shape))
    while True:
        smaller = max(width // SHRINK, MIN_WIDTH)
        floor = width - 1 if following is not None else smaller if smaller < width and not pace.waits else 0
        pace.start(width)
        in_work, index, result, counts = advance_lanes(attack, classifier, in_work, piece, taken, np.int32(floor), np.int32(pace.trips))
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
            in_work = _shrink_lanes(mesh, width)(in_work)


class Pace:
    """The clock of the host's loop: how long a call may be, and when fewer lanes are worth another program."""

    def __init__(self, program: Hashable) -> None:
        self.trips = 32  # steps that the next call may make
        self.waits = False  # most lanes are free, and the same program goes on
        self._program = program
        self._free_since = 0.0

    def start(self, width: int) -> None:
        self._key, self._begin = (self._program, width), time.perf_counter()

    def stop(self, steps: int) -> None:
        seconds = time.perf_counter() - self._begin
        if self._key not in _COMPILED:
            _COMPILED[self._key] = seconds
        elif steps:
            self.trips = min(max(int(CALL_SECONDS * steps / seconds), 1), 1 << 20)

    def shrinking_pays(self, smaller: int) -> bool:
        """The smaller program exists, or most lanes have been free for as long as it takes to compile: waiting was no cheaper."""
        now = time.perf_counter()
        if not self.waits:
            self.waits, self._free_since = True, now
        known = (self._program, smaller) in _COMPILED
        if not known and now - self._free_since < PATIENCE * _COMPILED[self._key]:
            return False
        self.waits = False
        return True


_COMPILED: dict[Hashable, float] = {}
"""Programs by lanes that this process has, with the seconds of their first call, mostly of compilation."""


@functools.lru_cache
def _advance_lanes(mesh: Mesh, keep_x_adv: bool) -> Callable[..., Any]:
    """The compiled loop, for every device of the mesh on its own."""
    own, same = PartitionSpec(AXIS), PartitionSpec()
    body = functools.partial(_advance_device, keep_x_adv=keep_x_adv)
    # Replication is not tracked (`check_vma`): devices leave the loop on their own, and nothing in it is communicated.
    sharded = jax.shard_map(body, mesh=mesh, in_specs=(same, same, own, own, own, same, same), out_specs=own, check_vma=False)
    return jax.jit(sharded, donate_argnums=2)


def _advance_device(
    attack: Attack, classifier: Classifier, lanes: Lanes, queue: Queue, taken: Array, floor: Array, trips: Array, *, keep_x_adv: bool
) -> tuple[Lanes, Array, AttackResult, Counts]:
    """Run the lanes of one device.

    Returns when `trips` steps are made, or when the queue is empty and at most `floor` lanes are active.
    """
    width, queued = lanes.position.shape[0], queue.position.shape[0]
    refill_at = max(1, width // 32)  # lanes that wait before a refill: few enough to waste little, enough to pay for the refill
    step = jax.vmap(functools.partial(advance, attack, classifier))
    init = jax.vmap(attack.init)

    def finished(lanes: Lanes) -> tuple[Array, AttackResult]:
        result = jax.vmap(functools.partial(finish, attack))(lanes.example, lanes.state)
        return lanes.position, result if keep_x_adv else result._replace(x_adv=None)

    def cycle(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        """Refill free lanes, run until some finish, write those to the outbox."""
        lanes, taken, outbox, emitted, useful, made = carry
        free = lanes.position < 0
        source = taken + jnp.cumsum(free, dtype=jnp.int32) - 1
        takes = free & (source < queue.size[0])
        new_position, example = jax.tree.map(lambda waiting: waiting[jnp.where(takes, source, 0)], (queue.position, queue.example))
        entering = Lanes(new_position, example, init(example))
        lanes = jax.tree.map(lambda new, old: _where(takes, new, old), entering, lanes)
        taken = taken + _count(takes)

        stop_at = jnp.where(taken < queue.size[0], width - refill_at, floor)

        def run_on(inner: tuple[Any, Array, Array]) -> Array:
            state, _, made = inner
            return (made < trips) & (_count(lanes._replace(state=state).active()) > stop_at)

        def run_step(inner: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
            state, useful, made = inner
            active = _count(lanes._replace(state=state).active())
            return step(lanes.example, state), useful + active, made + 1

        state, useful, made = jax.lax.while_loop(run_on, run_step, (lanes.state, useful, made))
        lanes = lanes._replace(state=state)

        done = (lanes.position >= 0) & ~lanes.active()
        slot = jnp.where(done, emitted + jnp.cumsum(done, dtype=jnp.int32) - 1, width + queued)  # out of range: dropped
        outbox = jax.tree.map(lambda box, new: box.at[slot].set(new, mode="drop"), outbox, finished(lanes))
        lanes = lanes._replace(position=jnp.where(done, -1, lanes.position))
        return lanes, taken, outbox, emitted + _count(done), useful, made

    def goes_on(carry: tuple[Any, ...]) -> Array:
        lanes, taken, _, _, _, made = carry
        return (made < trips) & ((taken < queue.size[0]) | (_count(lanes.active()) > floor))

    empty = jax.tree.map(lambda like: jnp.zeros((width + queued, *like.shape[1:]), like.dtype), jax.eval_shape(finished, lanes))
    zero = jnp.zeros((), jnp.int32)
    lanes, taken, outbox, emitted, useful, made = jax.lax.while_loop(goes_on, cycle, (lanes, taken[0], empty, zero, zero, zero))
    counts = Counts(*(n[None] for n in (emitted, _count(lanes.active()), taken, useful, made * width)))
    return lanes, *outbox, counts


@functools.lru_cache
def _empty_lanes(mesh: Mesh, width: int) -> Callable[[Attack, Queue], Lanes]:
    def device(attack: Attack, queue: Queue) -> Lanes:
        example = jax.tree.map(lambda waiting: jnp.broadcast_to(waiting[:1], (width, *waiting.shape[1:])), queue.example)
        return Lanes(jnp.full(width, -1, jnp.int32), example, jax.vmap(attack.init)(example))

    return jax.jit(
        jax.shard_map(device, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec(AXIS)), out_specs=PartitionSpec(AXIS), check_vma=False)
    )


@functools.lru_cache
def _shrink_lanes(mesh: Mesh, width: int) -> Callable[[Lanes], Lanes]:
    def device(lanes: Lanes) -> Lanes:
        active_first = jnp.argsort(~lanes.active())[:width]
        return jax.tree.map(lambda lane: lane[active_first], lanes)

    return jax.jit(jax.shard_map(device, mesh=mesh, in_specs=PartitionSpec(AXIS), out_specs=PartitionSpec(AXIS), check_vma=False))


def _gather(outbox: Any, emitted: np.ndarray) -> Any:
    """The filled part of every device's outbox, as numpy arrays."""

    def leaf(array: Array) -> np.ndarray:
        shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data)[:count] for shard, count in zip(shards, emitted, strict=True)])

    return jax.tree.map(leaf, outbox)


def _where(choose: Array, new: Array, old: Array) -> Array:
    """`where` along the leading axis."""
    return jnp.where(choose.reshape(choose.shape + (1,) * (new.ndim - 1)), new, old)


def _count(flags: Array) -> Array:
    return jnp.sum(flags, dtype=jnp.int32)


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()
