"""Check that weights that fit also mean the same: the order in which a layer reads a flattened map, and the settings in a Keras file.

The module is traced once, for shapes only. A map `h w c` that is flattened and multiplied by the kernel of a layer shows which layer reads
it and in which order. The functions that the trace calls show which activations the module has.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from a2d_jax.classifiers import from_nnx, input_shape
from a2d_jax.errors import BadInput
from a2d_jax.io.keras_files import Layer

Path = tuple[Any, ...]
Map = tuple[int, int, int]

SIZES = (28, 32, 8, 16, 64, 96, 128, 224, 227, 299, 48, 40, 56, 112, 160, 192, 240, 256, 260, 300, 320, 380, 384, 448, 512)
"""Heights that are tried for a module that does not say its input_shape."""

ACTIVATIONS = {
    "tanh": {"tanh"}, "sigmoid": {"logistic"}, "swish": {"logistic"}, "silu": {"logistic"}, "elu": {"expm1"}, "selu": {"expm1"},
    "softplus": {"log1p"}, "gelu": {"erf", "erfc", "tanh"}, "mish": {"tanh"}, "relu": {"max"}, "relu6": {"max", "min", "clamp"},
}  # fmt: skip
"""Activations of Keras, and functions of a trace of which each needs one."""
TELLING = {"tanh", "logistic", "expm1", "erf", "erfc"}
"""Functions that only activations call."""
SILENT = {
    "Dense", "Conv2D", "BatchNormalization", "Flatten", "Dropout", "SpatialDropout2D", "Activation", "ReLU", "Softmax", "InputLayer",
    "MaxPooling2D", "AveragePooling2D", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "ZeroPadding2D", "Add", "Concatenate", "Reshape",
    "LeakyReLU", "ELU", "GaussianNoise", "GaussianDropout",
}  # fmt: skip
"""Layers of Keras that a module is expected to have, or that do nothing in evaluation."""


@dataclass
class _Seen:
    """The facts that a trace shows."""

    reads: dict[Path, Map] = field(default_factory=dict)  # map (c, h, w) that a layer reads, flattened as row, column, channel
    functions: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Reads:
    """The statement of a module's class about the map that one of its layers reads."""

    owner: str  # name of the class
    key: str  # the layer, seen from there
    said: bool
    map: Map | None  # as channel, row, column; None: the file has Flax's order


def flattened_otherwise(module: nnx.Module, layers: Mapping[Path, Reads]) -> list[str]:
    """Refuse a module if one of its layers reads a flattened map without saying so, or names another map. Return notes on unchecked layers.

    Args:
      module: with or without weights.
      layers: the statements about each layer, by its path.

    Raises:
      BadInput: one line that names the layer, its map and the attribute to write.
    """
    seen = _trace(module)
    if seen is None:
        kinds = {len(array.shape) for array in jax.tree.leaves(nnx.state(module, nnx.Param))}
        silent = not any(reads.said for reads in layers.values())
        name = type(module).__name__
        note = f"could not check in which order {name} reads a flattened map; give it an attribute input_shape = (h, w, c)"
        return [note] if {2, 4} <= kinds and silent else []
    for path, (c, h, w) in seen.reads.items():
        reads = layers.get(path)
        if reads is not None and not reads.said:
            raise BadInput(
                f"expected {reads.owner} to say how {reads.key} reads its inputs, got nothing about a flattened map of "
                f"{h} x {w} x {c} (h w c); PyTorch flattens channel, row, column: "
                f'add flattened = {{"{reads.key}": ({c}, {h}, {w})}} to the class; '
                f'if the layer of the file reads row, column, channel, add {{"{reads.key}": None}} instead (docs/converting.md)'
            )
        if reads is not None and reads.map is not None and tuple(reads.map) != (c, h, w):
            raise BadInput(
                f"expected flattened of {reads.owner} to say ({c}, {h}, {w}) (c h w) for {reads.key}, got {tuple(reads.map)}; correct it"
            )
    return []


def against_keras(layers: Sequence[Layer], partners: Mapping[str, str], module: nnx.Module, verified: bool) -> list[str]:
    """Notes for the user on the differences between a Keras file and the module.

    Args:
      layers: layers of the file, in order.
      partners: the layer of the file for each layer of the module.
      module: with or without weights.
      verified: differences are noted, not refused.

    Raises:
      BadInput: epsilon, strides, padding, dilation, groups, the order of axes or an activation differs.
    """
    if not layers:
        return [
            f"the file holds weights alone and no settings: compare the settings of {type(module).__name__} yourself (batch norm has "
            "epsilon 0.001 in Keras), or pass --check"
        ]
    trouble: list[str] = []
    order = list(zip([None, *layers], layers, strict=False))
    for ours, theirs in partners.items():
        found = [pair for pair in order if pair[1].name == theirs]
        if not found:  # older files have other paths for models within the model
            found = [pair for pair in order if pair[1].name.rpartition(".")[2] == theirs.rpartition(".")[2]]
        if len(found) == 1:
            ((before, layer),) = found
            trouble += [f"{layer.name} has {text}" for text in _differences(layer, before, _at(module, ours))]
    first = [layer.name for layer in layers if layer.settings.get("data_format") == "channels_first"]
    trouble += [f"{name} has data_format channels_first, and images here are h w c" for name in first]
    last = _activation(layers[-1])
    inner = {_activation(layer) for layer in layers[:-1]} | ({last} - {"softmax", "sigmoid"})
    seen = _trace(module)
    if seen is not None:
        needed = [ACTIVATIONS[one] for one in inner if one in ACTIVATIONS]
        lacking = sorted(one for one in inner if one in ACTIVATIONS and not ACTIVATIONS[one] & seen.functions)
        trouble += [f"the file has the activation {one}, which the module lacks" for one in lacking]
        spare = sorted(seen.functions & TELLING - set().union(*needed))
        if all(one in ACTIVATIONS or one in ("linear", "softmax") for one in inner):
            trouble += [f"the module computes {one}, which the file lacks" for one in spare]
    if trouble and not verified:
        raise BadInput(
            f"expected {type(module).__name__} to match the model of the file, got differences: {'; '.join(trouble)}; correct the module, "
            "or show with --check that both give the same logits"
        )
    notes = [f"the file's model differs from {type(module).__name__}: {'; '.join(trouble)}"] if trouble else []
    if last in ("softmax", "sigmoid"):
        notes.append(f"the file's model ends in a {last}; a classifier must leave it out, because attacks need logits")
    other = sorted({layer.kind for layer in layers} - SILENT)
    if other:
        notes.append(f"the file's model also has layers that could not be compared with {type(module).__name__}: {', '.join(other)}")
    return notes


def _differences(layer: Layer, before: Layer | None, ours: Any) -> Iterator[str]:
    """Settings of a layer of Keras that ours has otherwise."""
    said = layer.settings
    if isinstance(ours, nnx.BatchNorm):
        epsilon = float(said.get("epsilon", 1e-3))
        if not math.isclose(epsilon, ours.epsilon, rel_tol=1e-3):
            yield f"epsilon {epsilon:g}, the module {ours.epsilon:g}"
    if isinstance(ours, nnx.Conv):
        axes = len(ours.kernel_size)
        for name, mine in (("strides", ours.strides), ("dilation_rate", ours.kernel_dilation)):
            theirs = _each(said.get(name, 1), axes)
            if theirs != _each(mine, axes):
                yield f"{name} {theirs}, the module {_each(mine, axes)}"
        if int(said.get("groups", 1)) != ours.feature_group_count:
            yield f"groups {said.get('groups', 1)}, the module {ours.feature_group_count}"
        around = before.settings.get("padding") if before is not None and before.kind == "ZeroPadding2D" else None
        theirs = _pads(str(said.get("padding", "valid")).upper(), ours, around)
        mine = _pads(ours.padding, ours, None)
        if theirs != mine:
            yield f"padding {said.get('padding', 'valid')}, the module {ours.padding}"


def _pads(padding: Any, conv: nnx.Conv, around: Any) -> object:
    """Rows and columns added before and after each axis; a word where it depends on the size of the map."""
    axes = len(conv.kernel_size)
    if isinstance(padding, str) and padding.upper() == "SAME":
        strides, dilation = _each(conv.strides, axes), _each(conv.kernel_dilation, axes)
        if any(step > 1 for step in strides):
            return "SAME"
        whole = [(size - 1) * step for size, step in zip(conv.kernel_size, dilation, strict=True)]
        return tuple((one // 2, one - one // 2) for one in whole)
    if isinstance(padding, str):
        padding = 0 if around is None else around
    one_each = _each(padding, axes) if isinstance(padding, int) else padding
    return tuple((pad, pad) if isinstance(pad, int) else tuple(pad) for pad in one_each)


def _each(value: Any, axes: int) -> tuple[int, ...]:
    """One number for each axis; none is 1."""
    return tuple(map(int, value)) if isinstance(value, list | tuple) else (1 if value is None else int(value),) * axes


def _activation(layer: Layer) -> str:
    """What a layer of Keras ends in."""
    by_kind = {"ReLU": "relu", "Softmax": "softmax", "ELU": "elu"}
    named = layer.settings.get("activation")
    if layer.kind == "ReLU" and layer.settings.get("max_value") == 6:
        return "relu6"
    if isinstance(named, Mapping):
        named = named.get("config", {}).get("name", named.get("class_name"))
    return str(named or by_kind.get(layer.kind, "linear"))


def _at(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = module[int(part)] if part.isdigit() else getattr(module, part, None)
    return module


def _trace(module: nnx.Module) -> _Seen | None:
    """What a trace of the module shows; None if no images are found that it takes."""
    classifier = from_nnx(module)
    shape = input_shape(module)
    inputs = {array.shape[2] for array in jax.tree.leaves(nnx.state(module, nnx.Param)) if len(array.shape) == 4} & {1, 3} or {1, 3}
    shapes = [shape] if shape is not None else [(size, size, channels) for size in SIZES for channels in sorted(inputs)]
    for one in shapes:
        try:
            program = jax.make_jaxpr(classifier.apply)(classifier.variables, jax.ShapeDtypeStruct(one, jnp.float32))
        except Exception:  # images of another shape, or a module that raises: whoever uses it will be told
            continue
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(classifier.variables)]
        seen = _Seen()
        weights = [("weight", tuple(_plain(key) for key in path if _plain(key) != "value")) for path in paths]
        _walk(program.jaxpr, [*weights, None], seen)
        return seen
    return None


def _plain(key: Any) -> Any:
    """The name or number of a step in a tree."""
    return next(getattr(key, name) for name in ("key", "idx", "name") if hasattr(key, name))


def _walk(program: Any, given: Sequence[Any], seen: _Seen) -> list[Any]:
    """Follow weights, maps whose channels come first, and flattened maps through a program; what is known of its results."""
    known: dict[Any, Any] = dict(zip(program.invars, given, strict=True))

    def of(atom: Any) -> Any:
        return None if hasattr(atom, "val") else known.get(atom)

    for step in program.eqns:
        name = step.primitive.name
        tags = [of(atom) for atom in step.invars]
        inner = next((step.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in step.params), None)
        if inner is not None and len(getattr(inner, "jaxpr", inner).invars) == len(step.invars):
            known.update(zip(step.outvars, _walk(getattr(inner, "jaxpr", inner), tags, seen), strict=False))
            continue
        seen.functions.add(name)
        out = step.outvars[0]
        shape = tuple(getattr(out.aval, "shape", ()))
        before = tuple(getattr(step.invars[0].aval, "shape", ())) if step.invars else ()
        flat = next((tag for tag in tags if tag and tag[0] == "flat"), None)
        weight = next((tag for tag in tags if tag and tag[0] == "weight"), None)
        if flat and weight and (name == "dot_general" or shape == (*shape[:-1], math.prod(flat[1]))):
            seen.reads.setdefault(weight[1][:-1], flat[1])
        tag = next((tag for tag, atom in zip(tags, step.invars, strict=True) if tag and tuple(atom.aval.shape) == shape), None)
        if name == "conv_general_dilated":
            tag = ("first",) if step.params["dimension_numbers"].out_spec[1] != len(shape) - 1 else None
        elif name == "transpose":
            tag = weight if weight else _turned(tags[0], step.params["permutation"])
        elif name == "reshape":
            tag = _reshaped(tags[0], before, shape)
        elif tag is None and len(shape) == 4 and ("first",) in tags:
            tag = ("first",)
        elif tag is None and weight and name in ("broadcast_in_dim", "convert_element_type", "squeeze", "copy"):
            tag = weight
        elif name == "dot_general":
            tag = None
        known[out] = tag
    return [of(atom) for atom in program.outvars]


def _turned(tag: Any, order: Sequence[int]) -> Any:
    """A map whose channels are moved in front of rows and columns, or back."""
    if len(order) < 3:
        return tag
    if tag == ("first",):
        return None if order[-1] == len(order) - 3 else tag
    return ("first",) if order[-1] != len(order) - 1 else tag


def _reshaped(tag: Any, before: tuple[int, ...], after: tuple[int, ...]) -> Any:
    """A map `h w c` that becomes one row of numbers."""
    if tag is not None and tag[0] in ("weight", "flat"):
        return tag if tag[0] == "weight" or math.prod(after) == max(after, default=1) else None
    if tag == ("first",) or len(before) != 4:
        return None if len(after) < 4 else tag
    images, h, w, c = before
    row = images == 1 and max(after, default=1) == math.prod(after) == h * w * c
    return ("flat", (c, h, w)) if row and h * w > 1 and c > 1 else None
