"""The experiment on smooth costs: its table in a small size, and its measure of agreement."""

import jax.numpy as jnp
import numpy as np

from a2d_jax.adaptive import Linearised
from experiments import smooth_cost
from tests.nets import convnet


def test_tiny(promoting, monkeypatch, capsys):
    """Protects the command: a table with a row for each cost, whose Linf gradients agree with differences."""
    kept = ("Linearised", "Implicit, BIM 10", "unrolled BIM2 10")
    every = smooth_cost.costs_of
    monkeypatch.setattr(smooth_cost, "costs_of", lambda preset: {name: every(preset)[name] for name in kept})
    text = smooth_cost.main(smooth_cost.Settings(size="tiny", images=3))
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")][2:]
    assert [row[0].strip() for row in rows] == list(kept)
    for row in rows[:2]:
        assert float(row[5].split(",")[0]) > 0.999
    assert rows[2][5].strip() == "-"
    assert all(float(row[2]) > 0 and float(row[3]) > 0 for row in rows)


def test_every_preset_has_costs():
    """Protects the settings: the radii are those of each preset, and every name has a cost of its own norm."""
    for preset in ("mnist", "cifar10"):
        for norm, cost in smooth_cost.costs_of(preset).values():
            assert getattr(getattr(cost, "attack", cost), "norm", norm) == norm


def test_agreement_sees_a_wrong_gradient():
    """Protects the measure: the exact gradient has a cosine of 1; one that ignores half of the function has not."""
    net, x = convnet(), np.random.default_rng(0).uniform(0.2, 0.8, (3, 8, 8, 1)).astype(np.float32)
    label = np.asarray([int(jnp.argmax(net(one))) for one in x])
    right = smooth_cost.agreement_of(Linearised(), net, x, label)
    assert min(right) > 0.999

    def wrong(classifier, x, label):
        from jax.lax import stop_gradient

        return Linearised()(classifier, x * jnp.asarray([[[0.0]], [[1.0]]] * 4, x.dtype), label) + jnp.sum(stop_gradient(x))

    assert max(smooth_cost.agreement_of(wrong, net, x, label)) < 0.99
