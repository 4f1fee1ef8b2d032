"""PyTorch files as training scripts write them: their tensors are found, and no code in them runs."""

import argparse
import collections
import contextlib
import functools
import json
import os
import pathlib
import pickle

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from a2d_jax.errors import BadInput
from a2d_jax.io import convert
from tests.io.test_convert import GOLDEN, KerasNet


class Net(nnx.Module):
    """Two dense layers."""

    def __init__(self, rngs=None):
        rngs = rngs or nnx.Rngs(0)
        self.fc1 = nnx.Linear(6, 4, rngs=rngs)
        self.fc2 = nnx.Linear(4, 3, rngs=rngs)


class Tied(Net):
    """One layer under two names."""

    def __init__(self, rngs=None):
        super().__init__(rngs)
        self.again = self.fc2


class TorchNet(torch.nn.Module):
    """The same in PyTorch."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.fc1, self.fc2 = torch.nn.Linear(6, 4), torch.nn.Linear(4, 3)

    def forward(self, x):
        """Logits of a batch."""
        return self.fc2(torch.relu(self.fc1(x)))


class Settings:
    """What a training script keeps beside the weights."""

    def __init__(self):
        self.rate, self.path, self.kind = 0.1, pathlib.PurePosixPath("a/b"), collections.Counter("ab")


def state(seed=0, prefix="", width=None):
    found = TorchNet(seed).state_dict()
    return {prefix + name: value if width is None else value.to(width) for name, value in found.items()}


abstract = functools.cache(nnx.eval_shape)
PLACES = st.integers(0, 2**20)
"""In a file, taken modulo its length, which differs from run to run."""


def converted(path, module=Net, **how):
    return convert.convert(path, abstract(module), **how)


def same(module, seed=0):
    expected = state(seed)
    np.testing.assert_array_equal(module.fc1.kernel[...], expected["fc1.weight"].numpy().T)
    np.testing.assert_array_equal(module.fc2.kernel[...], expected["fc2.weight"].numpy().T)
    np.testing.assert_array_equal(module.fc2.bias[...], expected["fc2.bias"].numpy())


CONTENTS = {
    "net": lambda: {"net": state(), "acc": 93.1},
    "prefixed": lambda: {"net": state(prefix="module."), "acc": 93.1},
    "compiled": lambda: state(prefix="_orig_mod.module."),
    "compiled inside": lambda: {name.replace("fc1.", "fc1._orig_mod."): value for name, value in state().items()},
    "lightning": lambda: {"state_dict": state(prefix="model."), "hyper_parameters": argparse.Namespace(lr=0.1)},
    "two prefixes": lambda: {"state_dict": state(prefix="module.model."), "best": torch.tensor(71.0)},
    "deep": lambda: {"state": {"model": {"weights": state()}}, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
    "whole module": TorchNet,
    "whole module inside": lambda: {"model": TorchNet(), "epoch": 3},
    "parameters": lambda: {name: torch.nn.Parameter(value) for name, value in state().items()},
    "strange neighbours": lambda: {"state_dict": state(), "opt": Settings(), "call": functools.partial(print, 1), "np": np.float64(3)},
    "turned tensors": lambda: {name: value.T.contiguous().T if value.ndim == 2 else value for name, value in state().items()},
    "parts of one storage": lambda: {name: torch.stack([value, value + 1])[0] for name, value in state().items()},
    "numpy": lambda: {name: value.numpy() for name, value in state().items()},
    "double": lambda: state(width=torch.float64),
    "layers as mappings": lambda: {
        "fc1": {"weight": state()["fc1.weight"], "bias": state()["fc1.bias"]},
        "fc2": TorchNet().fc2.state_dict(),
    },
}


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("name", CONTENTS)
def test_weights_are_found_wherever_they_lie(tmp_path, name, form):
    """Under any key, behind any prefix common to all names, beside any object, in every format, the same weights come out."""
    path = tmp_path / "model_best.pth.tar"
    if form == "pickle":
        path.write_bytes(pickle.dumps(CONTENTS[name]()))
    else:
        torch.save(CONTENTS[name](), path, _use_new_zipfile_serialization=form == "zip")
    same(converted(path).module)


@pytest.mark.parametrize("name", ["UPPER.PTH", "last.ckpt", "pytorch_model.bin", "model.safetensors", "no_ending"])
def test_the_name_of_a_file_says_nothing(tmp_path, name):
    """A file is known by its content: safetensors and both formats of PyTorch under any name."""
    for write in (torch.save, functools.partial(torch.save, _use_new_zipfile_serialization=False), safetensors.torch.save_file):
        write(state(), tmp_path / name)
        same(converted(tmp_path / name).module)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # people have such files
def test_torchscript(tmp_path):
    """A compiled module (TorchScript) holds its weights as attributes."""
    torch.jit.trace(TorchNet(), torch.zeros(1, 6)).save(tmp_path / "net.pt")
    same(converted(tmp_path / "net.pt").module)


def test_what_was_taken_is_said(tmp_path):
    """The key and the prefix are told; of two networks that fit none is taken until one is named; equal ones are one."""
    torch.save({"state_dict": state(prefix="model.")}, tmp_path / "a.pth")
    (note,) = converted(tmp_path / "a.pth").notes
    assert "under state_dict, without the prefix model." in note
    torch.save({"model": state(), "ema": {"shadow": state(1, prefix="module.")}}, tmp_path / "b.pth")
    with pytest.raises(BadInput, match=r"2 that fit: model, ema.shadow; choose one with --key"):
        converted(tmp_path / "b.pth")
    for key, seed in (("model", 0), ("ema.shadow", 1), ("ema", 1)):
        same(converted(tmp_path / "b.pth", key=key).module, seed)
    with pytest.raises(BadInput, match=r"expected a key of .*, got 'none'; it has model, ema"):
        converted(tmp_path / "b.pth", key="none")
    torch.save({"model": state(), "best": state()}, tmp_path / "c.pth")
    same(converted(tmp_path / "c.pth").module)
    torch.save({**state(prefix="online."), **state(1, prefix="ema.")}, tmp_path / "d.pth")
    with pytest.raises(BadInput, match=r"those under (ema|online) fit: pass --key"):
        converted(tmp_path / "d.pth")
    same(converted(tmp_path / "d.pth", key="ema").module, 1)


def test_nothing_is_dropped_without_a_word(tmp_path):
    """Tensors without a place, such as a normalisation, are refused until they are named; a wrong name is refused too."""
    torch.save({**state(), "mu": torch.zeros(1, 3, 1, 1), "sigma": torch.ones(1, 3, 1, 1)}, tmp_path / "a.pth")
    with pytest.raises(BadInput, match=r"mu \(1, 3, 1, 1\) is unexpected; sigma.*normalise by itself.*--leave-out mu,sigma"):
        converted(tmp_path / "a.pth")
    result = converted(tmp_path / "a.pth", leave_out=("mu", "sigma"))
    same(result.module)
    assert result.notes == ["left out as asked: mu, sigma"]
    with pytest.raises(BadInput, match="to leave out, got nothing"):
        converted(tmp_path / "a.pth", leave_out=("mu", "sigma", "nothing"))


def test_tied_weights(tmp_path):
    """A layer under two names is one: in the file, in the module, or in both; two that differ are refused."""
    twice = {**state(), "again.weight": state()["fc2.weight"], "again.bias": state()["fc2.bias"].clone()}
    torch.save(twice, tmp_path / "twice.pth")
    torch.save(state(), tmp_path / "once.pth")
    for name in ("twice.pth", "once.pth"):
        same(converted(tmp_path / name, Tied).module)
    result = converted(tmp_path / "twice.pth")
    same(result.module)
    assert "2 tensors are exact copies" in result.notes[0]
    torch.save({**twice, "again.weight": twice["again.weight"] + 1}, tmp_path / "differ.pth")
    with pytest.raises(BadInput, match=r"weight differ, and the module has one array for both"):
        converted(tmp_path / "differ.pth", Tied)
    with pytest.raises(BadInput, match=r"again.weight \(3, 4\) is unexpected"):
        converted(tmp_path / "differ.pth")


@pytest.mark.parametrize("width", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_types_that_numpy_lacks(tmp_path, width):
    """Narrow types become float32 of the same values, from PyTorch and from safetensors."""
    narrow = state(width=getattr(torch, width))
    torch.save(narrow, tmp_path / "a.pth")
    safetensors.torch.save_file(narrow, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        kernel = converted(tmp_path / name).module.fc1.kernel[...]
        assert kernel.dtype == np.float32
        np.testing.assert_array_equal(kernel, narrow["fc1.weight"].float().numpy().T)
    assert np.dtype(ml_dtypes.bfloat16).itemsize == 2


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_numbers_that_are_no_weights(tmp_path):
    """Integers, and quantised or sparse tensors, are not taken for weights."""
    torch.save({**state(), "fc1.weight": torch.ones(4, 6, dtype=torch.int8)}, tmp_path / "a.pth")
    with pytest.raises(BadInput, match=r"fc1.weight is int8 and should be floating point"):
        converted(tmp_path / "a.pth")
    quantised = torch.quantize_per_tensor(state()["fc1.weight"], 0.1, 0, torch.qint8)
    torch.save({**state(), "fc1.weight": quantised}, tmp_path / "b.pth")
    torch.save({**state(), "fc1.weight": state()["fc1.weight"].to_sparse()}, tmp_path / "c.pth")
    for name, kind in (("b.pth", "qtensor"), ("c.pth", "sparse")):
        with pytest.raises(BadInput, match=f"fc1.weight is a tensor of the kind {kind}, which is not read"):
            converted(tmp_path / name)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_sharded_checkpoints(tmp_path, kind):
    """All files that an index names are one checkpoint; a missing one is named."""
    whole = state()
    parts = {f"model-0000{number}-of-00002.{kind}": part for number, part in ((1, "fc1"), (2, "fc2"))}
    write = safetensors.torch.save_file if kind == "safetensors" else torch.save
    for file, part in parts.items():
        write({name: value for name, value in whole.items() if name.startswith(part)}, tmp_path / file)
    index = tmp_path / f"model.{kind}.index.json"
    files = {part: file for file, part in parts.items()}
    index.write_text(json.dumps({"metadata": {}, "weight_map": {name: files[name.partition(".")[0]] for name in whole}}))
    same(converted(index).module)
    (tmp_path / files["fc2"]).unlink()
    with pytest.raises(BadInput, match=f"all files that .* names beside it, got a folder without {files['fc2']}"):
        converted(index)
    index.write_text('{"weight_map": {"a": "../secret"}}')
    with pytest.raises(BadInput, match="all files that"):
        converted(index)


class Calls:
    """Unpickling it calls a function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_nothing_in_a_file_runs(tmp_path, form):
    """Functions that a pickle names are not called: those of the system are refused, all others stand for nothing."""
    mark = tmp_path / "ran"

    def write(path, content):
        if form == "pickle":
            path.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=form == "zip")

    for number, bad in enumerate((Calls(os.mkdir, str(mark)), Calls(eval, f"open({str(mark)!r}, 'w')"))):
        write(tmp_path / f"{number}.pth", {"state_dict": state(), "x": bad})
        with pytest.raises(BadInput, match="which asks for code to run"):
            converted(tmp_path / f"{number}.pth")
    write(tmp_path / "c.pth", {"state_dict": state(), "x": Calls(pathlib.Path.touch, mark), "y": Calls(np.save, str(mark), np.zeros(1))})
    same(converted(tmp_path / "c.pth").module)
    assert not mark.exists()
    assert not mark.with_suffix(".npy").exists()


def test_tensors_stay_within_their_storage(tmp_path):
    """A file cannot make a tensor of memory that is not its own."""
    whole = pickle.dumps({"w": torch.arange(4.0)})
    assert whole.count(b"K\x04\x85") == 1  # its size, (4,)
    (tmp_path / "a.pkl").write_bytes(whole.replace(b"K\x04\x85", b"K\x44\x85"))
    with pytest.raises(BadInput, match="beyond its storage"):
        convert.read_arrays(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a pointer of Git LFS; run `git lfs pull`"),
        (b"<!DOCTYPE html><html>", "a page of the web"),
        (b"\x1f\x8b\x08\x00", "packed with gzip"),
        (b'{"hidden_size": 3}', "an index with a weight_map"),
        (b"just some text\n", "damaged or of another kind"),
        (b"PK\x03\x04 half a download", "damaged or of another kind"),
        (b"\x93NUMPY\x01\x00", "one array of NumPy"),
        (b"(lp0\nI1\na.", "a mapping of names to tensors"),
        (b"\xff" * 100, "damaged or of another kind"),
    ],
)
def test_foreign_files(tmp_path, content, message):
    """What is no checkpoint is told in one line that says what it is, where that can be known."""
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        converted(tmp_path / "net.pth")
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match=r"got the folder .*; name the file in it"):
        converted(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), form=st.sampled_from(["zip", "legacy", "pickle", "safetensors", "keras_small.keras", "keras_nested.h5", "bytes"]))
def test_any_bytes_give_a_result_or_one_line(tmp_path, data, form):
    """Damage anywhere in a file gives arrays or a `BadInput`, never another exception."""
    path = tmp_path / "fuzz.pth"
    if form == "bytes":
        content = bytearray(data.draw(st.binary(max_size=200)))
    else:
        if form == "pickle":
            path.write_bytes(pickle.dumps({"a": state(), "b": Settings()}))
        elif form.startswith("keras"):
            path.write_bytes((GOLDEN / form).read_bytes())
        elif form == "safetensors":
            safetensors.torch.save_file(state(), path)
        else:
            torch.save({"a": state(), "b": Settings()}, path, _use_new_zipfile_serialization=form == "zip")
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(PLACES) % len(content)] = data.draw(st.integers(0, 255))
        content = content[: len(content) // data.draw(st.sampled_from([1, 2]))]
    path.write_bytes(bytes(content))
    with contextlib.suppress(BadInput):
        converted(path, KerasNet if form.startswith("keras") else Net)
