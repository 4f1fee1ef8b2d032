"""Every attack of every preset can be made, recorded in a table and made again from it."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from a2d_jax import presets
from a2d_jax.specs import attacks, attacks_from, settings_of
from a2d_jax.types import Example
from tests.nets import batch, linear

EVERY = [
    (preset, role, name) for preset, roles in presets.PRESETS.items() for role in ("defence", "crafting") for name in getattr(roles, role)
]
SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3), "imagenet": (32, 32, 3)}


@pytest.mark.parametrize(("preset", "role", "name"), EVERY)
def test_settings_survive_a_table(preset, role, name):
    """Protects detectors fitted from tables: settings written as JSON build an attack with the same settings."""
    attack = presets.make(preset, role, name)
    text = json.dumps(settings_of({name: attack}))
    again = attacks_from(json.loads(text), [name], pathlib.Path("table"))[name]
    assert json.dumps(settings_of({name: again})) == text
    assert again.length() == attack.length()


@pytest.mark.parametrize("preset", SHAPES)
def test_scales_per_channel_fit_the_data(preset):
    """Protects the tuples: theta of the single rule has one value for all channels, or one for each, also as JSON has it."""
    shape = SHAPES[preset]
    net = linear(np.random.default_rng(0).normal(size=(3, np.prod(shape))).astype(np.float32))
    example = batch(net, np.full((1, *shape), 0.5, np.float32))
    attack = presets.make(preset, "crafting", "jsma_single")
    again = attacks_from(json.loads(json.dumps(settings_of({"a": attack}))), ["a"], pathlib.Path("table"))["a"]
    first = Example(jnp.asarray(example.x[0]), jnp.asarray(example.label[0]), example.key[0])
    moved, moved_again = (kind.step(net, first, kind.init(first)).x_adv - first.x for kind in (attack, again))
    assert np.count_nonzero(moved) == 1
    np.testing.assert_allclose(moved.max(), np.broadcast_to(attack.theta, shape).ravel()[np.argmax(moved)], rtol=1e-6)
    np.testing.assert_array_equal(moved, moved_again)


def test_written_settings_have_the_types_of_the_preset():
    """Protects what is typed: settings behind colons reach their attack alone, before those of a flag, as numbers, truths or names."""
    mnist = presets.named("mnist")
    found = attacks("bim, dba:mse_threshold=0.5:max_steps=4,cw:minimise=true", mnist.defence, max_steps=7, epsilon=None)
    assert list(found) == ["bim", "dba", "cw"]
    assert [attack.max_steps for attack in found.values()] == [7, 4, 7]
    assert found["dba"].mse_threshold == 0.5
    assert found["cw"].minimise is True
    pgd = attacks("pgd:restarts=3:max_steps=5:norm=l2", mnist.crafting, epsilon=1.5)["pgd"]
    assert (pgd.epsilon, pgd.max_steps, pgd.restart_every, pgd.norm) == (1.5, 18, 6, "l2")
    assert attacks("jsma_single:theta=0.25", presets.named("cifar10").crafting)["jsma_single"].theta == 0.25
