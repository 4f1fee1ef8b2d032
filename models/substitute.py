"""The substitute for a network without accessible gradients, in Flax NNX (511,626 parameters).

It belongs to the substitute-model attack of Wang et al. (arXiv 1812.05793) on MNIST; `experiments/substitute.py` trains it.
"""

from typing import ClassVar

from flax import nnx
from jax import Array

from a2d_jax.nn import conv_general_dilated, max_pool


class SubstituteMnist(nnx.Module):
    """Two 2 x 2 convolutions of 32 and 64 channels, each pooled by 2, and three dense layers.

    Pooling comes before the ReLU, which is the same and faster (see `models.lenet`).
    """

    input_shape: ClassVar = (28, 28, 1)
    preprocessing: ClassVar = "(x - 0.1307) / 0.3081, inside the module"

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 32, (2, 2), padding="VALID", conv_general_dilated=conv_general_dilated, rngs=rngs)
        self.conv2 = nnx.Conv(32, 64, (2, 2), padding="VALID", conv_general_dilated=conv_general_dilated, rngs=rngs)
        self.fc1 = nnx.Linear(2304, 200, rngs=rngs)
        self.fc2 = nnx.Linear(200, 200, rngs=rngs)
        self.fc3 = nnx.Linear(200, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Logits `n k` of images `n h w c`."""
        x = (x - 0.1307) / 0.3081
        x = nnx.relu(max_pool(self.conv1(x), 2))
        x = nnx.relu(max_pool(self.conv2(x), 2))
        x = nnx.relu(self.fc1(x.reshape(len(x), -1)))
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


def substitute_mnist(rngs: nnx.Rngs | None = None) -> SubstituteMnist:
    """The substitute for MNIST networks with fresh weights."""
    return SubstituteMnist(rngs or nnx.Rngs(0))
