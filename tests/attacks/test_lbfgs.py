"""L-BFGS: its minimiser compared with SciPy's, closed form, search over constants, queries."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import fmin_l_bfgs_b

from a2d_jax import drivers
from a2d_jax.attacks import LBFGS, lbfgs
from tests.attacks.pinned import GOLDEN, golden, lenet
from tests.nets import batch, linear


@functools.cache
def by_scipy() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "lbfgs.npz", allow_pickle=False))


@functools.partial(jax.jit, static_argnames=("function",))
def minimise(function, x, lower, upper):
    """Drive the minimiser as the attack does, one evaluation per step."""
    evaluate = jax.value_and_grad(function)

    def body(carry):
        search, count = carry
        return lbfgs.advance(search, *evaluate(search.point), lower, upper), count + 1

    return jax.lax.while_loop(lambda carry: ~carry[0].converged, body, (lbfgs.Minimiser.start(x), 0))


@functools.cache
def quadratic(seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(12, 12))
    hessian, centre = root @ root.T / 12 + 0.1 * np.eye(12), rng.normal(0.5, 0.7, 12)

    def function(z):
        delta = z.ravel() - jnp.asarray(centre, z.dtype)
        return delta @ jnp.asarray(hessian, z.dtype) @ delta / 2

    return function


def rosenbrock(z):
    z = z.ravel()
    return jnp.sum(100 * (z[1:] - z[:-1] ** 2) ** 2 + (1 - z[:-1]) ** 2)


PROBLEMS = {
    "quadratic": (quadratic(0), 0.0, 1.0, 12),
    "another quadratic": (quadratic(1), 0.0, 1.0, 12),
    "rosenbrock": (rosenbrock, -2.0, 2.0, 6),
    "rosenbrock, minimum outside": (rosenbrock, -2.0, 0.8, 6),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_minimiser_finds_what_scipy_finds(name):
    """Protects the minimiser: SciPy's minimum, active bounds included, within twice SciPy's evaluations; near it in float32."""
    function, lower, upper, n = PROBLEMS[name]
    start = np.random.default_rng(7).uniform(lower, upper, (n, 1, 1))
    with jax.enable_x64(True):
        search, count = minimise(function, jnp.asarray(start), lower, upper)
        evaluate = jax.jit(jax.value_and_grad(function))
        expected, value, info = fmin_l_bfgs_b(
            lambda z: [np.asarray(v) for v in evaluate(jnp.asarray(z))], start.ravel(), bounds=[(lower, upper)] * n, m=15
        )
    active = (expected <= lower + 1e-9) | (expected >= upper - 1e-9)
    assert active.any() == (name != "rosenbrock")
    np.testing.assert_allclose(search.value, value, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(np.ravel(search.x), expected, atol=2e-3)
    assert count <= 2 * info["funcalls"]
    single, count = minimise(function, jnp.asarray(start, jnp.float32), lower, upper)
    assert float(single.value) <= value * (1 + 1e-3) + 1e-3
    assert count < 300


def test_minimiser_survives_a_wall():
    """Protects against broken values: points where the objective is NaN are stepped back from."""

    def walled(z):
        return jnp.sum(jnp.where(z > 0.7, jnp.nan, (z - 0.65) ** 2))

    search, _ = minimise(walled, jnp.full((3, 1, 1), 0.1), 0.0, 1.0)
    np.testing.assert_allclose(search.x, 0.65, atol=1e-3)


@pytest.mark.slow
def test_objective_of_the_attack_on_lenet():
    """Protects the minimiser on its own problem: the attack's objective on LeNet-5, no worse than SciPy's minima in the median."""
    net, x = lenet(), golden()["x"]
    target, constants = by_scipy()["target"].astype(np.int32), by_scipy()["constants"]

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, None))
    def minimum(x, target, constant):
        def objective(z):
            return jnp.sum((z - x) ** 2) / 2 + constant * (x.size / 2) * lbfgs.cross_entropy(net(z), target)

        evaluate = jax.value_and_grad(objective)

        def body(search):
            return lbfgs.advance(search, *evaluate(search.point))

        return jax.lax.while_loop(lambda search: ~search.converged, body, lbfgs.Minimiser.start(x)).value * 2 / x.size

    for k, constant in enumerate(constants):
        ours, theirs = np.asarray(minimum(x, target, jnp.float32(constant))), by_scipy()["values"][:, k]
        assert np.median(ours / theirs) < 1.01
        assert (ours / theirs < 1.5).all()


@pytest.mark.parametrize("minimise", [True, False])
def test_closest_image_of_the_second_best_class(minimise):
    """Protects the search over c: on a two-class linear classifier the distance is margin / ||w||_2 to 1 %; as defence, farther."""
    rng = np.random.default_rng(0)
    weights, x = rng.normal(size=(2, 16)).astype(np.float32), rng.uniform(0.45, 0.55, (12, 4, 4, 1)).astype(np.float32)
    net, w = linear(weights), weights[0] - weights[1]
    exact = np.abs(x.reshape(12, 16) @ w) / np.linalg.norm(w)
    result = drivers.attack(LBFGS(minimise=minimise), net, batch(net, x), driver="run")
    assert result.success.all()
    assert not result.censored.any()
    assert (result.distance > exact * (1 - 1e-4)).all()
    if minimise:
        assert (result.distance < exact * 1.01 + 1e-4).all()
    np.testing.assert_array_equal(result.forward_queries, result.cost + 1)
    np.testing.assert_array_equal(result.backward_queries, result.cost + 1)


def test_ends_after_thirty_doublings():
    """Protects the dead end: a target that no constant reaches is given up after 30 constants, each minimised at once here."""
    flat = linear(np.zeros((3, 16), np.float32), np.array([1.0, 0.5, 0.0], np.float32))
    result = drivers.attack(LBFGS(), flat, batch(flat, np.full((2, 4, 4, 1), 0.5, np.float32)), driver="run")
    np.testing.assert_array_equal(result.forward_queries, 30)
    np.testing.assert_array_equal(result.cost, 10000)
    assert result.censored.all()


def test_search_cut_off_by_the_budget_is_censored():
    """Protects the cost of a whole search: it counts once the search has ended, not where the budget cut it off."""
    rng = np.random.default_rng(3)
    net, x = linear(rng.normal(size=(4, 16)).astype(np.float32)), rng.uniform(size=(8, 4, 4, 1)).astype(np.float32)
    first = drivers.attack(LBFGS(minimise=False), net, batch(net, x), driver="run")
    budget = int(np.median(first.cost))
    cut = drivers.attack(LBFGS(max_steps=budget), net, batch(net, x), driver="run")
    np.testing.assert_array_equal(cut.success, first.cost <= budget)
    assert cut.censored.all()
    np.testing.assert_array_equal(cut.cost, budget + 1)


@pytest.mark.slow
def test_distances_and_evaluations_beside_scipy():
    """Protects the attack: on LeNet-5 as close as SciPy's search in the median, at no more evaluations."""
    net, x = lenet(), golden()["x"]
    result = drivers.attack(LBFGS(), net, batch(net, x), driver="run")
    assert result.success.all()
    assert np.median(result.distance / by_scipy()["closest"]) < 1.005
    assert np.median(result.forward_queries / by_scipy()["evaluations"]) < 1
