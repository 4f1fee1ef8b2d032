"""Networks of adversarial training with PGD, in Flax NNX (Madry et al., arXiv 1706.06083).

`madry_mnist` and `madry_cifar10` are the networks of the two public challenges. The second is a wide residual network (w32-10). Its
shortcuts have no weights, and it standardises every image by the image's own mean and standard deviation.
"""

import math
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array

from a2d_jax.nn import conv_general_dilated, max_pool


class MadryMnist(nnx.Module):
    """Two 5 x 5 convolutions, each pooled by 2, and two dense layers.

    Pooling comes before the ReLU, which is the same and faster (see `models.lenet`).
    """

    input_shape: ClassVar = (28, 28, 1)
    preprocessing: ClassVar = "none"

    def __init__(self, rngs: nnx.Rngs):
        kernel, bias = nnx.initializers.truncated_normal(0.1), nnx.initializers.constant(0.1)
        padded = {"padding": "SAME", "conv_general_dilated": conv_general_dilated}
        self.conv1 = nnx.Conv(1, 32, (5, 5), kernel_init=kernel, bias_init=bias, rngs=rngs, **padded)
        self.conv2 = nnx.Conv(32, 64, (5, 5), kernel_init=kernel, bias_init=bias, rngs=rngs, **padded)
        self.fc1 = nnx.Linear(3136, 1024, kernel_init=kernel, bias_init=bias, rngs=rngs)
        self.fc2 = nnx.Linear(1024, 10, kernel_init=kernel, bias_init=bias, rngs=rngs)

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


class Unit(nnx.Module):
    """Normalise, activate, convolve, twice, beside a shortcut that averages pixels and adds channels of zeros.

    Args:
      inputs: channels of the input.
      outputs: channels of the output.
      stride: of the first convolution and of the averages.
      activate_first: take the shortcut behind the first activation instead of before.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, activate_first: bool, rngs: nnx.Rngs):
        self.stride, self.activate_first = stride, activate_first
        self.bn1 = nnx.BatchNorm(inputs, epsilon=1e-3, rngs=rngs)
        self.conv1 = _convolution(inputs, outputs, stride, rngs)
        self.bn2 = nnx.BatchNorm(outputs, epsilon=1e-3, rngs=rngs)
        self.conv2 = _convolution(outputs, outputs, 1, rngs)

    def __call__(self, x: Array) -> Array:
        """Map `n h w inputs` to `n h/stride w/stride outputs`."""
        active = _activate(self.bn1(x))
        shortcut = active if self.activate_first else x
        y = self.conv2(_activate(self.bn2(self.conv1(active))))
        n, h, w, outputs = y.shape
        shortcut = shortcut.reshape(n, h, self.stride, w, self.stride, -1).mean((2, 4))
        half = (outputs - shortcut.shape[-1]) // 2
        return y + jnp.pad(shortcut, [(0, 0), (0, 0), (0, 0), (half, half)])


class MadryCifar10(nnx.Module):
    """A stem of 16 channels and three stages of five units, of 160, 320 and 640 channels."""

    input_shape: ClassVar = (32, 32, 3)
    preprocessing: ClassVar = "255 x, less its mean, over its standard deviation (at least 1 / sqrt(3072)), inside the module"

    def __init__(self, rngs: nnx.Rngs):
        self.stem = _convolution(3, 16, 1, rngs)
        units: list[Unit] = []
        inputs = 16
        for outputs, stride in ((160, 1), (320, 2), (640, 2)):
            for number in range(5):
                units.append(Unit(inputs, outputs, stride if number == 0 else 1, not units, rngs))
                inputs = outputs
        self.units = nnx.List(units)
        self.bn = nnx.BatchNorm(inputs, epsilon=1e-3, rngs=rngs)
        self.fc = nnx.Linear(inputs, 10, kernel_init=nnx.initializers.glorot_uniform(), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Logits `n k` of images `n h w c`."""
        return self.activations(x)["logits"]

    def activations(self, x: Array) -> dict[str, Array]:
        """Output of the stem, of every unit, of the last activation, of the pooling and the logits, by name, in order."""
        out: dict[str, Array] = {}
        x = out["stem"] = self.stem(standardise(255 * x))
        for number, unit in enumerate(self.units):
            x = out[f"unit{number}"] = unit(x)
        x = out["active"] = _activate(self.bn(x))
        x = out["pool"] = x.mean((1, 2))
        out["logits"] = self.fc(x)
        return out


def _activate(x: Array) -> Array:
    return nnx.leaky_relu(x, 0.1)


def standardise(x: Array) -> Array:
    """Every image less its mean, over its deviation; the floor (TensorFlow's) keeps flat images finite, gradients included."""
    centred = x - x.mean((1, 2, 3), keepdims=True)
    variance = (centred**2).mean((1, 2, 3), keepdims=True)
    return centred / jnp.sqrt(jnp.maximum(variance, 1 / math.prod(x.shape[1:])))


def _convolution(inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    """He's initialisation over the fan-out; TensorFlow's padding."""
    return nnx.Conv(
        inputs,
        outputs,
        (3, 3),
        strides=stride,
        padding="SAME",
        use_bias=False,
        kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
        conv_general_dilated=conv_general_dilated,
        rngs=rngs,
    )


def madry_mnist(rngs: nnx.Rngs | None = None) -> MadryMnist:
    """The network of the MNIST challenge with fresh weights."""
    return MadryMnist(rngs or nnx.Rngs(0))


def madry_cifar10(rngs: nnx.Rngs | None = None) -> MadryCifar10:
    """The network of the CIFAR-10 challenge with fresh weights."""
    return MadryCifar10(rngs or nnx.Rngs(0))
