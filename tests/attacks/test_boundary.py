"""The boundary attack: start search, geometry of a candidate, windows, adaptation, convergence, counting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.attacks import Boundary, boundary
from a2d_jax.types import Classifier
from tests.nets import batch, linear


def half_plane(threshold: float) -> Classifier:
    """Class 1 where the mean pixel exceeds a threshold."""
    return Classifier(jnp.float32(threshold), _half_plane)


def _half_plane(threshold, x):
    return jnp.stack([threshold, x.mean()])


def sphere_only(radius: float) -> Classifier:
    """Class 1 outside a ball around the grey image."""
    return Classifier(jnp.float32(radius), lambda r, x: jnp.stack([r, jnp.sqrt(jnp.mean((x - 0.5) ** 2))]))


def one(net, x, seed=0, label=0):
    return jax.tree.map(lambda leaf: leaf[0], batch(net, np.asarray(x)[None], seed, label=np.array([label])))


@jax.jit
def step(attack, net, example, state):
    """One program for all tests whose images have the same size."""
    return attack.step(net, example, state)


@jax.jit
def enter(attack, state):
    return attack._enter(state)


def step_by_step(attack, net, example, until):
    """States after each step, until `until(state)`."""
    state = attack.init(example)
    states = [state]
    while not until(state):
        state = step(attack, net, example, state)
        states.append(state)
    return states


def lockstep(attack, net):
    """Results for four black images of class 0, in one program for all tests."""
    return drivers.attack(attack, net, batch(net, np.zeros((4, 5, 5, 1), np.float32), label=np.zeros(4)), driver="run")


def test_start_is_the_first_misclassified_blend():
    """Protects the start: the walk begins at the smallest of the 1000 blends that is misclassified, and counts its queries."""
    net, attack = half_plane(0.3), Boundary()
    example = one(net, np.zeros((5, 5, 1), np.float32))
    states = step_by_step(attack, net, example, lambda s: s.phase >= boundary.WALK)
    noise = np.asarray(states[1].noise)
    needed = int(np.ceil(0.3 / noise.mean() * 1000))
    np.testing.assert_allclose(states[-1].x_adv, noise * needed / 1000, rtol=1e-5)
    assert int(states[-1].progress.forward) == 2 + needed  # the input, one noise image, the blends
    assert bool(states[-1].progress.success)
    assert int(states[-1].progress.iterations) == 0


def test_noise_is_uniform():
    """Protects the law of the start: noise pixels are uniform on [0, 1] (Kolmogorov-Smirnov)."""
    from scipy.stats import kstest

    net = half_plane(2.0)
    state = Boundary().init(one(net, np.zeros((20, 20, 1), np.float32)))
    points = jax.jit(boundary._points)(one(net, np.zeros((20, 20, 1), np.float32)), state)
    assert kstest(np.asarray(points[1:]).ravel(), "uniform").pvalue > 0.001
    np.testing.assert_array_equal(points[0], 0)  # the input is looked at first


def test_no_start_costs_the_whole_budget():
    """Protects failure: nothing misclassified in 1000 draws and 1000 blends ends the attack, with every query counted."""
    net = half_plane(2.0)
    result = lockstep(Boundary(max_steps=77), net)
    assert not result.success.any()
    np.testing.assert_array_equal(result.cost, 78)
    np.testing.assert_array_equal(result.iterations, 0)
    np.testing.assert_array_equal(result.forward_queries, 1 + 1000 + 1000)
    np.testing.assert_array_equal(result.x_adv, 0)


def test_candidate_geometry():
    """Protects the step: the sphere point keeps its distance and moves sideways by `spherical_step`; the candidate is nearer."""
    rng = np.random.default_rng(0)
    x, x_adv = (rng.uniform(0.45, 0.55, (8, 8, 1)).astype(np.float32) for _ in range(2))  # far from the bounds: nothing is clipped
    state = (
        Boundary()
        .init(one(half_plane(1), x))
        ._replace(x_adv=jnp.asarray(x_adv), spherical_step=jnp.float32(0.2), source_step=jnp.float32(0.05))
    )
    sphere, candidate = boundary._propose(jnp.asarray(x), state, jnp.asarray(rng.normal(size=x.shape), jnp.float32))
    radius = np.linalg.norm(x - x_adv)
    np.testing.assert_allclose(np.linalg.norm(sphere - x), radius, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(candidate - x), radius * 0.95, rtol=1e-4)
    angle = np.sum((sphere - x) * (x_adv - x)) / radius**2
    np.testing.assert_allclose(angle, 1 / np.sqrt(1 + 0.2**2), rtol=1e-4)


def test_window_slides_and_clears():
    """Protects the statistics: outcomes enter in order, old ones fall out, a full window outside [0.2, 0.5] is cleared."""
    rng = np.random.default_rng(1)
    window, kept = boundary.Window.empty(30), []
    for _ in range(12):
        outcomes, keep = rng.random(25) > 0.6, rng.random(25) > 0.7
        window = window.push(jnp.asarray(outcomes), jnp.asarray(keep))
        kept += list(outcomes[keep])
        assert int(window.filled) == min(len(kept), 30)
        tail = kept[-30:]
        np.testing.assert_array_equal(window.outcomes[30 - len(tail) :], tail)
    for rate, expected in ((0.6, (True, False)), (0.1, (False, True)), (0.4, (False, False))):
        full = boundary.Window(jnp.asarray(np.arange(30) < rate * 30), jnp.int32(30))
        often, seldom, after = full.verdict()
        assert (bool(often), bool(seldom)) == expected
        assert int(after.filled) == (0 if any(expected) else 30)
        often, seldom, _ = full._replace(filled=jnp.int32(29)).verdict()
        assert not bool(often | seldom), "a window that is not full decides nothing"


def test_statistics_are_gathered_every_tenth_step():
    """Protects the schedule: steps 10, 20, ... probe the sphere first; the others test candidates only."""
    net = sphere_only(0.1)
    example = one(net, np.full((5, 5, 1), 0.5, np.float32))
    states = step_by_step(Boundary(mse_threshold=0.0, max_steps=45), net, example, lambda s: bool(s.progress.done))
    probed = {int(s.progress.iterations) + 1 for s in states if int(s.phase) == boundary.PROBE and not bool(s.progress.done)}
    assert probed == {10, 20, 30, 40}
    assert int(states[-1].progress.iterations) == 45


def test_threshold_needs_an_improving_step():
    """Protects the cost: a start already below the threshold still costs one step; the image returned is below it."""
    net = half_plane(0.02)
    result = lockstep(Boundary(mse_threshold=0.5), net)
    assert (result.cost >= 1).all()
    assert np.median(result.cost) == 1
    assert (result.distance**2 < 0.5).all()
    assert result.success.all()


def test_success_without_the_threshold_is_censored():
    """Protects honesty: an adversarial point that never came close enough is a success whose cost is censored."""
    net = half_plane(0.3)
    result = lockstep(Boundary(mse_threshold=0.0, max_steps=9), net)
    assert result.success.all()
    assert result.censored.all()
    np.testing.assert_array_equal(result.cost, 10)


@pytest.mark.parametrize("fails_again", [True, False])
def test_convergence_resets_then_ends(fails_again):
    """Protects convergence: a tiny source step is reset once; if it is tiny again for 100 steps in a row the attack ends."""
    net, attack = half_plane(0.3), Boundary(mse_threshold=0.0, max_steps=400)
    example = one(net, np.zeros((5, 5, 1), np.float32))
    state = step_by_step(attack, net, example, lambda s: s.phase >= boundary.WALK)[-1]
    tiny = jnp.float32(5e-8)
    state = enter(attack, state._replace(source_step=tiny))
    assert bool(state.reset)
    assert float(state.source_step) == pytest.approx(0.01)
    assert float(state.spherical_step) == pytest.approx(0.01)
    assert int(state.phase) == boundary.PROBE, "while reset, every step gathers statistics"
    for k in range(99):
        state = enter(attack, state._replace(source_step=tiny))
        assert int(state.patience) == 99 - k
        assert not bool(state.progress.done)
    if fails_again:
        state = enter(attack, state._replace(source_step=tiny))
        assert bool(state.progress.done)
    else:
        held = enter(attack, state._replace(source_step=jnp.float32(1.5e-7)))
        assert bool(held.progress.done), "while the counter falls, 2e-7 counts as converged"
        state = enter(attack, state._replace(source_step=jnp.float32(3e-7)))
        assert int(state.patience) == 100
        assert not bool(state.reset)
        assert not bool(state.progress.done)


def test_inconsistent_candidates_are_counted_and_end_the_attack():
    """Protects the abort: a thousand candidates that are adversarial but no closer end the attack; x stays."""
    net, attack = half_plane(0.3), Boundary(mse_threshold=0.0)
    example = one(net, np.zeros((5, 5, 1), np.float32))
    state = step_by_step(attack, net, example, lambda s: s.phase >= boundary.WALK)[-1]
    far = jnp.ones((25, 5, 5, 1))
    walked = attack._walk(example, state, far, jnp.ones(25, bool))
    assert int(walked.inconsistent) == 1
    np.testing.assert_array_equal(walked.x_adv, state.x_adv)
    ended = attack._walk(example, state._replace(inconsistent=jnp.int32(999)), far, jnp.ones(25, bool))
    assert bool(ended.progress.done)
    assert not bool(ended.progress.reached)


def test_queries_count_the_sequential_algorithm():
    """Protects query counts: trials after the first adversarial one are neither counted nor entered into the statistics."""
    net, attack = half_plane(0.3), Boundary(mse_threshold=0.0)
    example = one(net, np.zeros((5, 5, 1), np.float32))
    state = step_by_step(attack, net, example, lambda s: s.phase >= boundary.WALK)[-1]
    points = jnp.repeat(state.x_adv[None] * 0.99, 25, axis=0)
    hits = jnp.arange(25) == 3
    walk = attack._walk(example, state, points, hits)
    assert int(walk.progress.forward - state.progress.forward) == 4
    probed = state._replace(phase=jnp.int32(boundary.MOVE), on_sphere=jnp.arange(25) % 3 == 0)
    move = attack._walk(example, probed, points, hits)
    assert int(move.progress.forward - state.progress.forward) == 4 + 2  # spheres 0..3, candidates 0 and 3
    assert int(move.spherical_window.filled) == 4
    assert int(move.source_window.filled) == 2


def test_walk_comes_close():
    """Protects the walk itself: it ends within a few percent of the true distance to a flat boundary."""
    weights = np.random.default_rng(5).normal(size=(2, 36)).astype(np.float32)
    net = linear(weights)
    x = np.random.default_rng(6).uniform(0.3, 0.7, (6, 6, 6, 1)).astype(np.float32)
    examples = batch(net, x)
    result = drivers.attack(Boundary(mse_threshold=0.0, max_steps=1500), net, examples, driver="run")
    w = weights[0] - weights[1]
    distance = np.abs(x.reshape(6, -1) @ w) / np.linalg.norm(w) / 6
    assert (result.distance > distance * 0.999).all()
    assert np.median(result.distance / distance) < 1.05
