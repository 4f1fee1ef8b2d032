"""Find the fastest number of lanes on this machine: a few numbers are tried for a short time each, beginning with small ones.

Results do not depend on lanes, but time does, by network and machine. On two CPU cores BIM is fastest with 32 lanes per device or more for
LeNet-5 and with 8 for ResNet-20, where 16 take 1.4 times as long (docs/performance_notebook.md). Each number needs its own program, so the
search takes seconds to minutes of compilation. It is worth it before a long job.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import numpy as np

from a2d_jax.drivers.loops import MIN_WIDTH
from a2d_jax.drivers.refill import Clock, default_lanes, stream
from a2d_jax.types import Attack, Classifier, Example

MOST = {"cpu": 256}  # lanes of a device to try at most
MOST_ELSEWHERE = 8192
UPDATES = 10  # at most per example: what a step takes does not depend on how many there are
ROUNDS = 2  # examples per lane, so that refills are part of what is measured
SECONDS = 0.5  # each number of lanes is repeated for as long as this, and its fastest run counts
WORSE = 1.1  # a number of lanes this much slower than the fastest ends the search
LEVEL = 1.1  # of numbers within this of the fastest the smallest is taken: fewer lanes idle at the end, and need less memory


@dataclass(frozen=True)
class Calibration:
    """The result of the search."""

    lanes: int  # on each device
    microseconds: dict[int, float]  # per step of one example, all devices together, by lanes tried


def calibrate(
    attack: Attack,
    classifier: Classifier,
    examples: Example,
    *,
    devices: Sequence[Any] | None = None,
    keep_x_adv: bool = True,
    clock: Clock = time.perf_counter,
) -> Calibration:
    """Find the number of lanes with which `stream` takes the least time per step.

    It begins with a quarter of `default_lanes` and doubles the number until one is slower than the fastest, or the device's memory is full.

    Args:
      attack: as for `stream`; here it makes at most 10 updates.
      classifier: one image to logits.
      examples: at least one, with a leading axis. They are repeated if more are needed, so they should be like those of the job.
      devices: default all local devices.
      keep_x_adv: as for `stream`, which uses the same compiled programs afterwards.
      clock: measures the time.

    Raises:
      ValueError: without an example.
    """
    if not len(examples.label):
        raise ValueError("expected at least one example to try lanes with, got none; give some images")
    if "max_steps" not in {one.name for one in fields(attack)}:  # pyright: ignore[reportArgumentType] (all are dataclasses)
        raise ValueError(
            f"expected an attack with a field max_steps to try lanes with, got {type(attack).__name__}; give a number of lanes"
        )
    devices = jax.local_devices() if devices is None else list(devices)
    platform = devices[0].platform
    found: dict[int, float] = {}
    width = max(default_lanes(examples.x.shape[1:], platform) // 4, MIN_WIDTH)
    while width <= MOST.get(platform, MOST_ELSEWHERE):
        rows = np.resize(np.arange(len(examples.label)), ROUNDS * width * len(devices))
        batch = jax.tree.map(lambda leaf, rows=rows: leaf[rows], examples)
        try:
            found[width] = _microseconds(attack, classifier, batch, width, devices, keep_x_adv, clock)
        except jax.errors.JaxRuntimeError as error:
            if not found or "RESOURCE_EXHAUSTED" not in str(error):
                raise
            break
        if found[width] > WORSE * min(found.values()):
            break
        width *= 2
    fastest = min(found.values())
    return Calibration(min(lanes for lanes, each in found.items() if each <= LEVEL * fastest), found)


def _microseconds(
    attack: Attack, classifier: Classifier, examples: Example, lanes: int, devices: Sequence[Any], keep_x_adv: bool, clock: Clock
) -> float:
    """Per step of one example, the fastest of some runs."""

    def run(max_steps: Any) -> float:
        begin = clock()
        shorter: Any = replace(attack, max_steps=max_steps)  # pyright: ignore[reportArgumentType] (all are dataclasses)
        streamed = stream(shorter, classifier, [examples], lanes=lanes, devices=devices, keep_x_adv=keep_x_adv, clock=clock)
        for _ in streamed:
            pass
        return (clock() - begin) / streamed.stats.useful_steps * 1e6

    most = min(UPDATES, int(attack.max_steps))
    run(0)  # compiles
    runs, begin = [run(most)], clock()
    while clock() - begin < SECONDS:
        runs.append(run(most))
    return min(runs)
