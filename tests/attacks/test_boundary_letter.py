"""The boundary attack compared with a literal rewriting: one image, one trial at a time, lists for windows, float64 NumPy.

The rewriting follows the rules of Foolbox 1.8 with batch size 1 (specification B11). It shares only the random numbers with the state
machine.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erfinv

from a2d_jax import drivers, presets
from a2d_jax.attacks import Boundary
from a2d_jax.attacks.boundary import Window
from tests.nets import batch, formula_input, formula_net


def numbers(key, steps):
    """Noise images by number of the draw, and directions by step and trial, as the attack draws them."""

    def symmetric(key):
        return jax.random.uniform(key, (6, 6, 1), jnp.float64, -1, 1)

    starting, walking = jax.random.split(key)
    noise = jax.vmap(lambda n: symmetric(jax.random.fold_in(starting, n)))(jnp.arange(1, 40, dtype=jnp.int32))
    trials = jnp.arange(25, dtype=jnp.int32)
    walk = jax.vmap(lambda k: jax.vmap(lambda t: symmetric(jax.random.fold_in(jax.random.fold_in(walking, k), t)))(trials))
    return (np.asarray(noise) + 1) / 2, erfinv(np.asarray(walk(jnp.arange(steps, dtype=jnp.int32))))


def literal(adversarial, x, noises, directions, tau, steps):
    """Cost (None without the event), last adversarial point, its distance, queries, and what the run went through."""
    seen = {"spherical up": 0, "spherical down": 0, "source up": 0, "source down": 0, "resets": 0, "converged": 0, "recovered": 0}
    queries = 1
    for noise in noises:
        queries += 1
        if adversarial(noise):
            break
    for parts in range(1, 1001):
        point = (1 - parts / 1000) * x + parts / 1000 * noise
        queries += 1
        if adversarial(point):
            break
    distance = np.mean((point - x) ** 2)
    spherical_step = source_step = 0.01
    spheres, sources, reset, patience, inconsistent = [], [], False, 100, 0
    for step in range(1, steps + 1):
        if source_step < (1e-7 if patience == 100 else 2e-7):
            if reset:
                patience -= 1
                seen["converged"] += 1
                if patience == 0:
                    break
            else:
                reset, spherical_step, source_step = True, 0.01, 0.01
                seen["resets"] += 1
        elif patience < 100:
            patience, reset = 100, False
            seen["recovered"] += 1
        gathers = step % 10 == 0 or reset
        towards = x - point
        radius = np.linalg.norm(towards)
        taken = None
        for direction in directions[step - 1]:
            sideways = direction - (direction * towards).sum() / radius**2 * towards
            sideways *= spherical_step * radius / np.linalg.norm(sideways)
            sphere = (x + (sideways - towards) / np.sqrt(1 + spherical_step**2)).clip(0, 1)
            back = x - sphere
            length = np.linalg.norm(back)
            candidate = (sphere + max(0, source_step * radius + length - radius) / length * back).clip(0, 1)
            if gathers:
                queries += 1
                spheres.append(adversarial(sphere))
                if not spheres[-1]:
                    continue
            queries += 1
            hit = adversarial(candidate)
            if gathers:
                sources.append(hit)
            if hit:
                taken = candidate
                break
        spheres, sources = spheres[-100:], sources[-30:]
        if taken is not None:
            nearer = np.mean((taken - x) ** 2)
            if nearer < distance:
                point, distance = taken, nearer
                if nearer < tau:
                    return step, point, distance, queries, seen
            else:
                inconsistent += 1
                if inconsistent == 1000:
                    break
        if len(spheres) == 100 and not 0.2 <= np.mean(spheres) <= 0.5:
            up = np.mean(spheres) > 0.5
            seen["spherical up" if up else "spherical down"] += 1
            spherical_step, source_step, spheres = spherical_step * 1.5 ** (2 * up - 1), source_step * 1.5 ** (2 * up - 1), []
        if len(sources) == 30 and not 0.2 <= np.mean(sources) <= 0.5:
            up = np.mean(sources) > 0.5
            seen["source up" if up else "source down"] += 1
            source_step, sources = source_step * 1.5 ** (2 * up - 1), []
    return None, point, distance, queries, seen


def compare(inputs, tau, steps):
    """Both on formula inputs; what the literal runs went through."""
    with jax.enable_x64(True):
        net = formula_net()
        x = np.stack([formula_input(s, offset) for s, offset in inputs])
        examples = batch(net, x)
        result = drivers.attack(Boundary(tau, steps), net, examples, driver="run")
        w1, b1, w2 = (np.asarray(v) for v in net.variables)
        every = [numbers(key, steps) for key in examples.key]
    total = {}
    for i, (noise, directions) in enumerate(every):

        def adversarial(image, i=i):
            return (w2 @ np.maximum(w1 @ image.ravel() + b1, 0)).argmax() != examples.label[i]

        cost, point, distance, queries, seen = literal(adversarial, x[i], noise, directions, tau, steps)
        assert result.cost[i] == (steps + 1 if cost is None else cost)
        assert result.forward_queries[i] == queries
        np.testing.assert_allclose(result.distance[i] ** 2, distance, rtol=1e-6)
        np.testing.assert_allclose(result.x_adv[i], point, atol=1e-6)
        total = {name: total.get(name, 0) + count for name, count in seen.items()}
    return total, result


@pytest.mark.slow
def test_walks_to_the_letter_until_convergence():
    """Protects every rule of a long walk: queries, points, both windows, resets, the end after 100 converged steps."""
    seen, result = compare([(0, 0.0), (1, 0.0), (2, 0.0)], 0.0, 1500)
    assert (result.iterations < 1500).any(), "none converged"
    seen.pop("recovered")  # too rare to wait for; test_boundary.py steps through it
    assert all(seen.values()), seen


@pytest.mark.slow
def test_costs_to_the_letter():
    """Protects the cost: the step at which the threshold is met, below a threshold from the start too."""
    for tau in (0.02, 0.001):
        _, result = compare([(s, 0.0) for s in range(1, 5)], tau, 250)
        assert (~result.censored).sum() >= 2


@pytest.mark.parametrize("length", [30, 100])
def test_rates_of_a_fifth_and_a_half_decide_nothing(length):
    """Protects the strict comparisons: exactly 0.2 is not seldom and exactly 0.5 is not often, whatever rounding says of a mean."""
    for hits, expected in ((length // 5, (False, False)), (length // 2, (False, False)), (length // 5 - 1, (False, True))):
        window = Window(jnp.arange(length) < hits, jnp.int32(length))
        often, seldom, _ = jax.jit(Window.verdict)(window)
        assert (bool(often), bool(seldom)) == expected


@pytest.mark.parametrize(("name", "tau"), [("mnist", 0.02), ("cifar10", 5e-5), ("imagenet", 5e-5)])
def test_thresholds_of_the_presets(name, tau):
    """Protects the settings: the thresholds of the released code, CIFAR-10's for ImageNet, and any other by its name."""
    for role in ("defence", "crafting"):
        attack = presets.make(name, role, "dba")
        assert (attack.mse_threshold, attack.max_steps) == (tau, 5000)
        assert presets.make(name, role, "dba", mse_threshold=0.01).mse_threshold == 0.01
