"""Losses, criteria and one evaluation of a classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from a2d_jax import losses
from a2d_jax.types import Classifier
from tests.nets import convnet

LOGITS = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32) * 5


def test_cross_entropy_is_scipys():
    """Protects the loss: -log softmax by SciPy, also for confident logits."""
    for logits, label in zip(LOGITS * 4, np.arange(50) % 6, strict=True):
        expected = logsumexp(logits.astype(np.float64)) - logits[label]
        np.testing.assert_allclose(losses.cross_entropy(jnp.asarray(logits), label), expected, rtol=1e-4, atol=1e-5)


def test_margin():
    """Protects the margin: the label's logit minus the best other one."""
    for logits, label in zip(LOGITS, np.arange(50) % 6, strict=True):
        np.testing.assert_allclose(losses.margin(jnp.asarray(logits), label), logits[label] - np.delete(logits, label).max(), rtol=1e-5)


def test_criteria_and_ties():
    """Protects the criterion: ties go to the lowest class, for the prediction and for the second best class."""
    tie = jnp.array([1.0, 3.0, 3.0, 2.0])
    assert losses.prediction(tie) == 1
    assert losses.second_best(tie) == 2
    assert losses.second_best(jnp.array([5.0, 3.0, 3.0])) == 1
    assert losses.predicts(tie, jnp.int32(1))
    assert losses.misclassifies(tie, jnp.int32(2))
    for logits in LOGITS:
        assert losses.second_best(jnp.asarray(logits)) == np.argsort(logits)[-2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_broken_logits_meet_no_criterion(bad):
    """Protects loud failure: logits that are not finite neither predict nor misclassify."""
    logits = jnp.array([0.0, bad, 1.0])
    for label in range(3):
        assert not losses.predicts(logits, jnp.int32(label))
        assert not losses.misclassifies(logits, jnp.int32(label))


def test_look_is_one_forward_and_one_backward():
    """Protects cost: logits and gradient come from the same pass, and equal those taken apart."""
    net, calls = convnet(), []

    def counting(variables, x):
        calls.append(None)
        return net.apply(variables, x)

    x = jnp.asarray(np.random.default_rng(0).uniform(size=(8, 8, 1)), jnp.float32)
    logits, gradient = losses.look(Classifier(net.variables, counting), lambda z: losses.cross_entropy(z, 2), x)
    assert len(calls) == 1
    np.testing.assert_allclose(logits, net(x), rtol=1e-6)
    np.testing.assert_allclose(gradient, jax.grad(lambda x: losses.cross_entropy(net(x), 2))(x), rtol=1e-5, atol=1e-6)


def test_look_never_returns_nan():
    """Protects pixels: a gradient entry that is not finite counts as zero."""
    bad = Classifier(jnp.zeros(()), lambda v, x: jnp.stack([jnp.sqrt(x).sum() + v, x.sum()]))
    gradient = losses.look(bad, lambda z: z[0], jnp.zeros((2, 2, 1)))[1]
    assert np.isfinite(gradient).all()
