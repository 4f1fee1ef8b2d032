"""Weights from files of PyTorch, safetensors and Keras in Flax modules."""

import collections
import io
import json
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from flax import nnx

from a2d_jax import classifiers
from a2d_jax.errors import BadInput
from a2d_jax.io import convert, convert_files, keras_files
from a2d_jax.nn import max_pool

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


class Block(nnx.Module):
    """A child that PyTorch keeps in a Sequential under another name."""

    torch_names = {"conv": "0", "norm": "1"}  # noqa: RUF012 - as a user would write it

    def __init__(self, rngs):
        self.conv = nnx.Conv(4, 4, (3, 3), padding=1, feature_group_count=2, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)


class Net(nnx.Module):
    """Plain, grouped and one-dimensional names, a list, batch norm, dropout and a flattened map."""

    flattened = {"head": (4, 3, 2)}  # noqa: RUF012 - as above

    def __init__(self, rngs=None):
        rngs = rngs or nnx.Rngs(0)
        self.stem = nnx.Conv(2, 4, (3, 2), padding="VALID", rngs=rngs)
        self.blocks = nnx.List([Block(rngs), Block(rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(24, 3, rngs=rngs)

    def __call__(self, x):
        """Logits of a batch."""
        x = self.stem(x)
        for block in self.blocks:
            x = nnx.relu(block.norm(block.conv(x)))
        return self.head(self.dropout(x.reshape(len(x), -1)))


class KerasNet(nnx.Module):
    """The network of `keras_small`."""

    keras_layers = ("conv", "norm", "fc1", "fc2")

    def __init__(self, rngs=None):
        rngs = rngs or nnx.Rngs(0)
        self.conv = nnx.Conv(1, 2, (3, 3), padding="VALID", rngs=rngs)
        self.norm = nnx.BatchNorm(2, epsilon=1e-3, rngs=rngs)
        self.fc1 = nnx.Linear(8, 4, rngs=rngs)
        self.fc2 = nnx.Linear(4, 3, use_bias=False, rngs=rngs)

    def __call__(self, x):
        """Logits of a batch."""
        x = max_pool(self.norm(nnx.relu(self.conv(x))), 2)
        return self.fc2(nnx.relu(self.fc1(x.reshape(len(x), -1))))


class TorchNet(torch.nn.Module):
    """The same network in PyTorch."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = torch.nn.Conv2d(2, 4, (3, 2))
        self.blocks = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, padding=1, groups=2), torch.nn.BatchNorm2d(4)) for _ in range(2)
        )
        self.head = torch.nn.Linear(24, 3)

    def forward(self, x):
        """Logits of a batch."""
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(block(x))
        return self.head(torch.flatten(x, 1))


@pytest.fixture(scope="module")
def reference():
    """A PyTorch network whose batch norm statistics are not the initial ones."""
    net = TorchNet()
    net(5 * torch.randn(16, 2, 5, 3) + 2)
    return net.eval()


def abstract():
    return nnx.eval_shape(Net)


def test_logits_equal_pytorch(reference, tmp_path):
    """A network of convolutions, groups, batch norm and a flattened map gives PyTorch's logits after conversion."""
    torch.save(reference.state_dict(), tmp_path / "net.pth")
    module = convert.to_module(convert.read_arrays(tmp_path / "net.pth"), abstract())
    x = np.random.default_rng(0).random((4, 5, 3, 2), np.float32)
    expected = reference(torch.tensor(x.transpose(0, 3, 1, 2))).detach().numpy()
    np.testing.assert_allclose(classifiers.predict(classifiers.from_nnx(module), x), expected, atol=1e-5)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.th", "net.pkl"])
def test_every_form_of_a_torch_file(reference, tmp_path, legacy, wrapper, name):
    """Old and new format, training checkpoints and data-parallel names all give the same arrays."""
    state = {f"module.{key}": value for key, value in reference.state_dict().items()}
    content = state if wrapper is None else {"epoch": 3, "best": 0.9, wrapper: collections.OrderedDict(state)}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    arrays = convert.read_arrays(tmp_path / name)
    expected = {key: value.numpy() for key, value in reference.state_dict().items() if "num_batches" not in key}
    assert arrays.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(arrays[key], array)


def test_safetensors(reference, tmp_path):
    """A safetensors file gives the arrays that were saved; half precision becomes float32 in the module."""
    state = {key: value.half() if value.is_floating_point() else value for key, value in reference.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "net.safetensors")
    module = convert.to_module(convert.read_arrays(tmp_path / "net.safetensors"), abstract())
    expected = reference.stem.weight.half().float().detach().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(module.stem.kernel[...], expected)
    assert module.stem.kernel.dtype == np.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_torch(tmp_path, dtype):
    """Half precision tensors, which NumPy may not know, arrive as float32 of the same value."""
    torch.save({"w": torch.arange(4, dtype=dtype) / 8}, tmp_path / "w.pt")
    np.testing.assert_array_equal(convert.read_arrays(tmp_path / "w.pt")["w"], np.arange(4, dtype=np.float32) / 8)


KERAS_FILES = {  # a name of an array in each
    "keras_small.keras": "batch_normalization.scale",
    "keras_small.h5": "batch_normalization.scale",
    "keras_small.weights.h5": "layers/batch_normalization/vars/0",
    "keras_nested.keras": "sequential_1.batch_normalization.scale",
    "keras_nested.h5": "sequential_1.sequential.batch_normalization.scale",
    "keras_nested.weights.h5": "layers/sequential/layers/batch_normalization/vars/0",
    "keras_subclassed.keras": "fc1/vars/0",
    "keras_subclassed.weights.h5": "fc1/vars/0",
}


@pytest.fixture(scope="module")
def keras_net():
    """The network that all golden files of Keras hold, and one program for it."""
    module = nnx.eval_shape(KerasNet)
    return module, np.load(GOLDEN / "keras_small.npz", allow_pickle=False)


@pytest.mark.parametrize("name", KERAS_FILES)
def test_files_written_by_keras(keras_net, name):
    """Every file that Keras writes gives its logits: models and weights alone, nested and subclassed, batch norm, no bias."""
    module, pinned = keras_net
    arrays = convert.read_arrays(GOLDEN / name)
    assert KERAS_FILES[name] in arrays
    network = classifiers.from_nnx(convert.to_module(arrays, module))
    np.testing.assert_allclose(classifiers.predict(network, pinned["x"]), pinned["logits"], rtol=1e-5)


def test_weights_of_keras_after_training(tmp_path):
    """Of a file of weights, what the optimizer keeps and the random state of dropout are left out; Keras's layers count from 0 to 10."""
    kernels = np.random.default_rng(0).random((12, 2, 2)).astype(np.float32)
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        file["optimizer/vars/0"] = np.zeros(2, np.float32)
        file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, np.uint32)
        for number, kernel in enumerate(kernels):
            file[f"layers/dense_{number}/vars/0" if number else "layers/dense/vars/0"] = kernel
    names = [f"fc{number}" for number in range(12)]
    module = nnx.eval_shape(lambda: nnx.Dict({name: nnx.Linear(2, 2, use_bias=False, rngs=nnx.Rngs(0)) for name in names}))
    module.keras_layers = nnx.static(tuple(names))
    module = convert.to_module(convert.read_arrays(tmp_path / "a.weights.h5"), module)
    np.testing.assert_array_equal([module[name].kernel[...] for name in names], kernels)


def test_hdf5_of_older_keras(tmp_path):
    """Files of Keras 2 (names end in `:0`, are bytes; the weights alone lie at the root) are read by the same layout."""
    arrays = convert.read_arrays(GOLDEN / "keras_small.h5")
    with h5py.File(tmp_path / "old.h5", "w") as file:
        layers = list(dict.fromkeys(name.partition(".")[0] for name in arrays))
        file.attrs["layer_names"] = [layer.encode() for layer in ("input", *layers)]
        file.create_group("input").attrs["weight_names"] = []
        keras = {ours: theirs for theirs, ours in keras_files.FLAX_NAMES.items() if ours != "bias"}
        for layer in layers:
            leaves = {name: name.partition(".")[2] for name in arrays if name.startswith(f"{layer}.")}
            old = {
                name: f"{layer}/{'beta' if 'norm' in layer and leaf == 'bias' else keras.get(leaf, leaf)}:0"
                for name, leaf in leaves.items()
            }
            file.create_group(layer).attrs["weight_names"] = [name.encode() for name in old.values()]
            for name, weight in old.items():
                file[layer][weight] = arrays[name]
    again = convert.read_arrays(tmp_path / "old.h5")
    assert list(again) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)


def test_wrong_keras_files_are_explained(tmp_path):
    """No weights, no order of layers, a module that gives no order, and arrays that do not fit each get their one line."""
    with zipfile.ZipFile(GOLDEN / "keras_small.keras") as archive:
        config = json.loads(archive.read("config.json"))
        with zipfile.ZipFile(tmp_path / "other.keras", "w") as other, h5py.File(tmp_path / "short.weights.h5", "w") as short:
            with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
                file.copy("layers", short)
            del short["layers/batch_normalization"]
            short.flush()
            config["config"]["layers"] = [layer for layer in config["config"]["layers"] if layer["class_name"] != "BatchNormalization"]
            other.writestr("config.json", json.dumps(config))
            other.write(tmp_path / "short.weights.h5", "model.weights.h5")
    with h5py.File(tmp_path / "none.weights.h5", "w") as file:
        file["vars/0"] = 3
    with pytest.raises(BadInput, match=r"expected weights of Keras in .*none.weights.h5, got none"):
        convert.read_arrays(tmp_path / "none.weights.h5")
    with h5py.File(tmp_path / "names.weights.h5", "w") as file:
        for name, array in convert.read_arrays(GOLDEN / "keras_subclassed.keras").items():
            file[name.replace("fc1", "head").replace("fc2", "last")] = array
    with pytest.raises(BadInput, match=r"expected layers called fc1, fc2, or numbered.* got head, last, whose order.*save the whole model"):
        convert.to_module(convert.read_arrays(tmp_path / "names.weights.h5"), nnx.eval_shape(KerasNet))
    with pytest.raises(BadInput, match=r"norm.scale \(2,\) is missing"):
        convert.to_module(convert.read_arrays(tmp_path / "short.weights.h5"), nnx.eval_shape(KerasNet))
    with pytest.raises(BadInput, match="expected keras_layers of Net for arrays of Keras, got none"):
        convert.to_module(convert.read_arrays(GOLDEN / "keras_small.keras"), abstract())
    with pytest.raises(BadInput) as caught:
        convert.to_module(convert.read_arrays(tmp_path / "other.keras"), nnx.eval_shape(KerasNet))
    text = str(caught.value)
    assert "fc2.kernel (4, 3) is missing" in text  # the file has one layer less
    assert "dense.scale (2,) is missing" in text
    assert "dense_1.kernel is (4, 3) and should be (8, 4)" in text
    assert "dense.kernel (8, 4) is unexpected" in text


def test_sequential_children_have_no_name_of_their_own():
    """The members of an `nnx.Sequential` are matched to those of PyTorch's, functions counted: 0, 1 and 3 here."""
    module = nnx.eval_shape(
        lambda: nnx.Sequential(
            nnx.Conv(1, 2, (1, 1), rngs=nnx.Rngs(0)), nnx.BatchNorm(2, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        )
    )
    reference = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2), torch.nn.ReLU(), torch.nn.Linear(2, 3))
    arrays = {key: value.numpy() for key, value in reference.state_dict().items() if "num_batches" not in key}
    ours = convert.to_module(arrays, module)
    np.testing.assert_array_equal(ours.layers[3].kernel[...], reference[3].weight.detach().numpy().T)


def test_every_wrong_array_is_named(reference):
    """Missing, unexpected, misshapen and non-finite arrays are all named in one line, with both shapes."""
    arrays = {key: value.numpy().copy() for key, value in reference.state_dict().items() if "num_batches" not in key}
    del arrays["blocks.1.0.bias"]
    arrays["extra.weight"] = np.zeros((2, 3), np.float32)
    arrays["head.weight"] = np.zeros((3, 25), np.float32)
    arrays["stem.weight"] = np.zeros((4, 2, 3, 3), np.float32)
    arrays["blocks.0.1.running_var"][1] = np.nan
    with pytest.raises(BadInput) as caught:
        convert.to_module(arrays, abstract())
    text = str(caught.value)
    assert "\n" not in text
    assert "expected the arrays of Net" in text
    assert "blocks.1.0.bias (4,) is missing" in text
    assert "extra.weight (2, 3) is unexpected" in text
    assert "head.weight is (3, 25) and should be (3, 24)" in text
    assert "stem.weight is (4, 2, 3, 3) and should be (4, 2, 3, 2)" in text
    assert "blocks.0.1.running_var holds NaN or infinity" in text


def test_the_module_given_is_not_changed(reference):
    """Conversion returns a copy."""
    module = Net()
    before = np.asarray(module.stem.kernel[...])
    arrays = {key: value.numpy() for key, value in reference.state_dict().items() if "num_batches" not in key}
    convert.to_module(arrays, module)
    np.testing.assert_array_equal(module.stem.kernel[...], before)


class Attack:
    """Unpickling it runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("form", ["pickle", "torch", "torch legacy"])
def test_a_pickle_never_runs(tmp_path, form):
    """A pickle that asks for code is refused in one line and does not run."""
    attack = {"weight": torch.zeros(2), "x": Attack(f"touch {tmp_path}/ran")}
    path = tmp_path / "net.pkl"
    if form == "pickle":
        path.write_bytes(pickle.dumps(attack))
    else:
        torch.save(attack, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(BadInput, match=r"expected a file of tensors only.*save its state_dict") as caught:
        convert.read_arrays(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    os.system(f"touch {tmp_path}/ran")  # the command would have left its mark
    assert (tmp_path / "ran").exists()


def test_bad_files(tmp_path):
    """Missing, damaged, empty and foreign files give one line each."""
    good = tmp_path / "good.pt"
    torch.save({"w": torch.zeros(1000)}, good)
    cases = {
        "none.pt": (None, "does not exist"),
        "cut.pt": (good.read_bytes()[:300], "damaged or of another kind"),
        "empty.pt": (b"", "damaged or of another kind"),
        "cut.h5": (b"\x89HDF\r\n\x1a\n", "damaged or of another kind"),
        "cut.keras": (b"PK\x03\x04", "damaged or of another kind"),
        "cut.safetensors": (b"\x10\x00\x00", "damaged or of another kind"),
        "net.onnx": (b"x", "expected a PyTorch, safetensors or Keras checkpoint"),
    }
    for name, (content, message) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=message) as caught:
            convert.read_arrays(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {}, {"w": 3}, {"a": {"b": 3}}, {"loss": torch.tensor(0.5)}])
def test_no_state_dict(tmp_path, content):
    """Plain data that is no state dict is refused in one line."""
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(BadInput, match="expected a mapping of names to tensors"):
        convert.read_arrays(tmp_path / "net.pt")


@pytest.mark.parametrize("name", ["keras_small.keras", "keras_small.h5"])
def test_missing_package(monkeypatch, name):
    """Without the package that reads a file, the message says how to install it."""

    def absent(module, *_):
        raise ModuleNotFoundError(module)

    monkeypatch.setattr(convert_files.importlib, "import_module", absent)
    with pytest.raises(BadInput, match=r'package h5py to read .*pip install "a2d-jax\[convert\]"'):
        convert.read_arrays(GOLDEN / name)


def test_pytorch_is_not_needed(reference, tmp_path):
    """Files of PyTorch and safetensors are read where neither package is installed."""
    torch.save(reference.state_dict(), tmp_path / "net.pth")
    safetensors.torch.save_file(reference.state_dict(), tmp_path / "net.safetensors")
    program = (
        "import sys; sys.modules['torch'] = sys.modules['safetensors'] = None\n"
        "import pathlib, numpy as np\n"
        "from a2d_jax.io.convert import read_arrays\n"
        f"one, two = (read_arrays(pathlib.Path({str(tmp_path)!r}) / name) for name in ('net.pth', 'net.safetensors'))\n"
        "assert one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=pathlib.Path(__file__).parents[2])
