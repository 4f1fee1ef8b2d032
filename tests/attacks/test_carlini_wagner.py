"""C&W: closed forms on linear classifiers, the search for the constant, confidence, and the counts of the released code."""

import jax
import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.attacks import CarliniWagner
from tests.attacks.pinned import GOLDEN
from tests.nets import batch, formula_input, formula_net, linear

SHAPE = (4, 4, 1)


def in_the_middle(classes: int = 2, scale: float = 4.0):
    """A random linear classifier and images in the middle of the box."""
    rng = np.random.default_rng(0)
    weights = (scale * rng.normal(size=(classes, 16))).astype(np.float32)
    return linear(weights), weights, rng.uniform(0.4, 0.6, size=(12, *SHAPE)).astype(np.float32)


def states_of(attack, net, example):
    """The state before every step, and the last one."""
    step, state = jax.jit(attack.step), attack.init(example)
    states = [state]
    while not bool(state.progress.done):
        state = step(net, example, state)
        states.append(state)
    return states


def first_of(examples):
    return jax.tree.map(lambda leaf: leaf[0], examples)


@pytest.mark.parametrize("confidence", [0.0, 2.0])
def test_finds_the_distance_of_a_flat_boundary(confidence):
    """Protects the minimum: (margin + confidence) / ||w||_2 to 2 % from above, with the confidence that `carlini` asks for."""
    net, weights, x = in_the_middle()
    w = weights[0] - weights[1]
    margin = np.abs(x.reshape(12, -1) @ w)
    attack = CarliniWagner(1800, 300, constants=6, first_constant=0.01, step_size=0.01, confidence=confidence, form="carlini")
    result = drivers.attack(attack, net, batch(net, x))
    exact = (margin + confidence) / np.linalg.norm(w)
    assert result.success.all()
    assert (result.distance >= exact * 0.9999).all()
    assert (result.distance <= exact * 1.02).all()


def test_targeted_reaches_its_class():
    """Protects the target: every class is reached, no nearer than its own flat boundary allows."""
    net, weights, x = in_the_middle(classes=3)
    label = (np.asarray(jax.vmap(net)(x)).argmax(1) + 1 + np.arange(12) % 2) % 3
    attack = CarliniWagner(900, 300, constants=3, first_constant=1.0, step_size=0.01, targeted=True)
    result = drivers.attack(attack, net, batch(net, x, label=label))
    logits = result.x_adv.reshape(12, -1) @ weights.T
    assert result.success.all()
    np.testing.assert_array_equal(logits.argmax(1), label)
    clean = x.reshape(12, -1) @ weights.T
    gaps = clean - clean[np.arange(12), label][:, None]
    distances = gaps / np.maximum(np.linalg.norm(weights[None] - weights[label][:, None], axis=2), 1e-9)
    assert (result.distance >= distances.max(1) * 0.9999).all()


def test_foolbox_accepts_without_confidence():
    """Protects the two rules: `foolbox` takes a point that lacks confidence, `carlini` does not."""
    net, _, x = in_the_middle(scale=0.1)  # no image of the box leads by 50
    settings = {"steps_per_constant": 50, "constants": 2, "first_constant": 10.0, "step_size": 0.05, "confidence": 50.0}
    examples = batch(net, x)
    assert drivers.attack(CarliniWagner(100, **settings), net, examples).success.all()
    assert not drivers.attack(CarliniWagner(100, **settings, form="carlini"), net, examples).success.any()


def test_constants_grow_tenfold_then_halve_the_interval():
    """Protects the search: tenfold after failures, the midpoint after a success; the last of ten repeats the smallest success."""
    net, _, x = in_the_middle()
    attack = CarliniWagner(10 * 40, 40, constants=10, first_constant=1e-5, step_size=0.02)
    states = states_of(attack, net, first_of(batch(net, x)))
    tried = {int(s.tried): s for s in states[:-1]}  # the last state with each constant
    assert len(tried) == 10
    lower, upper = 0.0, np.inf
    for nth, state in tried.items():
        expected = upper if nth == 9 else 1e-5 if nth == 0 else 10 * lower if np.isinf(upper) else (lower + upper) / 2
        np.testing.assert_allclose(state.constant, expected, rtol=1e-5)
        hits = [s for s in states if int(s.tried) == nth and bool(s.hit)]
        lower, upper = (lower, expected) if hits else (expected, upper)
    assert 0 < lower < upper < np.inf, "both rules were at work"


def test_constant_without_progress_is_left():
    """Protects the abort: where nothing can be gained, a constant is left at the second check, a tenth of its updates later."""
    flat = linear(np.zeros((2, 16), np.float32), np.array([1, 0], np.float32))
    example = first_of(batch(flat, np.full((1, *SHAPE), 0.5, np.float32)))
    states = states_of(CarliniWagner(), flat, example)
    assert len(states) - 1 == 5 * 101
    assert int(states[-1].progress.forward) == 5 * 101
    assert int(states[-1].progress.iterations) == 5 * 101 - 1
    assert not bool(states[-1].progress.success)


def test_first_success_ends_the_defence():
    """Protects the cost: without `minimise` the attack stops where the full search first succeeds, and no nearer."""
    net, _, x = in_the_middle()
    settings = {"steps_per_constant": 100, "constants": 3, "first_constant": 0.01, "step_size": 0.01}
    first = drivers.attack(CarliniWagner(300, **settings, minimise=False), net, batch(net, x))
    states = states_of(CarliniWagner(300, **settings), net, first_of(batch(net, x)))
    assert first.cost[0] == next(n for n, state in enumerate(states[1:]) if bool(state.progress.success))
    full = drivers.attack(CarliniWagner(300, **settings), net, batch(net, x))
    assert first.success.all()
    assert (first.distance > full.distance).all()


def test_counts_of_the_released_code():
    """Protects C&W as a defence: the update within its constant at which the authors' copy stops, all 28 counts, in float64."""
    vectors = np.load(GOLDEN / "vectors.npy", allow_pickle=False)
    golden = np.load(GOLDEN / "minimum_norm.npz", allow_pickle=False)
    attack = CarliniWagner(minimise=False)
    with jax.enable_x64(True):
        net = formula_net()
        examples = batch(net, np.stack([formula_input(int(row[0]), row[1]) for row in vectors]))

        def last(example):
            return jax.lax.while_loop(lambda s: ~s.progress.done, lambda s: attack.step(net, example, s), attack.init(example))

        state = jax.jit(jax.vmap(last))(examples)
    np.testing.assert_array_equal(state.updates - 1, golden["vectors_inner"])  # the update after the success is counted, not used


def test_typed_counts_are_the_published_ones(shared):
    """Protects the pinned copy: its counts are those of the specification's file."""
    golden = np.load(GOLDEN / "minimum_norm.npz", allow_pickle=False)
    lines = (shared / "spec" / "testvectors_small_net.csv").read_text().splitlines()[1:]
    np.testing.assert_array_equal(golden["vectors_inner"], [int(line.split(",")[9]) for line in lines])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps_per_constant": 0}, "expected steps_per_constant >= 1, got 0; give"),
        ({"constants": 0}, "expected constants >= 1, got 0; give"),
        ({"first_constant": 0.0}, r"expected first_constant > 0, got 0\.0; give"),
        ({"step_size": -1.0}, r"expected step_size > 0, got -1\.0; give"),
        ({"confidence": -1.0}, r"expected confidence >= 0, got -1\.0; give"),
        ({"form": "art"}, "expected a form among foolbox, carlini, got 'art'; pass"),
    ],
)
def test_refuses(settings, message):
    """Protects early failure: a bad setting is refused by name, with what to do."""
    with pytest.raises(ValueError, match=message):
        CarliniWagner(**settings)
