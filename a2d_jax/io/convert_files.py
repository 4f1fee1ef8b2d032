"""Checkpoints of other frameworks as named arrays. The first bytes of a file decide its kind, not its name.

A file may contain several mappings of names to tensors: a training script keeps the weights under a key of its own choice, often beside
averaged weights (EMA) and an optimizer. All mappings are found, and `variants` removes the prefixes that wrappers add to names.
"""

import importlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from a2d_jax.errors import BadInput
from a2d_jax.io import keras_files
from a2d_jax.io.hdf5 import tried
from a2d_jax.io.tensors import Arrays, Tensor, read_safetensors, shards
from a2d_jax.io.torch_files import AsksForCode, NumPyArray, Thing, read_torch

WRAPPING = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts that data-parallel training, compilation and checkpointing put into names."""
UNUSED = "num_batches_tracked"
"""Of batch norm, for training alone."""
OTHERS = {
    b"version https://git-lfs": "a pointer of Git LFS; run `git lfs pull` in its repository",
    b"<": "a page of the web or other markup; download the file itself",
    b"\x1f\x8b": "packed with gzip; unpack it first",
    b"BZh": "packed with bzip2; unpack it first",
    b"\xfd7zXZ": "packed with xz; unpack it first",
    b"7z\xbc\xaf": "packed with 7z; unpack it first",
    b"\x93NUMPY": "one array of NumPy; save all weights as safetensors",
}
"""Beginnings of files that are taken for checkpoints, and what to do."""
DEEPEST = 32
"""Levels of mappings within mappings that are looked into."""
LAYOUTS = "a PyTorch, safetensors or Keras checkpoint"

Named = Mapping[str, Any]
"""Arrays, or tensors not yet read, by name."""


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint file.

    Attributes:
      path: path of the file.
      mappings: tensors by name under each key, "" for the whole file; counters of batch norm are left out.
      keras: layers of a Keras model with their settings, in order; empty for a file of weights alone; None for other frameworks.
    """

    path: Path
    mappings: dict[str, Named] = field(repr=False)
    keras: list[keras_files.Layer] | None = None

    def under(self, key: str) -> Named:
        """The tensors under a key, which may end inside names: `state_dict.model` has those of `state_dict` that begin with `model.`.

        Raises:
          BadInput: no such key.
        """
        for place in sorted(self.mappings, key=len, reverse=True):
            if place and key != place and not key.startswith(f"{place}."):
                continue
            beginning = key.removeprefix(place).removeprefix(".")
            found = below(self.mappings[place], beginning) if beginning else self.mappings[place]
            if found:
                return found
        raise BadInput(f"expected a key of {self.path}, got {key!r}; it has {', '.join(filter(None, self.mappings)) or 'none'}")


def below(arrays: Named, beginning: str) -> Named:
    """Arrays whose names begin so, without this beginning."""
    return {name.removeprefix(f"{beginning}."): array for name, array in arrays.items() if name.startswith(f"{beginning}.")}


def variants(arrays: Named) -> Iterator[tuple[str, Named]]:
    """The same arrays under their possible names without wrappers, and the prefix that was removed from all of them."""
    yield "", arrays
    bare = {".".join(part for part in name.split(".") if part not in WRAPPING): array for name, array in arrays.items()}
    if len(bare) < len(arrays):
        return
    if bare.keys() != arrays.keys():
        yield "", bare
    prefix = ""
    while len(first := {name.partition(".")[0] for name in bare}) == 1 and all("." in name for name in bare):
        prefix += f"{next(iter(first))}."
        bare = below(bare, next(iter(first)))
        yield prefix, bare


def read_checkpoint(path: Path) -> Checkpoint:
    """Find the tensors in a file of PyTorch, safetensors or Keras, or in all files of a sharded checkpoint (its `*.index.json`).

    Raises:
      BadInput: no such file, another kind of file, a damaged file, no tensors, or the package that reads the file is missing.
    """
    if path.is_dir():
        raise BadInput(f"expected the file of a checkpoint, got the folder {path}; name the file in it (of several, the *.index.json)")
    if not path.is_file():
        raise BadInput(f"expected a checkpoint file, got {path}, which does not exist; check the path")
    try:
        with path.open("rb") as file:
            head = file.read(64)
        checkpoint = _reader(path, head)(path)
    except AsksForCode as error:
        raise BadInput(
            f"expected a file of tensors only, got {path}, which asks for code to run ({error}); save its state_dict instead"
        ) from error
    except BadInput:
        raise
    except Exception as error:  # readers of damaged files raise whatever the damage leads to
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise BadInput(
            f"expected a readable checkpoint, got {path}, which is damaged or of another kind ({reason}); fetch it again"
        ) from error
    if not checkpoint.mappings:
        what = "a mapping of names to tensors (a state_dict)" if checkpoint.keras is None else "weights of Keras"
        raise BadInput(f"expected {what} in {path}, got none; save the file again")
    kept = {
        key: {name: one for name, one in found.items() if name.rpartition(".")[2] != UNUSED} for key, found in checkpoint.mappings.items()
    }
    return replace(checkpoint, mappings=kept)


def _reader(path: Path, head: bytes) -> Callable[[Path], Checkpoint]:
    """How to read a file that begins so."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
            return _torch
        if "model.weights.h5" in names:
            return _keras_archive
        raise BadInput(f"expected {LAYOUTS}, got {path}, an archive of other files ({', '.join(names[:3])}); name the checkpoint itself")
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _keras_hdf5
    for beginning, remedy in OTHERS.items():
        if head.lstrip().startswith(beginning):
            raise BadInput(f"expected {LAYOUTS}, got {path}, which is {remedy}")
    if head.lstrip().startswith(b"{"):
        return _sharded
    if len(head) > 8 and head[8:9] == b"{":
        return _safetensors
    if head.startswith((b"\x80", b"(", b"}", b"c")):  # pickles of all protocols
        return _torch
    if head.startswith(b"PK\x03\x04") or not head or path.suffix.lower() in (".safetensors", ".h5", ".keras"):
        raise BadInput(
            f"expected {LAYOUTS}, got {path}, which is damaged or of another kind ({'cut off' if head else 'empty'}); fetch it again"
        )
    raise BadInput(f"expected {LAYOUTS}, got {path}, which is damaged or of another kind; convert it with its own framework to safetensors")


def _safetensors(path: Path) -> Checkpoint:
    found = read_safetensors(path)
    return Checkpoint(path, {"": found} if found else {})


def _torch(path: Path) -> Checkpoint:
    mappings: dict[str, Named] = {}
    for place, found in _mappings(read_torch(path), (), set()):
        if not any({id(one) for one in found.values()} == {id(one) for one in other.values()} for other in mappings.values()):
            mappings[".".join(place)] = found
    return Checkpoint(path, mappings)


def _sharded(path: Path) -> Checkpoint:
    whole: dict[str, Any] = {}
    for file in shards(path):
        for mapping in read_checkpoint(file).mappings.values():
            whole |= mapping
    return Checkpoint(path, {"": whole})


@tried
def _keras_archive(path: Path) -> Checkpoint:
    h5py = _import("h5py", path)
    with zipfile.ZipFile(path) as archive:
        config, weights = json.loads(archive.read("config.json")), io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights, "r") as file:
        arrays = keras_files.read_archive(config, file)
    return _keras(path, arrays, config)


@tried
def _keras_hdf5(path: Path) -> Checkpoint:
    h5py = _import("h5py", path)
    with h5py.File(path, "r") as file:
        arrays = keras_files.read_hdf5(file)
        config = file.attrs.get("model_config")
    return _keras(path, arrays, json.loads(config) if isinstance(config, str | bytes) else None)


def _keras(path: Path, arrays: Arrays, config: Any) -> Checkpoint:
    layers = [] if config is None else list(keras_files.layers_of(config["config"]))
    return Checkpoint(path, {"": arrays} if arrays else {}, layers)


def _mappings(found: Any, place: tuple[str, ...], seen: set[int]) -> Iterator[tuple[tuple[str, ...], Named]]:
    """Mappings with tensors in a pickle, deepest first; what lies under numbers, as an optimizer keeps it, is left out."""
    if not isinstance(found, Mapping) or id(found) in seen or len(place) > DEEPEST:
        return
    seen.add(id(found))
    for key, value in found.items() if _module(found) is None else ():
        if isinstance(key, str):
            yield from _mappings(value, (*place, key), seen)
    arrays = dict(_named(found, "", set()))
    if any(array.shape for array in arrays.values()):
        yield place, arrays


def _named(found: Mapping[Any, Any], prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """All tensors below a mapping, their names joined by dots."""
    if id(found) in seen or prefix.count(".") > DEEPEST:
        return
    seen.add(id(found))
    inside = _module(found)
    for key, value in (found if inside is None else inside).items():
        tensor = value.tensor if isinstance(value, NumPyArray) else value
        if isinstance(tensor, Tensor) and isinstance(key, str):
            yield prefix + key, tensor
        elif isinstance(value, Mapping) and isinstance(key, str):
            yield from _named(value, f"{prefix}{key}.", seen)


def _module(found: Mapping[Any, Any]) -> dict[str, Any] | None:
    """The parameters, buffers and children of a whole pickled network, as its own state_dict names them."""
    parts = [found.get(name) for name in ("_parameters", "_buffers", "_modules")]
    if not (isinstance(found, Thing) and all(isinstance(part, Mapping) for part in parts)):
        return None
    return {name: value for part in parts for name, value in (part or {}).items()}


def _import(package: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        name = package.partition(".")[0]
        raise BadInput(f'expected the package {name} to read {path}, got none installed; run: pip install "a2d-jax[convert]"') from error
