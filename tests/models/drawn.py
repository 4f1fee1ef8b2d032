"""Weights and images for networks without a checkpoint: drawn from seeds that derive from names, so that they need no file."""

import pathlib
import zlib
from collections.abc import Mapping

import h5py
import numpy as np


def weights(shapes: Mapping[str, tuple[int, ...]], gain: float) -> dict[str, np.ndarray]:
    """Arrays in PyTorch's layout: kernels of variance `gain` over fan-in, batch norm near 1 and 0, small biases."""
    return {name: _array(name, tuple(shape), gain) for name, shape in shapes.items()}


def keras_file(arrays: Mapping[str, np.ndarray], path: pathlib.Path) -> pathlib.Path:
    """The same convolutions and dense layers, in order, as Keras 2 writes a model; layers without weights between them."""
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights")
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in arrays))
        group.attrs["layer_names"] = [name for layer in layers for name in (f"{layer}_7".encode(), f"after_{layer}".encode())]
        for layer in layers:
            group.create_group(f"after_{layer}").attrs["weight_names"] = []
            inside = group.create_group(f"{layer}_7")
            inside.attrs["weight_names"] = [f"{layer}_7/kernel:0".encode(), f"{layer}_7/bias:0".encode()]
            kernel = arrays[f"{layer}.weight"]
            inside[f"{layer}_7/kernel:0"] = np.transpose(kernel, (*range(2, kernel.ndim), 1, 0))
            inside[f"{layer}_7/bias:0"] = arrays[f"{layer}.bias"]
    return path


def images(size: int, channels: int, n: int = 1) -> np.ndarray:
    """Waves with some noise, `n size size channels` in [0, 1]."""
    row, column = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    waves = [np.sin(0.3 * row * (k + 1) + 0.2 * column * (c + 1) + k) for k in range(n) for c in range(channels)]
    smooth = 0.5 + 0.4 * np.stack(waves).reshape(n, channels, size, size).transpose(0, 2, 3, 1)
    return (smooth + 0.1 * np.random.default_rng(0).uniform(-1, 1, smooth.shape)).astype(np.float32)


def _array(name: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) > 1:
        return (generator.standard_normal(shape, np.float32) * np.float32(np.sqrt(gain / np.prod(shape[1:])))).astype(np.float32)
    if name.endswith(("running_var", "weight")):
        return generator.uniform(0.5, 1.5, shape).astype(np.float32)
    return (0.1 * generator.standard_normal(shape)).astype(np.float32)
