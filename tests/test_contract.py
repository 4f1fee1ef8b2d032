"""The contract of all attacks: one table, one line per attack."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from a2d_jax import drivers, norms
from a2d_jax.adaptive import Linearised, PaperLoss, cost_ascent, margin_ascent
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
from a2d_jax.types import Attack, Classifier, Example, can_be_shortened
from tests.nets import batch, convnet, forget_times


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One attack, and which of the promises are its own."""

    attack: Attack
    ball: bool = False  # the perturbation is no longer than its epsilon
    goal: Literal["leave", "label", "second best", "drawn"] = "leave"  # success: not the label, the label, or another target
    random: bool = False  # another key gives another result
    wanders: bool = False  # moves without a gradient: to a random start, a white scalar 0, an image of less contrast
    sums: bool = False  # sums over pixels, in an order that XLA chooses for each program
    grazes: int = 0  # images so near a boundary in the end that rounding decides their class, at most so many
    event: Literal["success", "distance", "budget"] = "success"  # what the cost counts up to; "budget": every update is made
    points: int = 1  # per look, of which the sequential algorithm would have asked for fewer
    measures: bool = False  # a look evaluates a cost too, which calls the classifier by itself
    gradients: Callable[[int], Collection[int]] = lambda looks: {looks}  # how many there may be after so many looks


CASES = {
    "fgsm": Case(fgsm(0.1), ball=True),
    "l2_fgsm": Case(l2_fgsm(0.1), ball=True, sums=True),
    "bim": Case(bim(0.2, 0.01, 20), ball=True),
    "bim2": Case(bim2(0.1, 0.005, 20), ball=True, sums=True),
    "pgd_l2": Case(PGD(1.5, 0.1, 15, norm="l2"), ball=True, sums=True),
    "pgd_targeted": Case(PGD(0.3, 0.02, 15, targeted=True), ball=True, goal="label"),
    "jsma": Case(JSMA(max_steps=60), goal="second best"),
    "jsma_untargeted": Case(
        JSMAUntargeted(max_steps=100, lengths=40),
        gradients=lambda looks: range(2, looks),  # the search asks for one, each move for another
    ),
    "boundary": Case(
        Boundary(mse_threshold=0.01, max_steps=12), random=True, sums=True, event="distance", points=25, gradients=lambda looks: {0}
    ),
    "cw": Case(CarliniWagner(40, 20, constants=3, step_size=0.05), sums=True),
    "cw_targeted": Case(
        CarliniWagner(40, 20, first_constant=1.0, step_size=0.05, form="carlini", targeted=True, minimise=False), goal="label", sums=True
    ),
    "cw_margin": Case(CWMargin(step_size=0.05, max_steps=60), wanders=True, sums=True),
    "deepfool": Case(DeepFool(), sums=True, gradients=lambda looks: {5 * looks}),  # that of every class
    # The two images on the bounds lose most of every step to clipping: they approach the boundary and may never be clear of it.
    "deepfool_linf": Case(DeepFool(0.05, norm="linf", form="foolbox"), sums=True, grazes=2, gradients=lambda looks: {5 * looks}),
    "gradient_sign": Case(GradientSign(0.3, 40, 60), gradients=lambda looks: {1}),  # at the input
    "bim_search": Case(BIMSearch(0.05, 0.01, 4, 160)),
    "bim_b": Case(bim_b(0.2, 0.01, 20), ball=True, event="budget"),
    "pgd_decay": Case(PGD(1.5, 0.2, 15, norm="l2", loss="dlr", last_step=0.01), ball=True, sums=True),
    "pgd_best": Case(
        pgd(0.05, 0.02, 5, restarts=3, loss="margin", early_stop=False, keep_best=True),
        ball=True,
        random=True,
        wanders=True,
        event="budget",
    ),
    "margin_ascent": Case(margin_ascent(0.05, 5, restarts=3), ball=True, random=True, wanders=True, event="budget"),
    "cost_ascent": Case(cost_ascent(0.1, 12, cost="linearised", fool_steps=4), ball=True, sums=True, event="budget", measures=True),
    "orthogonal": Case(
        cost_ascent(1.0, 5, "l2", cost=Linearised("l2"), orthogonal="both", fool_steps=1, restarts=2),
        ball=True,
        random=True,
        wanders=True,
        sums=True,
        event="budget",
        measures=True,
    ),
    "paper_loss": Case(PaperLoss(0.2, 0.02, 12, beta=2.0, threshold=0.01, cost="linearised"), ball=True, sums=True, measures=True),
    "pgd_restarts": Case(pgd(0.05, 0.02, 5, restarts=3), ball=True, random=True, wanders=True),
    "jsma_pairs": Case(jsma_pairs(max_steps=20), goal="drawn", random=True, wanders=True),
    "jsma_single": Case(jsma_single(0.3, 30, targeted=True), goal="label", wanders=True, gradients=lambda looks: {2 * looks}),
    "lbfgs": Case(LBFGS(0.01, 25, minimise=False), goal="second best", sums=True),
    "local_search": Case(LocalSearch(max_steps=8), random=True, points=65, gradients=lambda looks: {0}),
    "newton": Case(Newton(0.2), sums=True),
    "newton_l2": Case(Newton(1.5, norm="l2", max_radius=0.4), sums=True),
    "fmn": Case(FMN(decay_steps=20, max_steps=20), sums=True),
    "fmn_linf": Case(FMN(5.0, decay_steps=20, max_steps=20, norm="linf", minimise=False), sums=True),
    "apgd": Case(APGD(0.1, 20), ball=True, random=True, wanders=True),
    "apgd_l2": Case(APGD(0.5, 20, norm="l2"), ball=True, random=True, wanders=True, sums=True),
}
N = 10
CONVNET = convnet()

# The tests of an attack run in one process, where they share its programs: nearly all their time is compilation.
every_attack = pytest.mark.parametrize(
    "case", [pytest.param(case, id=name, marks=pytest.mark.xdist_group(name)) for name, case in CASES.items()]
)


def assert_same(case, actual, expected):
    """Counts and flags equal; images bit for bit, but for attacks that sum over pixels: these may differ in the last bits."""
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if case.sums else {"rtol": 0, "atol": 0}
    clear = clear_rows(case, actual) & clear_rows(case, expected)
    actual, expected = (jax.tree.map(lambda leaf: leaf[clear], result) for result in (actual, expected))

    def compare(a, b):
        if np.issubdtype(np.asarray(a).dtype, np.floating):
            np.testing.assert_allclose(a, b, **tolerance)
        else:
            np.testing.assert_array_equal(a, b)

    jax.tree.map(compare, actual._replace(crossing=None), expected._replace(crossing=None))
    np.testing.assert_allclose(actual.crossing, expected.crossing, rtol=1e-4, atol=1e-6)  # it reads logits, which are sums


def clear_rows(case, result):
    """Rows in which the best two logits differ by more than rounding, so that two programs see one class; for most attacks all rows."""
    if not case.grazes:
        return np.ones(len(result.success), bool)
    logits = np.sort(np.asarray(jax.vmap(CONVNET)(result.x_adv)), axis=1)
    clear = logits[:, -1] - logits[:, -2] > 4 * np.finfo(np.float32).eps * np.abs(logits).max(axis=1)
    assert np.sum(~clear) <= case.grazes
    return clear


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
        def __missing__(self, case):
            self[case] = drivers.attack(case.attack, net, examples, driver="run")
            return self[case]

    return Results()


@every_attack
def test_stays_in_bounds_and_in_the_ball(case, examples, results):
    """Protects the threat model: pixels in [0, 1], the perturbation no longer than epsilon, no NaN."""
    x_adv = results[case].x_adv
    assert np.isfinite(x_adv).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    if case.ball:
        assert results[case].distance.max() <= case.attack.epsilon * (1 + 1e-5)


@every_attack
def test_flag_is_a_fresh_prediction(case, net, examples, results):
    """Protects honesty: `success` is what the classifier says of the returned image."""
    predicted = np.asarray(jax.vmap(net)(results[case].x_adv)).argmax(1)
    if case.goal == "second best":
        logits = np.asarray(jax.vmap(net)(examples.x))
        expected = predicted == np.argsort(logits, axis=1)[:, -2]
    elif case.goal == "drawn":
        expected = predicted == jax.vmap(lambda example: case.attack._target(example, 5))(examples)
    elif case.goal == "label":
        expected = predicted == examples.label
    else:
        expected = predicted != examples.label
    clear = clear_rows(case, results[case])
    np.testing.assert_array_equal(results[case].success[clear], expected[clear])


@every_attack
def test_cost_iterations_and_censoring_agree(case, results):
    """Protects the one meaning of cost: updates at the event, budget + 1 without it, and never more updates than the budget."""
    result, attack = results[case], case.attack
    assert result.iterations.max() <= attack.max_steps
    np.testing.assert_array_equal(result.cost, np.where(result.censored, attack.max_steps + 1, result.iterations))
    if case.event != "distance":
        np.testing.assert_array_equal(result.censored, ~result.success)


@every_attack
def test_distance_is_that_of_the_returned_image(case, examples, results):
    """Protects the reported distance: NumPy finds the same between input and returned image."""
    delta = (results[case].x_adv - examples.x).reshape(N, -1)
    expected = {
        "linf": lambda d: np.abs(d).max(1),
        "l2": lambda d: np.linalg.norm(d, axis=1),
        "rms": lambda d: np.sqrt((d**2).mean(1)),
        "l0": lambda d: (d != 0).sum(1),
    }[case.attack.norm](delta)
    np.testing.assert_allclose(results[case].distance, expected, rtol=1e-5, atol=1e-7)


@every_attack
@pytest.mark.parametrize("driver", ["stream", "unroll"])
def test_all_drivers_agree(case, driver, net, examples, results):
    """Protects the three drivers: the same result in every field."""
    result = drivers.attack(case.attack, net, examples, driver=driver, lanes=4)
    assert_same(case, result, results[case])


@every_attack
def test_independent_of_neighbours(case, net, examples, results):
    """Protects independence: order, batch and lane count do not change an example's result."""
    order = np.random.default_rng(1).permutation(N)[:7]
    some = jax.tree.map(lambda leaf: leaf[order], examples)
    result = drivers.attack(case.attack, net, some, lanes=2, devices=jax.local_devices()[:1])
    assert_same(case, result, jax.tree.map(lambda leaf: leaf[order], results[case]))


@every_attack
def test_one_device_or_eight(case, net, examples, results):
    """Protects sharding: one device gives what eight give (`stream` on one device: the test above)."""
    assert jax.local_device_count() == 8
    result = drivers.attack(case.attack, net, examples, driver="run", devices=jax.local_devices()[:1])
    assert_same(case, result, results[case])


@every_attack
def test_nothing_changes_after_done(case, net, examples):
    """Protects the end: a step of an example that is done leaves its state as it is."""
    attack, example = case.attack, jax.tree.map(lambda leaf: leaf[0], examples)
    step = jax.jit(advance)
    state = attack.init(example)
    for _ in range(attack.length()):
        state = step(attack, net, example, state)
    assert state.progress.done, "length() is an upper bound on the steps"
    jax.tree.map(np.testing.assert_array_equal, step(attack, net, example, state), state)


@every_attack
def test_same_key_same_answer_and_labels_matter(case, net, examples, results):
    """Protects repeatability: the same examples give the same result; other keys change the random attacks only."""
    again = drivers.attack(case.attack, net, examples, driver="run")
    jax.tree.map(np.testing.assert_array_equal, again, results[case])
    rekeyed = drivers.attack(case.attack, net, examples._replace(key=examples.key[::-1]), driver="run")
    same = bool(np.array_equal(rekeyed.x_adv, results[case].x_adv))
    assert same != case.random


@every_attack
def test_zero_gradient_ends_in_failure(case, net, examples):
    """Protects the dead end: a classifier that ignores its input stops nobody, breaks nothing and is never fooled."""
    flat = Classifier(jax.tree.map(jnp.zeros_like, net.variables) | {"bias": jnp.array([1.0, 0.5, 0.0, 0.0, 0.0])}, net.apply)
    never = np.full(N, 2 if case.goal == "label" else 0, np.int32)
    grey = examples._replace(x=np.full_like(examples.x, 0.5), label=never)  # which C&W's tanh gives back as it is
    result = drivers.attack(dataclasses.replace(case.attack, max_steps=5), flat, grey, driver="run")
    assert not result.success.any()
    np.testing.assert_array_equal(result.cost, 6)
    if not case.wanders:
        np.testing.assert_array_equal(result.x_adv, grey.x)


@every_attack
def test_already_adversarial_costs_nothing(case, net, examples):
    """Protects the judged start: an input that meets the criterion is returned as it is, at cost 0."""
    logits = np.asarray(jax.vmap(net)(examples.x))
    wrong = np.argsort(logits, axis=1)[:, 0].astype(np.int32)
    if case.goal == "second best":
        pytest.skip("its target is the second best class, which no input is predicted as")
    if case.goal == "drawn":
        pytest.skip("its target is drawn, not the class predicted here")
    if case.event == "budget":
        pytest.skip("it makes every update")
    label = logits.argmax(1).astype(np.int32) if case.goal == "label" else wrong
    result = drivers.attack(case.attack, net, examples._replace(label=label), driver="run")
    np.testing.assert_array_equal(result.cost, 0)
    np.testing.assert_array_equal(result.x_adv, examples.x)
    np.testing.assert_array_equal(result.forward_queries, 1)


@every_attack
def test_a_prediction_is_not_contradicted(case, net, examples):
    """Protects the label: where the classifier predicted it, nothing is a success before the first update, whatever this program sees."""
    if case.goal == "label":
        pytest.skip("its label is the class to reach")
    logits = np.asarray(jax.vmap(net)(examples.x))
    another = np.argsort(logits, axis=1)[:, -2].astype(np.int32)  # as if the program that predicted had seen the second best class
    result = drivers.attack(case.attack, net, examples._replace(label=another, predicted=np.ones(N, bool)), driver="run")
    assert result.cost.min() >= 1
    assert result.iterations[result.success].min(initial=1) >= 1
    if case.goal == "second best":  # which is the best but the label: here the class that this program sees
        np.testing.assert_array_equal(result.success, np.asarray(jax.vmap(net)(result.x_adv)).argmax(1) == logits.argmax(1))


@every_attack
def test_a_bound_cuts_the_cost_and_nothing_else(case, net, examples, results):
    """Protects the iteration bound: a smaller budget walks the same path, or the attack says that it does not."""
    if not can_be_shortened(case.attack):
        pytest.skip("its path hangs on its budget: no bound stops it")
    full = results[case]
    for bound in (2, 5):
        short = drivers.attack(dataclasses.replace(case.attack, max_steps=bound - 1), net, examples, driver="run")
        np.testing.assert_array_equal(short.cost, np.minimum(full.cost, bound))


@every_attack
def test_broken_logits_are_no_success(case, net, examples):
    """Protects loud failure: a classifier that returns NaN is never reported as fooled."""
    broken = Classifier(jax.tree.map(lambda w: w * jnp.nan, net.variables), net.apply)
    attack = dataclasses.replace(case.attack, max_steps=3)
    result = drivers.attack(attack, broken, examples._replace(label=np.zeros(N, np.int32)), driver="run")
    assert result.censored.all()
    assert not result.success.any()
    assert np.isfinite(result.x_adv).all()


@every_attack
def test_new_numbers_compile_nothing(case, net, examples, monkeypatch):
    """Protects users' time: another epsilon, step size, threshold, budget or set of weights runs the same program."""
    monkeypatch.setattr(refill, "PATIENCE", 1e9)  # whether the lanes shrink is a matter of seconds and of programs at hand
    forget_times(monkeypatch)

    def changed(value):
        return value * 0.9 if isinstance(value, float) else value - 1 if type(value) is int else value

    attack = case.attack
    drivers.attack(attack, net, examples, lanes=4)
    before = len(TRACES)
    assert before > 0
    numbers = {f.name: changed(getattr(attack, f.name)) for f in dataclasses.fields(attack) if not f.metadata.get("static")}
    other = Classifier(jax.tree.map(lambda w: w * 1.1, net.variables), net.apply)
    drivers.attack(dataclasses.replace(attack, **numbers), other, examples, lanes=4)
    assert len(TRACES) == before


@every_attack
def test_counters_are_true(case, net, examples):
    """Protects query counts: a classifier that counts its own calls, step by step, agrees with the reported queries."""
    attack = case.attack
    calls = {"points": 0}

    def count(x):
        calls["points"] += 1
        return np.float32(0)

    def counting(variables, x):
        like = jax.ShapeDtypeStruct((), jnp.float32)
        return net.apply(variables, x) + jax.pure_callback(count, like, jax.lax.stop_gradient(x), vmap_method="sequential")

    example = jax.tree.map(lambda leaf: leaf[0], examples)
    result = drivers.run(attack, Classifier(net.variables, counting), example)
    forward = int(result.forward_queries)
    if case.measures:
        assert forward == int(result.iterations) + 1 < calls["points"]
    elif case.points > 1:
        assert calls["points"] % case.points == 0
        assert 0 < forward <= calls["points"]
    else:
        assert forward == calls["points"]
        assert forward == int(result.iterations) + 1
    assert int(result.backward_queries) in case.gradients(forward)


@every_attack
def test_model_is_compiled_once(case, net, examples):
    """Protects compile time: the program of `stream` calls the model once, in the loop's body alone."""
    calls = []

    def counting(variables, x):
        calls.append(None)
        return net.apply(variables, x)

    example = jax.tree.map(lambda leaf: leaf[0], examples)
    attack, classifier = case.attack, Classifier(net.variables, counting)
    state = jax.eval_shape(attack.init, example)
    assert not calls, "init must not call the model"
    jax.eval_shape(lambda s: attack.step(classifier, example, s), state)
    assert len(calls) == 1 or (case.measures and len(calls) == 2)


@every_attack
def test_unroll_is_differentiable(case, net, examples):
    """Protects research use: gradients of what `unroll` returns to the input and the weights exist and are finite."""
    attack = dataclasses.replace(case.attack, max_steps=2)
    example = jax.tree.map(lambda leaf: jnp.asarray(leaf[2]), examples)

    def objective(x, variables):
        result, trace = drivers.unroll(attack, Classifier(variables, net.apply), Example(x, example.label, example.key), length=4)
        return trace.sum() + result.distance

    gradients = jax.jit(jax.grad(objective, argnums=(0, 1)))(example.x, net.variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradients))


@every_attack
def test_refuses_bad_settings(case):
    """Protects early failure: a negative budget is refused when the attack is built, with what to do about it."""
    with pytest.raises(ValueError, match=r"expected max_steps >= 0, got -1; give"):
        dataclasses.replace(case.attack, max_steps=-1)


def test_every_norm_of_an_attack_is_known():
    """Protects the table: attacks name norms that `norms` can measure."""
    for case in CASES.values():
        assert case.attack.norm in norms.NORMS
