"""CLEVER scores: exact for linear classifiers, and equal to those of the Adversarial Robustness Toolbox for LeNet-5."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from a2d_jax import classifiers, costs
from a2d_jax.errors import BadInput
from a2d_jax.io import convert
from a2d_jax.robustness import Clever, clever_scores, mean_interval, weibull
from a2d_jax.robustness.clever import point_in_ball
from a2d_jax.types import Example
from models.lenet import lenet5
from tests.nets import batch, convnet, linear

pytestmark = pytest.mark.xdist_group("clever")  # one process: its fixtures take seconds

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
QUICK = Clever(batches=12, samples=20)
ALL = ("untargeted", "target-2", "target-5", "least-likely")


def linear_case(classes=6):
    """A linear classifier, images of no colour near 0.5, margins and order of their classes by NumPy."""
    random = np.random.default_rng(0)
    weights = random.normal(size=(classes, 16)).astype(np.float32)
    x = random.uniform(0.3, 0.7, (5, 4, 4, 1)).astype(np.float32)
    logits = x.reshape(5, 16).astype(np.float64) @ weights.T.astype(np.float64)
    return weights, x, logits, np.argsort(-logits, axis=1)


@pytest.mark.parametrize(("norm", "order"), [("l2", 2), ("linf", 1)])
def test_linear_classifier(norm, order):
    """The score is the exact distance to the hyperplane of the target, in either norm, to 1 % and better."""
    weights, x, logits, ranked = linear_case()
    found = clever_scores(linear(weights), batch(linear(weights), x), ALL, Clever(batches=12, samples=20, norm=norm))
    distance = np.array(
        [
            [
                (logits[i, ranked[i, 0]] - logits[i, j]) / max(np.linalg.norm(weights[ranked[i, 0]] - weights[j], ord=order), 1e-30)
                for j in ranked[i, 1:]
            ]
            for i in range(5)
        ]
    )
    np.testing.assert_allclose(found.score[:, 0], distance.min(1), rtol=1e-4)
    np.testing.assert_allclose(found.score[:, 1:], distance[:, [0, 3, 4]], rtol=1e-4)
    np.testing.assert_array_equal(found.target[:, 1:], ranked[:, [1, 4, 5]])
    np.testing.assert_array_equal(found.target[:, 0], ranked[np.arange(5), 1 + distance.argmin(1)])
    capped = clever_scores(linear(weights), batch(linear(weights), x), ALL, Clever(radius=0.05, batches=12, samples=20, norm=norm))
    np.testing.assert_allclose(capped.score, np.minimum(found.score, 0.05), rtol=1e-4)
    assert (capped.score == 0.05).any()


def test_zero_gradient_and_wrong_label():
    """A classifier that never changes scores R, the radius; a label that is not predicted scores 0; broken weights score NaN."""
    x = np.full((2, 4, 4, 1), 0.5, np.float32)
    constant = linear(np.zeros((3, 16), np.float32), np.array([1, 0, 0], np.float32))
    assert (clever_scores(constant, batch(constant, x), ALL[:2], QUICK).score == 5).all()
    weights, x, _, ranked = linear_case()
    wrong = batch(linear(weights), x, label=ranked[:, 1])
    found = clever_scores(linear(weights), wrong, ["target-2", "least-likely"], QUICK)
    np.testing.assert_array_equal(found.score[:, 0], 0)
    np.testing.assert_array_equal(found.target[:, 0], ranked[:, 0])
    assert (found.score[:, 1] > 0).any()
    broken = linear(np.full((3, 16), np.nan, np.float32))
    assert np.isnan(clever_scores(broken, batch(broken, x), ["target-2"], QUICK).score).all()


def test_two_classes():
    """Every target of a classifier of two classes is the other class; the fifth class is refused, as is an unknown target."""
    weights, x, _, _ = linear_case(2)
    found = clever_scores(linear(weights), batch(linear(weights), x), ["untargeted", "target-2", "least-likely"], QUICK)
    np.testing.assert_array_equal(found.score, found.score[:, :1].repeat(3, 1))
    for target, words in [("target-5", "2 classes"), ("target-1", "target-2"), ("nearest", "untargeted")]:
        with pytest.raises(BadInput, match=words):
            clever_scores(linear(weights), batch(linear(weights), x), [target], QUICK)
    for wrong in ({"radius": 0.0}, {"batches": 1}, {"samples": 0}, {"norm": "l1"}):
        with pytest.raises(ValueError, match="expected"):
            Clever(**wrong)


def test_points_fill_the_ball_evenly():
    """In L2, radius^n is uniform and directions are those of SciPy's sphere; in Linf, all coordinates are uniform."""
    keys = jax.random.split(jax.random.key(1), 4000)
    for n in (3, 784):
        points = np.asarray(jax.vmap(lambda key, n=n: point_in_ball(key, n, 2.0, "l2"))(keys), np.float64)
        length = np.linalg.norm(points, axis=1)
        assert stats.kstest((length / 2) ** n, "uniform").pvalue > 0.01
        on_sphere = stats.uniform_direction(n, seed=2).rvs(4000)
        assert stats.ks_2samp(points[:, 0] / length, on_sphere[:, 0]).pvalue > 0.01
        assert abs((points / length[:, None]).mean(0)).max() < 5 / np.sqrt(4000 * n)
    cube = np.asarray(jax.vmap(lambda key: point_in_ball(key, 5, 0.3, "linf"))(keys))
    for axis in cube.T:
        assert stats.kstest(axis, "uniform", (-0.3, 0.6)).pvalue > 0.001


def test_each_image_for_itself():
    """Scores depend neither on lanes, devices, other images or their order, nor on other targets; they depend on the key.

    The weights lie on one device, as those of a checkpoint do.
    """
    net = jax.device_put(convnet(), jax.local_devices()[0])
    x = np.random.default_rng(3).uniform(0, 1, (3, 8, 8, 1)).astype(np.float32)
    examples = batch(net, x)
    settings = Clever(batches=12, samples=21)
    whole = clever_scores(net, examples, ["untargeted", "target-2"], settings)
    alone = jax.tree.map(lambda leaf: leaf[2:], examples)
    told = []
    for options in ({"lanes": 5}, {"devices": jax.local_devices()[:1]}, {"devices": jax.local_devices()[:3], "lanes": 64}):
        one = clever_scores(net, alone, ["target-2"], settings, report=told.append, **options)
        np.testing.assert_allclose(one.score[0, 0], whole.score[2, 1], rtol=1e-4)
        np.testing.assert_allclose(one.largest[0, 0], whole.largest[2, 1], rtol=1e-5)
        assert told[-1] == 12
    other = clever_scores(net, Example(alone.x, alone.label, jax.random.split(alone.key[0], 1)), ["target-2"], settings)
    assert abs(other.largest[0, 0] / whole.largest[2, 1] - 1) > 1e-4


def test_largest_slope_is_exact():
    """Where the slope is known everywhere, L is the largest of the ball clipped to [0, 1], and so is the largest slope seen."""

    def f(variables, x):  # margin x^2 - y^2 of two pixels and nothing else: gradient (2 x, -2 y), largest at the corner
        return jnp.stack([x.ravel()[0] ** 2, x.ravel()[1] ** 2 + 0 * variables])

    net = classifiers.Classifier(jnp.zeros(()), f)
    x = np.array([0.9, 0.1], np.float32).reshape(1, 1, 2, 1)
    wide = clever_scores(net, batch(net, x), ["target-2"], Clever(radius=3.0, batches=12, samples=50))
    np.testing.assert_allclose(wide.largest, 2 * np.sqrt(2), rtol=1e-6)  # clipped: the corner (1, 1) itself is reached
    small = clever_scores(net, batch(net, x), ["target-2"], Clever(radius=0.05, batches=12, samples=400))
    end = 2 * (np.hypot(0.9, 0.1) + 0.05)
    assert small.largest[0, 0] < end
    np.testing.assert_allclose(small.lipschitz, end, rtol=5e-3)
    np.testing.assert_allclose(small.score, np.minimum(0.8 / end, 0.05), rtol=5e-3)


def test_new_weights_and_radius_compile_nothing():
    """Another radius, other weights and other images run the compiled program."""
    x = np.random.default_rng(3).uniform(0, 1, (2, 8, 8, 1)).astype(np.float32)
    traces = []

    def counting(variables, x):
        traces.append(1)
        return variables["dense"].T @ x.ravel()

    def net(seed):
        return classifiers.Classifier({"dense": jax.random.normal(jax.random.key(seed), (64, 4))}, counting)

    clever_scores(net(0), batch(linear(np.eye(4, 64, dtype=np.float32)), x), ["target-2"], QUICK)
    before = len(traces)
    clever_scores(net(1), batch(linear(np.eye(4, 64, dtype=np.float32)), 1 - x), ["target-2"], Clever(3.0, QUICK.batches, QUICK.samples))
    assert before > 0
    assert len(traces) == before


@pytest.fixture(scope="module")
def art():
    """LeNet-5, its digits as examples, and what ART makes of them."""
    golden = np.load(GOLDEN / "lenet5_mnist.npz", allow_pickle=False)
    arrays = {name: golden[name] for name in golden.files if name.startswith(("conv", "fc"))}
    net = classifiers.from_nnx(convert.to_module(arrays, nnx.eval_shape(lenet5)))
    examples = costs.examples(net, golden["digits"][:4].astype(np.float32) / 255)
    return net, examples, dict(np.load(GOLDEN / "clever.npz", allow_pickle=False))


@pytest.mark.parametrize(("norm", "radius"), [("l2", 5.0), ("linf", 0.3)])
def test_slopes_are_those_of_art(art, monkeypatch, norm, radius):
    """Slopes at single points have the distribution of ART's, sampler, clipping, margin and dual norm included."""
    net, examples, golden = art
    fitted = []
    nothing = weibull.ReverseWeibull(*np.zeros((5, 2, 1)))
    monkeypatch.setattr(weibull, "fit", lambda maxima: (fitted.append(maxima), nothing)[1])
    two = jax.tree.map(lambda leaf: leaf[:2], examples)
    clever_scores(net, two, ["target-2"], Clever(radius, batches=500, samples=1, norm=norm))
    for ours, theirs in zip(fitted[0][:, 0], golden[f"slopes_{norm}"], strict=False):
        assert stats.ks_2samp(ours, theirs).pvalue > 0.01


def test_scores_are_those_of_art(art):
    """Scores before extrapolation agree with ART's where its fit ends at the largest maximum; the fit lowers them by a bounded share."""
    net, examples, golden = art
    found = clever_scores(net, examples, ["target-2"], Clever(batches=40, samples=64))
    margin = np.sort(golden["logits"], axis=1)[:, -1] - np.sort(golden["logits"], axis=1)[:, -2]
    np.testing.assert_allclose(found.margin[:, 0], margin, rtol=1e-4)
    theirs = margin[:, None] / golden["maxima"].max(-1)  # 4 digits, 6 seeds
    noise = np.log(theirs).std(axis=1, ddof=1)
    gap = np.log(found.margin / found.largest)[:, 0] - np.log(theirs).mean(axis=1)
    assert (np.abs(gap) < 4 * noise).all()
    assert abs(gap.mean()) < 4 * np.sqrt((noise**2).sum() * (1 + 1 / 6)) / 4
    share = found.score[:, 0] / np.median(golden["score"], axis=1)
    assert ((share > 0.7) & (share < 1.05)).all()


def test_interval():
    """Mean and 1.645 standard errors, by SciPy's normal distribution; covers the mean of a population nine times in ten."""
    scores = np.random.default_rng(0).normal(3, 2, (2000, 100))
    mean, half = mean_interval(scores[0])
    low, high = stats.norm.interval(0.9, loc=scores[0].mean(), scale=stats.sem(scores[0]))
    np.testing.assert_allclose([mean - half, mean + half], [low, high], rtol=1e-6)
    covered = np.mean([abs(mean - 3) < half for mean, half in map(mean_interval, scores)])
    assert 0.87 < covered < 0.92
    assert np.isnan(mean_interval(scores[0, :1])[1])
