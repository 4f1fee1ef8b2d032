"""Weights in Keras files, and their matching arrays in the module.

The file of a whole model contains the order of its layers: in the config of the archive (`.keras`), or in attributes of the older HDF5
(`.h5`). Its arrays are named `layer.kernel` and so on, as in Flax. Files of weights alone (`.weights.h5`), and of models that are custom
classes, contain no order. Their arrays keep the names in the file, such as `layers/dense_1/vars/0`. This path has the attribute's name for
a custom class, and otherwise the kind of layer and its number within the kind.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from a2d_jax.errors import BadInput
from a2d_jax.io.tensors import Arrays

FLAX_NAMES = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}
"""Names of arrays in Keras and in Flax, where they differ."""
LEAVES = ("kernel", "scale", "bias", "mean", "var")
"""Order in which Keras numbers the arrays of a layer."""


@dataclass(frozen=True)
class Layer:
    """A layer of a model of Keras: its name as arrays have it, its class, its settings."""

    name: str
    kind: str
    settings: Mapping[str, Any]


def read_hdf5(file: Any) -> Arrays:
    """Arrays of an open HDF5 file, of a model or of weights alone."""
    group = file.get("model_weights", file)  # `model.save` keeps the weights in a group, `model.save_weights` of old at the root
    if "layer_names" not in group.attrs:
        return dict(_by_path(file))
    arrays: Arrays = {}
    for layer in map(_text, group.attrs["layer_names"]):
        for weight in map(_text, group[layer].attrs["weight_names"]):
            *scopes, leaf = weight.partition(":")[0].split("/")
            inside = scopes[scopes.index(layer) + 1 :] if layer in scopes else scopes  # more than one in a model within the model
            arrays[".".join([layer, *inside, FLAX_NAMES.get(leaf, leaf)])] = np.asarray(group[layer][weight])
    return arrays


def layers_of(model: Any, names: tuple[str, ...] = ()) -> Iterator[Layer]:
    """All layers of a model in the order of its config, those of models within the model included."""
    for layer in model if isinstance(model, list) else model.get("layers", ()):
        kind, settings = layer["class_name"], layer["config"]
        place = (*names, settings.get("name", layer.get("name", "")))
        if "layers" in settings:
            yield from layers_of(settings, place)
        else:
            yield Layer(".".join(place), kind, settings)


def read_archive(config: Any, file: Any) -> Arrays:
    """Arrays of a `.keras` archive, given what its two members hold; by path if the config does not describe all that have some."""
    paths = dict(_by_path(file))
    described = dict(_described(config["config"], file, ()))
    return described if len(described) == len(paths) else paths


def _described(model: Mapping[str, Any], group: Any, names: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """Keras 3 names a layer's group after its class, numbered within the class; its variables have numbers for names."""
    count: dict[str, int] = {}
    for layer in model.get("layers", ()):
        kind, settings = layer["class_name"], layer["config"]
        snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)).lower()
        number = count[snake] = count.get(snake, -1) + 1
        inside = group.get(f"layers/{snake}_{number}" if number else f"layers/{snake}", {})
        place = (*names, settings["name"])
        yield from _described(settings, inside, place)
        leaves = ["kernel", "bias"]
        if kind == "BatchNormalization":
            leaves = [leaf for leaf, kept in (("scale", "scale"), ("bias", "center")) if settings.get(kept, True)] + ["mean", "var"]
        variables = inside.get("vars", {})
        for position, leaf in enumerate(leaves[: len(variables)]):
            yield ".".join([*place, leaf]), np.asarray(variables[str(position)])


def _by_path(group: Any, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Every array of weights; not the optimizer's, nor the random state of dropout, which is of integers."""
    for name in group:
        inside, below = group[name], f"{path}/{name}".lstrip("/")
        if hasattr(inside, "keys"):
            yield from () if below == "optimizer" else _by_path(inside, below)
        elif np.issubdtype(inside.dtype, np.floating):
            yield below, np.asarray(inside)


def partners(arrays: Mapping[str, Any], layers: Sequence[str]) -> dict[str, str]:
    """The Keras layer for each of our layers, if the file contains the order of its layers."""
    return dict(zip(layers, dict.fromkeys(name.rpartition(".")[0] for name in arrays), strict=False))


def names_in(arrays: Mapping[str, Any], layers: Sequence[str], wanted: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """The names in a Keras file for the arrays of a module. An array without a partner keeps its name and will be reported missing.

    Args:
      arrays: of the file, as read here.
      layers: those of the module that have weights, in the order of the model of Keras.
      wanted: shapes by name, such as `fc1.kernel`.

    Raises:
      BadInput: the file tells neither the order of its layers nor names like ours.
    """
    if any("/" in name for name in arrays):
        return _names_by_path(arrays, layers, wanted)
    partner = partners(arrays, layers)
    return {name: ".".join([partner.get(layer, layer), leaf]) for name in wanted for layer, _, leaf in [name.rpartition(".")]}


def _names_by_path(arrays: Mapping[str, Any], layers: Sequence[str], wanted: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """A layer is the one at its own path; of the others, those of a kind (dense, convolution, norm) are matched in their order."""
    ours = {layer: [name for leaf in LEAVES if (name := f"{layer}.{leaf}") in wanted] for layer in layers}
    theirs = {folder: list(names) for folder, names in itertools.groupby(sorted(arrays), lambda name: name.rpartition("/vars/")[0])}
    partner = {layer: folder for layer in ours if (folder := layer.replace(".", "/")) in theirs}
    for kind in range(1, 6):  # axes of a layer's first array
        left = [layer for layer, names in ours.items() if layer not in partner and names and len(wanted[names[0]]) == kind]
        found = [folder for folder, names in theirs.items() if folder not in partner.values() and arrays[names[0]].ndim == kind]
        if len({re.sub(r"_\d+(?=/|$)", "", folder) for folder in found}) > 1:
            raise BadInput(
                f"expected layers called {', '.join(left) or 'as in the module'}, or numbered ones of one kind, got {', '.join(found)}, "
                "whose order is unknown; save the whole model as .keras"
            )
        partner |= zip(left, sorted(found, key=_numbers), strict=False)
    return {name: name for name in wanted} | {
        name: f"{partner[layer]}/vars/{position}" for layer in partner for position, name in enumerate(ours[layer])
    }


def _numbers(folder: str) -> list[int]:
    """Number of each part of a path, 0 where Keras leaves it out."""
    return [int(found[1]) if (found := re.search(r"_(\d+)$", part)) else 0 for part in folder.split("/")]


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
