"""APGD: closed form, the checkpoints, the DLR loss, and successes compared with torchattacks."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.attacks import APGD
from a2d_jax.losses import dlr
from a2d_jax.types import Classifier
from tests.attacks.pinned import GOLDEN, golden, lenet
from tests.nets import batch, convnet, linear


@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize(("norm", "dual"), [("linf", lambda w: np.abs(w).sum()), ("l2", np.linalg.norm)])
def test_succeeds_iff_epsilon_exceeds_the_distance(norm, dual, loss):
    """Protects the ball: on a linear classifier APGD succeeds exactly where epsilon exceeds margin / ||w||_dual."""
    rng = np.random.default_rng(0)
    weights, x = rng.normal(size=(3, 16)).astype(np.float32), rng.uniform(0.4, 0.6, (20, 4, 4, 1)).astype(np.float32)
    weights[2] = -100  # a third class that is never near
    net, w = linear(weights), weights[0] - weights[1]
    distance = np.abs(x.reshape(20, 16) @ w) / dual(w)
    epsilon = float(np.median(distance)) * 1.01
    result = drivers.attack(APGD(epsilon, 51, norm=norm, loss=loss), net, batch(net, x))
    np.testing.assert_array_equal(result.success, distance < epsilon)


def states(attack, net, example):
    step, state = jax.jit(attack.step), attack.init(example)
    found = [state]
    for _ in range(attack.length()):
        state = step(net, example, state)
        found.append(state)
    return found


def test_checkpoints_come_closer_together():
    """Protects the schedule: for 100 updates the paper's checkpoints are 0, 22, 41, 57, 70, 80, 87, 93, 99."""
    net = convnet()
    example = jax.tree.map(lambda leaf: leaf[0], batch(net, np.random.default_rng(0).uniform(size=(1, 8, 8, 1)).astype(np.float32)))
    windows = [int(state.window) for state in states(APGD(1e-3, 101), net, example)]
    changes = [k for k in range(1, len(windows)) if windows[k] != windows[k - 1] or k == 0]
    # state k has judged k points: the clean input, the start, then one per update
    assert [k - 2 for k in changes][:8] == [22, 41, 57, 70, 80, 87]


def test_step_is_halved_where_the_loss_oscillates():
    """Protects the halving: across a narrow maximum the step of twice the radius is halved and the walk ends near the maximum."""
    peak = jnp.float32(0.03)
    net = Classifier(peak, lambda p, x: jnp.stack([jnp.sum((x - 0.5 - p) ** 2) + 1, jnp.float32(0)]))
    example = jax.tree.map(lambda leaf: leaf[0], batch(net, np.full((1, 4, 4, 1), 0.5, np.float32), label=np.zeros(1)))
    found = states(APGD(0.1, 101), net, example)
    steps = [float(state.step_size) for state in found]
    assert steps[0] == pytest.approx(0.2)
    assert steps[-1] <= 0.2 / 16
    assert all(b in (a, a / 2) for a, b in itertools.pairwise(steps))
    best = np.asarray(found[-1].best)
    np.testing.assert_allclose(best, 0.53, atol=0.01)


def test_dlr_does_not_change_with_the_scale_of_logits():
    """Protects DLR: NumPy's value, no effect of scale or shift, and an error that names the remedy for two classes."""
    z = np.random.default_rng(1).normal(size=7).astype(np.float32)
    for label in range(7):
        s = np.sort(z)
        expected = -(z[label] - np.delete(z, label).max()) / (s[-1] - s[-3])
        for logits in (z, z * 1000, z + 5):
            np.testing.assert_allclose(dlr(jnp.asarray(logits), jnp.int32(label)), expected, rtol=1e-4)
    with pytest.raises(ValueError, match=r'expected three classes or more, got 2; use loss="ce"'):
        dlr(jnp.zeros(2), jnp.int32(0))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_successes_beside_torchattacks(norm, loss):
    """Protects the strength: at 50 updates and three radii no fewer digits fall than to torchattacks' weakest seed, less one."""
    found = np.load(GOLDEN / "yardsticks.npz", allow_pickle=False)
    net, examples = lenet(), batch(lenet(), golden()["x"])
    for radius, hits in zip(found[f"apgd_{norm}_radii"], found[f"apgd_{norm}_{loss}"], strict=True):
        result = drivers.attack(APGD(float(radius), 51, norm=norm, loss=loss), net, examples)
        assert result.success.sum() >= hits.sum(1).min() - 1
        assert result.distance.max() <= radius * (1 + 1e-5)
