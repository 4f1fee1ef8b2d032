"""The LeNets: size, the real checkpoint against PyTorch and MNIST, and training of the small one."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.datasets import load_digits

from a2d_jax import classifiers
from a2d_jax.io import convert
from a2d_jax.losses import cross_entropy, look
from models.lenet import lenet5, lenet_digits

from . import lenet_torch


@pytest.fixture(scope="module")
def golden():
    with np.load(lenet_torch.GOLDEN, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def real(golden):
    """The classifier with the weights of the original checkpoint."""
    arrays = {name: array for name, array in golden.items() if name.startswith(("conv", "fc"))}
    return classifiers.from_nnx(convert.to_module(arrays, nnx.eval_shape(lenet5)))


def inputs(golden):
    return np.concatenate([lenet_torch.waves(), golden["digits"].astype(np.float32) / 255])


def test_size():
    """LeNet-5 has the 61,706 parameters of the paper's network."""
    assert sum(array.size for array in jax.tree.leaves(nnx.state(nnx.eval_shape(lenet5), nnx.Param))) == 61_706


def test_logits_and_gradients_equal_pytorch(golden, real):
    """With the real weights, logits and input gradients are PyTorch's to 1e-5 of their size, as pinned and as computed now."""
    x = inputs(golden)
    arrays = {name: array for name, array in golden.items() if name.startswith(("conv", "fc"))}

    @jax.jit
    def ours(x, label):
        return jax.vmap(lambda x, label: look(real, lambda logits: cross_entropy(logits, label), x))(x, label)

    logits, gradient = ours(x, golden["second"].astype(np.int32))
    for expected in (
        {"logits": golden["logits"], "gradient": golden["gradient"]},
        dict(zip(("logits", "second", "gradient"), lenet_torch.logits_and_gradient(arrays, x), strict=True)),
    ):
        np.testing.assert_allclose(logits, expected["logits"], atol=1e-5 * np.abs(expected["logits"]).max())
        np.testing.assert_allclose(gradient, expected["gradient"], atol=1e-5 * np.abs(expected["gradient"]).max())


def test_first_digits(golden, real):
    """The first sixteen MNIST test digits get the labels that PyTorch gives them, which are right."""
    predicted = np.asarray(classifiers.predict(real, golden["digits"].astype(np.float32) / 255)).argmax(1)
    np.testing.assert_array_equal(predicted, golden["logits"][4:].argmax(1))
    np.testing.assert_array_equal(predicted, golden["label"])


def test_accuracy_on_mnist(shared, mnist):
    """The original checkpoint, converted, reads exactly 98.29 % on the 10,000 MNIST test images."""
    x = np.fromfile(mnist / "t10k-images-idx3-ubyte", np.uint8, offset=16).reshape(-1, 28, 28, 1).astype(np.float32) / 255
    label = np.fromfile(mnist / "t10k-labels-idx1-ubyte", np.uint8, offset=8)
    arrays = convert.read_arrays(shared / "data" / "checkpoints" / "lenet5_mnist.pkl")
    classifier = classifiers.from_nnx(convert.to_module(arrays, nnx.eval_shape(lenet5)))
    assert int(np.sum(np.asarray(classifiers.predict(classifier, x)).argmax(1) == label)) == 9829


@jax.numpy_dtype_promotion("standard")  # Optax raises floats to integer powers
@pytest.mark.slow
def test_digits_are_learned():
    """The small LeNet learns scikit-learn's digits to 97 % in 12 epochs, through the kernel gradients of `a2d_jax.nn`."""
    digits = load_digits()
    order = np.random.default_rng(0)
    mixed = order.permutation(len(digits.target))  # the set is sorted by writer
    x, label = (digits.images[mixed] / 16).astype(np.float32)[..., None], digits.target[mixed].astype(np.int32)
    graphdef, weights = nnx.split(lenet_digits())
    optimizer = optax.adam(3e-3)

    def loss(weights, x, label):
        return optax.softmax_cross_entropy_with_integer_labels(nnx.merge(graphdef, weights)(x), label).mean()

    @jax.jit
    def epoch(carry, batches):
        def step(carry, rows):
            weights, moments = carry
            updates, moments = optimizer.update(jax.grad(loss)(weights, x[rows], label[rows]), moments)
            return (optax.apply_updates(weights, updates), moments), None

        return jax.lax.scan(step, carry, batches)[0]

    x, label = jax.numpy.asarray(x), jax.numpy.asarray(label)
    carry = weights, optimizer.init(weights)
    for _ in range(12):
        carry = epoch(carry, order.permutation(1280).astype(np.int32).reshape(-1, 32))
    predicted = nnx.merge(graphdef, carry[0])(x[1280:]).argmax(1)
    assert np.mean(predicted == label[1280:]) >= 0.97
