"""The compiled functions for a set of devices: the loops of all drivers, and the compilation time of each.

`program` returns one `Program` for each mesh. Drivers remember nothing else between calls.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from a2d_jax.drivers.lanes import Lanes, advance_lanes, empty_lanes, shrink_lanes
from a2d_jax.drivers.loops import run, unroll
from a2d_jax.drivers.queue import AXIS, Queue
from a2d_jax.types import Attack, AttackResult, Classifier, Example


class Program:
    """The jitted functions of one mesh; each device runs its own loop on its own examples.

    Attributes:
      mesh: the devices, on one axis.
      advance: `(attack, classifier, lanes, queue, taken, floor, trips, keep_x_adv=...)`, see `lanes.advance_lanes`; `lanes` are given away.
      seconds: duration of the first call of `advance`, mostly compilation, for each compiled program.
      trips: number of steps that a call of `advance` should make, for each compiled program, learned from its last call.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        own, same = PartitionSpec(AXIS), PartitionSpec()
        whole = (same, same, own, own, own, same, same)
        self.advance = jax.jit(self._sharded(advance_lanes, whole), donate_argnums=2, static_argnames="keep_x_adv")
        self.seconds: dict[Hashable, float] = {}
        self.trips: dict[Hashable, int] = {}
        self._empty = jax.jit(self._sharded(empty_lanes, (same, own)), static_argnames="width")
        self._shrink = jax.jit(self._sharded(shrink_lanes, (own,)), static_argnames="width")
        self.lockstep = jax.jit(self._sharded(_lockstep, (same, same, own)), static_argnames="length")

    def empty(self, attack: Attack, queue: Queue, width: int) -> Lanes:
        """Free lanes on every device."""
        return self._empty(attack, queue, width=width)

    def shrink(self, lanes: Lanes, width: int) -> Lanes:
        """The active lanes of every device among fewer ones."""
        return self._shrink(lanes, width=width)

    def _sharded(self, function: Callable[..., Any], in_specs: tuple[PartitionSpec, ...]) -> Callable[..., Any]:
        """`function` on every device of the mesh by itself.

        `shard_map`, not a sharded `jit`: a device stops by itself instead of asking all others at every step. Replication is not tracked
        (`check_vma`): devices leave the loop on their own, and nothing in it is communicated.
        """

        def call(*arguments: Any, **static: Any) -> Any:
            body = functools.partial(function, **static)
            return jax.shard_map(body, mesh=self.mesh, in_specs=in_specs, out_specs=PartitionSpec(AXIS), check_vma=False)(*arguments)

        return call


@functools.lru_cache
def program(mesh: Mesh) -> Program:
    """The one program of these devices."""
    return Program(mesh)


def _lockstep(attack: Attack, classifier: Classifier, examples: Example, *, length: int | None) -> AttackResult:
    """`run`, or `unroll` of a static length, on a batch."""

    def one(example: Example) -> AttackResult:
        if length is None:
            return run(attack, classifier, example)
        return unroll(attack, classifier, example, length=length, observe=_nothing)[0]

    return jax.vmap(one)(examples)


def _nothing(*_: Any) -> None:
    return None
