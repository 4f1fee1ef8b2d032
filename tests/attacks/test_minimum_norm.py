"""C&W and DeepFool compared with other implementations, on LeNet-5 and 16 MNIST digits (golden/make_minimum_norm.py)."""

import jax
import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.attacks import CarliniWagner, DeepFool
from tests.attacks import pinned
from tests.attacks.pinned import GOLDEN
from tests.nets import batch

CW = CarliniWagner(600, 200, constants=3, first_constant=0.1, step_size=0.02)


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN / "minimum_norm.npz", allow_pickle=False))


@pytest.fixture(scope="module")
def lenet():
    """The network and the 16 digits, labelled by its own predictions."""
    net = pinned.lenet()
    return net, batch(net, np.load(GOLDEN / "lenet5_mnist.npz", allow_pickle=False)["digits"].astype(np.float32) / 255)


def attack(attack, net, examples):
    return drivers.attack(attack, net, examples, driver="run", devices=jax.local_devices()[:1])


def test_cw_is_that_of_foolbox(lenet, golden):
    """Protects the form `foolbox`: distances within 2 % of Foolbox 1.8's (0.2 % in the median), constants left at the same points."""
    result = attack(CW, *lenet)
    assert result.success.all()
    np.testing.assert_allclose(result.distance, golden["foolbox1_cw_distance"], rtol=0.02)
    np.testing.assert_allclose(np.median(result.distance / golden["foolbox1_cw_distance"]), 1, rtol=0.002)
    assert (result.forward_queries == golden["foolbox1_cw_judged"]).mean() >= 0.9


def test_cw_first_success_is_that_of_foolbox(lenet, golden):
    """Protects the cost of C&W as defence: the updates before the first adversarial point that Foolbox 1.8 meets."""
    net, examples = lenet
    result = attack(CarliniWagner(600, 200, constants=3, first_constant=0.1, step_size=0.02, minimise=False), net, examples)
    assert (result.cost + 1 == golden["foolbox1_cw_first_judged"]).mean() >= 0.9
    np.testing.assert_allclose(result.cost + 1, golden["foolbox1_cw_first_judged"], atol=2)
    np.testing.assert_allclose(result.distance, golden["foolbox1_cw_first_distance"], rtol=0.01)


def test_cw_with_confidence_is_carlinis(lenet, golden):
    """Protects the form `carlini`: targeted, with confidence, within 2 % of a literal float64 loop and 3 % of Foolbox 3.3."""
    net, examples = lenet
    form = CarliniWagner(600, 200, constants=3, first_constant=1.0, step_size=0.02, confidence=3.0, form="carlini", targeted=True)
    examples = examples._replace(label=golden["target"].astype(np.int32))
    result = attack(form, net, examples)
    reached = np.isfinite(golden["carlini_distance"])
    np.testing.assert_array_equal(result.success, reached)
    np.testing.assert_allclose(result.distance[reached], golden["carlini_distance"][reached], rtol=0.02)
    np.testing.assert_allclose(result.distance[reached], golden["foolbox3_cw_distance"][reached], rtol=0.03)
    np.testing.assert_array_equal(result.forward_queries, golden["carlini_judged"])
    logits = np.asarray(jax.vmap(net)(result.x_adv))[reached]
    own = logits[np.arange(len(logits)), examples.label[reached]]
    others = np.where(np.arange(10) == examples.label[reached, None], -np.inf, logits).max(1)
    assert (own - others >= 3 - 1e-3).all(), "the target leads by the confidence"


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_original(norm, lenet, golden):
    """Protects the form `original`: the distances of Foolbox 3.3, which also puts the overshoot on the sum of all steps."""
    result = attack(DeepFool(norm=norm), *lenet)
    assert result.success.all()
    np.testing.assert_allclose(result.distance, golden[f"foolbox3_deepfool_{norm}_distance"], rtol=1e-4)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_foolbox(norm, lenet, golden):
    """Protects the form `foolbox`: distances and counts of Foolbox 1.8.

    Exactly so where pixels stay off the bounds. On black and white digits both end among ties of float32 logits, which send
    either to another class now and then: half of the distances are equal, and so is the median.
    """
    net, examples = lenet
    form = DeepFool(0.05, 100, norm=norm, form="foolbox")
    soft = attack(form, net, batch(net, 0.25 + examples.x / 2))
    np.testing.assert_allclose(soft.distance, golden[f"foolbox1_deepfool_soft_{norm}_distance"], rtol=1e-3)
    np.testing.assert_array_equal(soft.forward_queries, golden[f"foolbox1_deepfool_soft_{norm}_judged"])
    result = attack(form, net, examples)
    ratio = result.distance / golden[f"foolbox1_deepfool_{norm}_distance"]
    assert result.success.all()
    assert np.mean(np.abs(ratio - 1) < 1e-3) >= 0.5
    np.testing.assert_allclose(np.median(ratio), 1, rtol=0.01)
