"""Cost ascent: closed forms on a linear and a two-layer network, what is kept, what the projections do, what compiles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from a2d_jax import drivers, specs
from a2d_jax.adaptive import ATTACKERS, CostAscent, Linearised, PaperLoss, Survival, cost_ascent, margin_ascent, watch
from a2d_jax.attacks import PGD
from a2d_jax.errors import BadInput
from a2d_jax.losses import cross_entropy, lead, margin, prediction, view
from a2d_jax.types import Classifier
from tests.nets import batch, convnet, linear

N, SIDE = 24, 4
TRACES = []


def dual(w, norm):
    return np.abs(w).sum() if norm == "linf" else np.linalg.norm(w)


def wedge(variables, x):
    """Two layers: class 0 inside the wedge p >= 0 and q >= 0, with logits (min(p, q), 0) = (relu(p) - relu(-p) - relu(p - q), 0)."""
    weights, bias = variables
    p, q = weights @ x.ravel() + bias
    hidden = jax.nn.relu(jnp.stack([p, -p, p - q]))
    return jnp.stack([hidden @ jnp.asarray([1.0, -1.0, -1.0]), jnp.zeros(())])


def near(normal, distances, norm, rng):
    """Images around grey, from which the plane normal . x + bias = 0 is at these distances."""
    x = 0.5 + rng.uniform(-0.05, 0.05, size=(len(distances), SIDE * SIDE))
    x += ((distances * dual(normal, norm) - (x - 0.5) @ normal) / (normal @ normal))[:, None] * normal
    return x.reshape(-1, SIDE, SIDE, 1).astype(np.float32)


def joint(net, attack, examples, rho, cost):
    """Which images are misclassified and at least rho from the boundary, by a cost that is exact here."""
    result = drivers.attack(attack, net, examples, driver="run")
    measured = np.asarray(jax.vmap(lambda x: cost(net, x, prediction(net(x))))(jnp.asarray(result.x_adv)))
    assert result.distance.max() <= attack.epsilon * (1 + 1e-5)
    return result.success & (measured >= rho - 1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("attacker", ["margin", "selective:linearised", "selective:survival"])
def test_the_ceiling_is_exact_and_reached(norm, layers, attacker):
    """Protects the toll: joint(epsilon) = fooled(epsilon - rho) on a linear network and on a wedge of two layers, image by image."""
    rng = np.random.default_rng(layers)
    normals = rng.normal(size=(2, SIDE * SIDE)).astype(np.float32)
    normals[1] -= normals[0] * (normals[0] @ normals[1]) / (normals[0] @ normals[0])
    normals /= [[dual(n, norm)] for n in normals]
    distances = np.linspace(0.004, 0.1, N)  # from the boundary, within the box in both norms
    x = near(normals[0], distances, norm, rng)
    if layers == 1:
        net = linear(np.stack([normals[0], -normals[0]]), np.asarray([-0.5, 0.5], np.float32) * normals[0].sum())
    else:
        bias = -0.5 * normals.sum(axis=1) + [0, 0.5]  # the second plane is farther away than any attack gets
        net = Classifier((jnp.asarray(normals), jnp.asarray(bias, jnp.float32)), wedge)
    examples = batch(net, x, label=np.zeros(N, np.int32))
    exact = Linearised(norm)
    np.testing.assert_allclose(jax.vmap(lambda x: exact(net, x, jnp.int32(0)))(jnp.asarray(x)), distances, rtol=1e-3)
    name, _, cost = attacker.partition(":")
    for epsilon in (0.03, 0.08):
        for rho in (0.0, 0.013, 0.041):
            attack = ATTACKERS[name](norm, epsilon, 40, cost or "linearised")
            clear = np.abs(distances - (epsilon - rho)) > 1e-4
            np.testing.assert_array_equal(joint(net, attack, examples, rho, exact)[clear], (distances <= epsilon - rho)[clear])


@pytest.fixture(scope="module")
def net():
    plain = convnet()

    def apply(variables, x):
        TRACES.append(None)
        return plain.apply(variables, x)

    return Classifier(plain.variables, apply)


@pytest.fixture(scope="module")
def examples(net):
    return batch(net, np.random.default_rng(0).uniform(0.2, 0.8, size=(8, 8, 8, 1)).astype(np.float32))


def visited(net, attack, examples, cost):
    """The result, and of each point on the way: misclassified, and its cost."""
    result, (wrong, costs) = watch(attack, net, examples, lambda net, x: (prediction(net(x)), cost(net, x, prediction(net(x)))))
    return result, wrong != examples.label[:, None], costs


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_misclassified_point_of_the_highest_cost_is_kept(net, examples, norm):
    """Protects the result: of all points that it visits, a threshold on the cost accepts no other one rather than this."""
    cost = Linearised(norm)
    attack = cost_ascent(0.1 if norm == "linf" else 0.6, 15, norm, cost)
    result, wrong, costs = visited(net, attack, examples, cost)
    assert result.success.all()
    kept = jax.vmap(lambda x: cost(net, x, prediction(net(x))))(jnp.asarray(result.x_adv))
    np.testing.assert_allclose(kept, np.where(wrong, costs, -np.inf).max(axis=1), rtol=1e-4, atol=1e-6)


def test_it_pays_to_differentiate_the_cost(net, examples):
    """Protects the reason for it: no image costs less than after margin ascent with as many updates, and they cost more on the whole."""
    cost = Linearised()
    reached = []
    for attack in (margin_ascent(0.1, 30), cost_ascent(0.1, 30, cost=cost)):
        result = drivers.attack(attack, net, examples, driver="run")
        assert result.success.all()
        reached.append(np.asarray(jax.vmap(lambda x: cost(net, x, prediction(net(x))))(jnp.asarray(result.x_adv))))
    assert (reached[1] >= reached[0] * 0.999).all()
    assert reached[1].mean() > 1.04 * reached[0].mean()


def test_first_fool_then_raise(net, examples):
    """Protects the two stages: until it is fooled, and for `fool_steps` updates, the path is that of PGD on the margin, bit for bit."""
    same = {"epsilon": 0.6, "step_size": 0.1, "max_steps": 10, "last_step": 0.01, "norm": "l2"}
    _, plain = watch(PGD(early_stop=False, loss="margin", **same), net, examples, lambda _, x: x)
    _, wrong, _ = visited(net, CostAscent(cost="linearised", **same), examples, Linearised("l2"))
    for fool_steps in (0, 6, 11):
        _, path = watch(CostAscent(cost="linearised", fool_steps=fool_steps, **same), net, examples, lambda _, x: x)
        for i in range(len(path)):
            common = max(int(np.argmax(wrong[i])) + 1, min(fool_steps, 10) + 1)
            np.testing.assert_array_equal(path[i][:common], plain[i][:common])
        assert np.any(path != plain) == (fool_steps < 10)  # where the label is the runner-up, margin and cost have one direction here


@pytest.mark.parametrize("orthogonal", ["cost", "both"])
def test_orthogonal_steps_leave_the_other_aim_alone(net, examples, orthogonal):
    """Protects the projection: the direction has no part along the gradient of the other aim, and goes up its own."""
    attack = CostAscent(0.1, 0.01, 10, cost=Survival(0.2), orthogonal=orthogonal)
    for i, far in ((0, False), (1, True), (2, True)):
        example = jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf[i]), examples)
        state = attack.init(example)._replace(x_adv=drivers.run(margin_ascent(0.1, 10), net, example).x_adv if far else example.x)
        state = state._replace(progress=state.progress._replace(fresh=jnp.asarray(False)))
        seen = attack.look(net, example, state)
        loss = view(net, lambda z, label=example.label: lead(z, label), state.x_adv).gradient
        label = prediction(net(state.x_adv))
        assert (label != example.label) == far
        cost = jax.grad(lambda x, label=label: Survival(0.2)(net, x, label))(state.x_adv)
        own, other = (cost, loss) if far else (loss, cost)
        along = jnp.sum(seen.gradient * other) / jnp.linalg.norm(seen.gradient) / jnp.linalg.norm(other)
        projected = far or orthogonal == "both"
        assert (abs(along) < 1e-4) == projected
        assert jnp.sum(seen.gradient * own) > 0


def test_parallel_gradients_are_not_rounded_to_noise():
    """Protects a linear network, where nothing is left of either gradient: the orthogonal attack is the plain one."""
    rng = np.random.default_rng(3)
    net = linear(rng.normal(size=(2, 16)).astype(np.float32))
    examples = batch(net, rng.uniform(0.3, 0.7, size=(6, 4, 4, 1)).astype(np.float32))
    plain, orthogonal = (
        drivers.attack(cost_ascent(0.2, 12, cost="linearised", orthogonal=o), net, examples, driver="run") for o in ("no", "both")
    )
    np.testing.assert_array_equal(plain.x_adv, orthogonal.x_adv)


def test_targeted_ascent_reaches_its_class_and_raises_its_cost(net, examples):
    """Protects the sign: a targeted attack lowers its loss, and raises the cost all the same."""
    logits = np.asarray(jax.vmap(net)(jnp.asarray(examples.x)))
    goal = examples._replace(label=np.argsort(logits, axis=1)[:, -2].astype(np.int32))
    cost = Linearised()
    reached = []
    for attack in (PGD(0.15, 0.01, 30, targeted=True), cost_ascent(0.15, 30, cost=cost, targeted=True)):
        result = drivers.attack(attack, net, goal, driver="run")
        assert result.success.all()
        np.testing.assert_array_equal(np.asarray(jax.vmap(net)(jnp.asarray(result.x_adv))).argmax(1), goal.label)
        reached.append(np.asarray(jax.vmap(lambda x: cost(net, x, prediction(net(x))))(jnp.asarray(result.x_adv))))
    assert (reached[1] > 2 * reached[0]).all()


def test_numbers_are_data(net, examples):
    """Protects a sweep: epsilon, steps, the stage, beta, the threshold and the numbers of a cost run the same program."""

    def both(epsilon, steps, beta, temperature):
        for attack in (
            cost_ascent(epsilon, steps, cost=Survival(2 * epsilon, temperature=temperature, points=3), fool_steps=steps // 2),
            PaperLoss(epsilon, epsilon / 5, steps, beta=beta, threshold=epsilon / 3, cost="linearised"),
            margin_ascent(epsilon, steps, restarts=2),
        ):
            drivers.attack(attack, net, examples, driver="run")

    both(0.1, 6, 1.0, 0.1)
    before = len(TRACES)
    both(0.05, 4, 30.0, 0.3)
    assert len(TRACES) == before


@pytest.mark.parametrize("name", ATTACKERS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_attacker_runs(net, examples, name, norm):
    """Protects the table: each attacker is made of (norm, epsilon, steps, cost), fools, and stays in its ball if it has one."""
    attacker = ATTACKERS[name]
    if norm not in attacker.norms:
        with pytest.raises(BadInput, match=r"expected a norm among l2 for this attacker, got 'linf'; leave it out"):
            attacker(norm, 0.1, 6)
        return
    epsilon = {"linf": 0.1, "l2": 0.8}[norm]
    attack = attacker(norm, epsilon, 20, "linearised")
    assert attack.norm == norm
    result = drivers.attack(attack, net, examples, driver="run")
    assert result.success.mean() > 0.7
    if not name.startswith("cw"):
        assert result.distance.max() <= epsilon * (1 + 1e-5)
    assert attacker.measures == isinstance(attack, CostAscent)


def test_confidence_buys_cost_with_distance(net, examples):
    """Protects the paper's Section 6.2: with a larger kappa images lead by more, lie farther away and cost more."""
    leads, distances, costs = [], [], []
    for kappa in (0, 5, 10):
        result = drivers.attack(ATTACKERS[f"cw_{kappa}"]("l2", 0.0, 20), net, examples, driver="run")
        assert result.success.all()
        logits = jax.vmap(net)(jnp.asarray(result.x_adv))
        leads.append(-np.asarray(jax.vmap(margin)(logits, jnp.asarray(examples.label))))
        distances.append(result.distance)
        costs.append(np.asarray(jax.vmap(lambda x: Linearised("l2")(net, x, prediction(net(x))))(jnp.asarray(result.x_adv))))
        assert leads[-1].min() >= kappa - 1e-3
    for numbers in (distances, costs):
        assert (np.diff(numbers, axis=0) > 0).mean() > 0.9


def test_text_and_files_name_them():
    """Protects the command line: attacks by import string, their settings as text, and as JSON in a table."""
    text = "a2d_jax.adaptive:cost_ascent:epsilon=0.1:max_steps=7:cost=linearised:orthogonal=cost"
    text += ",a2d_jax.adaptive:PaperLoss:beta=3:cost=margin"
    made = specs.attacks(text, {})
    ascent = made["a2d_jax.adaptive:cost_ascent"]
    assert ascent == cost_ascent(0.1, 7, cost="linearised", orthogonal="cost")
    assert made["a2d_jax.adaptive:PaperLoss"] == PaperLoss(beta=3.0, cost="margin")
    stored = specs.settings_of(made)
    assert stored["a2d_jax.adaptive:cost_ascent"]["cost"] == "linearised"
    again = specs.attacks_from(stored, made, "a table", plugins=("a2d_jax.adaptive.ascent", "a2d_jax.adaptive.paper_loss"))
    assert again == made
    with pytest.raises(BadInput, match="settings of mine that a file can hold, got a function for cost"):
        specs.settings_of({"mine": cost_ascent(cost=Survival(0.1))})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cost": "bim"}, "expected a cost among margin, linearised, survival, implicit, or a function .* got 'bim'"),
        ({"cost": 3.0}, "expected a cost among .* got 3.0"),
        ({"cost": None}, "expected a cost among .* got None"),
        ({"cost": {"epsilon": 0.1}}, "expected a cost among .* got {'epsilon': 0.1}"),
        ({"fool_steps": -1}, "expected fool_steps >= 0, got -1"),
        ({"orthogonal": "yes"}, "expected orthogonal among no, cost, both, got 'yes'"),
        ({"epsilon": -1.0}, "expected epsilon >= 0"),
        ({"restarts": 0}, "expected restarts >= 1, got 0"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    """Protects early failure: a setting that means nothing is refused when the attack is built."""
    with pytest.raises(BadInput, match=says):
        cost_ascent(**settings)


def broken(classifier, x, label):
    del label
    return jnp.sum(classifier(x)) * jnp.nan


def test_a_broken_cost_is_said(net, examples):
    """Protects loud failure: a cost that is not finite ends the attack as broken, once it is needed."""
    result = drivers.attack(cost_ascent(0.1, 10, cost=broken), net, examples, driver="run")
    assert result.broken.all()
    assert not result.success.any()
    assert np.isfinite(result.x_adv).all()
    never = drivers.attack(cost_ascent(1e-6, 10, cost=broken), net, examples, driver="run")  # nothing is fooled
    assert not never.broken.any()


def test_the_papers_loss_with_beta_0_is_pgd(net, examples):
    """Protects the literal formula: without a weight the cost changes nothing, bit for bit."""
    ours, plain = (
        drivers.attack(attack, net, examples, driver="run")
        for attack in (PaperLoss(0.1, 0.01, 12, beta=0.0, threshold=1.0, cost="linearised"), PGD(0.1, 0.01, 12))
    )
    jax.tree.map(np.testing.assert_array_equal, ours, plain)


def test_the_papers_loss_as_written(net, examples):
    """Protects the literal formula: its value and gradient are those of J - beta * max(threshold - cost, 0)."""
    beta, threshold, cost = 7.0, 0.03, Linearised()
    attack = PaperLoss(0.1, 0.01, 12, beta=beta, threshold=threshold, cost=cost)
    for i in range(4):
        example = jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf[i]), examples)

        def written(x, label=example.label):
            return cross_entropy(net(x), label) - beta * jnp.maximum(threshold - cost(net, x, prediction(net(x))), 0)

        value, gradient = jax.value_and_grad(written)(example.x)
        seen = attack.look(net, example, attack.init(example))
        np.testing.assert_allclose(seen.gradient, gradient, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(seen.value, value, rtol=1e-5)


def test_a_large_beta_holds_the_attack_at_the_input():
    """Protects what is said of the paper's loss: on a linear network it fools everything below one beta, and nothing above it."""
    normal = np.random.default_rng(5).normal(size=16).astype(np.float32)
    net = linear(np.stack([normal, -normal]), np.asarray([-0.5, 0.5], np.float32) * normal.sum())
    x = near(normal, np.linspace(0.01, 0.05, 8), "linf", np.random.default_rng(6))
    examples = batch(net, x, label=np.zeros(8, np.int32))
    steepness = 2 * np.abs(normal).sum()  # of the margin; the cost is the margin over it, so that the sum has slope steepness - beta
    for share, fooled in ((0.9, True), (1.1, False)):
        attack = PaperLoss(0.2, 0.005, 60, loss="margin", early_stop=False, keep_best=True, beta=share * float(steepness), threshold=0.1)
        result = drivers.attack(dataclasses.replace(attack, cost="linearised"), net, examples, driver="run")
        assert result.success.all() == result.success.any() == fooled
