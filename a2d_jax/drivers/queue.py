"""The queue of `stream`: it takes examples in pieces of any size and gives them to the devices in pieces of one size."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from a2d_jax.errors import require
from a2d_jax.types import AnyArray, Example

AXIS = "examples"  # of the mesh: examples are shared out among the devices


class Queue(NamedTuple):
    """Examples that wait on a device."""

    position: Int[AnyArray, " queue"]  # in the input
    example: Example
    size: Int[AnyArray, " 1"]  # only the first `size` are real


class HostExamples(NamedTuple):
    """A batch of examples as numpy arrays. Keys are stored as their data, because slicing JAX arrays would compile for every length."""

    x: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    key_data: np.ndarray
    start: np.ndarray | None
    key_impl: str

    @classmethod
    def of(cls, example: Example) -> "HostExamples":
        if isinstance(example.key, np.ndarray):  # their data already: JAX would compile for every number of keys
            data, impl = example.key, str(jax.config.jax_default_prng_impl)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            data, impl = jax.random.key_data(example.key), str(jax.random.key_impl(example.key))
        predicted = np.zeros(len(example.label), bool) if example.predicted is None else np.asarray(example.predicted)
        start = None if example.start is None else np.asarray(example.start)
        return cls(np.asarray(example.x), np.asarray(example.label), predicted, np.asarray(data), start, impl)

    @classmethod
    def concatenate(cls, pieces: "list[HostExamples]") -> "HostExamples":
        if len(pieces) == 1:
            return pieces[0]
        columns = (None if leaves[0] is None else np.concatenate(leaves) for leaves in zip(*(piece[:-1] for piece in pieces), strict=True))
        return cls._make((*columns, pieces[0].key_impl))

    def rows(self, rows: slice) -> "HostExamples":
        return HostExamples._make((*(None if column is None else column[rows] for column in self[:-1]), self.key_impl))

    def take(self, rows: np.ndarray) -> Example:
        columns: Any = (None if column is None else column[rows] for column in self[:-1])
        x, label, predicted, data, start = columns
        return Example(x, label, jax.random.wrap_key_data(data, impl=self.key_impl), predicted, start)


def pieces_of(examples: Iterable[Example], per_device: int, mesh: Mesh) -> Iterator[Queue]:
    """Queues on the devices: each device gets an equal share of `per_device * devices` examples, in order of arrival.

    The devices take turns, so that neighbours are worked on at about the same time, and finish so.
    """
    own, begin = NamedSharding(mesh, PartitionSpec(AXIS)), 0
    for piece in _rechunk(examples, per_device * mesh.size):
        count = len(piece.label)
        shares = [np.arange(device, count, mesh.size) for device in range(mesh.size)]
        rows = np.concatenate([np.resize(share, per_device) if len(share) else np.zeros(per_device, int) for share in shares])
        queue = Queue((begin + rows).astype(np.int32), piece.take(rows), np.array([len(share) for share in shares], np.int32))
        begin += count
        yield jax.device_put(queue, own)


def _rechunk(examples: Iterable[Example], size: int) -> Iterator[HostExamples]:
    """The same examples in pieces of `size`, the last one shorter."""
    waiting: list[HostExamples] = []
    starts: bool | None = None
    for example in examples:
        waiting.append(HostExamples.of(example))
        starts = example.start is not None if starts is None else starts
        require(
            starts == (example.start is not None),
            "a start in every piece of a stream or in none",
            "some of both",
            "give the images themselves as the start of the others",
        )
        while sum(len(piece.label) for piece in waiting) >= size:
            whole = HostExamples.concatenate(waiting)
            waiting = [whole.rows(slice(size, None))]
            yield whole.rows(slice(size))
    if sum(len(piece.label) for piece in waiting):
        yield HostExamples.concatenate(waiting)
