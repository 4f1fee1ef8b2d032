"""The 12-layer convolutional network for CIFAR-10 of the paper's first environment, in Flax NNX (2,915,114 parameters, 80.3 % there).

The original is by Feinman et al. (arXiv 1703.00410), in Keras. It is meant to stay weak: about 80 % accuracy on the test set. Training adds
to the loss 0.01 times the squares of the kernels and biases of the two hidden dense layers.
"""

from typing import ClassVar

from flax import nnx
from jax import Array

from a2d_jax.io.class_names import CIFAR10_CLASSES
from a2d_jax.nn import conv_general_dilated, max_pool

GLOROT = nnx.initializers.glorot_uniform()


class ConvNet12(nnx.Module):
    """Three pairs of 3 x 3 convolutions of 32, 64 and 128 channels, each pair pooled by 2, and three dense layers.

    Pooling comes before the ReLU, which is the same and faster (see `models.lenet`).
    """

    input_shape: ClassVar = (32, 32, 3)
    class_names: ClassVar = CIFAR10_CLASSES
    preprocessing: ClassVar = "none"
    keras_layers: ClassVar = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc1", "fc2", "fc3")

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = _convolution(3, 32, rngs)
        self.conv2 = _convolution(32, 32, rngs)
        self.conv3 = _convolution(32, 64, rngs)
        self.conv4 = _convolution(64, 64, rngs)
        self.conv5 = _convolution(64, 128, rngs)
        self.conv6 = _convolution(128, 128, rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.fc1 = nnx.Linear(2048, 1024, kernel_init=GLOROT, rngs=rngs)
        self.fc2 = nnx.Linear(1024, 512, kernel_init=GLOROT, rngs=rngs)
        self.fc3 = nnx.Linear(512, 10, kernel_init=GLOROT, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Logits `n k` of images `n h w c`."""
        for first, second in ((self.conv1, self.conv2), (self.conv3, self.conv4), (self.conv5, self.conv6)):
            x = nnx.relu(first(x))
            x = nnx.relu(max_pool(second(x), 2))
        x = self.dropout(x.reshape(len(x), -1))
        x = self.dropout(nnx.relu(self.fc1(x)))
        x = self.dropout(nnx.relu(self.fc2(x)))
        return self.fc3(x)

    def activations(self, x: Array) -> dict[str, Array]:
        """Output of every layer of the Keras original by name, in order, up to the logits; those of its softmax are left out."""
        out: dict[str, Array] = {}
        convolutions = (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5, self.conv6)
        for number, convolve in enumerate(convolutions, 1):
            x = out[f"conv{number}"] = convolve(x)
            x = out[f"relu{number}"] = nnx.relu(x)
            if number % 2 == 0:
                x = out[f"pool{number}"] = max_pool(x, 2)
        x = out["dropout1"] = self.dropout(x)
        x = out["flatten"] = x.reshape(len(x), -1)
        for number, dense in enumerate((self.fc1, self.fc2), 1):
            x = out[f"fc{number}"] = dense(x)
            x = out[f"relu{6 + number}"] = nnx.relu(x)
            x = out[f"dropout{1 + number}"] = self.dropout(x)
        out["logits"] = self.fc3(x)
        return out


def _convolution(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(inputs, outputs, (3, 3), padding="SAME", kernel_init=GLOROT, conv_general_dilated=conv_general_dilated, rngs=rngs)


def convnet12(rngs: nnx.Rngs | None = None) -> ConvNet12:
    """The 12-layer network for CIFAR-10 with fresh weights."""
    return ConvNet12(rngs or nnx.Rngs(0))
