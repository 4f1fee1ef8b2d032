"""LeNet-5, the first MNIST test digits, and the results of other implementations on them (tests/golden/make_gradient_attacks.py)."""

import functools
import pathlib

import numpy as np
from flax import nnx

from a2d_jax import classifiers
from a2d_jax.io import convert
from a2d_jax.types import Classifier
from models.lenet import lenet5

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@functools.cache
def lenet() -> Classifier:
    """The trained LeNet-5."""
    golden = np.load(GOLDEN / "lenet5_mnist.npz", allow_pickle=False)
    arrays = {name: golden[name] for name in golden.files if name.startswith(("conv", "fc"))}
    return classifiers.from_nnx(convert.to_module(arrays, nnx.eval_shape(lenet5)))


@functools.cache
def golden() -> dict[str, np.ndarray]:
    """The golden values, with the digits as `x` in [0, 1]."""
    values = dict(np.load(GOLDEN / "gradient_attacks.npz", allow_pickle=False))
    return values | {"x": values["digits"].astype(np.float32) / 255}
