"""Values of the networks of `models/` in PyTorch (`experiments/speed/torch_networks.py`), and the maker of the golden files with them.

    python -m tests.models.zoo_torch

This writes tests/golden/zoo_NAME.npz: the names and shapes of the arrays, logits, and the gradient of the cross-entropy of the
runner-up class to the input, with drawn weights on drawn images.
"""

import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from experiments.speed.torch_networks import Basic, Bottleneck, CifarResNet, ConvNet12, EfficientNetLite0, GoogLeNet, LeNetEnv1, ResNet

from . import drawn

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


class Reference(NamedTuple):
    """A PyTorch network and the setting of its check; the factory in `models` has the same name."""

    module: str
    make: Callable[[], nn.Module]
    x: np.ndarray
    gain: float = 1.0


REFERENCES = {
    "lenet_env1": Reference("lenet", LeNetEnv1, drawn.images(28, 1, 2), 2.0),
    "convnet12": Reference("convnet", ConvNet12, drawn.images(32, 3, 2), 2.0),
    "googlenet_cifar10": Reference("googlenet", GoogLeNet, drawn.images(32, 3), 2.0),
    "efficientnet_lite0": Reference("efficientnet", EfficientNetLite0, drawn.images(40, 3)),
    "cifar_resnet110": Reference("resnet", lambda: CifarResNet(18), drawn.images(32, 3), 0.3),
    "resnet18": Reference("resnet", lambda: ResNet(Basic, (2, 2, 2, 2)), drawn.images(40, 3)),
    "resnet34": Reference("resnet", lambda: ResNet(Basic, (3, 4, 6, 3)), drawn.images(40, 3)),
    "resnet50": Reference("resnet", lambda: ResNet(Bottleneck, (3, 4, 6, 3)), drawn.images(40, 3)),
    "resnet101": Reference("resnet", lambda: ResNet(Bottleneck, (3, 4, 23, 3)), drawn.images(40, 3), 0.5),
    "resnet152": Reference("resnet", lambda: ResNet(Bottleneck, (3, 8, 36, 3)), drawn.images(40, 3), 0.3),
}


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays that evaluation reads."""
    return {name: tuple(array.shape) for name, array in network.state_dict().items() if not name.endswith("num_batches_tracked")}


def logits_and_gradient(network: nn.Module, arrays: dict[str, np.ndarray], x: np.ndarray) -> dict[str, np.ndarray]:
    """Logits, runner-up class, and input gradient of the cross-entropy of that class, computed in float64 (see `test_zoo`)."""
    network.load_state_dict(network.state_dict() | {name: torch.tensor(array) for name, array in arrays.items()})
    network.double().eval()
    image = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    logits = network(image)
    second = logits.argsort(dim=1)[:, -2]
    functional.cross_entropy(logits, second, reduction="sum").backward()
    found = {"logits": logits.detach(), "gradient": image.grad}
    return {name: value.float().numpy() for name, value in found.items()} | {"second": second.int().numpy()}


def main() -> None:
    """Write the golden files."""
    for name, reference in REFERENCES.items():
        network = reference.make()
        values = logits_and_gradient(network, drawn.weights(shapes(network), reference.gain), reference.x)
        found = {"shapes": json.dumps(shapes(network)), "x": reference.x, "gain": reference.gain, **values}
        np.savez_compressed(GOLDEN / f"zoo_{name}.npz", module=reference.module, torch_version=str(torch.__version__), **found)


if __name__ == "__main__":
    main()
