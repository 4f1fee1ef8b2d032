"""Maker of the golden Keras files: one small network as Keras itself writes it, and what it computes.

    KERAS_BACKEND=jax python -m tests.io.keras_small

needs Keras 3, which nothing else here does, and writes tests/golden/keras_small.{keras,h5,npz}.
"""

import pathlib

import keras
import numpy as np

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def main() -> None:
    """Write the golden files."""
    layers = keras.layers
    layers.Conv2D(1, 1)  # so that the first convolution of the network is called conv2d_1, as in a process that made others before
    network = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(2, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(2),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(4, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(3, use_bias=False),
        ]
    )
    generator = np.random.default_rng(0)
    network.set_weights([generator.uniform(0.1, 1, weight.shape) for weight in network.get_weights()])
    network.save(GOLDEN / "keras_small.keras")
    network.save(GOLDEN / "keras_small.h5")
    x = generator.random((4, 6, 6, 1), np.float32)
    np.savez(GOLDEN / "keras_small.npz", x=x, logits=np.asarray(network(x, training=False)), keras_version=keras.__version__)


if __name__ == "__main__":
    main()
