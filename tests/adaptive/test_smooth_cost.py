"""Smooth costs: closed forms, derivatives against finite differences in float64, memory, edges, and training with them."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit

from a2d_jax import drivers
from a2d_jax.adaptive import Implicit, Linearised, Survival
from a2d_jax.attacks import PGD, DeepFool, Newton, bim, pgd
from a2d_jax.classifiers import in_bfloat16
from a2d_jax.errors import BadInput
from a2d_jax.types import Classifier, Example
from tests.nets import convnet, linear

COSTS = {
    "linearised": Linearised(),
    "linearised_l2": Linearised(norm="l2"),
    "survival": Survival(0.3),
    "survival_rms": Survival(0.3, norm="rms"),
    "survival_straight": Survival(1.0, norm="l2", straight=True),
    "implicit": Implicit(Newton(0.3)),
    "implicit_l2": Implicit(Newton(2.0, norm="l2")),
    "implicit_bim": Implicit(bim(0.5, 0.01, 60, loss="margin")),
}
every_cost = pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
DUAL = {"linf": lambda w: np.abs(w).sum(), "l2": np.linalg.norm, "rms": lambda w: np.linalg.norm(w) * math.sqrt(w.size)}


def two_layers(variables, x):
    w1, b1, w2 = variables
    return w2 @ jnp.tanh(w1 @ x.ravel() + b1)


def tanh_net(dtype=np.float64, classes: int = 3) -> Classifier:
    """A smooth network of two layers for images 4 x 4 x 1."""
    rng = np.random.default_rng(1)
    weights = (rng.normal(size=(10, 16)) * 0.7, rng.normal(size=10) * 0.3, rng.normal(size=(classes, 10)))
    return Classifier(tuple(jnp.asarray(w, dtype) for w in weights), two_layers)


def images(count: int, dtype=np.float64, size: int = 4):
    """Images away from the bounds, on which no walk of these tests is clipped."""
    return np.random.default_rng(2).uniform(0.4, 0.6, (count, size, size, 1)).astype(dtype)


@jax.jit
def both(cost, net, x, label):
    """The cost of an image, and its gradients in the weights and in x."""
    return jax.value_and_grad(lambda weights, x: cost(Classifier(weights, net.apply), x, label), argnums=(0, 1))(net.variables, x)


def product(weights, x):
    return weights @ x.ravel()


def label_of(net, x):
    return jnp.argmax(net(x)).astype(jnp.int32)


def settings_norm(cost):
    return cost.attack.norm if isinstance(cost, Implicit) else cost.norm


def differences(function, x, directions, h):
    """Central differences of a function along directions."""
    return np.asarray([(function(x + h * d) - function(x - h * d)) / (2 * h) for d in directions])


@every_cost
def test_linear_classifier(cost):
    """Protects the meaning: on a linear classifier the cost is the distance margin / ||w||_dual, or the stated function of it; so is its
    gradient in x and in the weights."""
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        signs = rng.choice([-1, 1], (2, 16))
        signs[1] = -signs[0]
        weights, x = signs * rng.uniform(0.8, 1.2, (2, 16)), images(6)  # of like sizes: no step is long enough to be clipped
        for one in x:
            label = int((weights @ one.ravel()).argmax())

            def distance(weights, x, label=label):
                w = weights[label] - weights[1 - label]
                norm = settings_norm(cost)
                dual = jnp.abs(w).sum() if norm == "linf" else jnp.sqrt((w**2).sum()) * (math.sqrt(w.size) if norm == "rms" else 1)
                return w @ x.ravel() / dual

            def expected(weights, x, distance=distance):
                far = distance(weights, x)
                if not isinstance(cost, Survival):
                    return far
                ends = (1 / cost.temperature, (1 - cost.epsilon / far) / cost.temperature)
                return cost.temperature * far * (jax.nn.softplus(ends[0]) - jax.nn.softplus(ends[1]))

            got = both(cost, Classifier(jnp.asarray(weights), product), jnp.asarray(one), jnp.int32(label))
            want = jax.value_and_grad(expected, argnums=(0, 1))(jnp.asarray(weights), jnp.asarray(one))
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), got, want)


def test_survival_by_numpy():
    """Protects the formula of survival: NumPy's integral along a walk in Linf, with the least margin so far."""
    cost = Survival(0.4, points=7, temperature=0.3)
    with jax.enable_x64(True):
        net, x = tanh_net(), images(5)
        w1, b1, w2 = (np.asarray(w) for w in net.variables)
        for one in x:
            label = int(label_of(net, jnp.asarray(one)))
            radii, point, margins = np.asarray(cost.radii(jnp.float64)), one.ravel().copy(), []
            assert radii[1] == pytest.approx(0.4 / 64)
            assert radii[-1] == pytest.approx(0.4)
            np.testing.assert_allclose(np.diff(np.log(radii[1:])), np.log(64) / 6)
            for step in [*np.diff(radii), 0]:
                hidden = np.tanh(w1 @ point + b1)
                logits = w2 @ hidden
                other = int(np.where(np.arange(3) == label, -np.inf, logits).argmax())
                margins.append(logits[label] - logits[other])
                point = np.clip(point - step * np.sign(w1.T @ ((1 - hidden**2) * (w2[label] - w2[other]))), 0, 1)
            least = np.minimum.accumulate(margins)
            grid = np.linspace(0, 0.4, 400_001)
            expected = np.trapezoid(expit(np.interp(grid, radii, least) / (0.3 * margins[0])), grid)
            assert float(both(cost, net, jnp.asarray(one), jnp.int32(label))[0]) == pytest.approx(expected, rel=1e-6)


def test_two_layers_in_closed_form():
    """Protects the crossing on a curved network: BIM's radius is SciPy's root along its signs, its gradient the implicit one."""
    cost = Implicit(bim(0.5, 0.2, 3), refinements=40)
    with jax.enable_x64(True):
        net, tried = tanh_net(classes=2), 0
        w1, b1, w2 = (np.asarray(w) for w in net.variables)
        for one in images(12):
            label = int(label_of(net, jnp.asarray(one)))
            out = w2[label] - w2[1 - label]

            def slope(point, out=out):
                return w1.T @ ((1 - np.tanh(w1 @ point + b1) ** 2) * out)

            signs = np.sign(slope(one.ravel()))

            def lead(r, one=one, signs=signs, out=out):
                return out @ np.tanh(w1 @ (one.ravel() - r * signs) + b1)

            if lead(0.2) > 0:
                continue  # the crossing lies beyond the first step, whose signs these are
            tried += 1
            radius = brentq(lambda r, lead=lead: lead(r), 0, 0.2, xtol=1e-14)
            at = slope(one.ravel() - radius * signs)
            value, (_, gradient) = both(cost, net, jnp.asarray(one), jnp.int32(label))
            assert float(value) == pytest.approx(radius, rel=1e-9)
            np.testing.assert_allclose(np.asarray(gradient).ravel(), at / (at @ signs), rtol=1e-6)
        assert tried >= 4


EXACT = {
    "linearised": Linearised(),
    "linearised_rms": Linearised(norm="rms"),
    "survival": Survival(0.3),
    "survival_l2": Survival(2.0, norm="l2"),
    "survival_cold": Survival(0.3, temperature=0.02),
    "survival_hot": Survival(0.3, temperature=1.0),
    "implicit_bim": Implicit(bim(0.4, 0.02, 40), refinements=40),
    "implicit_bim_fails": Implicit(bim(0.02, 0.004, 5)),
}


@pytest.mark.parametrize("cost", EXACT.values(), ids=EXACT)
def test_derivatives_are_those_of_the_function(cost):
    """Protects gradients: in float64 they agree with central differences in x and in the weights, wherever the function is smooth."""
    rng = np.random.default_rng(5)
    with jax.enable_x64(True):
        net = tanh_net()
        h, errors = 1e-6, []

        @jax.jit
        def of(variables, x, label):
            return cost(Classifier(variables, net.apply), x, label)

        gradients = jax.jit(jax.grad(of, argnums=(0, 1)))
        for one in map(jnp.asarray, images(8)):
            label = label_of(net, one)
            in_weights, in_x = gradients(net.variables, one, label)
            directions = rng.normal(size=(3, *one.shape))
            got = differences(lambda x, label=label: of(net.variables, x, label), one, directions, h)
            errors.append(np.abs(got - [float(jnp.vdot(in_x, d)) for d in directions]) / np.abs(got).max())
            along = [jnp.asarray(rng.normal(size=w.shape)) for w in net.variables]
            up, down = (of(tuple(w + s * h * d for w, d in zip(net.variables, along, strict=True)), one, label) for s in (1, -1))
            expected = sum(float(jnp.vdot(g, d)) for g, d in zip(in_weights, along, strict=True))
            errors.append(np.abs((up - down) / (2 * h) - expected) / (np.abs(expected) + np.abs(got).max()))
        errors = np.concatenate([np.ravel(e) for e in errors])
        if "fails" in cost_name(cost):  # beyond its last point the slope of the margin counts as constant
            assert np.quantile(errors, 0.9) < 0.3
        else:
            assert np.quantile(errors, 0.9) < 1e-5
            assert (errors < 1e-4).mean() > 0.95  # a jump of a sign between the two points may spoil one


def cost_name(cost):
    return next(name for name, one in EXACT.items() if one is cost)


@pytest.mark.parametrize(
    "cost", [Implicit(bim(0.4, 0.02, 40), 40), Survival(0.3), Linearised()], ids=["implicit", "survival", "linearised"]
)
def test_scalars_that_the_walk_clips(cost):
    """Protects the bounds: near 0 and 1, where most scalars are clipped on the way, gradients are still those of differences."""
    noise = np.random.default_rng(7)
    with jax.enable_x64(True):
        net = tanh_net()
        of = jax.jit(lambda x, label: cost(net, x, label))
        slope, errors = jax.jit(jax.grad(of)), []
        for one in noise.choice([0.01, 0.03, 0.97, 0.99], (8, 4, 4, 1)) + noise.uniform(-0.005, 0.005, (8, 4, 4, 1)):
            one = jnp.asarray(one)
            label = label_of(net, one)
            true = differences(lambda x, label=label: of(x, label), one, np.eye(16).reshape(16, 4, 4, 1), 1e-7)
            errors.append(np.abs(np.asarray(slope(one, label)).ravel() - true) / np.abs(true).max())
        assert np.quantile(errors, 0.9) < 1e-5


@pytest.mark.parametrize("attack", [Newton(0.3), Newton(2.0, norm="l2"), PGD(3.0, 0.05, 60, norm="l2")])
def test_straight_through_points_the_same_way(attack):
    """Protects what is promised of straight-through gradients: their angle to the true gradient is small, though they are not exact."""
    cost = Implicit(attack, refinements=8)
    with jax.enable_x64(True):
        net = tanh_net()
        of = jax.jit(lambda x, label: cost(net, x, label))
        slope = jax.jit(jax.grad(of))
        cosines = []
        for one in map(jnp.asarray, images(8)):
            label = label_of(net, one)
            gradient = np.asarray(slope(one, label)).ravel()
            true = differences(lambda x, label=label: of(x, label), one, np.eye(16).reshape(16, 4, 4, 1), 1e-6)
            cosines.append(gradient @ true / np.linalg.norm(gradient) / np.linalg.norm(true))
        assert np.median(cosines) > 0.95


@pytest.mark.parametrize("attack", [bim(0.5, 0.003, 120), PGD(0.6, 0.02, 60, norm="l2"), Newton(0.3), bim(0.004, 0.001, 4)])
def test_implicit_is_the_crossing_of_the_attack(attack):
    """Protects the number: without refinement the cost is `AttackResult.crossing`; of a failure it is the radius walked and more."""
    net, x = convnet(), np.random.default_rng(0).uniform(size=(12, 8, 8, 1)).astype(np.float32)
    label = jax.vmap(lambda x: label_of(net, x))(x)
    cost = jax.jit(jax.vmap(Implicit(attack, refinements=0), (None, 0, 0)))(net, x, label)
    result = drivers.attack(attack, net, Example(x, np.asarray(label), jax.random.split(jax.random.key(0), 12)), driver="run")
    hit = result.success
    assert (~hit).any() if attack.max_steps == 4 else hit.any()
    # one Newton step on the margin leads from the interpolated crossing to a better one
    step = getattr(attack, "step_size", 0.05)
    np.testing.assert_allclose(cost[hit], result.crossing[hit], atol=0.5 * step)
    assert (cost[~hit] >= result.distance[~hit]).all()


def test_targeted():
    """Protects targets: on a linear classifier the cost of reaching a class is the distance of its boundary with the best class."""
    rng = np.random.default_rng(4)
    weights, x = rng.normal(size=(2, 16)).astype(np.float32), images(4, np.float32)
    for one in x:
        z = weights @ one.ravel()
        target = int(z.argmin())
        cost = both(Implicit(bim(0.5, 0.01, 60, targeted=True)), linear(weights), jnp.asarray(one), jnp.int32(target))[0]
        assert float(cost) == pytest.approx((z.max() - z.min()) / np.abs(weights[0] - weights[1]).sum(), rel=1e-4)


@every_cost
def test_an_image_of_another_class(cost):
    """Protects the start: an image that is misclassified already costs 0, with a gradient of 0 in x and in the weights, no NaN."""
    net, x = convnet(), jnp.asarray(np.random.default_rng(0).uniform(size=(8, 8, 1)), jnp.float32)
    wrong = jnp.argmin(net(x)).astype(jnp.int32)
    value, gradients = both(cost, net, x, wrong)
    assert float(value) == 0
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradients))


def affine(variables, x):
    return variables[0] + variables[1] * x.sum()


@every_cost
@pytest.mark.parametrize("kind", ["no gradient", "huge logits", "tiny logits", "on the bounds", "on the boundary", "not finite"])
def test_edges(cost, kind):
    """Protects edges: values and gradients are finite, and what they should be; logits that are not finite are never a number."""
    net = convnet()
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(8, 8, 1)), jnp.float32)
    scale = {"huge logits": 1e8, "tiny logits": 1e-8}.get(kind, 1.0)
    variables = net.variables | {"dense": net.variables["dense"] * jnp.float32(scale)}
    apply = net.apply
    if kind == "on the bounds":
        x = (x > 0.5).astype(jnp.float32)
    label = label_of(Classifier(variables, apply), x)
    if kind == "no gradient":
        variables, apply, label = jnp.array([[1e6, 0, 0], [0, 0, 0]], jnp.float32), affine, jnp.int32(0)
    elif kind == "on the boundary":
        variables, apply, label = jnp.zeros((2, 3), jnp.float32), affine, jnp.int32(0)
    elif kind == "not finite":
        variables = jax.tree.map(lambda w: w * jnp.nan, variables)
    value, gradients = both(cost, Classifier(variables, apply), x, label)
    if kind == "not finite":
        assert np.isnan(value)
        return
    assert np.isfinite(value)
    assert value >= 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    if kind == "no gradient":
        most = math.sqrt(64) if settings_norm(cost) == "l2" else 1
        assert float(value) == pytest.approx(cost.epsilon if isinstance(cost, Survival) else most, rel=1e-3)
        assert not np.any(gradients[1])
    elif kind == "on the boundary":
        assert float(value) == 0
    elif kind in ("huge logits", "tiny logits"):
        usual, (_, slope) = both(cost, net, x, label)
        np.testing.assert_allclose(value, usual, rtol=1e-3)
        np.testing.assert_allclose(gradients[1], slope, rtol=0.05, atol=1e-3 * np.abs(slope).max())
    else:
        assert any(np.any(leaf) for leaf in jax.tree.leaves(gradients))


@every_cost
def test_batches_and_bfloat16(cost):
    """Protects batches: a batch of one and of many give what the image alone gives; weights in bfloat16 give about the same cost."""
    net = convnet()
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(5, 8, 8, 1)), jnp.float32)
    label = jax.vmap(lambda x: label_of(net, x))(x)
    mapped = jax.jit(jax.vmap(jax.value_and_grad(cost, argnums=1), (None, 0, 0)))
    many, one = mapped(net, x, label), mapped(net, x[:1], label[:1])
    value, (_, slope) = both(cost, net, x[0], label[0])
    alone = value, slope
    for some in (many, one):
        np.testing.assert_allclose(some[0][0], alone[0], rtol=1e-4)
        np.testing.assert_allclose(some[1][0], alone[1], rtol=1e-2, atol=1e-3 * np.abs(alone[1]).max())

    def short(variables, x):  # logits in bfloat16 too
        return net.apply(variables, x.astype(jnp.bfloat16))

    halved = Classifier(jax.tree.map(lambda w: w.astype(jnp.bfloat16), net.variables), short)
    for other in (in_bfloat16(net), halved):
        value, gradients = mapped(other, x, label)
        assert value.dtype == gradients.dtype == jnp.float32
        near = np.asarray(many[0]) > 0.2 * np.median(many[0])
        np.testing.assert_allclose(value[near], many[0][near], rtol=0.35)
        assert np.isfinite(gradients).all()


@pytest.mark.parametrize("cost", [Survival(0.3), Linearised(), Implicit(bim(0.4, 0.01, 60)), Implicit(Newton(0.3))])
def test_training_with_it(cost):
    """Protects the use in training: one gradient step on the weights raises the mean cost of a batch."""
    net = convnet()
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(12, 8, 8, 1)), jnp.float32)
    label = jax.vmap(lambda x: label_of(net, x))(x)

    def mean(variables):
        return jnp.mean(jax.vmap(cost, (None, 0, 0))(Classifier(variables, net.apply), x, label))

    before, gradient = jax.jit(jax.value_and_grad(mean))(net.variables)
    length = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient)))
    after = jax.jit(mean)(jax.tree.map(lambda w, g: w + 0.02 * g / length, net.variables, gradient))
    assert float(after) > float(before) * 1.002


def memory(cost, net, x, label):
    return jax.jit(jax.value_and_grad(cost, argnums=(1,))).lower(net, x, label).compile().memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_steps():
    """Protects long attacks: the compiled gradient of `Implicit` needs as much memory for 500 steps as for 10; that of `unroll` grows."""
    net, x, label = convnet(size=16), jnp.full((16, 16, 1), 0.5, jnp.float32), jnp.int32(0)
    # max_steps is data, so one program would do for both: here it is compiled for each as a constant
    flat = [memory(lambda *a, n=n: Implicit(bim(0.3, 0.3 / n, n))(*a), net, x, label) for n in (10, 500)]
    assert flat[0] == flat[1] > 0

    def unrolled(n):
        attack = PGD(0.3, 0.3 / n, n, norm="l2", early_stop=False)
        return lambda net, x, label: jnp.sum(drivers.unroll(attack, net, Example(x, label, None))[1])

    grows = [memory(unrolled(n), net, x, label) for n in (10, 500)]
    assert grows[1] > grows[0] + 400 * x.nbytes


def test_new_numbers_compile_nothing():
    """Protects users' time: other weights, images, radii, temperatures and budgets run the same program."""
    net, traces = convnet(), []

    def counting(variables, x):
        traces.append(None)
        return net.apply(variables, x)

    @jax.jit
    def of(cost, variables, x, label):
        return jax.grad(lambda x: cost(Classifier(variables, counting), x, label))(x)

    x = jnp.full((8, 8, 1), 0.5, jnp.float32)
    for first, other in (
        (Survival(0.3), Survival(0.1, 0.1, 0.5)),
        (Implicit(bim(0.3, 0.01, 40)), Implicit(bim(0.1, 0.02, 500))),
        (Implicit(Newton(0.3)), Implicit(Newton(0.1, max_steps=20))),
    ):
        of(first, net.variables, x, jnp.int32(0))
        before = len(traces)
        of(other, jax.tree.map(lambda w: w * 2, net.variables), x + 0.1, jnp.int32(1))
        assert len(traces) == before


def test_refuses_bad_settings():
    """Protects early failure: attacks without a path from the input, unknown norms, and numbers out of range are refused."""
    for attack in (pgd(0.1), PGD(early_stop=False), DeepFool()):
        with pytest.raises(BadInput, match=r"expected Newton, or PGD without restarts and with an early stop, got .*; pass one that walks"):
            Implicit(attack)
    for call, text in (
        (lambda: Linearised(norm="l1"), "expected a norm among linf, l2, rms, got 'l1'"),
        (lambda: Survival(epsilon=0), "expected epsilon > 0, got 0; give"),
        (lambda: Survival(temperature=-1), "expected temperature > 0, got -1"),
        (lambda: Survival(first=1.0), "expected first between 0 and 1, got 1.0"),
        (lambda: Survival(points=1), "expected points >= 2, got 1"),
        (lambda: Implicit(refinements=-1), "expected refinements >= 0, got -1"),
    ):
        with pytest.raises(BadInput, match=text):
            call()
    assert dataclasses.replace(Survival(), points=5).points == 5


def test_bim_that_stands_still():
    """Protects saturated logits: where the cross entropy has no gradient, BIM does not move and the cost is the linearised distance."""
    net = convnet()
    sure = Classifier(net.variables | {"dense": net.variables["dense"] * 1e6}, net.apply)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(8, 8, 1)), jnp.float32)
    label = label_of(net, x)
    value, (_, gradient) = both(Implicit(bim(0.5, 0.01, 60)), sure, x, label)
    slope = jax.grad(lambda x: sure(x)[label] - jnp.sort(sure(x))[-2])(x)
    np.testing.assert_allclose(value, both(Linearised(), sure, x, label)[0], rtol=1e-4)
    np.testing.assert_allclose(gradient, slope / jnp.abs(slope).sum(), rtol=1e-3, atol=1e-6)


def test_the_mean_of_the_sigmoid():
    """Protects the integral: NumPy's mean of the sigmoid between two numbers, near and far, and a finite gradient, in float32."""
    from a2d_jax.adaptive.smooth_cost import _mean_sigmoid

    for high, low in [(10, 9.99), (10, -10), (1000, 999), (0.1, 0.0999), (-3, -3), (1e4, -1e9), (-50, -60), (5, 4.9)]:
        grid = np.linspace(low, high, 100_001) if high - low < 1e5 else np.concatenate([[low], np.linspace(-100, high, 200_001)])
        expected = np.trapezoid(expit(grid), grid) / (high - low) if high > low else expit(high)
        found, slope = jax.value_and_grad(lambda pair: _mean_sigmoid(pair[:1], pair[1:])[0])(jnp.array([high, low], jnp.float32))
        assert float(found) == pytest.approx(expected, rel=2e-3, abs=1e-7)
        assert np.isfinite(slope).all()
