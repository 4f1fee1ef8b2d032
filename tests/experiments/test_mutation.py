"""Mutation testing: the operators against their definitions, which mutants are kept, and label change rates."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from a2d_jax import metrics
from a2d_jax.classifiers import from_function, from_linen, from_nnx, predict
from a2d_jax.errors import BadInput
from a2d_jax.io.datasets import load
from experiments.baselines import mutation
from experiments.baselines.mutation import Mutants, MutationTesting, Weights, draw_mutants, predicted
from models.training import whole
from tests.attacks.pinned import lenet

GOLDEN = Path(__file__).parents[1] / "golden"
SHAPE = (6, 6, 1)


class Net(nnx.Module):
    """A convolution with a bias, one without before batch norm, one narrower than 10 outputs, and a dense layer."""

    def __init__(self, rngs):
        self.first = nnx.Conv(1, 40, (3, 3), bias_init=nnx.initializers.normal(0.5), rngs=rngs)
        self.second = nnx.Conv(40, 16, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(16, scale_init=nnx.initializers.normal(1.0), bias_init=nnx.initializers.normal(0.5), rngs=rngs)
        self.narrow = nnx.Conv(16, 9, (1, 1), bias_init=nnx.initializers.normal(0.5), rngs=rngs)
        self.last = nnx.Linear(9 * 36, 10, bias_init=nnx.initializers.normal(0.5), rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.second(nnx.relu(self.first(x)))))
        return self.last(self.narrow(x).reshape(len(x), -1))


KERNELS = {"first": 40, "second": 16, "narrow": 9, "last": 10}
"""Layers with neurons, and how many each has."""
NEURONS = sum(KERNELS.values())


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).random((40, *SHAPE), np.float32)


@pytest.fixture(scope="module")
def net(x):
    """A network whose predictions differ between images."""
    module = Net(nnx.Rngs(0))
    module.last.bias[...] -= module(x).mean(0)
    return from_nnx(module)


def arrays(classifier):
    """Arrays by layer and name."""
    leaves = jax.tree_util.tree_leaves_with_path(classifier.variables)
    return {tuple(jax.tree_util.keystr(path, simple=True, separator="/").split("/")[:2]): np.asarray(leaf) for path, leaf in leaves}


def mutated(net, operator, ratio, number=0):
    """Arrays before and after."""
    return arrays(net), arrays(Weights.of(net).mutant(operator, ratio, (7, number)))


def moved(before, after):
    """Which outputs of an array have another weight; outputs are the last axis."""
    return (before != after).reshape(-1, before.shape[-1]).any(0)


def test_gaussian_fuzzing_draws_a_share_of_all_parameters(net):
    """Protects gf: exactly floor(ratio * parameters) of them change, biases and scales of batch norm included, and no statistics."""
    before, after = mutated(net, "gf", 0.25)
    parameters = {name for name in before if name[1] not in ("mean", "var")}
    changed = {name: int((before[name] != after[name]).sum()) for name in before}
    total = sum(before[name].size for name in parameters)
    assert sum(changed.values()) == int(0.25 * total)
    assert not changed["norm", "mean"] + changed["norm", "var"]
    for name in parameters:  # chosen from all together: a binomial share of each array
        size = before[name].size
        assert abs(changed[name] - 0.25 * size) <= 5 * np.sqrt(0.25 * 0.75 * size), name


def test_gaussian_fuzzing_is_centred_on_the_array():
    """Protects gf: new values have the mean and the deviation of their array, not of the old weight."""
    kernel = np.random.default_rng(0).normal(2, 3, (1, 20_000)).astype(np.float32)
    before, after = mutated(from_function(lambda variables, x: x, {"kernel": kernel}), "gf", 1.0)
    old, new = before[("kernel",)].ravel(), after[("kernel",)].ravel()
    assert new.mean() == pytest.approx(old.mean(), abs=5 * 3 / np.sqrt(20_000))
    assert new.std() == pytest.approx(old.std(), rel=5 / np.sqrt(40_000))
    assert abs(np.corrcoef(old, new)[0, 1]) < 5 / np.sqrt(20_000)


def test_inverse_changes_the_sign_of_neurons(net):
    """Protects nai: floor(ratio * neurons) outputs of all kernels together change their sign with their own bias; batch norm stays."""
    before, after = mutated(net, "nai", 0.3)
    chosen = {layer: moved(before[layer, "kernel"], after[layer, "kernel"]) for layer in KERNELS}
    assert sum(int(flags.sum()) for flags in chosen.values()) == int(0.3 * NEURONS)
    for layer, flags in chosen.items():
        signs = np.where(flags, -1, 1)
        np.testing.assert_array_equal(after[layer, "kernel"], before[layer, "kernel"] * signs)
        if (layer, "bias") in before:
            np.testing.assert_array_equal(after[layer, "bias"], before[layer, "bias"] * signs)
    for name in ("scale", "bias", "mean", "var"):
        np.testing.assert_array_equal(after["norm", name], before["norm", name])


def test_an_inverted_neuron_gives_its_negative():
    """Protects the meaning of a neuron, which is an output: with every neuron inverted, a convolution and a dense layer give -f(x)."""
    x = np.random.default_rng(0).random((3, 5, 5, 2), np.float32)
    for layer in (nnx.Conv(2, 4, (3, 2), bias_init=nnx.initializers.normal(1.0), rngs=nnx.Rngs(0)), nnx.Linear(2, 7, rngs=nnx.Rngs(0))):
        net = from_nnx(layer)
        inverted = Weights.of(net).mutant("nai", 1.0, (0, 0))
        np.testing.assert_allclose(predict(inverted, x), -np.asarray(predict(net, x)), atol=1e-6)


def test_shuffling_permutes_within_neurons(net):
    """Protects ws: the incoming weights of floor(ratio * neurons) outputs are permuted, each within its neuron, and biases stay."""
    before, after = mutated(net, "ws", 0.3)
    changed = 0
    for layer in KERNELS:
        old, new = before[layer, "kernel"], after[layer, "kernel"]
        changed += int(moved(old, new).sum())
        flat = [np.sort(array.reshape(-1, array.shape[-1]), axis=0) for array in (old, new)]
        np.testing.assert_array_equal(*flat)
    assert changed == int(0.3 * NEURONS)
    untouched = [name for name in before if name[1] != "kernel"]
    assert all(np.array_equal(before[name], after[name]) for name in untouched)


def test_neurons_are_shuffled_independently():
    """Protects ws: two neurons with the same weights are not permuted alike."""
    same = {"kernel": np.tile(np.arange(50, dtype=np.float32)[:, None], (1, 2))}
    after = Weights.of(from_function(lambda variables, x: x, same)).mutant("ws", 1.0, (0, 0)).variables["kernel"]
    assert not np.array_equal(after[:, 0], after[:, 1])


def test_switch_permutes_neurons_of_wide_kernels(net):
    """Protects ns: whole neurons change places within each kernel of 10 or more, biases and narrow kernels stay."""
    most = {"first": 12, "second": 4, "narrow": 0, "last": 3}
    for number in range(3):
        before, after = mutated(net, "ns", 0.3, number)
        for layer, size in KERNELS.items():
            old, new = (array[layer, "kernel"].reshape(-1, size) for array in (before, after))
            places = [int(np.flatnonzero((old == column[:, None]).all(0))[0]) for column in new.T]
            assert sorted(places) == list(range(size)), layer
            assert moved(old, new).sum() <= most[layer], layer
        assert moved(before["first", "kernel"], after["first", "kernel"]).sum() > 2
        untouched = [name for name in before if name[1] != "kernel"]
        assert all(np.array_equal(before[name], after[name]) for name in untouched)


@pytest.mark.parametrize(
    ("size", "ratio", "expected"), [(84, 0.05, 4), (120, 0.05, 6), (16, 0.05, 1), (9, 0.5, 0), (40, 0.05, 2), (50, 0.05, 2), (30, 0.05, 2)]
)
def test_how_many_neurons_switch(size, ratio, expected):
    """Protects ns: floor above 2, else rounded up; none in a kernel below 10. Counted by hand."""
    assert mutation._switched(size, ratio) == expected


def test_shares_are_floors_of_the_decimal_product():
    """Protects counts against binary fractions: 0.29 * 100 is 28.999999999999996 and counts 29."""
    assert mutation._share(100, 0.29) == 29
    assert mutation._share(61_706, 0.05) == 3085
    assert mutation._share(19, 0.05) == 0


@pytest.mark.parametrize("operator", ["gf", "nai", "ws", "ns"])
def test_mutants_of_other_kinds_of_network(operator):
    """Protects users' networks: Linen's statistics and a function's plain numbers stay, and all of the rest is found."""

    class Small(linen.Module):
        @linen.compact
        def __call__(self, x, train=False):
            x = linen.BatchNorm(use_running_average=not train)(linen.Conv(12, (3, 3))(x))
            return linen.Dense(10)(x.reshape(len(x), -1))

    variables = jax.tree.map(lambda leaf: leaf + 0.1, Small().init(jax.random.key(0), jnp.zeros((1, *SHAPE))))
    mutant = Weights.of(from_linen(Small(), variables)).mutant(operator, 0.5, (0, 0)).variables
    assert jax.tree.structure(mutant) == jax.tree.structure(variables)
    assert jax.tree.all(jax.tree.map(np.array_equal, mutant["batch_stats"], variables["batch_stats"]))
    assert not jax.tree.all(jax.tree.map(np.array_equal, mutant["params"], variables["params"]))

    plain = {"kernel": np.eye(12, dtype=np.float32), "bias": np.arange(1, 13, dtype=np.float32), "scale": 2.0, "steps": np.arange(3)}
    mutant = Weights.of(from_function(lambda variables, x: x, plain)).mutant(operator, 0.5, (0, 0)).variables
    assert mutant["scale"] == 2.0
    np.testing.assert_array_equal(mutant["steps"], np.arange(3))
    assert not np.array_equal(mutant["kernel"], plain["kernel"])
    assert np.array_equal(mutant["bias"], plain["bias"]) == (operator in ("ws", "ns"))


def test_which_mutants_are_kept(net, x):
    """Protects the rule: exactly the draws with round(accuracy, 2) >= round(0.9 * accuracy of the network, 2) are kept, in order."""
    label = predicted(net, x)
    label[:3] = (label[:3] + 1) % 10  # the network is wrong on three
    mutants = draw_mutants(net, x, label, operator="gf", ratio=0.004, count=6, seed=3)
    least = round(0.9 * (37 / 40), 2)
    weights = Weights.of(net)
    kept = []
    for number in range(mutants.seeds[-1][1] + 1):
        classes = np.asarray(predict(weights.mutant("gf", 0.004, (3, number)), x)).argmax(1)
        if round(float((classes == label).mean()), 2) >= least:
            kept.append((3, number))
    assert tuple(kept) == mutants.seeds
    assert mutants.seeds[-1][1] >= len(mutants), "some were discarded"


def test_seeds(net, x):
    """Protects reproducibility: the same seed gives the same mutants, more mutants begin with fewer, and another seed gives others."""
    fit = [MutationTesting(net, "nai", 0.02, count, seed).fit(x) for count, seed in ((4, 0), (4, 0), (6, 0), (4, 1))]
    assert fit[0].seeds == fit[1].seeds == fit[2].seeds[:4] != fit[3].seeds
    changes = [mutants.changes(x) for mutants in fit]
    np.testing.assert_array_equal(changes[0], changes[1])
    np.testing.assert_array_equal(changes[0], changes[2][:, :4])
    for mutant, again in zip(fit[0], fit[0], strict=True):
        jax.tree.map(np.testing.assert_array_equal, mutant.variables, again.variables)


def test_change_rates(net, x):
    """Protects the LCR: the share of mutants with another label than the reference, counted one by one; the own label by default."""
    mutants = MutationTesting(net, "ws", 0.05, 5).fit(x)
    classes = np.stack([np.asarray(predict(mutant, x)).argmax(1) for mutant in mutants], axis=1)
    own = np.asarray(predict(net, x)).argmax(1)
    other = np.arange(40) % 10
    np.testing.assert_array_equal(mutants.changes(x, other), classes != other[:, None])
    np.testing.assert_array_equal(mutants.score(x), (classes != own[:, None]).mean(1))
    assert len(mutants) == 5


def test_scores_do_not_depend_on_other_images(net, x):
    """Protects the contract: alone or in another order, an image has one score."""
    mutants = MutationTesting(net, "gf", 0.01, 4).fit(x)
    score = mutants.score(x)
    np.testing.assert_array_equal(mutants.score(x[7:8]), score[7:8])
    np.testing.assert_array_equal(mutants.score(x[::-1]), score[::-1])


def test_mutants_share_one_program(net, x):
    """Protects time and memory: no mutant is compiled for itself."""
    predicted(net, x)
    before = predict._cache_size()
    MutationTesting(net, "nai", 0.02, 4).fit(x).score(x)
    assert predict._cache_size() == before


def test_the_network_itself_is_left_alone(net, x):
    """Protects the caller: fitting and scoring change no weight of the network."""
    before = arrays(net)
    MutationTesting(net, "gf", 0.01, 2).fit(x).score(x)
    assert all(np.array_equal(before[name], array) for name, array in arrays(net).items())


def test_crafted_digits_change_more_often():
    """Protects the purpose on real weights: crafted digits have larger rates than benign ones for every operator."""
    file = np.load(GOLDEN / "official_lenet5.npz", allow_pickle=False)
    net, benign = lenet(), file["benign"]
    crafted = np.concatenate([file[name] for name in ("fgsm", "jsma", "deepfool", "cw")])
    for operator in mutation.OPERATORS:
        mutants = MutationTesting(net, operator, 0.05, 10).fit(benign)
        assert metrics.auroc(mutants.score(benign), mutants.score(crafted)) > 0.9, operator


@pytest.mark.slow
@pytest.mark.parametrize(("operator", "rate", "half"), [("nai", 3.88, 0.53), ("ns", 0.89, 0.35), ("ws", 3.83, 0.42), ("gf", 2.49, 0.59)])
def test_published_rates_of_benign_digits(mnist, operator, rate, half):
    """Protects the operators on the network of the authors: its benign test digits change as often as they say, in percent."""
    x, label = (part[:1000] for part in whole(load("mnist", "test", folder=mnist.parent)))
    mutants = draw_mutants(lenet(), x, label, operator=operator, ratio=0.05, count=60)
    right = predicted(lenet(), x) == label
    changes = 100 * mutants.changes(x[right], label[right])
    error = np.sqrt(changes.mean(0).var() / changes.shape[1] + changes.mean(1).var() / changes.shape[0])
    assert abs(changes.mean() - rate) <= half + 2.58 * error


def test_refusals(net, x):
    """Protects messages: what was expected, what came, what to do, for settings and for images."""
    label = predicted(net, x)
    for settings, message in (
        ({"operator": "swap"}, "operator among gf, nai, ws, ns"),
        ({"ratio": 0.0}, "above 0 and at most 1"),
        ({"ratio": float("nan")}, "above 0 and at most 1"),
        ({"count": 0}, "at least one mutant"),
        ({"ratio": 0.01}, "at least one of 75 neurons"),
        ({"ratio": 1e-5, "operator": "gf"}, "parameters"),
        ({"ratio": 0.02, "operator": "ns"}, "two neurons of a kernel that has 10 or more .the largest has 40"),
        ({"ratio": 1.0, "operator": "gf"}, "choose a smaller ratio"),
    ):
        with pytest.raises(BadInput, match=message):
            draw_mutants(net, x, label, **settings)
    mutants = Mutants(net, "nai", 0.1, ((0, 0),))
    for bad, message in ((x[:0], "at least one image"), (x[..., 0], "shape"), (2 * x, "pixels in"), (x * np.nan, "pixels in")):
        with pytest.raises(BadInput, match=message):
            mutants.score(bad)
        with pytest.raises(BadInput, match=message):
            MutationTesting(net).fit(bad)
    with pytest.raises(BadInput, match="labels"):
        mutants.changes(x, label[:3])
    with pytest.raises(BadInput, match="from 0 to 9"):
        mutants.changes(x, label + 10)
    broken = from_nnx(Net(nnx.Rngs(0)))
    broken = type(broken)(jax.tree.map(lambda leaf: leaf * jnp.nan, broken.variables), broken.apply)
    with pytest.raises(BadInput, match="finite logits"):
        MutationTesting(broken).fit(x)
