"""The search for the number of lanes: the numbers that are tried, the number that is chosen, and one real search."""

import jax
import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.attacks import bim
from a2d_jax.drivers import calibration
from tests.nets import batch, convnet

ATTACK = bim(0.3, 0.01, 40)


def timed(monkeypatch, times):
    """Calibrate a convnet whose steps take the given times; what is an exception is raised."""

    def microseconds(attack, classifier, examples, lanes, devices, keep_x_adv, clock):
        assert len(examples.label) == 2 * lanes * len(devices)
        if isinstance(times[lanes], Exception):
            raise times[lanes]
        return times[lanes]

    monkeypatch.setattr(calibration, "_microseconds", microseconds)
    net = convnet()
    return drivers.calibrate(ATTACK, net, batch(net, np.random.default_rng(0).random((3, 8, 8, 1), np.float32)))


def test_doubles_until_slower_and_takes_the_fewest_that_are_level(monkeypatch):
    """Protects the choice: 16 lanes are within a tenth of 32, 64 are slower, and 128 are not tried."""
    found = timed(monkeypatch, {8: 50.0, 16: 20.5, 32: 20.0, 64: 23.0})
    assert found.lanes == 16
    assert found.microseconds == {8: 50.0, 16: 20.5, 32: 20.0, 64: 23.0}


def test_stops_at_the_first_where_few_are_best(monkeypatch):
    """Protects networks that like few lanes: the search ends at once."""
    assert timed(monkeypatch, {8: 1600.0, 16: 1800.0}) == calibration.Calibration(8, {8: 1600.0, 16: 1800.0})


def test_ends_at_the_most_and_where_memory_ends(monkeypatch):
    """Protects accelerators: what does not fit is not taken, any other error is not hidden, nor is one at the start."""
    assert timed(monkeypatch, {8: 5.0, 16: 4.0, 32: 3.0, 64: 2.0, 128: 1.5, 256: 1.0}).lanes == 256
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
    assert timed(monkeypatch, {8: 5.0, 16: 4.0, 32: full}).lanes == 16
    for times in ({8: full}, {8: 5.0, 16: jax.errors.JaxRuntimeError("INTERNAL: something else")}):
        with pytest.raises(jax.errors.JaxRuntimeError):
            timed(monkeypatch, times)


def test_measures_for_real(monkeypatch):
    """Protects the measurement: every number tried has a time, the one taken was tried, and settings are not changed by it."""
    monkeypatch.setattr(calibration, "SECONDS", 0.0)
    monkeypatch.setitem(calibration.MOST, "cpu", 16)
    net = convnet()
    examples = batch(net, np.random.default_rng(0).random((5, 8, 8, 1), np.float32))
    found = drivers.calibrate(ATTACK, net, examples, devices=jax.local_devices()[:2])
    assert set(found.microseconds) <= {8, 16}
    assert all(each > 0 for each in found.microseconds.values())
    assert found.lanes in found.microseconds


def test_refuses_no_examples():
    """Protects early failure: without an image there is nothing to try."""
    net = convnet()
    none = jax.tree.map(lambda leaf: leaf[:0], batch(net, np.zeros((1, 8, 8, 1), np.float32)))
    with pytest.raises(ValueError, match="expected at least one example"):
        drivers.calibrate(ATTACK, net, none)
