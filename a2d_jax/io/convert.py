"""Weights of other frameworks for Flax NNX modules: read as arrays, renamed, transposed, checked.

Only plain data is read; nothing that a file names is run (`a2d_jax.io.torch_files`). Layout and names follow PyTorch (`torch.nn`). A module
states the rest with two attributes about its own children:

- `torch_names = {"conv1": "conv1.0"}`: PyTorch's name of a child, if it differs from the name here;
- `flattened = {"fc1": (16, 5, 5)}`: this layer reads a map flattened as channel, row, column. Flax flattens row, column, channel, so the
  layer's inputs are reordered. `None` instead of the shape means that the file has Flax's order. A layer that reads a flattened map and is
  not named here is refused, because its weights would fit and be wrong. A layer deeper down is named by its path, `classifier.layers.1`;

The whole network may have two more:

- `rename(name)`: PyTorch's name of an array that has other names in some files;
- `keras_layers = ("conv1", "fc1")`: its layers with weights, in Keras's order. Keras numbers layers by the history of the process that made
  them, so layers are matched by their order alone (`a2d_jax.io.keras_files`); their layout is that of Flax.

docs/converting.md is the page for users.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from a2d_jax.errors import BadInput
from a2d_jax.io import keras_files
from a2d_jax.io.convert_checks import Reads, against_keras, flattened_otherwise
from a2d_jax.io.convert_files import Checkpoint, Named, below, read_checkpoint, variants
from a2d_jax.io.tensors import Arrays, is_float

NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}
"""Names of arrays in Flax and in PyTorch, where they differ."""


@dataclass(frozen=True)
class Converted:
    """A module with the weights of a file, and notes for the user on the conversion."""

    module: nnx.Module
    notes: list[str] = field(default_factory=list)


def convert(
    path: Path, module: nnx.Module, *, key: str | None = None, leave_out: Collection[str] = (), verified: bool = False
) -> Converted:
    """Put the weights of a file into a copy of `module`. Only shapes are needed: `module` may be abstract.

    Args:
      path: file of PyTorch, safetensors or Keras, or the `*.index.json` of a sharded file.
      module: network that takes the weights.
      key: key of the weights in the file, such as `state_dict_ema`; default the only key whose tensors fit.
      leave_out: names of tensors to ignore, which the module does not have.
      verified: the caller compares the logits with those of the original framework. Differences between a Keras file and the module are
        then noted, not refused.

    Raises:
      BadInput: the file cannot be read; no tensors fit, or the tensors of two keys fit; or tensors fit but have another meaning.
    """
    checkpoint = read_checkpoint(path)
    chosen, arrays, notes = _chosen(checkpoint, module, key, leave_out)
    fitted = _fitted(arrays, module, chosen)
    notes += fitted.notes
    if checkpoint.keras is not None:
        notes += against_keras(checkpoint.keras, keras_files.partners(arrays, getattr(module, "keras_layers", ())), module, verified)
    return Converted(fitted.module, notes)


def read_arrays(path: Path, key: str | None = None) -> Arrays:
    """Read named arrays from a file of PyTorch (old and new format), safetensors or Keras (`.keras`, `.h5`, `.weights.h5`), by any name.

    It finds the weights inside a training checkpoint, removes the prefixes of wrappers (`module.`, `_orig_mod.`), and drops
    `num_batches_tracked`, which evaluation does not use. Types narrower than float32 become float32.

    Args:
      path: path of the file, or the `*.index.json` of a sharded file.
      key: key of the arrays in the file; needed if several keys have arrays.

    Raises:
      BadInput: no such file, another kind of file, a damaged file, no tensors, tensors under several keys, or the package that reads the
        file is missing.
    """
    checkpoint = read_checkpoint(path)
    if key is None and len(checkpoint.mappings) > 1:
        inner = {place: found for place, found in checkpoint.mappings.items() if place}
        if len(inner) > 1:
            raise BadInput(f"expected weights in one place of {path}, got {', '.join(inner)}; pass one of them as key")
        key = next(iter(inner))
    found = checkpoint.under(key) if key is not None else next(iter(checkpoint.mappings.values()))
    bare = list(variants(found))[: 2 if any("." in name for name in found) else 1]
    return {name: np.asarray(array) for name, array in bare[-1][1].items()}


def to_module(arrays: Named, module: nnx.Module) -> nnx.Module:
    """Return a copy of `module` that contains `arrays`, each in the layout of Flax. Only shapes are needed: `module` may be abstract.

    Convolution kernels `out in *window` become `*window in out`, dense ones `out in` become `in out`; batch norm's weight, bias,
    running_mean and running_var become scale, bias, mean and var.

    Raises:
      BadInput: one line that names every missing, unexpected, misshapen (with both shapes) or non-finite array; or a layer that reads a
        flattened map without saying so.
    """
    return _fitted(arrays, module, "").module


@dataclass(frozen=True)
class _Place:
    """An array of the module: where it lies, and what PyTorch calls it (several names, if layers share it)."""

    path: tuple[Any, ...]
    variable: Any
    names: list[str]
    layer: Any
    reads: Reads


def _places(module: nnx.Module) -> list[_Place]:
    """All arrays of a module, each once, asking every module what its children are called in PyTorch."""
    found: dict[int, _Place] = {}

    def children(node: Any) -> Iterable[tuple[Any, Any]]:
        if isinstance(node, nnx.List | list | tuple):
            return enumerate(node)
        return sorted((node if isinstance(node, dict) else vars(node)).items())

    def walk(node: Any, path: tuple[Any, ...], names: tuple[str, ...], above: tuple[Any, ...]) -> None:
        if any(node is one for one in above):
            return
        for part, value in children(node):
            name = str(getattr(node, "torch_names", {}).get(part, part))
            if isinstance(value, nnx.Param | nnx.BatchStat):
                full = ".".join([*names, NAMES.get(name, name)])
                place = _Place((*path, part), value, [], node, _said(path, above))
                found.setdefault(id(value), place).names.append(full)
            elif isinstance(value, nnx.Module | list | tuple | dict):
                # the children of a Sequential are in a list here; in PyTorch they are its own
                inner = names if isinstance(node, nnx.Sequential) and part == "layers" else (*names, name)
                walk(value, (*path, part), inner, (*above, node))

    walk(module, (), (), ())
    return list(found.values())


def _said(path: tuple[Any, ...], above: Sequence[Any]) -> Reads:
    """What the modules above a layer, the nearest first, say about the map that it reads."""
    nearest = None
    for depth in reversed(range(len(above))):
        owner, key = above[depth], ".".join(map(str, path[depth:]))
        if key in (flattened := getattr(owner, "flattened", {})):
            return Reads(type(owner).__name__, key, True, flattened[key])
        if nearest is None and not isinstance(owner, nnx.List | nnx.Dict | nnx.Sequential | list | tuple | dict):
            nearest = Reads(type(owner).__name__, key, False, None)
    return nearest or Reads("", ".".join(map(str, path)), False, None)


def _chosen(checkpoint: Checkpoint, module: nnx.Module, key: str | None, leave_out: Collection[str]) -> tuple[str, Named, list[str]]:
    """What to call the tensors that fit the module, these tensors, and what the user should know of the choice."""
    places = _places(module)
    candidates = checkpoint.mappings if key is None else {key: checkpoint.under(key)}
    tried: list[tuple[str, str, Named, _Match]] = []
    for where, found in candidates.items():
        kept = _without(found, leave_out)
        for prefix, arrays in [("", kept)] if _of_keras(kept) else variants(kept):
            match = _match(arrays := _without(arrays, leave_out), module, places)
            tried.append((where, prefix, arrays, match))
            if not match.trouble:
                break
    fits = [one for one in tried if not one[3].trouble]
    if len(fits) > 1:
        first = fits[0][2]
        if any(one[2].keys() != first.keys() or not all(_same(one[2][name], first[name]) for name in first) for one in fits[1:]):
            names = ", ".join(one[0] or "the whole file" for one in fits)
            raise BadInput(
                f"expected one network in {checkpoint.path}, got {len(fits)} that fit: {names}; choose one with --key {fits[-1][0]}"
            )
    if not fits:
        where, prefix, arrays, match = min(tried, key=lambda one: (-len(one[3].pairs), len(one[3].trouble)))
        raise _misfit(
            match.trouble, module, f"{checkpoint.path}{f' under {where}' if where else ''}", _part(where, prefix, arrays, module, places)
        )
    where, prefix, arrays, match = fits[0]
    known = {name for _, found in variants(candidates[where]) for name in found}
    if unknown := [name for name in leave_out if name not in known]:
        raise BadInput(f"expected tensors of {checkpoint.path} to leave out, got {', '.join(unknown)}; correct the names")
    notes: list[str] = []
    others = [name for name in checkpoint.mappings if name not in ("", where)]
    if where or prefix:
        took = f"took the tensors under {where}" if where else "took the tensors"
        notes.append(
            took + (f", without the prefix {prefix}" if prefix else "") + (f"; there are also {', '.join(others)}" if others else "")
        )
    if match.copies:
        copies = ", ".join(match.copies[:5])
        notes.append(f"{len(match.copies)} tensors are exact copies of others and need no place of their own: {copies}")
    if leave_out:
        notes.append(f"left out as asked: {', '.join(leave_out)}")
    return where, arrays, notes


def _without(arrays: Named, names: Collection[str]) -> Named:
    return {name: array for name, array in arrays.items() if name not in names}


def _of_keras(arrays: Named) -> bool:
    """Whether names are those that `keras_files` gives."""
    return any(name.endswith(".kernel") or "/" in name for name in arrays)


def _part(where: str, prefix: str, arrays: Named, module: nnx.Module, places: list[_Place]) -> str:
    """How to take a part of a mapping, if one fits, though tensors lie beside it."""
    beginnings = {name.rsplit(".", depth)[0] for name in arrays for depth in range(1, name.count(".") + 1)}
    for beginning in sorted(beginnings, key=len):
        if not _match(below(arrays, beginning), module, places).trouble:
            key = ".".join(filter(None, (where, prefix.rstrip("."), beginning)))
            beside = [name for name in arrays if not name.startswith(f"{beginning}.")]
            return f"those under {beginning} fit: pass --key {key} if the others ({', '.join(beside[:4])}) do not belong to the network"
    return ""


@dataclass(frozen=True)
class _Match:
    pairs: list[tuple[_Place, Any, str]]  # an array of the module, the tensor for it and its name
    trouble: list[str]
    copies: list[str]  # tensors without a place that equal others
    keras: bool


def _match(arrays: Named, module: nnx.Module, places: list[_Place]) -> _Match:
    """Which tensor belongs to which array of the module, by names and shapes alone."""
    ours = {".".join(map(str, place.path)): place.variable.shape for place in places}
    keras = _of_keras(arrays)
    theirs = _keras_names(module, ours, arrays) if keras else {}
    if not keras:
        rename: Callable[[str], str] = getattr(module, "rename", str)
        arrays = {rename(name): array for name, array in arrays.items()}
    pairs: list[tuple[_Place, Any, str]] = []
    trouble: list[str] = []
    for place in places:
        names = [theirs[".".join(map(str, place.path))]] if keras else place.names
        present = [name for name in names if name in arrays]
        shape, leaf = place.variable.shape, str(place.path[-1])
        if not present:
            trouble.append(f"{names[0]} {shape} is missing")
            continue
        name, array = present[0], arrays[present[0]]
        expected = shape if keras else _torch_shape(shape, leaf)
        if array.dtype is None:
            trouble.append(f"{name} is a {array.kind}, which is not read")
        elif tuple(array.shape) != expected:
            trouble.append(f"{name} is {tuple(array.shape)} and should be {expected}")
        elif is_float(place.variable.dtype) and not is_float(array.dtype):
            trouble.append(f"{name} is {array.dtype} and should be floating point")
        elif any(not _same(arrays[other], array) for other in present[1:]):
            trouble.append(f"{' and '.join(present)} differ, and the module has one array for both")
        else:
            pairs.append((place, array, name))
    known = {name for place in places for name in place.names} | set(theirs.values())
    beside = {name: array for name, array in arrays.items() if name not in known}
    copies = _copies(beside, arrays) if not trouble else []
    trouble += [f"{name} {tuple(array.shape)} is unexpected" for name, array in beside.items() if name not in copies]
    return _Match(pairs, trouble, copies, keras)


def _copies(beside: Named, arrays: Named) -> list[str]:
    """Tensors without a place whose whole layer equals one that has a place: a layer under two names."""
    copies: list[str] = []
    taken = {name for name in arrays if name not in beside}
    for layer in {name.rpartition(".")[0] for name in beside}:
        leaves = [name.rpartition(".")[2] for name in beside if name.rpartition(".")[0] == layer]
        own = {leaf: beside[f"{layer}.{leaf}" if layer else leaf] for leaf in leaves}
        if all(_constant(array) for array in own.values()):
            continue  # equal values say nothing
        for other in {name.rpartition(".")[0] for name in taken}:
            names = {leaf: f"{other}.{leaf}" if other else leaf for leaf in leaves}
            if all(name in taken and _same(arrays[name], own[leaf]) for leaf, name in names.items()):
                copies += [f"{layer}.{leaf}" if layer else leaf for leaf in leaves]
                break
    return copies


def _same(one: Any, other: Any) -> bool:
    """Equal in type, shape and every value."""
    if one is other:
        return True
    if one.dtype != other.dtype or tuple(one.shape) != tuple(other.shape) or one.dtype is None:
        return False
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


def _constant(array: Any) -> bool:
    values = np.asarray(array) if array.dtype is not None else np.zeros(1)
    return bool((values == values.flat[0]).all()) if values.size else True


def _fitted(arrays: Named, module: nnx.Module, where: str) -> Converted:
    """A copy of the module with the arrays in it."""
    module = nnx.clone(module)
    places = _places(module)
    match = _match(arrays, module, places)
    trouble = list(match.trouble)
    values: list[tuple[Any, Any]] = []
    for place, tensor, name in match.pairs:
        array = np.asarray(tensor)
        array = array if match.keras else _to_flax(array, place)
        if array is None:
            trouble.append(f"{name} is {tuple(tensor.shape)} and does not fit the map {place.reads.map} that flattened gives")
        elif not np.isfinite(array).all():
            trouble.append(f"{name} holds NaN or infinity")
        else:
            values.append((place.variable, jnp.asarray(array, place.variable.dtype)))
    if trouble:
        raise _misfit(trouble, module, where, "")
    for variable, array in values:
        variable.set_value(array)
    notes = [] if match.keras else flattened_otherwise(module, {place.path[:-1]: place.reads for place in places})
    return Converted(module, notes)


def _misfit(trouble: list[str], module: nnx.Module, where: str, remedy: str) -> BadInput:
    unexpected = [one.split(" ")[0] for one in trouble if one.endswith("is unexpected")]
    if not remedy and len(unexpected) == len(trouble):
        remedy = f"if your module does without them (it may normalise by itself), pass --leave-out {','.join(unexpected)}"
    got = f"others in {where}" if where else "others"
    return BadInput(
        f"expected the arrays of {type(module).__name__}, got {got}: {'; '.join(trouble)}; "
        + (remedy or "choose the factory that fits the checkpoint")
    )


def _keras_names(module: nnx.Module, wanted: Mapping[str, tuple[int, ...]], arrays: Named) -> dict[str, str]:
    """What the arrays of the module are called in a file of Keras."""
    layers = getattr(module, "keras_layers", None)
    if layers is None:
        name = type(module).__name__
        raise BadInput(f"expected keras_layers of {name} for arrays of Keras, got none; add this attribute to the class")
    return keras_files.names_in(arrays, layers, wanted)


def _to_flax(array: np.ndarray, place: _Place) -> np.ndarray | None:
    """The array in Flax's layout; None if it does not read the map that `flattened` says."""
    flattened = place.reads.map
    if str(place.path[-1]) != "kernel":
        if flattened is None or hasattr(place.layer, "kernel") or array.shape != (math.prod(flattened),):
            return array
        return np.moveaxis(array.reshape(flattened), 0, -1).ravel()  # a norm of the flattened map
    if flattened is not None:
        if array.shape[1:] != (math.prod(flattened),):
            return None
        array = np.moveaxis(array.reshape(-1, *flattened), 1, -1).reshape(array.shape)
    return np.transpose(array, (*range(2, array.ndim), 1, 0))


def _torch_shape(shape: tuple[int, ...], leaf: str) -> tuple[int, ...]:
    return (shape[-1], shape[-2], *shape[:-2]) if leaf == "kernel" and len(shape) > 1 else shape
