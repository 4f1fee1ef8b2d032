"""The MNIST network of BorealisAI's advertorch, in Flax NNX (648,226 parameters). It is published with normal and with PGD training.

Its authors call it LeNet5: two 3 x 3 convolutions, each pooled by 2, and two dense layers. Its accuracy on the MNIST test set is 98.89 %
after normal training and 98.64 % after adversarial training (epsilon 0.3, 40 steps of 0.01).
"""

from typing import ClassVar

from flax import nnx
from jax import Array

from a2d_jax.nn import conv_general_dilated, max_pool


class AdvertorchMnist(nnx.Module):
    """Two padded convolutions of 32 and 64 channels and dense layers of 200 and 10.

    Pooling comes before the ReLU, which is the same and faster (see `models.lenet`).
    """

    input_shape: ClassVar = (28, 28, 1)
    preprocessing: ClassVar = "none"
    torch_names: ClassVar = {"fc1": "linear1", "fc2": "linear2"}
    flattened: ClassVar = {"fc1": (64, 7, 7)}  # fc1 reads a map that PyTorch flattens as channel, row, column

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 32, (3, 3), padding=1, conv_general_dilated=conv_general_dilated, rngs=rngs)
        self.conv2 = nnx.Conv(32, 64, (3, 3), padding=1, conv_general_dilated=conv_general_dilated, rngs=rngs)
        self.fc1 = nnx.Linear(3136, 200, rngs=rngs)
        self.fc2 = nnx.Linear(200, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Logits `n k` of images `n h w c`."""
        x = nnx.relu(max_pool(self.conv1(x), 2))
        x = nnx.relu(max_pool(self.conv2(x), 2))
        return self.fc2(nnx.relu(self.fc1(x.reshape(len(x), -1))))

    def activations(self, x: Array) -> dict[str, Array]:
        """Output of every layer by name, in order; the logits last."""
        out: dict[str, Array] = {}
        x = out["conv1"] = self.conv1(x)
        x = out["relu1"] = nnx.relu(x)
        x = out["pool1"] = max_pool(x, 2)
        x = out["conv2"] = self.conv2(x)
        x = out["relu2"] = nnx.relu(x)
        x = out["pool2"] = max_pool(x, 2)
        x = out["flatten"] = x.reshape(len(x), -1)
        x = out["fc1"] = self.fc1(x)
        x = out["relu3"] = nnx.relu(x)
        out["logits"] = self.fc2(x)
        return out


def advertorch_mnist(rngs: nnx.Rngs | None = None) -> AdvertorchMnist:
    """The MNIST network of advertorch with fresh weights."""
    return AdvertorchMnist(rngs or nnx.Rngs(0))
