"""PGD: random starts, restarts, BIM without an early stop, losses, the length of its steps, and the best point."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binomtest, kstest

from a2d_jax import costs, drivers, losses, presets, specs
from a2d_jax.attacks import PGD, bim, bim_b, pgd
from a2d_jax.errors import BadInput
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


def test_margin_and_dlr_see_what_saturation_hides():
    """Protects the choice of the loss: where cross entropy has no gradient left, the margin and DLR still find the boundary."""
    rng = np.random.default_rng(4)
    weights, x = rng.normal(size=(3, 16)).astype(np.float32), rng.uniform(0.4, 0.6, (12, 4, 4, 1)).astype(np.float32)
    sure = linear(weights * 1e5)
    found = {loss: drivers.attack(PGD(0.4, 0.01, 40, loss=loss), sure, batch(sure, x)) for loss in ("ce", "margin", "dlr")}
    assert found["ce"].flat.any()
    assert not found["ce"].success[found["ce"].flat].any()
    for loss in ("margin", "dlr"):
        assert found[loss].success.all()
        assert not found[loss].flat.any()
    w = weights - weights[batch(sure, x).label][:, None]  # example, class, pixel
    distance = np.sort(-np.einsum("nkp,np->nk", w, x.reshape(12, 16)) / np.maximum(np.abs(w).sum(2), 1e-9), axis=1)[:, 1]
    for loss in ("margin", "dlr"):
        assert (found[loss].cost >= np.floor(distance / 0.01)).all(), "no attack crosses nearer than the nearest boundary"


def my_loss(logits, label):
    return losses.cross_entropy(logits / 10, label)


def test_a_loss_of_ones_own():
    """Protects the callable: a function of logits and label is followed, up for an untargeted attack and down for a targeted one."""
    net, examples = convnet(), hard(6)
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), examples)
    for targeted in (False, True):
        attack = PGD(0.2, 0.01, 1, loss=my_loss, targeted=targeted, early_stop=False)
        result = drivers.run(attack, net, one)
        gradient = jax.grad(lambda x: my_loss(net(x), one.label))(one.x)
        expected = jnp.clip(one.x + 0.01 * jnp.sign(gradient) * (-1 if targeted else 1), 0, 1)
        np.testing.assert_allclose(result.x_adv, expected, atol=1e-6)
    named, own = (drivers.attack(PGD(0.2, 0.01, 15, loss=loss), net, examples) for loss in ("margin", losses.lead))
    jax.tree.map(np.testing.assert_array_equal, named, own)


def test_losses_as_text_and_in_files():
    """Protects commands and files: losses by name, default settings recorded as before, others in full, a function in no file."""
    crafting, defence = presets.named("mnist").crafting, presets.named("cifar10").defence
    assert specs.attacks("pgd:loss=margin", crafting)["pgd"].loss == "margin"
    bim_of = specs.attacks("bim:loss=dlr", defence)
    assert bim_of["bim"].loss == "dlr"
    best = specs.attacks("bim_b:keep_best=true:last_step=0.001", crafting)
    assert (best["bim_b"].keep_best, best["bim_b"].last_step) == (True, 0.001)
    with pytest.raises(BadInput, match=r"expected a loss among ce, margin, dlr, or a function .* got 'hinge'; pass one of them"):
        specs.attacks("pgd:loss=hinge", crafting)
    for attacks in (bim_of, best):
        settings = specs.settings_of(attacks)
        assert specs.attacks_from(settings, attacks, "a table") == attacks
    usual = specs.settings_of({"bim": bim()})["bim"]
    old = ("kind", "epsilon", "step_size", "max_steps", "norm", "targeted", "restart_every", "early_stop")
    assert tuple(usual) == old, "a table of a default attack is that of the version before"
    assert specs.completed(usual)["loss"] == "ce"
    with pytest.raises(BadInput, match="expected settings of mine that a file can hold, got a function for loss; take one by its name"):
        specs.settings_of({"mine": PGD(loss=my_loss)})


def test_steps_that_grow_shorter():
    """Protects the schedule: on a linear classifier the count is that of NumPy's sum of lengths, the crossing the exact distance."""
    rng = np.random.default_rng(5)
    weights, x = rng.normal(size=(2, 16)).astype(np.float32), rng.uniform(0.4, 0.6, (30, 4, 4, 1)).astype(np.float32)
    net, w = linear(weights), weights[0] - weights[1]
    distance = np.abs(x.reshape(30, 16) @ w) / np.abs(w).sum()
    n, first, last = 20, 0.02, 0.002
    lengths = last + (first - last) * (1 + np.cos(np.pi * np.arange(n) / (n - 1))) / 2
    assert lengths[-1] == pytest.approx(last)
    reach = np.concatenate([[0], np.cumsum(lengths)])
    attack = PGD(0.35, first, n, last_step=last)
    result = drivers.attack(attack, net, batch(net, x))
    clear = np.abs(reach[:, None] - distance).min(0) > 1e-5
    np.testing.assert_array_equal(result.cost[clear], (reach[:, None] <= distance).sum(0)[clear])
    assert np.unique(result.cost).size > 5
    np.testing.assert_allclose(result.crossing, np.minimum(distance, reach[-1]), rtol=1e-4)
    assert attack.scheduled, "no bound may shorten the budget that sets the lengths"
    constant = drivers.attack(PGD(0.35, first, n, last_step=first), net, batch(net, x))
    np.testing.assert_array_equal(constant.cost, drivers.attack(PGD(0.35, first, n), net, batch(net, x)).cost)


@pytest.mark.parametrize("targeted", [False, True])
def test_the_best_point_is_kept(targeted):
    """Protects `keep_best`: of all points judged, a success before any failure, then the largest loss; the path is the same."""
    net, examples = convnet(), hard()
    if targeted:
        examples = examples._replace(label=(examples.label + 1) % 5)
    attack = PGD(0.04, 0.03, 12, targeted=targeted, early_stop=False, loss="margin")  # long steps: the last point is not the best
    best = drivers.attack(dataclasses.replace(attack, keep_best=True), net, examples)
    last = drivers.attack(attack, net, examples)

    def seen(example):
        return drivers.unroll(attack, net, example, observe=lambda _, state, seen: (state.x_adv, seen.logits))[1]

    points, logits = jax.jit(jax.vmap(seen))(examples)
    for i in range(20):
        gain = np.asarray([losses.lead(z, examples.label[i]) for z in logits[i]]) * (-1 if targeted else 1)
        success = (np.argmax(logits[i], 1) == examples.label[i]) == targeted
        expected = int(np.lexsort((-np.arange(13), gain, success))[-1])
        np.testing.assert_allclose(best.x_adv[i], points[i, expected], atol=1e-6)
        assert best.success[i] == success[expected] == success.any()
    assert best.success.sum() >= last.success.sum()
    assert not np.array_equal(best.x_adv, last.x_adv), "the case shows nothing"
    np.testing.assert_array_equal(best.iterations, last.iterations)


def test_targets_of_ones_own():
    """Protects targets: through the calls that users make, each image has a class to reach of its own, which is not its label."""
    net, x = convnet(), hard().x
    targets = (np.asarray(jax.vmap(net)(x)).argmax(1) + 1 + np.arange(20) % 3) % 5
    attack = PGD(0.5, 0.05, 30, targeted=True, loss="margin")
    result = drivers.attack(attack, net, costs.examples(net, x, targets))
    assert result.success.mean() > 0.8
    reached = np.asarray(jax.vmap(net)(result.x_adv)).argmax(1)
    np.testing.assert_array_equal(reached == targets, result.success)
    assert result.cost.min() >= 1
