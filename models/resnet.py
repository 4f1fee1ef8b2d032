"""Residual networks for CIFAR-10 and ImageNet, in Flax NNX (He et al., arXiv 1512.03385).

`cifar_resnet20` ... `cifar_resnet110` are the networks of section 4.2 of that paper. Their shortcuts have no weights (option A): between
stages they take every second row and column and add channels of zeros. `resnet18` ... `resnet152` are the ImageNet networks with
the stride on the 3 x 3 convolution. Arrays are named as in torchvision and timm and in the CIFAR checkpoints of Yerlan Idelbayev; the names
of Hugging Face's `ResNetForImageClassification` are accepted too.
"""

import re
from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array

from a2d_jax.io.class_names import CIFAR10_CLASSES, IMAGENET_CLASSES
from a2d_jax.nn import sliding_max_pool
from models.layers import IMAGENET_MEAN, IMAGENET_SD, convolution, normalise


class BasicBlock(nnx.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    expansion: ClassVar = 1

    def __init__(self, inputs: int, width: int, stride: int, downsample: Callable[[Array], Array] | None, rngs: nnx.Rngs):
        self.conv1 = convolution(inputs, width, 3, stride=stride, rngs=rngs)
        self.bn1 = nnx.BatchNorm(width, rngs=rngs)
        self.conv2 = convolution(width, width, 3, rngs=rngs)
        self.bn2 = nnx.BatchNorm(width, rngs=rngs)
        self.downsample = downsample

    def __call__(self, x: Array) -> Array:
        """Map `n h w inputs` to `n h/stride w/stride width`."""
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return nnx.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nnx.Module):
    """A 1 x 1, a 3 x 3 and a 1 x 1 convolution, four times as wide at the end, beside a shortcut."""

    expansion: ClassVar = 4

    def __init__(self, inputs: int, width: int, stride: int, downsample: Callable[[Array], Array] | None, rngs: nnx.Rngs):
        self.conv1 = convolution(inputs, width, 1, rngs=rngs)
        self.bn1 = nnx.BatchNorm(width, rngs=rngs)
        self.conv2 = convolution(width, width, 3, stride=stride, rngs=rngs)
        self.bn2 = nnx.BatchNorm(width, rngs=rngs)
        self.conv3 = convolution(width, 4 * width, 1, rngs=rngs)
        self.bn3 = nnx.BatchNorm(4 * width, rngs=rngs)
        self.downsample = downsample

    def __call__(self, x: Array) -> Array:
        """Map `n h w inputs` to `n h/stride w/stride 4*width`."""
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = nnx.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return nnx.relu(y + (x if self.downsample is None else self.downsample(x)))


class CifarResNet(nnx.Module):
    """Three stages of `blocks` basic blocks each, of 16, 32 and 64 channels: 6 * blocks + 2 layers."""

    input_shape: ClassVar = (32, 32, 3)
    class_names: ClassVar = CIFAR10_CLASSES
    preprocessing: ClassVar = "(x - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225), inside the module"

    def __init__(self, blocks: int, rngs: nnx.Rngs):
        self.conv1 = convolution(3, 16, 3, rngs=rngs)
        self.bn1 = nnx.BatchNorm(16, rngs=rngs)
        self.layer1 = nnx.List([BasicBlock(16, 16, 1, None, rngs) for _ in range(blocks)])
        self.layer2 = nnx.List([BasicBlock(16, 32, 2, _thin_out, rngs), *(BasicBlock(32, 32, 1, None, rngs) for _ in range(blocks - 1))])
        self.layer3 = nnx.List([BasicBlock(32, 64, 2, _thin_out, rngs), *(BasicBlock(64, 64, 1, None, rngs) for _ in range(blocks - 1))])
        self.linear = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Logits `n k` of images `n h w c`."""
        return self.activations(x)["logits"]

    def activations(self, x: Array) -> dict[str, Array]:
        """Output of the stem, of every block, of the pooling and the logits, by name, in order."""
        out: dict[str, Array] = {}
        x = normalise(x, IMAGENET_MEAN, IMAGENET_SD)
        x = out["stem"] = nnx.relu(self.bn1(self.conv1(x)))
        for level, blocks in enumerate((self.layer1, self.layer2, self.layer3), 1):
            for number, block in enumerate(blocks):
                x = out[f"layer{level}.{number}"] = block(x)
        x = out["pool"] = x.mean((1, 2))
        out["logits"] = self.linear(x)
        return out


class ResNet(nnx.Module):
    """A 7 x 7 stem and four stages of blocks, of 64, 128, 256 and 512 channels (times the block's expansion)."""

    input_shape: ClassVar = (224, 224, 3)
    class_names: ClassVar = IMAGENET_CLASSES
    preprocessing: ClassVar = "(x - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225), inside the module"
    photographs: ClassVar = {"resize": 256, "crop": 224, "interpolation": "bilinear"}

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, int, int, int], rngs: nnx.Rngs):
        self.conv1 = convolution(3, 64, 7, stride=2, rngs=rngs)
        self.bn1 = nnx.BatchNorm(64, rngs=rngs)
        e = block.expansion
        self.layer1 = stage(block, 64, 64, depths[0], 1, rngs)
        self.layer2 = stage(block, 64 * e, 128, depths[1], 2, rngs)
        self.layer3 = stage(block, 128 * e, 256, depths[2], 2, rngs)
        self.layer4 = stage(block, 256 * e, 512, depths[3], 2, rngs)
        self.fc = nnx.Linear(512 * e, 1000, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Logits `n k` of images `n h w c`."""
        return self.activations(x)["logits"]

    def activations(self, x: Array) -> dict[str, Array]:
        """Output of the stem, of every block, of the pooling and the logits, by name, in order."""
        out: dict[str, Array] = {}
        x = normalise(x, IMAGENET_MEAN, IMAGENET_SD)
        x = out["stem"] = nnx.relu(sliding_max_pool(self.bn1(self.conv1(x)), 3, stride=2, padding=1))
        for level, blocks in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), 1):
            for number, block in enumerate(blocks):
                x = out[f"layer{level}.{number}"] = block(x)
        x = out["pool"] = x.mean((1, 2))
        out["logits"] = self.fc(x)
        return out

    @staticmethod
    def rename(name: str) -> str:
        """Name in torchvision of an array of a Hugging Face checkpoint; other names stay."""
        name = re.sub(r"^resnet\.encoder\.stages\.(\d+)\.layers", lambda found: f"layer{int(found[1]) + 1}", name)
        name = re.sub(r"\.layer\.(\d+)\.convolution", lambda found: f".conv{int(found[1]) + 1}", name)
        name = re.sub(r"\.layer\.(\d+)\.normalization", lambda found: f".bn{int(found[1]) + 1}", name)
        name = name.replace("resnet.embedder.embedder.convolution", "conv1").replace("resnet.embedder.embedder.normalization", "bn1")
        name = name.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")
        return name.replace("classifier.1.", "fc.")


def _thin_out(x: Array) -> Array:
    """Every second row and column, between as many channels of zeros as there are: half of them before, half after."""
    half = x.shape[-1] // 2
    return jnp.pad(x[:, ::2, ::2], [(0, 0), (0, 0), (0, 0), (half, half)])


def stage(block: type[BasicBlock] | type[Bottleneck], inputs: int, width: int, depth: int, stride: int, rngs: nnx.Rngs) -> nnx.List:
    """`depth` blocks; the first changes size, with a 1 x 1 convolution on its shortcut where the shape changes."""
    outputs = width * block.expansion
    project = None
    if (inputs, stride) != (outputs, 1):
        project = nnx.Sequential(convolution(inputs, outputs, 1, stride=stride, rngs=rngs), nnx.BatchNorm(outputs, rngs=rngs))
    return nnx.List([block(inputs, width, stride, project, rngs), *(block(outputs, width, 1, None, rngs) for _ in range(depth - 1))])


def cifar_resnet20(rngs: nnx.Rngs | None = None) -> CifarResNet:
    """ResNet-20 for CIFAR-10 with fresh weights."""
    return CifarResNet(3, rngs or nnx.Rngs(0))


def cifar_resnet32(rngs: nnx.Rngs | None = None) -> CifarResNet:
    """ResNet-32 for CIFAR-10 with fresh weights."""
    return CifarResNet(5, rngs or nnx.Rngs(0))


def cifar_resnet44(rngs: nnx.Rngs | None = None) -> CifarResNet:
    """ResNet-44 for CIFAR-10 with fresh weights."""
    return CifarResNet(7, rngs or nnx.Rngs(0))


def cifar_resnet56(rngs: nnx.Rngs | None = None) -> CifarResNet:
    """ResNet-56 for CIFAR-10 with fresh weights."""
    return CifarResNet(9, rngs or nnx.Rngs(0))


def cifar_resnet110(rngs: nnx.Rngs | None = None) -> CifarResNet:
    """ResNet-110 for CIFAR-10 with fresh weights."""
    return CifarResNet(18, rngs or nnx.Rngs(0))


def resnet18(rngs: nnx.Rngs | None = None) -> ResNet:
    """ResNet-18 for ImageNet with fresh weights."""
    return ResNet(BasicBlock, (2, 2, 2, 2), rngs or nnx.Rngs(0))


def resnet34(rngs: nnx.Rngs | None = None) -> ResNet:
    """ResNet-34 for ImageNet with fresh weights."""
    return ResNet(BasicBlock, (3, 4, 6, 3), rngs or nnx.Rngs(0))


def resnet50(rngs: nnx.Rngs | None = None) -> ResNet:
    """ResNet-50 for ImageNet with fresh weights."""
    return ResNet(Bottleneck, (3, 4, 6, 3), rngs or nnx.Rngs(0))


def resnet101(rngs: nnx.Rngs | None = None) -> ResNet:
    """ResNet-101 for ImageNet with fresh weights."""
    return ResNet(Bottleneck, (3, 4, 23, 3), rngs or nnx.Rngs(0))


def resnet152(rngs: nnx.Rngs | None = None) -> ResNet:
    """ResNet-152 for ImageNet with fresh weights."""
    return ResNet(Bottleneck, (3, 8, 36, 3), rngs or nnx.Rngs(0))
