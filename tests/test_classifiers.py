"""Classifiers built from Flax modules and functions."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from a2d_jax import classifiers, nn
from a2d_jax.errors import BadInput
from a2d_jax.types import Classifier

X = np.random.default_rng(0).random((5, 8, 8, 1), np.float32)


class Small(nnx.Module):
    """Convolution, batch norm, dropout, dense: everything whose evaluation mode differs."""

    input_shape = (8, 8, 1)

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), conv_general_dilated=nn.conv_general_dilated, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        """Logits of a batch."""
        return self.dense(self.dropout(nnx.relu(self.norm(self.conv(x)))).mean((1, 2)))


class SmallLinen(linen.Module):
    """A Linen network that names its input."""

    width: int = 4
    input_shape = (8, 8, 1)

    @linen.compact
    def __call__(self, x):
        """Logits of a batch."""
        return linen.Dense(3)(linen.relu(linen.Conv(self.width, (3, 3))(x)).mean((1, 2)))


def test_nnx_is_in_evaluation_mode():
    """Batch norm uses running statistics and dropout does nothing, as after model.eval(); the module itself is left alone."""
    module = Small(nnx.Rngs(0))
    module(X)  # one training step moves the running statistics
    got = classifiers.predict(classifiers.from_nnx(module), X)
    assert not module.norm.use_running_average
    assert not module.dropout.deterministic
    module.eval()
    np.testing.assert_allclose(got, module(X), atol=1e-6)
    mean, variance = module.norm.mean[...], module.norm.var[...]
    assert float(jnp.abs(mean).max()) > 0
    by_hand = (module.conv(X) - mean[None, None, None]) / jnp.sqrt(variance + 1e-5)[None, None, None]
    np.testing.assert_allclose(got, module.dense(nnx.relu(by_hand).mean((1, 2))), atol=1e-5)


def test_equal_modules_share_one_program():
    """A second module of equal structure, whatever its weights, is traced no second time."""
    traces = []

    @jax.jit
    def logits(classifier, x):
        traces.append(1)
        return jax.vmap(classifier)(x)

    made = [classifiers.from_nnx(Small(nnx.Rngs(seed))) for seed in (0, 1)]
    assert not np.allclose(*(logits(c, X) for c in made))
    assert len(traces) == 1
    for seed in (0, 1):
        logits(classifiers.from_linen(SmallLinen(), SmallLinen().init(jax.random.key(seed), X)), X)
    assert len(traces) == 2
    logits(classifiers.as_classifier(SmallLinen(width=5)), X)
    assert len(traces) == 3


def test_linen_equals_apply():
    """A Linen classifier gives what module.apply gives for the batch."""
    variables = SmallLinen().init(jax.random.key(0), X)
    got = classifiers.predict(classifiers.from_linen(SmallLinen(), variables), X)
    np.testing.assert_allclose(got, SmallLinen().apply(variables, X), atol=1e-6)


def test_function_equals_numpy():
    """A function of a batch becomes a function of one image; values are NumPy's."""
    weights = np.random.default_rng(1).standard_normal((64, 3)).astype(np.float32)

    def linear(weights, x):
        return x.reshape(len(x), -1) @ weights

    classifier = classifiers.from_function(linear, weights)
    assert classifier == classifiers.from_function(linear, weights)
    assert classifier(X[0]).shape == (3,)
    np.testing.assert_allclose(classifiers.predict(classifier, X), X.reshape(5, -1) @ weights, rtol=1e-5, atol=1e-5)


def test_vmap_makes_one_batched_convolution():
    """Under vmap the one-image classifier is one convolution over the whole batch."""
    text = classifiers.predict.lower(classifiers.from_nnx(Small(nnx.Rngs(0))), X).as_text()
    found = re.findall(r"stablehlo\.convolution.*: \((\S+), ", text)
    assert found == ["tensor<5x8x8x1xf32>"]


def test_what_a_factory_may_return():
    """Modules and classifiers are taken, anything else is refused in one line that says what to do."""
    classifier = classifiers.as_classifier(Small(nnx.Rngs(0)))
    assert isinstance(classifier, Classifier)
    assert classifiers.as_classifier(classifier) is classifier
    assert classifiers.as_classifier(SmallLinen())(X[0]).shape == (3,)
    with pytest.raises(BadInput, match=r"expected a Flax NNX module.*got function.*from_function"):
        classifiers.as_classifier(lambda x: x)
    with pytest.raises(BadInput, match="expected a Linen module with an attribute input_shape"):
        classifiers.as_classifier(linen.Dense(3))


def test_bfloat16():
    """Weights and arithmetic become bfloat16, the outside stays float32, near the values of float32; equal networks compile once."""
    single = classifiers.from_nnx(Small(nnx.Rngs(0)))
    half = classifiers.in_bfloat16(single)
    assert {array.dtype for array in jax.tree.leaves(half.variables)} == {jnp.dtype(jnp.bfloat16)}
    assert half.apply == classifiers.in_bfloat16(classifiers.from_nnx(Small(nnx.Rngs(1)))).apply

    @jax.jit
    def both(classifier, x):
        return jax.value_and_grad(lambda x: classifier(x)[0])(x)

    for got, expected in zip(both(half, X[0]), both(single, X[0]), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, expected, atol=0.03 * float(jnp.abs(expected).max()))
        assert float(jnp.abs(got - expected).max()) > 0  # it did compute with less precision


class Switched(linen.Module):
    """As Flax's examples write it: the switch has the default of training."""

    input_shape = (8, 8, 1)

    @linen.compact
    def __call__(self, x, train: bool = True):
        """Logits of a batch."""
        x = linen.BatchNorm(use_running_average=not train)(linen.Dense(4)(x.reshape(len(x), -1)))
        return linen.Dropout(0.5, deterministic=not train)(x)


class Required(Switched):
    """The switch has no default."""

    @linen.compact
    def __call__(self, x, *, deterministic):
        """Logits of a batch."""
        return linen.Dropout(0.5, deterministic=deterministic)(linen.Dense(4)(x.reshape(len(x), -1)))


class Field(linen.Module):
    """The switch is a field, and an argument that leaves the choice to it."""

    input_shape = (8, 8, 1)
    deterministic: bool = False

    @linen.compact
    def __call__(self, x, deterministic=None):
        """Logits of a batch."""
        still = linen.merge_param("deterministic", self.deterministic, deterministic)
        return linen.Dropout(0.5, deterministic=still)(linen.Dense(4)(x.reshape(len(x), -1)))


class SwitchedNnx(nnx.Module):
    """Switches as arguments and attributes, own random keys, and a statistic that its call changes."""

    def __init__(self, rngs):
        self.training = True
        self.rngs = rngs
        self.fc = nnx.Linear(64, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.calls = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, x, is_training, *, inference=False):
        """Logits of a batch."""
        assert not is_training
        assert inference
        assert not self.training
        self.calls.set_value(self.calls[...] + 1)
        return self.norm(self.fc(x.reshape(len(x), -1)))


def switched_function(variables, x, train=True):
    """Logits of a batch, wrong in training."""
    return x.reshape(len(x), -1) @ variables + (jnp.nan if train else 0)


@pytest.mark.parametrize("make", [Switched, Required, Field, lambda: SwitchedNnx(nnx.Rngs(0))])
def test_switches_are_set_to_evaluation(make):
    """Wherever a module has its switch, it is in evaluation mode: no randomness, no statistics of the batch; equal ones compile once."""
    classifier = classifiers.as_classifier(make())
    assert classifier.apply == classifiers.as_classifier(make()).apply
    one, both = classifiers.predict(classifier, X[:1]), classifiers.predict(classifier, X[:2])
    np.testing.assert_allclose(one[0], both[0], rtol=1e-5)
    np.testing.assert_array_equal(both, classifiers.predict(classifier, X[:2]))
    assert float(jnp.abs(both).min()) > 0  # dropout would have set some to 0


def test_switch_of_a_function():
    """A function's switch is set too."""
    classifier = classifiers.from_function(switched_function, np.ones((64, 3), np.float32))
    assert np.isfinite(classifiers.predict(classifier, X)).all()


def test_errors_of_linen_modules():
    """What a Linen module raises while it is initialised is called its own, with its message."""

    class Broken(linen.Module):
        input_shape = (8, 8, 1)

        @linen.compact
        def __call__(self, x):
            raise RuntimeError("half written")

    with pytest.raises(
        BadInput, match=r"expected Broken to take images \(8, 8, 1\).*got RuntimeError: half written, raised by its own code"
    ):
        classifiers.as_classifier(Broken())
