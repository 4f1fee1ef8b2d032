"""LeNet-5 in PyTorch, the reference for ours, and the maker of its golden values.

    python -m tests.models.lenet_torch CHECKPOINT MNIST_TEST_IMAGES MNIST_TEST_LABELS

This writes tests/golden/lenet5_mnist.npz. It contains the arrays of the original checkpoint (PyTorch's names and layouts, and the sha256 of
the source), inputs made by a formula, and the first 16 MNIST test digits with their labels. It also contains PyTorch's results: logits, and
the gradient of the cross-entropy of the runner-up class to the input.
"""

import hashlib
import pathlib
import sys

import numpy as np
import torch
from torch.nn import functional

from a2d_jax.io.convert import read_arrays

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "lenet5_mnist.npz"


def logits(arrays: dict[str, np.ndarray], x: torch.Tensor) -> torch.Tensor:
    """Logits of images `n 28 28 1` in [0, 1]."""
    a = {name: torch.tensor(array) for name, array in arrays.items()}
    x = (x.permute(0, 3, 1, 2) - 0.1307) / 0.3081
    x = functional.max_pool2d(functional.relu(functional.conv2d(x, a["conv1.0.weight"], a["conv1.0.bias"], padding=2)), 2)
    x = functional.max_pool2d(functional.relu(functional.conv2d(x, a["conv2.0.weight"], a["conv2.0.bias"])), 2)
    x = torch.flatten(x, 1)
    x = functional.relu(functional.linear(x, a["fc1.0.weight"], a["fc1.0.bias"]))
    x = functional.relu(functional.linear(x, a["fc2.0.weight"], a["fc2.0.bias"]))
    return functional.linear(x, a["fc3.weight"], a["fc3.bias"])


def logits_and_gradient(arrays: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, runner-up class, and input gradient of the cross-entropy of that class."""
    image = torch.tensor(x, requires_grad=True)
    values = logits(arrays, image)
    second = values.argsort(dim=1)[:, -2]
    functional.cross_entropy(values, second, reduction="sum").backward()
    return values.detach().numpy(), second.numpy(), image.grad.numpy()


def waves() -> np.ndarray:
    """Four smooth images that need no file."""
    row, column = np.meshgrid(np.arange(28), np.arange(28), indexing="ij")
    return np.stack([0.5 + 0.5 * np.sin(0.3 * row * k + 0.2 * column + k) for k in range(1, 5)]).astype(np.float32)[..., None]


def main(checkpoint: str, images: str, labels: str) -> None:
    """Write the golden file."""
    source = pathlib.Path(checkpoint)
    arrays = read_arrays(source)
    digits = np.frombuffer(pathlib.Path(images).read_bytes(), np.uint8, offset=16).reshape(-1, 28, 28, 1)[:16]
    label = np.frombuffer(pathlib.Path(labels).read_bytes(), np.uint8, offset=8)[:16]
    x = np.concatenate([waves(), digits.astype(np.float32) / 255])
    values, second, gradient = logits_and_gradient(arrays, x)
    np.savez_compressed(
        GOLDEN,
        digits=digits,
        label=label,
        logits=values,
        second=second,
        gradient=gradient,
        source_sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
        torch_version=str(torch.__version__),
        **arrays,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
