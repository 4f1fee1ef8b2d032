"""The compiled loop of `stream` on one device: a lane returns its finished example and takes the next one.

Everything here is traced. A cycle refills the free lanes from the queue, makes steps until some examples finish, and writes these to the
outbox. Cycles go on until the queue is empty and few lanes are active, or until the number of steps that the host allows is reached.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int

from a2d_jax.drivers.loops import advance, enter, finish
from a2d_jax.drivers.queue import Queue
from a2d_jax.types import AnyArray, Attack, AttackResult, Classifier, Example

REFILL_SHARE = 32  # one lane in so many waits before a refill: few enough to waste little, enough to pay for the refill


class Lanes(NamedTuple):
    """The examples that a device works on."""

    position: Int[Array, " lanes"]  # position of the example in the input; -1: the lane is free
    example: Example
    state: Any

    def active(self) -> Bool[Array, " lanes"]:
        return (self.position >= 0) & ~self.state.progress.done


class Counts(NamedTuple):
    """Counts that one call of the compiled loop returns to the host, one row per device."""

    emitted: Int[AnyArray, " 1"]  # examples that finished
    active: Int[AnyArray, " 1"]  # examples still in the lanes
    taken: Int[AnyArray, " 1"]  # examples taken from the queue so far
    useful: Int[AnyArray, " 1"]  # steps of examples that were not done
    executed: Int[AnyArray, " 1"]  # steps of all lanes


class Work(NamedTuple):
    """The variables of the loop."""

    lanes: Lanes
    taken: Int[Array, ""]  # examples taken from the queue
    outbox: tuple[Int[Array, " out"], AttackResult]  # positions and results of what finished, the first `emitted` rows
    emitted: Int[Array, ""]
    useful: Int[Array, ""]
    made: Int[Array, ""]  # steps of this call


def empty_lanes(attack: Attack, queue: Queue, *, width: int) -> Lanes:
    """Free lanes, with the shapes of a queue's examples."""
    example = jax.tree.map(lambda waiting: jnp.broadcast_to(waiting[:1], (width, *waiting.shape[1:])), queue.example)
    return Lanes(jnp.full(width, -1, jnp.int32), example, jax.vmap(functools.partial(enter, attack))(example))


def shrink_lanes(lanes: Lanes, *, width: int) -> Lanes:
    """The active lanes among fewer ones; at most `width` may be active."""
    active_first = jnp.argsort(~lanes.active())[:width]
    return jax.tree.map(lambda lane: lane[active_first], lanes)


def advance_lanes(
    attack: Attack, classifier: Classifier, lanes: Lanes, queue: Queue, taken: Array, floor: Array, trips: Array, *, keep_x_adv: bool
) -> tuple[Lanes, Array, AttackResult, Counts]:
    """Run the lanes of one device.

    Returns when `trips` steps are made, or when the queue is empty and at most `floor` lanes are active.
    """
    width = lanes.position.shape[0]
    rows = width + queue.position.shape[0]
    handed_in = functools.partial(_handed_in, attack, keep_x_adv=keep_x_adv)
    outbox = jax.tree.map(lambda like: jnp.zeros((rows, *like.shape[1:]), like.dtype), jax.eval_shape(handed_in, lanes))
    zero = jnp.zeros((), jnp.int32)
    begin = Work(lanes, taken[0], outbox, zero, zero, zero)

    def goes_on(work: Work) -> Array:
        return (work.made < trips) & ((work.taken < queue.size[0]) | (_count(work.lanes.active()) > floor))

    def cycle(work: Work) -> Work:
        work = _refill(attack, queue, work)
        enough = jnp.where(work.taken < queue.size[0], width - max(1, width // REFILL_SHARE), floor)
        return _hand_in(handed_in, _make_steps(attack, classifier, work, trips, enough))

    work = jax.lax.while_loop(goes_on, cycle, begin)
    counts = (work.emitted, _count(work.lanes.active()), work.taken, work.useful, work.made * width)
    return work.lanes, *work.outbox, Counts(*(n[None] for n in counts))


def _refill(attack: Attack, queue: Queue, work: Work) -> Work:
    """Give the next examples of the queue to free lanes."""
    free = work.lanes.position < 0
    source = work.taken + jnp.cumsum(free, dtype=jnp.int32) - 1
    takes = free & (source < queue.size[0])
    position, example = jax.tree.map(lambda waiting: waiting[jnp.where(takes, source, 0)], (queue.position, queue.example))
    entering = Lanes(position, example, jax.vmap(functools.partial(enter, attack))(example))
    lanes = jax.tree.map(lambda new, old: _where(takes, new, old), entering, work.lanes)
    return work._replace(lanes=lanes, taken=work.taken + _count(takes))


def _make_steps(attack: Attack, classifier: Classifier, work: Work, trips: Array, enough: Array) -> Work:
    """Step all lanes until `trips` are made or no more than `enough` lanes are active."""
    lanes, step = work.lanes, jax.vmap(functools.partial(advance, attack, classifier))

    def active(state: Any) -> Array:
        return _count(lanes._replace(state=state).active())

    def goes_on(carry: tuple[Any, Array, Array]) -> Array:
        state, _, made = carry
        return (made < trips) & (active(state) > enough)

    def one_step(carry: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
        state, useful, made = carry
        return step(lanes.example, state), useful + active(state), made + 1

    state, useful, made = jax.lax.while_loop(goes_on, one_step, (lanes.state, work.useful, work.made))
    return work._replace(lanes=lanes._replace(state=state), useful=useful, made=made)


def _hand_in(handed_in: Any, work: Work) -> Work:
    """Write what is finished to the outbox and free its lanes."""
    lanes = work.lanes
    done = (lanes.position >= 0) & ~lanes.active()
    rows = work.outbox[0].shape[0]
    slot = jnp.where(done, work.emitted + jnp.cumsum(done, dtype=jnp.int32) - 1, rows)  # out of range: dropped
    outbox = jax.tree.map(lambda box, new: box.at[slot].set(new, mode="drop"), work.outbox, handed_in(lanes))
    lanes = lanes._replace(position=jnp.where(done, -1, lanes.position))
    return work._replace(lanes=lanes, outbox=outbox, emitted=work.emitted + _count(done))


def _handed_in(attack: Attack, lanes: Lanes, *, keep_x_adv: bool) -> tuple[Array, AttackResult]:
    result = jax.vmap(functools.partial(finish, attack))(lanes.example, lanes.state)
    return lanes.position, result if keep_x_adv else result._replace(x_adv=None)


def _where(choose: Array, new: Array, old: Array) -> Array:
    """`where` along the leading axis."""
    return jnp.where(choose.reshape(choose.shape + (1,) * (new.ndim - 1)), new, old)


def _count(flags: Array) -> Array:
    return jnp.sum(flags, dtype=jnp.int32)
