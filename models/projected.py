"""ResNet-20 for CIFAR-10 whose shortcuts have weights where the width changes (option B), in Flax NNX (272,474 parameters).

The network is from He et al., arXiv 1512.03385, section 4.2, with a 1 x 1 convolution and batch norm on these shortcuts. EhanW
(advrob-cifar10) published weights from normal training (90.01 % on the test set) and from training with PGD (84.18 %); the names of these
arrays are accepted.
"""

import re
from typing import ClassVar

from flax import nnx
from jax import Array

from a2d_jax.io.class_names import CIFAR10_CLASSES
from models.layers import IMAGENET_MEAN, IMAGENET_SD, convolution, normalise
from models.resnet import BasicBlock, stage


class ProjectedResNet(nnx.Module):
    """Three stages of three basic blocks each, of 16, 32 and 64 channels."""

    input_shape: ClassVar = (32, 32, 3)
    class_names: ClassVar = CIFAR10_CLASSES
    preprocessing: ClassVar = "(x - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225), inside the module"

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = convolution(3, 16, 3, rngs=rngs)
        self.bn1 = nnx.BatchNorm(16, rngs=rngs)
        self.layer1 = stage(BasicBlock, 16, 16, 3, 1, rngs)
        self.layer2 = stage(BasicBlock, 16, 32, 3, 2, rngs)
        self.layer3 = stage(BasicBlock, 32, 64, 3, 2, rngs)
        self.fc = nnx.Linear(64, 10, rngs=rngs)

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
        out["logits"] = self.fc(x)
        return out

    @staticmethod
    def rename(name: str) -> str:
        """Name here of an array of advrob-cifar10; other names stay."""
        return re.sub(r"\b(conv|bn)_(\d)", r"\1\2", re.sub(r"^stage_(\d)", r"layer\1", name))


def projected_resnet20(rngs: nnx.Rngs | None = None) -> ProjectedResNet:
    """ResNet-20 with weights on its shortcuts, with fresh weights."""
    return ProjectedResNet(rngs or nnx.Rngs(0))
