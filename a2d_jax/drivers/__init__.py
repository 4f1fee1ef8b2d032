"""Drivers: the loops that run an attack's `step` until it is done.

`run` and `unroll` are pure functions of one example that you can map, differentiate and compose. `stream` and `attack` are the jitted,
sharded functions for batches and for data that does not fit into memory. `calibrate` finds the fastest number of lanes for `stream`, and
`warm` compiles its programs in advance.
"""

from a2d_jax.drivers.batch import attack
from a2d_jax.drivers.calibration import Calibration, calibrate
from a2d_jax.drivers.loops import run, unroll
from a2d_jax.drivers.refill import Stats, Stream, stream, warm

__all__ = ["Calibration", "Stats", "Stream", "attack", "calibrate", "run", "stream", "unroll", "warm"]
