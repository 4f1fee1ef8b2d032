"""What every attack must keep, whatever it does: one table, one line per attack."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from a2d_jax import drivers, norms
from a2d_jax.attacks import (
    APGD,
    FMN,
    JSMA,
    LBFGS,
    PGD,
    BIMSearch,
    Boundary,
    CarliniWagner,
    CWMargin,
    DeepFool,
    GradientSign,
    JSMAUntargeted,
    LocalSearch,
    Newton,
    bim,
    bim2,
    bim_b,
    fgsm,
    jsma_pairs,
    jsma_single,
    l2_fgsm,
    pgd,
)
from a2d_jax.drivers import refill
from a2d_jax.drivers.loops import advance
from a2d_jax.types import Classifier, Example
from tests.nets import batch, convnet, forget_times

ATTACKS = {
    "fgsm": fgsm(0.1),
    "l2_fgsm": l2_fgsm(0.1),
    "bim": bim(0.2, 0.01, 20),
    "bim2": bim2(0.1, 0.005, 20),
    "pgd_l2": PGD(1.5, 0.1, 15, norm="l2"),
    "pgd_targeted": PGD(0.3, 0.02, 15, targeted=True),
    "jsma": JSMA(max_steps=60),
    "jsma_untargeted": JSMAUntargeted(max_steps=100, lengths=40),
    "boundary": Boundary(mse_threshold=0.01, max_steps=12),
    "cw": CarliniWagner(40, 20, constants=3, step_size=0.05),
    "cw_targeted": CarliniWagner(40, 20, first_constant=1.0, step_size=0.05, form="carlini", targeted=True, minimise=False),
    "cw_margin": CWMargin(step_size=0.05, max_steps=60),
    "deepfool": DeepFool(),
    "deepfool_linf": DeepFool(0.05, norm="linf", form="foolbox"),
    "gradient_sign": GradientSign(0.3, 40, 60),
    "bim_search": BIMSearch(0.05, 0.01, 4, 160),
    "bim_b": bim_b(0.2, 0.01, 20),
    "pgd_restarts": pgd(0.05, 0.02, 5, restarts=3),
    "jsma_pairs": jsma_pairs(max_steps=20),
    "jsma_single": jsma_single(0.3, 30, targeted=True),
    "lbfgs": LBFGS(0.01, 25, minimise=False),
    "local_search": LocalSearch(max_steps=8),
    "newton": Newton(0.2),
    "newton_l2": Newton(1.5, norm="l2", max_radius=0.4),
    "fmn": FMN(decay_steps=20, max_steps=20),
    "fmn_linf": FMN(5.0, decay_steps=20, max_steps=20, norm="linf", minimise=False),
    "apgd": APGD(0.1, 20),
    "apgd_l2": APGD(0.5, 20, norm="l2"),
}
BALL = {"fgsm", "l2_fgsm", "bim", "bim2", "pgd_l2", "pgd_targeted", "bim_b", "pgd_restarts", "apgd", "apgd_l2"}
TARGETED = {"pgd_targeted", "cw_targeted", "jsma_single"}
SECOND_BEST = {"jsma", "lbfgs"}  # their target is the class that is second best at the input
RANDOM = {"boundary", "pgd_restarts", "jsma_pairs", "local_search", "apgd", "apgd_l2"}
WANDERING = {"pgd_restarts", "jsma_pairs", "jsma_single", "apgd", "apgd_l2", "cw_margin"}
"""They move without a gradient: to a random start, a white scalar 0, an image of less contrast."""
POINTS = {"boundary": 25, "local_search": 65}  # points per look, of which the sequential algorithm would have asked for fewer
N = 10
CONVNET = convnet()

# The tests of an attack run in one process, where they share its programs: nearly all their time is compilation.
every_attack = pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ATTACKS])


# They sum over pixels, in an order that XLA chooses for each program.
SUMS = {
    "l2_fgsm",
    "bim2",
    "pgd_l2",
    "boundary",
    "cw",
    "cw_targeted",
    "cw_margin",
    "deepfool",
    "deepfool_linf",
    "lbfgs",
    "newton",
    "newton_l2",
    "fmn",
    "fmn_linf",
    "apgd_l2",
}


def assert_same(name, actual, expected):
    """Counts and flags equal; images bit for bit, but for attacks that sum over pixels: these may differ in the last bits."""
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if name in SUMS else {"rtol": 0, "atol": 0}

    def compare(a, b):
        if np.issubdtype(np.asarray(a).dtype, np.floating):
            np.testing.assert_allclose(a, b, **tolerance)
        else:
            np.testing.assert_array_equal(a, b)

    jax.tree.map(compare, actual._replace(crossing=None), expected._replace(crossing=None))
    np.testing.assert_allclose(actual.crossing, expected.crossing, rtol=1e-4, atol=1e-6)  # it reads logits, which are sums


TRACES = []  # one entry for each time that the classifier of these tests is traced


def traced(variables, x):
    TRACES.append(None)
    return CONVNET.apply({name: w for name, w in variables.items() if name != "bias"}, x) + variables["bias"]


@pytest.fixture(scope="module")
def net():
    return Classifier(CONVNET.variables | {"bias": jnp.zeros(5)}, traced)


@pytest.fixture(scope="module")
def examples(net):
    x = np.random.default_rng(0).uniform(size=(N, 8, 8, 1)).astype(np.float32)
    x[:2] = (x[:2] > 0.5).astype(np.float32)  # images that lie on the bounds
    return batch(net, x)


@pytest.fixture(scope="module")
def results(net, examples):
    """Results of every attack in lock-step, made when first asked for."""

    class Results(dict):
        def __missing__(self, name):
            self[name] = drivers.attack(ATTACKS[name], net, examples, driver="run")
            return self[name]

    return Results()


@every_attack
def test_stays_in_bounds_and_in_the_ball(name, examples, results):
    """Protects the threat model: pixels in [0, 1], the perturbation no longer than epsilon, no NaN."""
    x_adv = results[name].x_adv
    assert np.isfinite(x_adv).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    if name in BALL:
        assert results[name].distance.max() <= ATTACKS[name].epsilon * (1 + 1e-5)


@every_attack
def test_flag_is_a_fresh_prediction(name, net, examples, results):
    """Protects honesty: `success` is what the classifier says of the returned image."""
    predicted = np.asarray(jax.vmap(net)(results[name].x_adv)).argmax(1)
    if name in SECOND_BEST:
        logits = np.asarray(jax.vmap(net)(examples.x))
        expected = predicted == np.argsort(logits, axis=1)[:, -2]
    elif name == "jsma_pairs":
        expected = predicted == jax.vmap(lambda example: ATTACKS[name]._target(example, 5))(examples)
    elif name in TARGETED:
        expected = predicted == examples.label
    else:
        expected = predicted != examples.label
    np.testing.assert_array_equal(results[name].success, expected)


@every_attack
def test_cost_iterations_and_censoring_agree(name, results):
    """Protects the one meaning of cost: updates at the event, budget + 1 without it, and never more updates than the budget."""
    result, attack = results[name], ATTACKS[name]
    assert result.iterations.max() <= attack.max_steps
    np.testing.assert_array_equal(result.cost, np.where(result.censored, attack.max_steps + 1, result.iterations))
    if name != "boundary":  # its event is a distance, not success alone
        np.testing.assert_array_equal(result.censored, ~result.success)


@every_attack
def test_distance_is_that_of_the_returned_image(name, examples, results):
    """Protects the reported distance: NumPy finds the same between input and returned image."""
    delta = (results[name].x_adv - examples.x).reshape(N, -1)
    expected = {
        "linf": lambda d: np.abs(d).max(1),
        "l2": lambda d: np.linalg.norm(d, axis=1),
        "rms": lambda d: np.sqrt((d**2).mean(1)),
        "l0": lambda d: (d != 0).sum(1),
    }[ATTACKS[name].norm](delta)
    np.testing.assert_allclose(results[name].distance, expected, rtol=1e-5, atol=1e-7)


@every_attack
@pytest.mark.parametrize("driver", ["stream", "unroll"])
def test_all_drivers_agree(name, driver, net, examples, results):
    """Protects the three drivers: the same result in every field."""
    result = drivers.attack(ATTACKS[name], net, examples, driver=driver, lanes=4)
    assert_same(name, result, results[name])


@every_attack
def test_independent_of_neighbours(name, net, examples, results):
    """Protects independence: order, batch and lane count do not change an example's result."""
    order = np.random.default_rng(1).permutation(N)[:7]
    some = jax.tree.map(lambda leaf: leaf[order], examples)
    result = drivers.attack(ATTACKS[name], net, some, lanes=2, devices=jax.local_devices()[:1])
    assert_same(name, result, jax.tree.map(lambda leaf: leaf[order], results[name]))


@every_attack
def test_one_device_or_eight(name, net, examples, results):
    """Protects sharding: one device gives what eight give (`stream` on one device: the test above)."""
    assert jax.local_device_count() == 8
    result = drivers.attack(ATTACKS[name], net, examples, driver="run", devices=jax.local_devices()[:1])
    assert_same(name, result, results[name])


@every_attack
def test_nothing_changes_after_done(name, net, examples):
    """Protects the end: a step of an example that is done leaves its state as it is."""
    attack, example = ATTACKS[name], jax.tree.map(lambda leaf: leaf[0], examples)
    step = jax.jit(advance)
    state = attack.init(example)
    for _ in range(attack.length()):
        state = step(attack, net, example, state)
    assert state.progress.done, "length() is an upper bound on the steps"
    jax.tree.map(np.testing.assert_array_equal, step(attack, net, example, state), state)


@every_attack
def test_same_key_same_answer_and_labels_matter(name, net, examples, results):
    """Protects repeatability: the same examples give the same result; other keys change the random attacks only."""
    again = drivers.attack(ATTACKS[name], net, examples, driver="run")
    jax.tree.map(np.testing.assert_array_equal, again, results[name])
    rekeyed = drivers.attack(ATTACKS[name], net, examples._replace(key=examples.key[::-1]), driver="run")
    same = bool(np.array_equal(rekeyed.x_adv, results[name].x_adv))
    assert same == (name not in RANDOM)


@every_attack
def test_zero_gradient_ends_in_failure(name, net, examples):
    """Protects the dead end: a classifier that ignores its input stops nobody, breaks nothing and is never fooled."""
    flat = Classifier(jax.tree.map(jnp.zeros_like, net.variables) | {"bias": jnp.array([1.0, 0.5, 0.0, 0.0, 0.0])}, net.apply)
    never = np.full(N, 2 if name in TARGETED else 0, np.int32)
    grey = examples._replace(x=np.full_like(examples.x, 0.5), label=never)  # which C&W's tanh gives back as it is
    result = drivers.attack(dataclasses.replace(ATTACKS[name], max_steps=5), flat, grey, driver="run")
    assert not result.success.any()
    np.testing.assert_array_equal(result.cost, 6)
    if name not in WANDERING:
        np.testing.assert_array_equal(result.x_adv, grey.x)


@every_attack
def test_already_adversarial_costs_nothing(name, net, examples):
    """Protects the judged start: an input that meets the criterion is returned as it is, at cost 0."""
    logits = np.asarray(jax.vmap(net)(examples.x))
    wrong = np.argsort(logits, axis=1)[:, 0].astype(np.int32)
    if name in SECOND_BEST:
        pytest.skip("its target is the second best class, which no input is predicted as")
    if name in {"jsma_pairs", "bim_b"}:
        pytest.skip("its target is drawn, not the class predicted here" if name == "jsma_pairs" else "it makes every update")
    label = logits.argmax(1).astype(np.int32) if name in TARGETED else wrong
    result = drivers.attack(ATTACKS[name], net, examples._replace(label=label), driver="run")
    np.testing.assert_array_equal(result.cost, 0)
    np.testing.assert_array_equal(result.x_adv, examples.x)
    np.testing.assert_array_equal(result.forward_queries, 1)


@every_attack
def test_broken_logits_are_no_success(name, net, examples):
    """Protects loud failure: a classifier that returns NaN is never reported as fooled."""
    broken = Classifier(jax.tree.map(lambda w: w * jnp.nan, net.variables), net.apply)
    attack = dataclasses.replace(ATTACKS[name], max_steps=3)
    result = drivers.attack(attack, broken, examples._replace(label=np.zeros(N, np.int32)), driver="run")
    assert result.censored.all()
    assert not result.success.any()
    assert np.isfinite(result.x_adv).all()


@every_attack
def test_new_numbers_compile_nothing(name, net, examples, monkeypatch):
    """Protects users' time: another epsilon, step size, threshold, budget or set of weights runs the same program."""
    monkeypatch.setattr(refill, "PATIENCE", 1e9)  # whether the lanes shrink is a matter of seconds and of programs at hand
    forget_times(monkeypatch)

    def changed(value):
        return value * 0.9 if isinstance(value, float) else value - 1 if type(value) is int else value

    attack = ATTACKS[name]
    drivers.attack(attack, net, examples, lanes=4)
    before = len(TRACES)
    assert before > 0
    numbers = {f.name: changed(getattr(attack, f.name)) for f in dataclasses.fields(attack) if not f.metadata.get("static")}
    other = Classifier(jax.tree.map(lambda w: w * 1.1, net.variables), net.apply)
    drivers.attack(dataclasses.replace(attack, **numbers), other, examples, lanes=4)
    assert len(TRACES) == before


@every_attack
def test_counters_are_true(name, net, examples):
    """Protects query counts: a classifier that counts its own calls, step by step, agrees with the reported queries."""
    attack = ATTACKS[name]
    calls = {"points": 0}

    def count(x):
        calls["points"] += 1
        return np.float32(0)

    def counting(variables, x):
        like = jax.ShapeDtypeStruct((), jnp.float32)
        return net.apply(variables, x) + jax.pure_callback(count, like, jax.lax.stop_gradient(x), vmap_method="sequential")

    example = jax.tree.map(lambda leaf: leaf[0], examples)
    result = drivers.run(attack, Classifier(net.variables, counting), example)
    if name in POINTS:
        assert calls["points"] % POINTS[name] == 0
        assert 0 < int(result.forward_queries) <= calls["points"]
        assert int(result.backward_queries) == 0
    else:
        # Gradients per look: DeepFool asks for that of every class, the single rule for two; GradientSign for one at the input.
        rows = 5 if name.startswith("deepfool") else 2 if name == "jsma_single" else 1
        assert int(result.forward_queries) == calls["points"]
        if name == "jsma_untargeted":  # the search asks for one gradient, each move for another
            assert 1 < int(result.backward_queries) < int(result.forward_queries)
        else:
            assert int(result.backward_queries) == (1 if name == "gradient_sign" else rows * int(result.forward_queries))
        assert int(result.forward_queries) == int(result.iterations) + 1


@every_attack
def test_model_is_compiled_once(name, net, examples):
    """Protects compile time: the program of `stream` calls the model once, in the loop's body alone."""
    calls = []

    def counting(variables, x):
        calls.append(None)
        return net.apply(variables, x)

    example = jax.tree.map(lambda leaf: leaf[0], examples)
    attack, classifier = ATTACKS[name], Classifier(net.variables, counting)
    state = jax.eval_shape(attack.init, example)
    assert not calls, "init must not call the model"
    jax.eval_shape(lambda s: attack.step(classifier, example, s), state)
    assert len(calls) == 1


@every_attack
def test_unroll_is_differentiable(name, net, examples):
    """Protects research use: gradients of what `unroll` returns to the input and the weights exist and are finite."""
    attack = dataclasses.replace(ATTACKS[name], max_steps=2)
    example = jax.tree.map(lambda leaf: jnp.asarray(leaf[2]), examples)

    def objective(x, variables):
        result, trace = drivers.unroll(attack, Classifier(variables, net.apply), Example(x, example.label, example.key), length=4)
        return trace.sum() + result.distance

    gradients = jax.jit(jax.grad(objective, argnums=(0, 1)))(example.x, net.variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradients))


@every_attack
def test_refuses_bad_settings(name):
    """Protects early failure: a negative budget is refused when the attack is built, with what to do about it."""
    with pytest.raises(ValueError, match=r"expected max_steps >= 0, got -1; give"):
        dataclasses.replace(ATTACKS[name], max_steps=-1)


def test_every_norm_of_an_attack_is_known():
    """Protects the table: attacks name norms that `norms` can measure."""
    for attack in ATTACKS.values():
        assert attack.norm in norms.NORMS
