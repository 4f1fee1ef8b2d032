"""The networks of the works, in PyTorch and in Flax, and the numbers of lanes to try with each."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from a2d_jax.types import Classifier


class Network(NamedTuple):
    """A network by its Flax factory and its PyTorch module, which takes images `n h w c`; importing this imports neither."""

    factory: str
    torch: Callable[[], "nn.Module"]
    lanes: tuple[int, ...]  # of ours, the quickest to try first
    torch_lanes: tuple[int, ...]
    channels: int  # of an image
    classes: int


def _lenet5() -> "nn.Module":
    from experiments.speed.torch_baseline import LeNet5

    return LeNet5()


def _resnet20() -> "nn.Module":
    from experiments.speed.torch_networks import CifarResNet

    return CifarResNet(3)


def _resnet50() -> "nn.Module":
    from experiments.speed.torch_networks import Bottleneck, ResNet

    return ResNet(Bottleneck, (3, 4, 6, 3))


def _efficientnet() -> "nn.Module":
    from experiments.speed.torch_networks import EfficientNetLite0

    return EfficientNetLite0()


NETWORKS: dict[str, Network] = {
    "lenet5": Network("models.lenet:lenet5", _lenet5, (64, 128, 32), (128, 64, 256, 32), 1, 10),
    "cifar_resnet20": Network("models.resnet:cifar_resnet20", _resnet20, (8, 16, 32), (32, 16, 64), 3, 10),
    "resnet50": Network("models.resnet:resnet50", _resnet50, (4, 2, 8), (8, 4, 16), 3, 1000),
    "efficientnet_lite0": Network("models.efficientnet:efficientnet_lite0", _efficientnet, (4, 2, 8), (8, 4, 16), 3, 1000),
}


ACCELERATOR_LANES = (256, 1024, 64, 4096)
"""Of all networks and both frameworks: a card is full at a few hundred images, or is not."""


def our_lanes(network: str) -> tuple[int, ...]:
    """Lanes of ours on the device that JAX uses, the quickest to try first."""
    return NETWORKS[network].lanes if jax.default_backend() == "cpu" else ACCELERATOR_LANES


def flax_classifier(network: str, arrays: Mapping[str, np.ndarray]) -> "Classifier":
    """The network as a `Classifier`, with the given weights."""
    from flax import nnx

    from a2d_jax import classifiers
    from a2d_jax.io import convert
    from a2d_jax.io.checkpoints import import_factory

    return classifiers.from_nnx(convert.to_module(dict(arrays), nnx.eval_shape(import_factory(NETWORKS[network].factory))))


def torch_module(network: str, arrays: Mapping[str, np.ndarray]) -> Any:
    """The network in PyTorch, frozen, with the given weights, for images `n c h w`."""
    import torch

    inner = NETWORKS[network].torch()
    weights = {name.replace(".0.", ".") if network == "lenet5" else name: torch.tensor(array) for name, array in arrays.items()}
    inner.load_state_dict(inner.state_dict() | weights)
    module = inner if network == "lenet5" else torch.nn.Sequential(_channels_last(), inner)
    return module.eval().requires_grad_(False)


def _channels_last() -> "nn.Module":
    """Images `n c h w` as `n h w c`: a view, and none is copied where memory is in that order already."""
    from torch import nn

    class ChannelsLast(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.permute(0, 2, 3, 1)

    return ChannelsLast()
