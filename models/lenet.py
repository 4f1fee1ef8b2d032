"""LeNets for handwritten digits, in Flax NNX.

`lenet_env1` is the MNIST network of the paper's first environment (1,218,634 parameters, 99.1 % on the MNIST test set), `lenet5`
that of the second (61,706 parameters, 98.29 %); `lenet_digits` is a small relative for the 8 x 8 digits that ship with
scikit-learn. All take `n h w c` in [0, 1] and normalise inside.
"""

from typing import ClassVar

from flax import nnx
from jax import Array

from a2d_jax.nn import conv_general_dilated, conv_pool_relu, max_pool


class LeNet5(nnx.Module):
    """Two 5 x 5 convolutions, each pooled by 2, then three dense layers.

    Pooling comes before the ReLU, which the original has the other way round: the maximum of the positive parts is the positive
    part of the maximum, gradients included, and this order lets both layers be two products (docs/performance_notebook.md).
    """

    input_shape: ClassVar = (28, 28, 1)
    preprocessing: ClassVar = "(x - 0.1307) / 0.3081, inside the module"
    torch_names: ClassVar = {"conv1": "conv1.0", "conv2": "conv2.0", "fc1": "fc1.0", "fc2": "fc2.0"}
    flattened: ClassVar = {"fc1": (16, 5, 5)}  # fc1 reads a map that PyTorch flattens as channel, row, column

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 6, (5, 5), padding=2, rngs=rngs)
        self.conv2 = nnx.Conv(6, 16, (5, 5), padding="VALID", rngs=rngs)
        self.fc1 = nnx.Linear(400, 120, rngs=rngs)
        self.fc2 = nnx.Linear(120, 84, rngs=rngs)
        self.fc3 = nnx.Linear(84, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Logits `n k` of images `n h w c`."""
        x = (x - 0.1307) / 0.3081
        layers = [(layer.kernel[...], layer.bias[...]) for layer in (self.conv1, self.conv2)]
        x = conv_pool_relu(x, layers, window=2, paddings=(2, 0)).reshape(len(x), -1)
        x = nnx.relu(self.fc1(x))
        x = nnx.relu(self.fc2(x))
        return self.fc3(x)

    def activations(self, x: Array) -> dict[str, Array]:
        """Output of every layer by name, in order; the logits last."""
        out: dict[str, Array] = {}
        x = out["conv1"] = self.conv1((x - 0.1307) / 0.3081)
        x = out["relu1"] = nnx.relu(x)
        x = out["pool1"] = max_pool(x, 2)
        x = out["conv2"] = self.conv2(x)
        x = out["relu2"] = nnx.relu(x)
        x = out["pool2"] = max_pool(x, 2)
        x = out["flatten"] = x.reshape(len(x), -1)
        x = out["fc1"] = self.fc1(x)
        x = out["relu3"] = nnx.relu(x)
        x = out["fc2"] = self.fc2(x)
        x = out["relu4"] = nnx.relu(x)
        out["logits"] = self.fc3(x)
        return out


class LeNetDigits(nnx.Module):
    """Two 3 x 3 convolutions, one pooling, two dense layers: trains to 97 % on scikit-learn's digits in seconds."""

    input_shape: ClassVar = (8, 8, 1)
    preprocessing: ClassVar = "2 x - 1, inside the module"

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), conv_general_dilated=conv_general_dilated, rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), conv_general_dilated=conv_general_dilated, rngs=rngs)
        self.fc1 = nnx.Linear(512, 64, rngs=rngs)
        self.fc2 = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Logits `n k` of images `n h w c`."""
        x = nnx.relu(self.conv1(2 * x - 1))
        x = nnx.relu(max_pool(self.conv2(x), 2))
        x = nnx.relu(self.fc1(x.reshape(len(x), -1)))
        return self.fc2(x)

    def activations(self, x: Array) -> dict[str, Array]:
        """Output of every layer by name, in order; the logits last."""
        out: dict[str, Array] = {}
        x = out["conv1"] = self.conv1(2 * x - 1)
        x = out["relu1"] = nnx.relu(x)
        x = out["conv2"] = self.conv2(x)
        x = out["relu2"] = nnx.relu(x)
        x = out["pool2"] = max_pool(x, 2)
        x = out["flatten"] = x.reshape(len(x), -1)
        x = out["fc1"] = self.fc1(x)
        x = out["relu3"] = nnx.relu(x)
        out["logits"] = self.fc2(x)
        return out


class LeNetEnv1(nnx.Module):
    """Two 3 x 3 convolutions of 64 channels, one pooling, two dense layers (Feinman et al., arXiv 1703.00410, in Keras)."""

    input_shape: ClassVar = (28, 28, 1)
    preprocessing: ClassVar = "none"
    keras_layers: ClassVar = ("conv1", "conv2", "fc1", "fc2")

    def __init__(self, rngs: nnx.Rngs):
        glorot = nnx.initializers.glorot_uniform()
        shared = {"padding": "VALID", "kernel_init": glorot, "conv_general_dilated": conv_general_dilated, "rngs": rngs}
        self.conv1 = nnx.Conv(1, 64, (3, 3), **shared)
        self.conv2 = nnx.Conv(64, 64, (3, 3), **shared)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.fc1 = nnx.Linear(9216, 128, kernel_init=glorot, rngs=rngs)
        self.fc2 = nnx.Linear(128, 10, kernel_init=glorot, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Logits `n k` of images `n h w c`."""
        x = nnx.relu(self.conv1(x))
        x = nnx.relu(max_pool(self.conv2(x), 2))
        x = self.dropout(x.reshape(len(x), -1))
        x = self.dropout(nnx.relu(self.fc1(x)))
        return self.fc2(x)

    def activations(self, x: Array) -> dict[str, Array]:
        """Output of every layer of the Keras original by name, in order, up to the logits; those of its softmax are left out."""
        out: dict[str, Array] = {}
        x = out["conv1"] = self.conv1(x)
        x = out["relu1"] = nnx.relu(x)
        x = out["conv2"] = self.conv2(x)
        x = out["relu2"] = nnx.relu(x)
        x = out["pool2"] = max_pool(x, 2)
        x = out["dropout1"] = self.dropout(x)
        x = out["flatten"] = x.reshape(len(x), -1)
        x = out["fc1"] = self.fc1(x)
        x = out["relu3"] = nnx.relu(x)
        x = out["dropout2"] = self.dropout(x)
        out["logits"] = self.fc2(x)
        return out


def lenet5(rngs: nnx.Rngs | None = None) -> LeNet5:
    """LeNet-5 for MNIST with fresh weights."""
    return LeNet5(rngs or nnx.Rngs(0))


def lenet_digits(rngs: nnx.Rngs | None = None) -> LeNetDigits:
    """LeNet for scikit-learn's 8 x 8 digits with fresh weights."""
    return LeNetDigits(rngs or nnx.Rngs(0))


def lenet_env1(rngs: nnx.Rngs | None = None) -> LeNetEnv1:
    """LeNet of the first environment for MNIST with fresh weights."""
    return LeNetEnv1(rngs or nnx.Rngs(0))
