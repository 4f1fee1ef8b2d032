"""PGD from random starts, its restarts, and BIM without an early stop."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.stats import binomtest, kstest

from a2d_jax import drivers
from a2d_jax.attacks import PGD, bim, bim_b, pgd
from tests.attacks.pinned import golden, lenet
from tests.nets import batch, convnet, linear


def hard(n: int = 20):
    """A network whose images fall to some starts only, within the radius."""
    return batch(convnet(), np.random.default_rng(3).uniform(size=(n, 8, 8, 1)).astype(np.float32))


@pytest.mark.parametrize("norm", ["linf", "l2", "rms"])
def test_starts_are_uniform_in_the_ball(norm):
    """Protects the law of a start: |delta_i| / epsilon (Linf) or (||delta|| / epsilon)^n (L2) is uniform on [0, 1]."""
    flat = linear(np.zeros((2, 9), np.float32), np.array([1.0, 0.0], np.float32))
    x = np.full((400, 3, 3, 1), 0.5, np.float32)
    result = drivers.attack(pgd(0.1, 0.01, 0, norm=norm), flat, batch(flat, x))
    delta = (result.x_adv - x).reshape(400, 9) / 0.1
    if norm == "linf":
        assert kstest(np.abs(delta).ravel(), "uniform").pvalue > 0.001
    else:
        length = np.linalg.norm(delta, axis=1) / (3 if norm == "rms" else 1)
        assert kstest(length**9, "uniform").pvalue > 0.001
    assert binomtest(int((delta[:, 0] > 0).sum()), 400).pvalue > 0.001, "both sides of a pixel are as likely"


def test_a_start_counts_as_an_update():
    """Protects the count: the input, the jump, then the steps that a NumPy loop from the same start needs."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(2, 16)).astype(np.float32)
    net, x = linear(weights), rng.uniform(0.4, 0.6, (30, 4, 4, 1)).astype(np.float32)
    examples = batch(net, x)
    start = drivers.attack(pgd(0.3, 0.01, 0), net, examples)
    result = drivers.attack(pgd(0.3, 0.01, 40), net, examples)
    for i in range(30):
        point, ascent = start.x_adv[i].ravel().astype(np.float64), np.sign(weights[1 - examples.label[i]] - weights[examples.label[i]])
        needed = 1
        while (weights @ point).argmax() == examples.label[i] and needed < 41:
            centre = x[i].ravel()
            point, needed = np.clip(np.clip(point + 0.01 * ascent, centre - 0.3, centre + 0.3), 0, 1), needed + 1
        assert result.iterations[i] == needed
    assert np.unique(result.iterations).size > 5


def test_restarts_are_runs_of_their_own():
    """Protects restarts: the run that succeeds is the first of the single runs that does, with the updates of those before it."""
    net, examples = convnet(), hard()
    steps, runs = 4, 5
    attack = pgd(0.05, 0.02, steps, restarts=runs)
    together = drivers.attack(attack, net, examples)
    assert 0 < together.success.sum() < len(together.success), "the case shows nothing"
    assert (together.iterations[together.success] > steps + 1).any(), "no example needed a second run"
    once = drivers.attack(pgd(0.05, 0.02, steps), net, examples)
    np.testing.assert_array_equal(together.cost[once.success], once.cost[once.success])
    assert attack.max_steps == runs * (steps + 1)
    shorter = drivers.attack(dataclasses.replace(attack, max_steps=2 * (steps + 1)), net, examples)
    within = together.iterations <= 2 * (steps + 1)
    np.testing.assert_array_equal(shorter.success, together.success & within)


def test_starts_belong_to_the_example():
    """Protects repeatability: the same key gives the same start in any batch, another key or run another start."""
    net, examples = convnet(), hard(6)
    attack = pgd(0.05, 0.0, 0)
    alone = drivers.attack(attack, net, jax.tree.map(lambda leaf: leaf[2:4], examples))
    together = drivers.attack(attack, net, examples)
    np.testing.assert_array_equal(alone.x_adv, together.x_adv[2:4])
    second = drivers.attack(PGD(0.05, 0.0, 2, restart_every=1), net, examples)
    moved = (second.iterations == 2) & (together.iterations == 1)
    assert moved.any()
    assert (np.abs(second.x_adv - together.x_adv).reshape(6, -1).max(1)[moved] > 0.01).all()


def test_bim_b_makes_every_update():
    """Protects BIM-b: all updates are made, whatever the input is predicted as; the last point is the one that is judged."""
    net, examples = convnet(), hard()
    early = drivers.attack(bim(0.1, 0.01, 20), net, examples)
    late = drivers.attack(bim_b(0.1, 0.01, 20), net, examples)
    np.testing.assert_array_equal(late.iterations, 20)
    np.testing.assert_array_equal(late.forward_queries, 21)
    assert (early.iterations[early.success] < 20).any()
    np.testing.assert_array_equal(late.x_adv[~early.success], early.x_adv[~early.success])
    np.testing.assert_array_equal(late.success, np.asarray(jax.vmap(net)(late.x_adv)).argmax(1) != examples.label)
    np.testing.assert_array_equal(late.censored, ~late.success)


def test_bim_b_against_foolbox():
    """Protects BIM-b on LeNet-5: after 50 steps every digit lies where Foolbox's LinfPGD leaves it."""
    known, net = golden(), lenet()
    result = drivers.attack(bim_b(0.1, 0.01, 50), net, batch(net, known["x"], label=known["label"]), driver="run")
    np.testing.assert_array_equal(result.success, known["bim_b_success"])
    ours = np.rint((result.x_adv - known["x"]) * 255)
    assert (np.abs(ours - known["bim_b_steps_of_255"]) <= 1).mean() > 0.995  # the sign of a gradient near 0 is a matter of rounding


def test_refuses_bad_restarts():
    """Protects early failure: a run without updates is refused, with what to do about it."""
    with pytest.raises(ValueError, match="expected restart_every >= 1, got 0; give"):
        PGD(restart_every=0)
    with pytest.raises(ValueError, match="expected restarts >= 1, got 0; give"):
        pgd(restarts=0)
    with pytest.raises(ValueError, match="expected max_steps >= 0, got -1; give"):
        pgd(max_steps=-1)
