"""`unroll`: what is observed, and what it costs to observe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from a2d_jax import drivers, losses
from a2d_jax.attacks import PGD, DeepFool, Newton
from tests.nets import batch, convnet


@pytest.fixture(scope="module")
def net():
    return convnet()


@pytest.fixture(scope="module")
def examples(net):
    return jax.tree.map(jnp.asarray, batch(net, np.random.default_rng(8).uniform(size=(6, 8, 8, 1)).astype(np.float32)))


def convolutions(function, *arguments):
    return str(jax.make_jaxpr(function)(*arguments)).count("conv_general_dilated[")


@pytest.mark.parametrize("attack", [PGD(0.2, 0.01, 5), Newton(0.2)], ids=["pgd", "newton"])
def test_observing_evaluates_nothing_twice(attack, net, examples):
    """Protects time: the program of `unroll` with its default trace holds the model as often as one step does."""
    one = jax.tree.map(lambda leaf: leaf[0], examples)
    step = convolutions(lambda example: attack.step(net, example, attack.init(example)), one)
    assert convolutions(lambda example: drivers.unroll(attack, net, example)[1], one) == step


@pytest.mark.parametrize("attack", [PGD(0.2, 0.01, 8, loss="ce"), Newton(0.2), DeepFool(max_steps=5)], ids=["pgd", "newton", "deepfool"])
def test_what_is_seen_belongs_to_the_point(attack, net, examples):
    """Protects observers: logits are those of the point judged; the gradient is that of the attack's loss."""
    loss = losses.cross_entropy if isinstance(attack, PGD) else losses.margin

    def one(example):
        return drivers.unroll(attack, net, example, observe=lambda _, state, seen: (state.x_adv, seen))[1]

    points, seen = jax.jit(jax.vmap(one))(examples)
    np.testing.assert_allclose(seen.logits, jax.vmap(jax.vmap(net))(points), rtol=1e-4, atol=1e-4)
    expected = jax.vmap(lambda xs, label: jax.vmap(jax.grad(lambda x: loss(net(x), label)))(xs))(points, examples.label)
    np.testing.assert_allclose(seen.gradient, expected, rtol=1e-3, atol=1e-4)


def test_the_trace_goes_on_after_success(net, examples):
    """Protects traces: without an early stop they go on beyond the first success; with it they stand still there, and agree until then."""

    def trace(attack):
        return np.asarray(jax.jit(jax.vmap(lambda example: drivers.unroll(attack, net, example)[1]))(examples))

    stopped, going = trace(PGD(0.2, 0.01, 20)), trace(PGD(0.2, 0.01, 20, early_stop=False))
    first = (going < 0).argmax(1)
    assert (first[(going < 0).any(1)] < 15).any(), "the case shows nothing"
    for i in np.flatnonzero((going < 0).any(1)):
        np.testing.assert_allclose(stopped[i, : first[i] + 1], going[i, : first[i] + 1], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stopped[i, first[i] :], stopped[i, first[i]], rtol=1e-6)
        assert np.unique(going[i, first[i] :]).size > 1
