"""The networks of the paper's first environment in Keras, their original framework, and the maker of the golden file with their values.

    KERAS_BACKEND=torch python -m tests.models.zoo_keras

This needs Keras 3, which only `tests.io.keras_small` needs too. It writes tests/golden/zoo_keras.npz: logits for the images of
`zoo_NAME.npz` with its drawn weights, and the gradient of the cross-entropy of its class, in float64 (see `test_zoo`).
"""

import json
import pathlib

import keras
import numpy as np
import torch
from keras import layers

from . import drawn

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def lenet_env1() -> keras.Model:
    """LeNet for MNIST; 1,218,634 parameters."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(10),
        ]
    )


def convnet12() -> keras.Model:
    """The 12-layer network for CIFAR-10; 2,915,114 parameters."""
    blocks = [
        layer
        for width in (32, 64, 128)
        for layer in (
            layers.Conv2D(width, 3, padding="same", activation="relu"),
            layers.Conv2D(width, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
        )
    ]
    hidden = [layer for width in (1024, 512) for layer in (layers.Dropout(0.5), layers.Dense(width, activation="relu"))]
    return keras.Sequential([keras.Input((32, 32, 3)), *blocks, layers.Flatten(), *hidden, layers.Dropout(0.5), layers.Dense(10)])


def main() -> None:
    """Write the golden file."""
    keras.config.set_floatx("float64")
    found = {"keras_version": np.array(keras.__version__)}
    for make in (lenet_env1, convnet12):
        name = make.__name__
        with np.load(GOLDEN / f"zoo_{name}.npz", allow_pickle=False) as file:
            golden = dict(file)
        arrays = drawn.weights(json.loads(str(golden["shapes"])), float(golden["gain"]))
        network = make()
        network.set_weights([np.transpose(array, (*range(2, array.ndim), 1, 0)) if array.ndim > 1 else array for array in arrays.values()])
        x = torch.tensor(golden["x"], dtype=torch.float64, requires_grad=True)
        logits = network(x, training=False)
        torch.nn.functional.cross_entropy(logits, torch.tensor(golden["second"]).long(), reduction="sum").backward()
        found |= {f"{name}_logits": logits.detach().float().numpy(), f"{name}_gradient": x.grad.float().numpy()}
    np.savez_compressed(GOLDEN / "zoo_keras.npz", **found)


if __name__ == "__main__":
    main()
