"""Networks of the adaptive attack on MagNet, in Flax NNX (Meng and Chen, arXiv 1705.09064).

`magnet_mnist` and `magnet_cifar10` are the classifiers of Carlini and Wagner (arXiv 1608.04644) that MagNet guards, for pixels in [0, 1].
`carlini_mnist` is the first of them for the weights that Carlini and Wagner published, whose pixels were in [-0.5, 0.5]. `autoencoder1` and
`autoencoder2` are MagNet's autoencoders for MNIST. MagNet's detectors measure how far these move an image.
"""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array

from a2d_jax.nn import conv_general_dilated, max_pool


class Classifier(nnx.Module):
    """Two pairs of 3 x 3 convolutions, each pair pooled by 2, and three dense layers.

    Pooling comes before the ReLU, which is the same and faster (see `models.lenet`).

    Args:
      input_shape: height, width, channels of an image.
      flat: entries of the last map.
      widths: channels of the two pairs.
      hidden: width of the two hidden dense layers.
    """

    preprocessing: ClassVar = "none"
    keras_layers: ClassVar = ("conv1", "conv2", "conv3", "conv4", "fc1", "fc2", "fc3")

    def __init__(self, input_shape: tuple[int, int, int], flat: int, widths: tuple[int, int], hidden: int, rngs: nnx.Rngs):
        self.input_shape = input_shape
        first, second = widths
        self.conv1 = _convolution(input_shape[-1], first, "VALID", rngs)
        self.conv2 = _convolution(first, first, "VALID", rngs)
        self.conv3 = _convolution(first, second, "VALID", rngs)
        self.conv4 = _convolution(second, second, "VALID", rngs)
        self.fc1 = nnx.Linear(flat, hidden, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, hidden, rngs=rngs)
        self.fc3 = nnx.Linear(hidden, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Logits `n k` of images `n h w c`."""
        x = nnx.relu(self.conv1(x))
        x = nnx.relu(max_pool(self.conv2(x), 2))
        x = nnx.relu(self.conv3(x))
        x = nnx.relu(max_pool(self.conv4(x), 2))
        x = self.dropout(nnx.relu(self.fc1(x.reshape(len(x), -1))))
        return self.fc3(nnx.relu(self.fc2(x)))

    def activations(self, x: Array) -> dict[str, Array]:
        """Output of every layer of the Keras original by name, in order; the logits last."""
        out: dict[str, Array] = {}
        for number, convolve in enumerate((self.conv1, self.conv2, self.conv3, self.conv4), 1):
            x = out[f"conv{number}"] = convolve(x)
            x = out[f"relu{number}"] = nnx.relu(x)
            if number % 2 == 0:
                x = out[f"pool{number}"] = max_pool(x, 2)
        x = out["flatten"] = x.reshape(len(x), -1)
        x = out["fc1"] = self.fc1(x)
        x = out["relu5"] = nnx.relu(x)
        x = out["dropout"] = self.dropout(x)
        x = out["fc2"] = self.fc2(x)
        x = out["relu6"] = nnx.relu(x)
        out["logits"] = self.fc3(x)
        return out


class CenteredClassifier(Classifier):
    """The same network for pixels around 0."""

    preprocessing: ClassVar = "x - 0.5, inside the module"

    def __call__(self, x: Array) -> Array:
        """Logits `n k` of images `n h w c`."""
        return super().__call__(x - 0.5)


class Autoencoder1(nnx.Module):
    """Five 3 x 3 convolutions with sigmoids, the middle of them at half the size."""

    input_shape: ClassVar = (28, 28, 1)
    keras_layers: ClassVar = ("conv1", "conv2", "conv3", "conv4", "conv5")

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = _convolution(1, 3, "SAME", rngs)
        self.conv2 = _convolution(3, 3, "SAME", rngs)
        self.conv3 = _convolution(3, 3, "SAME", rngs)
        self.conv4 = _convolution(3, 3, "SAME", rngs)
        self.conv5 = _convolution(3, 1, "SAME", rngs)

    def __call__(self, x: Array) -> Array:
        """Map images `n h w 1` to images like them."""
        x = nnx.sigmoid(self.conv1(x))
        n, h, w, c = x.shape
        x = x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))
        x = nnx.sigmoid(self.conv2(x))
        x = nnx.sigmoid(self.conv3(x))
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        x = nnx.sigmoid(self.conv4(x))
        return nnx.sigmoid(self.conv5(x))


class Autoencoder2(nnx.Module):
    """Three 3 x 3 convolutions with sigmoids."""

    input_shape: ClassVar = (28, 28, 1)
    keras_layers: ClassVar = ("conv1", "conv2", "conv3")

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = _convolution(1, 3, "SAME", rngs)
        self.conv2 = _convolution(3, 3, "SAME", rngs)
        self.conv3 = _convolution(3, 1, "SAME", rngs)

    def __call__(self, x: Array) -> Array:
        """Map images `n h w 1` to images like them."""
        x = nnx.sigmoid(self.conv1(x))
        x = nnx.sigmoid(self.conv2(x))
        return nnx.sigmoid(self.conv3(x))


def _convolution(inputs: int, outputs: int, padding: str, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(inputs, outputs, (3, 3), padding=padding, conv_general_dilated=conv_general_dilated, rngs=rngs)


def magnet_mnist(rngs: nnx.Rngs | None = None) -> Classifier:
    """The guarded classifier for MNIST with fresh weights."""
    return Classifier((28, 28, 1), 4 * 4 * 64, (32, 64), 200, rngs or nnx.Rngs(0))


def carlini_mnist(rngs: nnx.Rngs | None = None) -> CenteredClassifier:
    """Carlini and Wagner's classifier for MNIST with fresh weights."""
    return CenteredClassifier((28, 28, 1), 4 * 4 * 64, (32, 64), 200, rngs or nnx.Rngs(0))


def magnet_cifar10(rngs: nnx.Rngs | None = None) -> Classifier:
    """The guarded classifier for CIFAR-10 with fresh weights."""
    return Classifier((32, 32, 3), 5 * 5 * 128, (64, 128), 256, rngs or nnx.Rngs(0))


def autoencoder1(rngs: nnx.Rngs | None = None) -> Autoencoder1:
    """MagNet's first autoencoder for MNIST with fresh weights."""
    return Autoencoder1(rngs or nnx.Rngs(0))


def autoencoder2(rngs: nnx.Rngs | None = None) -> Autoencoder2:
    """MagNet's second autoencoder for MNIST with fresh weights."""
    return Autoencoder2(rngs or nnx.Rngs(0))
