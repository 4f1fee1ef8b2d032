"""Weights of other frameworks into Flax NNX modules: read as arrays, renamed, transposed, checked.

Only plain data is read: a pickle may hold tensors and containers of them, nothing that asks for code. The rules of layout and
naming are those of PyTorch (`torch.nn`); what no rule can know, a module says about its own children with two attributes:

- `torch_names = {"conv1": "conv1.0"}`: the name there of a child here, where they differ;
- `flattened = {"fc1": (16, 5, 5)}`: this dense layer reads a map flattened as channel, row, column. Flax flattens row, column,
  channel, so its inputs change places;

and the whole network, where it applies, with two more:

- `rename(name)`: PyTorch's name of an array that some files call otherwise;
- `keras_layers = ("conv1", "fc1")`: its layers with weights, in Keras's order. Keras numbers layers by the history of the process
  that made them, so only their order tells which is which (`a2d_jax.io.keras_files`); their layout is that of Flax.
"""

import importlib
import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from a2d_jax.errors import BadInput
from a2d_jax.io import keras_files
from a2d_jax.io.keras_files import Arrays

TORCH = (".pth", ".pt", ".th", ".pkl")
KERAS = (".h5", ".keras")
WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the weights in a checkpoint."""
NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}
"""Names of arrays in Flax and in PyTorch, where they differ."""


def read_arrays(path: Path) -> Arrays:
    """Read named arrays from a PyTorch (.pth, .pt, .th, .pkl, old and new format), .safetensors or Keras (.keras, .h5, .weights.h5) file.

    Finds the weights inside a training checkpoint, removes the `module.` that data-parallel training puts before every name, and
    drops `num_batches_tracked`, which evaluation does not use.

    Raises:
      BadInput: no such file, another kind of file, damaged, not purely tensors, or the package that reads it is missing.
    """
    if not path.is_file():
        raise BadInput(f"expected a checkpoint file, got {path}, which does not exist; check the path")
    if path.suffix in TORCH:
        arrays = _read_torch(path)
    elif path.suffix == ".safetensors":
        arrays = _read_safetensors(path)
    elif path.suffix in KERAS:
        arrays = _read_keras(path)
    else:
        raise BadInput(f"expected a checkpoint ending in {', '.join(TORCH + KERAS)} or .safetensors, got {path}; rename or re-save it")
    if all(name.startswith("module.") for name in arrays):
        arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    return {name: array for name, array in arrays.items() if not name.endswith("num_batches_tracked")}


def to_module(arrays: Arrays, module: nnx.Module) -> nnx.Module:
    """Return a copy of `module` that carries `arrays`, each in the layout of Flax. Needs only shapes: `module` may be abstract.

    Convolution kernels `out in *window` become `*window in out`, dense ones `out in` become `in out`; batch norm's weight, bias,
    running_mean and running_var become scale, bias, mean and var.

    Raises:
      BadInput: one line that names every missing, unexpected, misshapen (with both shapes) or non-finite array.
    """
    module = nnx.clone(module)
    wanted = nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat)))
    shapes = {".".join(map(str, path)): variable.shape for path, variable in wanted}
    keras = _keras_names(module, shapes, arrays) if any(name.endswith(".kernel") or "/" in name for name in arrays) else None
    rename: Callable[[str], str] = getattr(module, "rename", str)
    arrays = {rename(name): array for name, array in arrays.items()}
    trouble: list[str] = []
    taken: set[str] = set()
    for path, variable in wanted:
        name, flattened = _torch_name(module, path) if keras is None else (keras[".".join(map(str, path))], None)
        taken.add(name)
        if name not in arrays:
            trouble.append(f"{name} {variable.shape} is missing")
            continue
        array = _to_flax(arrays[name], str(path[-1]), flattened) if keras is None else arrays[name]
        if array is None or array.shape != variable.shape:
            expected = _torch_shape(variable.shape, str(path[-1])) if keras is None else variable.shape
            trouble.append(f"{name} is {arrays[name].shape} and should be {expected}")
        elif not np.isfinite(array).all():
            trouble.append(f"{name} holds NaN or infinity")
        else:
            variable.set_value(jnp.asarray(array, variable.dtype))
    trouble += [f"{name} {array.shape} is unexpected" for name, array in arrays.items() if name not in taken]
    if trouble:
        raise BadInput(
            f"expected the arrays of {type(module).__name__}, got others: {'; '.join(trouble)}; choose the factory that fits the checkpoint"
        )
    nnx.update(module, nnx.from_flat_state(wanted))
    return module


def _torch_name(module: Any, path: tuple[Any, ...]) -> tuple[str, tuple[int, ...] | None]:
    """Walk down to an array, asking every module what its child is called in PyTorch; also the map that the layer flattens."""
    names: list[str] = []
    flattened = None
    for part in path[:-1]:
        sequential = isinstance(module, nnx.Sequential)  # here its children are in a list, in PyTorch they are its own
        if not (sequential and part == "layers"):
            names.append(getattr(module, "torch_names", {}).get(part, str(part)))
        flattened = getattr(module, "flattened", {}).get(part)
        module = module[part] if isinstance(part, int) else getattr(module, part)
    return ".".join([*names, NAMES.get(str(path[-1]), str(path[-1]))]), flattened


def _keras_names(module: nnx.Module, wanted: Mapping[str, tuple[int, ...]], arrays: Arrays) -> dict[str, str]:
    """What the arrays of the module are called in a file of Keras."""
    layers = getattr(module, "keras_layers", None)
    if layers is None:
        name = type(module).__name__
        raise BadInput(f"expected a module with keras_layers, got {name} without, for arrays of Keras; add the attribute to the class")
    return keras_files.names_in(arrays, layers, wanted)


def _to_flax(array: np.ndarray, leaf: str, flattened: tuple[int, ...] | None) -> np.ndarray | None:
    """The array in Flax's layout; None if it cannot be brought there."""
    if leaf != "kernel":
        return array
    if array.ndim < 2 or (flattened is not None and array.shape[1:] != (math.prod(flattened),)):
        return None
    if flattened is not None:
        array = np.moveaxis(array.reshape(-1, *flattened), 1, -1).reshape(array.shape)
    return np.transpose(array, (*range(2, array.ndim), 1, 0))


def _torch_shape(shape: tuple[int, ...], leaf: str) -> tuple[int, ...]:
    return (shape[-1], shape[-2], *shape[:-2]) if leaf == "kernel" else shape


def _read_torch(path: Path) -> Arrays:
    torch = _import("torch", path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler of a damaged file raises whatever the damage leads to
        if "weights_only" in str(error).lower() or "weights only" in str(error).lower():
            raise BadInput(
                f"expected a file of tensors only, got {path}, which asks for code to run; save its state_dict instead"
            ) from error
        raise _unreadable(path, error) from error
    for key in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not (isinstance(found, Mapping) and found and all(isinstance(value, torch.Tensor) for value in found.values())):
        raise BadInput(f"expected a mapping of names to tensors (a state_dict), got another content in {path}; save its state_dict instead")
    narrow = (torch.bfloat16, torch.float16)
    return {str(name): (t.float() if t.dtype in narrow else t).detach().numpy() for name, t in found.items()}


def _read_safetensors(path: Path) -> Arrays:
    safetensors = _import("safetensors.numpy", path)
    try:
        return safetensors.load_file(path)
    except Exception as error:  # its own error type, or what a damaged header leads to
        raise _unreadable(path, error) from error


def _read_keras(path: Path) -> Arrays:
    """Arrays of a model of Keras or of its weights: of the archive of Keras 3 or of one HDF5 file."""
    h5py = _import("h5py", path)
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                config, weights = json.loads(archive.read("config.json")), io.BytesIO(archive.read("model.weights.h5"))
            with h5py.File(weights, "r") as file:
                arrays = keras_files.read_archive(config, file)
        else:
            with h5py.File(path, "r") as file:
                arrays = keras_files.read_hdf5(file)
    except Exception as error:  # h5py and zipfile raise whatever the damage leads to
        raise _unreadable(path, error) from error
    if not arrays:
        raise BadInput(f"expected weights of Keras, got {path}, which has none; save the model or its weights again")
    return arrays


def _import(package: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        name = package.partition(".")[0]
        raise BadInput(f'expected the package {name} to read {path}, got none installed; run: pip install "a2d-jax[convert]"') from error


def _unreadable(path: Path, error: Exception) -> BadInput:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return BadInput(f"expected a readable checkpoint, got {path}, which is damaged or of another kind ({reason}); fetch it again")
