"""Maker of the golden Keras files: one small network in all file formats of Keras, and its outputs.

    KERAS_BACKEND=jax python -m tests.io.keras_small

This needs Keras 3, which no test needs, and writes tests/golden/keras_{small,nested,subclassed}.*.
"""

import pathlib

import keras
import numpy as np

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


class Subclassed(keras.Model):
    """The same network as a class of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = keras.layers.Conv2D(2, 3, activation="relu")
        self.norm = keras.layers.BatchNormalization()  # Keras calls what comes after `layers` in the alphabet by its kind
        self.pool, self.flatten = keras.layers.MaxPooling2D(2), keras.layers.Flatten()
        self.fc1 = keras.layers.Dense(4, activation="relu")
        self.fc2 = keras.layers.Dense(3, use_bias=False)

    def call(self, x):
        """Logits of a batch."""
        return self.fc2(self.fc1(self.flatten(self.pool(self.norm(self.conv(x))))))


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
    network.save_weights(GOLDEN / "keras_small.weights.h5")
    x = generator.random((4, 6, 6, 1), np.float32)
    nested = keras.Sequential([keras.Input((6, 6, 1)), keras.Sequential(network.layers[:-3]), *network.layers[-3:]])
    nested.save(GOLDEN / "keras_nested.keras")
    nested.save(GOLDEN / "keras_nested.h5")
    nested.save_weights(GOLDEN / "keras_nested.weights.h5")
    subclassed = Subclassed()
    subclassed(x)
    for name, layer in zip(("conv", "norm", "fc1", "fc2"), (layer for layer in network.layers if layer.weights), strict=True):
        getattr(subclassed, name).set_weights(layer.get_weights())
    subclassed.save(GOLDEN / "keras_subclassed.keras")
    subclassed.save_weights(GOLDEN / "keras_subclassed.weights.h5")
    for other in (nested, subclassed):
        np.testing.assert_allclose(other(x, training=False), network(x, training=False), rtol=1e-6)
    np.savez(GOLDEN / "keras_small.npz", x=x, logits=np.asarray(network(x, training=False)), keras_version=keras.__version__)


if __name__ == "__main__":
    main()
