"""GoogLeNet for CIFAR-10 with batch norm, in Flax NNX: the network of the paper's second environment (90.5 % there).

It has the Inception modules of Szegedy et al. (arXiv 1409.4842), with two 3 x 3 convolutions in place of the 5 x 5 convolution. Arrays are
named as in the PyTorch original (`pre_layers.0.weight`, `a3.b2.3.weight`, ...), because the Sequentials have the same members.
"""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array

from a2d_jax.io.class_names import CIFAR10_CLASSES
from a2d_jax.nn import sliding_max_pool
from models.layers import convolution, normalise

MEAN = (0.4914, 0.4822, 0.4465)
SD = (0.247, 0.243, 0.261)


class Inception(nnx.Module):
    """Four branches side by side: 1 x 1; 1 x 1 then 3 x 3; 1 x 1 then twice 3 x 3; pooling then 1 x 1.

    Args:
      inputs: channels of the input.
      one: outputs of the first branch.
      three: outputs of the two convolutions of the second branch.
      five: outputs of the first and of the other two convolutions of the third branch.
      pool: outputs of the fourth branch.
    """

    def __init__(self, inputs: int, one: int, three: tuple[int, int], five: tuple[int, int], pool: int, rngs: nnx.Rngs):
        self.b1 = nnx.Sequential(*_unit(inputs, one, 1, rngs))
        self.b2 = nnx.Sequential(*_unit(inputs, three[0], 1, rngs), *_unit(*three, 3, rngs))
        self.b3 = nnx.Sequential(*_unit(inputs, five[0], 1, rngs), *_unit(*five, 3, rngs), *_unit(five[1], five[1], 3, rngs))
        self.b4 = nnx.Sequential(_pool, *_unit(inputs, pool, 1, rngs))

    def __call__(self, x: Array) -> Array:
        """Map `n h w inputs` to `n h w one+three[1]+five[1]+pool`."""
        return jnp.concatenate([self.b1(x), self.b2(x), self.b3(x), self.b4(x)], axis=-1)


class GoogLeNet(nnx.Module):
    """A 3 x 3 stem, nine inception modules in three sizes, average pooling, one dense layer."""

    input_shape: ClassVar = (32, 32, 3)
    class_names: ClassVar = CIFAR10_CLASSES
    preprocessing: ClassVar = "(x - (0.4914, 0.4822, 0.4465)) / (0.247, 0.243, 0.261), inside the module"

    def __init__(self, rngs: nnx.Rngs):
        self.pre_layers = nnx.Sequential(*_unit(3, 192, 3, rngs))
        self.a3 = Inception(192, 64, (96, 128), (16, 32), 32, rngs)
        self.b3 = Inception(256, 128, (128, 192), (32, 96), 64, rngs)
        self.a4 = Inception(480, 192, (96, 208), (16, 48), 64, rngs)
        self.b4 = Inception(512, 160, (112, 224), (24, 64), 64, rngs)
        self.c4 = Inception(512, 128, (128, 256), (24, 64), 64, rngs)
        self.d4 = Inception(512, 112, (144, 288), (32, 64), 64, rngs)
        self.e4 = Inception(528, 256, (160, 320), (32, 128), 128, rngs)
        self.a5 = Inception(832, 256, (160, 320), (32, 128), 128, rngs)
        self.b5 = Inception(832, 384, (192, 384), (48, 128), 128, rngs)
        self.linear = nnx.Linear(1024, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Logits `n k` of images `n h w c`."""
        return self.activations(x)["logits"]

    def activations(self, x: Array) -> dict[str, Array]:
        """Output of the stem, of every inception module and pooling, and the logits, by name, in order."""
        out: dict[str, Array] = {}
        x = out["stem"] = self.pre_layers(normalise(x, MEAN, SD))
        for name in ("a3", "b3", "pool3", "a4", "b4", "c4", "d4", "e4", "pool4", "a5", "b5"):
            x = out[name] = sliding_max_pool(x, 3, stride=2, padding=1) if name.startswith("pool") else getattr(self, name)(x)
        x = out["pool5"] = x.mean((1, 2))
        out["logits"] = self.linear(x)
        return out


def _unit(inputs: int, outputs: int, size: int, rngs: nnx.Rngs) -> list[Any]:
    return [convolution(inputs, outputs, size, bias=True, rngs=rngs), nnx.BatchNorm(outputs, rngs=rngs), nnx.relu]


def _pool(x: Array) -> Array:
    return sliding_max_pool(x, 3, stride=1, padding=1)


def googlenet_cifar10(rngs: nnx.Rngs | None = None) -> GoogLeNet:
    """GoogLeNet for CIFAR-10 with fresh weights."""
    return GoogLeNet(rngs or nnx.Rngs(0))
