"""`attack`: one call for a batch that fits into memory, jitted and sharded over the devices, with any driver."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from a2d_jax import inputs
from a2d_jax.drivers.loops import MIN_WIDTH
from a2d_jax.drivers.program import program
from a2d_jax.drivers.queue import AXIS
from a2d_jax.drivers.refill import stream
from a2d_jax.errors import BadInput
from a2d_jax.types import Attack, AttackResult, Classifier, Example

Driver = Literal["stream", "run", "unroll"]


def attack(
    attack: Attack,
    classifier: Classifier,
    examples: Example,
    *,
    driver: Driver = "stream",
    lanes: int | None = None,
    devices: Sequence[Any] | None = None,
) -> AttackResult:
    """Attack a batch and return the results in the same order.

    New numbers in the attack, new weights and new images need no compilation; new shapes do.

    Args:
      attack: any attack.
      classifier: one image to logits.
      examples: x `n h w c` in [0, 1], label `n`, key `n`.
      driver: `stream` refills lanes (fastest if costs differ), `run` goes in lock-step, `unroll` has a static length.
      lanes: for `stream`, number of examples that each device works on at the same time.
      devices: default all local devices.

    Returns:
      `AttackResult` of numpy arrays with leading axis `n`.

    Raises:
      BadInput: `driver` is unknown, or the examples cannot be attacked: no image, another shape or type, pixels that are NaN or outside
        [0, 1], a label that the classifier does not have.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    if driver not in ("stream", "run", "unroll"):
        raise BadInput(f"expected a driver among stream, run, unroll, got {driver!r}; pass one of them")
    examples = inputs.examples(classifier, examples)
    if examples.predicted is not None:
        own: Any = np.broadcast_to(np.asarray(examples.predicted, bool), np.shape(examples.label))
        examples = examples._replace(predicted=own)
    if driver == "stream":
        finished = list(stream(attack, classifier, [examples], lanes=lanes, devices=devices))
        order = np.argsort(np.concatenate([some.index for some in finished]))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *(some.result for some in finished))
    count = len(examples.label)
    rows = max(MIN_WIDTH, -(-count // len(devices)))
    padded = jax.tree.map(lambda leaf: _pad(leaf, rows * len(devices) - count), examples)
    length = attack.length() if driver == "unroll" else None
    mesh = Mesh(np.array(devices), (AXIS,))
    # Weights of a checkpoint lie on one device, and what lies somewhere is moved by nobody else.
    classifier = jax.device_put(classifier, NamedSharding(mesh, PartitionSpec()))
    padded = jax.device_put(padded, NamedSharding(mesh, PartitionSpec(AXIS)))
    result = program(mesh).lockstep(attack, classifier, padded, length=length)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], result)


def _pad(leaf: Any, count: int) -> Any:
    return jnp.concatenate([leaf, *[leaf[:1]] * count]) if count else leaf
