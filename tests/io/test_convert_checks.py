"""Weights that fit but would be wrong: the order of a flattened map, and the settings in a Keras file."""

import json
import pathlib
import zipfile

import numpy as np
import pytest
import torch
from flax import nnx

from a2d_jax import classifiers
from a2d_jax.errors import BadInput
from a2d_jax.io import convert
from tests.io.test_convert import GOLDEN, KerasNet


class Net(nnx.Module):
    """A convolution, a pooling, a flattened map, a dense layer: as a user writes it who has not read the page on converting."""

    input_shape = (6, 8, 1)

    def __init__(self, rngs=None):
        rngs = rngs or nnx.Rngs(0)
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(48, rngs=rngs)
        self.fc = nnx.Linear(48, 3, rngs=rngs)

    def features(self, x):
        return nnx.max_pool(nnx.relu(self.conv(x)), (2, 2), (2, 2))

    def __call__(self, x):
        """Logits of a batch."""
        return self.fc(self.norm(self.features(x).reshape(len(x), -1)))


class Said(Net):
    """Says what PyTorch's order is."""

    flattened = {"norm": (4, 3, 4), "fc": (4, 3, 4)}  # noqa: RUF012 - as a user would write it


class SaidWrong(Net):
    """Says it in the order of Flax."""

    flattened = {"norm": (3, 4, 4), "fc": (4, 3, 4)}  # noqa: RUF012 - as above


class OwnOrder(Net):
    """Says that the file has Flax's order."""

    flattened = {"norm": None, "fc": None}  # noqa: RUF012 - as above


class Turned(Net):
    """Flattens as PyTorch does."""

    def __call__(self, x):
        """Logits of a batch."""
        return self.fc(self.norm(self.features(x).transpose(0, 3, 1, 2).reshape(len(x), -1)))


class Pooled(Net):
    """Reads the mean of the map: there is no order."""

    def __init__(self, rngs=None):
        super().__init__(rngs)
        self.norm, self.fc = nnx.BatchNorm(4, rngs=rngs or nnx.Rngs(0)), nnx.Linear(4, 3, rngs=rngs or nnx.Rngs(0))

    def __call__(self, x):
        """Logits of a batch."""
        return self.fc(self.norm(self.features(x).mean((1, 2))))


class Deep(nnx.Module):
    """The dense layer lies in a Sequential, where no class could say anything about it; the shape of images is not said."""

    def __init__(self, rngs=None):
        rngs = rngs or nnx.Rngs(0)
        self.features = nnx.Sequential(nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.relu)
        self.head = nnx.Sequential(nnx.Dropout(0.5, rngs=rngs), nnx.Linear(4 * 28 * 28, 3, rngs=rngs))

    def __call__(self, x):
        """Logits of a batch."""
        return self.head(self.features(x).reshape(len(x), -1))


class SaidDeep(Deep):
    """Names the layer by its path."""

    flattened = {"head.layers.1": (4, 28, 28)}  # noqa: RUF012 - as above


@pytest.fixture(scope="module")
def reference():
    """The network in PyTorch, in evaluation mode, with batch norm statistics of its own."""
    torch.manual_seed(0)
    net = torch.nn.Sequential()
    net.conv, net.norm, net.fc = torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.BatchNorm1d(48), torch.nn.Linear(48, 3)

    def forward(x):
        return net.fc(net.norm(torch.nn.functional.max_pool2d(torch.relu(net.conv(x)), 2).flatten(1)))

    forward(3 * torch.randn(32, 1, 6, 8))
    return net.eval(), forward


def logits(net, module, x):
    arrays = {name: value.numpy() for name, value in net.state_dict().items() if "num_batches" not in name}
    return classifiers.predict(classifiers.from_nnx(convert.to_module(arrays, nnx.eval_shape(module))), x)


def test_a_flattened_map_must_be_declared(reference):
    """A layer that reads a flattened map is refused until its class says in which order the file has it; then logits are PyTorch's."""
    net, forward = reference
    x = np.random.default_rng(0).random((5, 6, 8, 1), np.float32)
    expected = forward(torch.tensor(x.transpose(0, 3, 1, 2))).detach().numpy()
    with pytest.raises(
        BadInput, match=r'norm reads its inputs, got nothing about a flattened map of 3 x 4 x 4 .*add flattened = \{"norm": \(4, 3, 4\)\}'
    ) as caught:
        logits(net, Net, x)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match=r"to say \(4, 3, 4\) \(c h w\) for norm, got \(3, 4, 4\)"):
        logits(net, SaidWrong, x)
    np.testing.assert_allclose(logits(net, Said, x), expected, atol=1e-5)
    np.testing.assert_allclose(logits(net, Turned, x), expected, atol=1e-5)
    assert np.abs(logits(net, OwnOrder, x) - expected).max() > 0.01  # what used to be silent


def test_no_flattened_map_no_question():
    """A pooled map has no order, and nothing is asked."""
    arrays = {"conv.weight": np.zeros((4, 1, 3, 3)), "conv.bias": np.zeros(4), "fc.weight": np.zeros((3, 4)), "fc.bias": np.zeros(3)}
    arrays |= {f"norm.{name}": np.ones(4) for name in ("weight", "bias", "running_mean", "running_var")}
    convert.to_module({name: array.astype(np.float32) for name, array in arrays.items()}, nnx.eval_shape(Pooled))


def test_layers_deep_down():
    """A layer in a Sequential is named by its path, also where the module does not say the shape of its images."""
    net = torch.nn.Sequential()
    net.features = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1))
    net.head = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(4 * 28 * 28, 3))
    x = np.random.default_rng(0).random((2, 28, 28, 3), np.float32)
    with pytest.raises(BadInput, match=r'expected Deep to say how head.layers.1 reads.*\{"head.layers.1": \(4, 28, 28\)\}'):
        logits(net, Deep, x)
    net.eval()
    expected = net.head(torch.relu(net.features(torch.tensor(x.transpose(0, 3, 1, 2)))).flatten(1)).detach().numpy()
    np.testing.assert_allclose(logits(net, SaidDeep, x), expected, atol=1e-5)


def changed(path, **settings):
    """The golden file of Keras with other settings of its layers, by class."""
    with zipfile.ZipFile(GOLDEN / "keras_small.keras") as archive, zipfile.ZipFile(path, "w") as other:
        config = json.loads(archive.read("config.json"))
        layers = config["config"]["layers"]
        for layer in layers:
            layer["config"] |= settings.get(layer["class_name"], {})
        layers[-1]["config"] |= settings.get("last", {})
        other.writestr("config.json", json.dumps(config))
        other.writestr("model.weights.h5", archive.read("model.weights.h5"))
    return path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"BatchNormalization": {"epsilon": 1e-5}}, r"batch_normalization has epsilon 1e-05, the module 0.001"),
        ({"Conv2D": {"strides": [2, 2]}}, r"conv2d_1 has strides \(2, 2\), the module \(1, 1\)"),
        ({"Conv2D": {"padding": "same"}}, r"conv2d_1 has padding same, the module VALID"),
        ({"Conv2D": {"dilation_rate": [2, 2]}}, r"conv2d_1 has dilation_rate \(2, 2\)"),
        ({"Conv2D": {"groups": 2}}, r"conv2d_1 has groups 2"),
        ({"Conv2D": {"data_format": "channels_first"}}, r"conv2d_1 has data_format channels_first"),
        ({"Conv2D": {"activation": "tanh"}}, r"the file has the activation tanh, which the module lacks"),
    ],
)
def test_settings_of_keras_are_compared(tmp_path, settings, message):
    """What the file states and the module does otherwise is refused, or noted where logits are compared."""
    path = changed(tmp_path / "net.keras", **settings)

    class Shaped(KerasNet):
        input_shape = (6, 6, 1)

    with pytest.raises(BadInput, match=message):
        convert.convert(path, nnx.eval_shape(Shaped))
    assert any("differs from Shaped" in note for note in convert.convert(path, nnx.eval_shape(Shaped), verified=True).notes)


def test_notes_on_keras(tmp_path):
    """A softmax at the end and weights without a model are told; the file as it is gives no note."""
    assert convert.convert(GOLDEN / "keras_small.keras", nnx.eval_shape(KerasNet)).notes == []
    path = changed(tmp_path / "net.keras", last={"activation": "softmax"})
    (note,) = convert.convert(path, nnx.eval_shape(KerasNet)).notes
    assert "ends in a softmax; a classifier must leave it out" in note
    (note,) = convert.convert(GOLDEN / "keras_small.weights.h5", nnx.eval_shape(KerasNet)).notes
    assert "weights alone" in note


def test_the_page_names_what_exists():
    """The page on converting shows options and attributes that exist."""
    page = (pathlib.Path(__file__).parents[2] / "docs" / "converting.md").read_text()
    for name in ("flattened", "torch_names", "keras_layers", "--check", "--key", "--leave-out"):
        assert name in page
