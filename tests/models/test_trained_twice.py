"""Networks published with normal and with adversarial training: their accuracy, and that only the second withstands PGD."""

import numpy as np
import pytest
from flax import nnx

from a2d_jax import classifiers, costs, drivers
from a2d_jax.attacks import PGD
from a2d_jax.io import convert
from models.advertorch import advertorch_mnist
from models.projected import projected_resnet20

PAIRS = {  # factory, right answers on the 10,000 test images
    "mnist_lenet5_clntrained.pt": (advertorch_mnist, 9889),
    "mnist_lenet5_advtrained.pt": (advertorch_mnist, 9864),
    "resnet20.pth": (projected_resnet20, 9001),
    "resnet20_pgd.pth": (projected_resnet20, 8418),
}


def real(shared, name):
    arrays = convert.read_arrays(shared / "data" / "checkpoints" / name)
    return classifiers.from_nnx(convert.to_module(arrays, nnx.eval_shape(PAIRS[name][0])))


@pytest.fixture(scope="module")
def digits(mnist):
    """The MNIST test set."""
    x = np.fromfile(mnist / "t10k-images-idx3-ubyte", np.uint8, offset=16).reshape(-1, 28, 28, 1).astype(np.float32) / 255
    return x, np.fromfile(mnist / "t10k-labels-idx1-ubyte", np.uint8, offset=8)


@pytest.fixture(scope="module")
def photos(cifar10):
    """The CIFAR-10 test set."""
    rows = np.fromfile(cifar10 / "test_batch.bin", np.uint8).reshape(-1, 3073)
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).astype(np.float32) / 255, rows[:, 0]


@pytest.mark.parametrize("name", [name for name in PAIRS if name.startswith("mnist")])
def test_accuracy_on_mnist(name, shared, digits):
    """The checkpoints of advertorch read exactly 98.89 and 98.64 % of the MNIST test images."""
    x, label = digits
    assert int(np.sum(costs.predictions(real(shared, name), x)[0] == label)) == PAIRS[name][1]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PAIRS if name.startswith("resnet")])
def test_accuracy_on_cifar10(name, shared, photos):
    """The checkpoints of ResNet-20 with weights on its shortcuts are right about exactly 90.01 and 84.18 % of the CIFAR-10 test images."""
    x, label = photos
    assert int(np.sum(costs.predictions(real(shared, name), x)[0] == label)) == PAIRS[name][1]


def test_adversarial_training_holds(shared, digits):
    """PGD in the training's ball fools the one network on every digit and the other on few, as their data says."""
    x, label = (some[:60] for some in digits)
    fooled = []
    for name in ("mnist_lenet5_clntrained.pt", "mnist_lenet5_advtrained.pt"):
        classifier = real(shared, name)
        result = drivers.attack(PGD(0.3, 0.01, 40), classifier, costs.examples(classifier, x, label.astype(np.int32)))
        fooled.append(result.success.mean())
    assert fooled[0] == 1
    assert fooled[1] < 0.15
