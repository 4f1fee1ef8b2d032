"""Images that lie on a decision boundary to the last bit: all compiled programs give one answer.

Two programs of one network may predict different classes for such an image. The label is the prediction, and no attack contradicts it
before its first update.
"""

import jax
import numpy as np
import pytest
from flax import nnx

import a2d_jax
from a2d_jax import costs, drivers, presets
from a2d_jax.classifiers import from_nnx
from a2d_jax.detectors import Conformal
from a2d_jax.io import convert
from models.resnet import cifar_resnet20
from tests.attacks import pinned

PAIRS = 12

pytestmark = pytest.mark.xdist_group("boundary images")  # one process: they share programs


def bisected(classifier, x: np.ndarray) -> np.ndarray:
    """Both ends, one float apart or as near as float32 comes, of the step between two classes on each line from an image to the next."""
    label = costs.predictions(classifier, x)[0]
    pairs = [(i, i + 1) for i in range(len(x) - 1) if label[i] != label[i + 1]][:PAIRS]
    first, second = (x[list(ends)].astype(np.float64) for ends in zip(*pairs, strict=True))
    start = costs.predictions(classifier, first.astype(np.float32))[0]
    near, far = np.zeros(len(pairs)), np.ones(len(pairs))

    def between(share):
        return ((1 - share)[:, None, None, None] * first + share[:, None, None, None] * second).astype(np.float32)

    for _ in range(48):
        middle = (near + far) / 2
        same = costs.predictions(classifier, between(middle))[0] == start
        near, far = np.where(same, middle, near), np.where(same, far, middle)
    found = np.concatenate([between(near), between(far)])
    logits = np.sort(np.asarray(jax.vmap(classifier)(found)), axis=1)
    assert np.median(logits[:, -1] - logits[:, -2]) < 1e-5, "they lie on the boundary to within rounding"
    return found


@pytest.fixture(scope="module")
def lenet5():
    return pinned.lenet(), bisected(pinned.lenet(), pinned.golden()["x"]), "mnist"


@pytest.fixture(scope="module")
def resnet20(shared, cifar10):
    arrays = convert.read_arrays(shared / "data" / "checkpoints" / "resnet20-12fca82f.th")
    net = from_nnx(convert.to_module(arrays, nnx.eval_shape(cifar_resnet20)))
    pixels = np.fromfile(cifar10 / "test_batch.bin", np.uint8, 40 * 3073).reshape(40, 3073)[:, 1:]
    x = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).astype(np.float32) / 255
    return net, bisected(net, x), "cifar10"


def check(network, name: str, lanes: int, devices: int):
    """No cost is 0, and each is what few lanes on one device find; enough copies of the images to fill all lanes."""
    net, x, preset = network
    attack = {name: presets.make(preset, "defence", name)}
    usual = costs.costs(net, x, attack, lanes=4, devices=jax.local_devices()[:1])[0][:, 0]
    assert usual.min() >= 1
    copies = max(1, -(-lanes * devices // len(x)))
    found = costs.costs(net, np.tile(x, (copies, 1, 1, 1)), attack, lanes=lanes, devices=jax.local_devices()[:devices])[0][:, 0]
    np.testing.assert_array_equal(found, np.tile(usual, copies))


@pytest.mark.parametrize(("name", "lanes", "devices"), [("bim", 32, 1), ("bim", 256, 8), ("newton", 64, 1), ("jsma", 32, 1)])
def test_lenet5(name, lanes, devices, lenet5):
    """Protects the label: lanes and devices change no cost of an image on the boundary, and none is 0."""
    check(lenet5, name, lanes, devices)


@pytest.mark.slow
@pytest.mark.parametrize(("lanes", "devices"), [(2, 1), (8, 1), (64, 1), (256, 1), (2, 8), (32, 8)])
@pytest.mark.parametrize("name", ["bim", "bim2"])
def test_lenet5_many(name, lanes, devices, lenet5):
    """Protects the same with every number of lanes that is commonly used."""
    check(lenet5, name, lanes, devices)


@pytest.mark.slow
@pytest.mark.parametrize(("lanes", "devices"), [(2, 1), (8, 1), (32, 1), (64, 1), (256, 1), (8, 8)])
def test_resnet20(lanes, devices, resnet20):
    """Protects the same on a deep network."""
    check(resnet20, "bim", lanes, devices)


@pytest.mark.slow
def test_lanes_on_many_digits(mnist):
    """Protects what README says of lanes: on 1,000 benign digits at most 0.5 % of costs depend on them, and those by 1."""
    pixels = np.fromfile(mnist / "t10k-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 28, 28, 1)[:1000]
    x, attacks = pixels.astype(np.float32) / 255, {name: presets.make("mnist", "defence", name) for name in ("bim", "bim2")}
    one, other = (costs.costs(pinned.lenet(), x, attacks, lanes=lanes, devices=jax.local_devices()[:2])[0] for lanes in (32, 64))
    gap = np.abs(one - other)
    assert gap.max() <= 1
    assert (gap > 0).mean() <= 0.005


@pytest.mark.parametrize("driver", ["stream", "run", "unroll"])
def test_every_driver(driver, lenet5):
    """Protects the same whatever the driver."""
    net, x, _ = lenet5
    attack = presets.make("mnist", "defence", "bim", max_steps=8)
    result = drivers.attack(attack, net, costs.examples(net, x), driver=driver, lanes=4, devices=jax.local_devices()[:1])
    assert result.iterations[result.success].min() >= 1
    np.testing.assert_array_equal(result.cost, costs.costs(net, x, {"bim": attack}, lanes=4, devices=jax.local_devices()[:1])[0][:, 0])


def test_prediction_does_not_depend_on_the_batch(lenet5):
    """Protects the label itself: one image alone, some or all are predicted alike, in any order."""
    net, x, _ = lenet5
    label, probability = costs.predictions(net, x)
    order = np.random.default_rng(0).permutation(len(x))
    np.testing.assert_array_equal(costs.predictions(net, x[order])[0], label[order])
    for row in range(0, len(x), 5):
        alone = costs.predictions(net, x[row : row + 1])
        assert (alone[0][0], alone[1][0]) == (label[row], probability[row])


def test_labels_of_the_set_keep_their_zero(lenet5):
    """Protects crafting: an image that is wrong to begin with costs nothing; one whose label is the prediction never does."""
    net, x, _ = lenet5
    label = costs.predictions(net, x)[0]
    least = np.asarray(jax.vmap(net)(x)).argmin(1)
    given = np.where(np.arange(len(x)) % 3 == 0, least, label)
    cost = costs.costs(net, x, {"bim": presets.make("mnist", "defence", "bim", max_steps=8)}, label=given, lanes=4)[0][:, 0]
    np.testing.assert_array_equal(cost == 0, given != label)


def test_verdicts_do_not_depend_on_the_batch():
    """Protects verdicts: a conformal detector with coarse costs judges images one by one as it judges all at once."""
    from tests.nets import convnet

    x = np.random.default_rng(2).uniform(size=(96, 8, 8, 1)).astype(np.float32)
    attacks = {"bim": presets.make("mnist", "defence", "bim", step_size=0.02, max_steps=15)}  # few different costs: ties matter
    fitted = a2d_jax.Defense(convnet(), attacks, Conformal(level=0.2)).fit(x[:48])
    judged = x[48:]
    whole, scores = fitted.predict(judged), fitted.score(judged)
    assert 0 < whole.sum() < len(whole)
    np.testing.assert_array_equal(np.concatenate([fitted.predict(judged[i : i + 1]) for i in range(len(judged))]), whole)
    np.testing.assert_array_equal(np.concatenate([fitted.score(some) for some in np.split(judged, 6)]), scores)
    np.testing.assert_array_equal(fitted.predict(judged[::-1])[::-1], whole)
