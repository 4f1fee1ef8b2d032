"""Classifiers on disk: an Orbax checkpoint of the weights with a card beside it, and the import string that makes the module.

    DIR/weights/          Orbax, a nested dict of arrays named like the module's attributes
    DIR/classifier.json   import string, input shape, classes and their names, preprocessing, source file and its hash, versions

A module says by its attributes, all optional, what the card repeats: `input_shape` (h, w, c); `class_names`, in the order of its logits;
`preprocessing`, a text on what it does to pixels itself; `photographs`, how photographs get its shape (`a2d_jax.io.photographs`). What
a card says comes before what the module says.

`load` also takes a bare Orbax checkpoint without a card. Nothing is ever unpickled.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util
from orbax.checkpoint import v1 as ocp

from a2d_jax.classifiers import as_classifier, input_shape
from a2d_jax.errors import BadInput
from a2d_jax.imports import import_string, one_line
from a2d_jax.io.files import FORCE
from a2d_jax.io.photographs import Preprocessing, preprocessing_from
from a2d_jax.types import Classifier

CARD = "classifier.json"
WEIGHTS = "weights"

Name = tuple[str, ...]


@dataclass(frozen=True)
class LoadedClassifier:
    """A classifier ready for use, with what its factory and its checkpoint say about it."""

    classifier: Classifier
    input_shape: tuple[int, int, int] | None  # h, w, c; None if the module does not say
    card: dict[str, Any]  # content of classifier.json; empty without a checkpoint
    preprocessing: Preprocessing | None  # of photographs of any size; None if they must have the input shape
    class_names: tuple[str, ...] | None


def save(
    module: object,
    directory: Path,
    *,
    factory: str,
    source: Path | None = None,
    class_names: Sequence[str] | None = None,
    force: bool = False,
    how: str = FORCE,
    says: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a checkpoint of a Flax module or a `Classifier`; it appears whole or not at all.

    Args:
      module: what the factory returns, with the weights to keep.
      directory: new folder; its parent must exist.
      factory: import string `module:factory` that makes the module again.
      source: file from which the weights came; its name and hash go into the card.
      class_names: names of the classes in the order of the logits; default the module's own, if it has any.
      force: replace an existing checkpoint (never another kind of folder).
      how: what the caller's user passes to have it replaced.
      says: more for the card, or instead of what the module says.

    Returns:
      The card.

    Raises:
      BadInput: the output cannot or must not be written there, or what the module says of itself cannot be.
    """
    _refuse_existing(directory, force, how)
    classifier = as_classifier(module)
    shape = input_shape(module)
    weights = _named(classifier.variables)
    classes = None
    if shape is not None:
        classes = jax.eval_shape(classifier, jax.ShapeDtypeStruct(shape, jnp.float32)).shape[-1]
    preprocessing = preprocessing_from(getattr(module, "photographs", None), shape)
    names = _class_names(class_names or getattr(module, "class_names", None), classes)
    card: dict[str, Any] = {
        "factory": factory,
        "classes": classes,
        **_said(module, shape, preprocessing, names),
        "parameters": _parameter_count(module, weights),
        "source": None if source is None else {"name": source.name, "sha256": _sha256(source)},
        "versions": {name: importlib.metadata.version(name) for name in ("a2d-jax", "jax", "flax", "orbax-checkpoint")},
        **(says or {}),
    }
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        ocp.save(str(temporary.absolute() / WEIGHTS), traverse_util.unflatten_dict(weights))
        card["weights_sha256"] = _sha256(temporary / WEIGHTS)
        (temporary / CARD).write_text(json.dumps(card, indent=2) + "\n")
        if directory.exists():
            replaced = directory.rename(directory.with_name(f".{directory.name}.{os.getpid()}.old"))
            temporary.rename(directory)
            shutil.rmtree(replaced)
        else:
            temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return card


def load(factory: str, directory: Path | None = None) -> LoadedClassifier:
    """Make the classifier that an import string names and give it the weights of a checkpoint.

    Args:
      factory: `module:factory`, see `import_factory`.
      directory: what `save` wrote, or an Orbax checkpoint; None keeps the weights that the factory gives.

    Raises:
      BadInput: the import string or the checkpoint cannot be used, or they do not fit each other (each array and both shapes).
    """
    module = make_module(factory, weights=directory is None)
    try:
        classifier = as_classifier(module)
    except BadInput as error:
        raise BadInput(f"the classifier {factory}: {error}") from error
    card: dict[str, Any] = {}
    if directory is not None:
        card = _read_card(directory)
        classifier = replace(classifier, variables=_load_weights(directory, classifier.variables, factory))
    shape = input_shape(module)
    preprocessing = preprocessing_from(card.get("photographs", getattr(module, "photographs", None)), shape)
    names = _class_names(card.get("class_names") or getattr(module, "class_names", None), card.get("classes"))
    said = {**_said(module, shape, preprocessing, names), **card, "factory": factory}
    classifier = replace(classifier, card=said)
    return LoadedClassifier(classifier, shape, card, preprocessing, names)


def read_class_names(path: Path) -> list[str]:
    """Names of classes in the order of the logits, one a line.

    Raises:
      BadInput: no such file, no text, an empty line, or a name given twice.
    """
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"expected names of classes, one a line, got {path}, which cannot be read ({one_line(error)}); check it") from error
    if not all(map(str.strip, names)):
        raise BadInput(f"expected a name in each line of {path}, got an empty line {[*map(str.strip, names)].index('') + 1}; fill it in")
    return [name.strip() for name in names]


def import_factory(text: str) -> Callable[[], object]:
    """Import `module:factory`; the current directory is importable.

    Raises:
      BadInput: not of that form, does not import (with the original error), no such attribute, or not callable.
    """
    factory = import_string(text, "models.lenet:lenet5")
    if not callable(factory):
        raise BadInput(f"expected a callable factory, got {text}, a {type(factory).__name__}; name a function of no arguments")
    return factory


def make_module(factory: str, *, weights: bool = True) -> object:
    """Call the factory of an import string.

    Args:
      factory: `module:factory`, see `import_factory`.
      weights: False leaves arrays abstract (shapes alone) where the factory allows it, for weights that will be replaced: drawing
        the first weights of a network takes seconds to minutes.

    Raises:
      BadInput: the import string cannot be used, or the factory raises.
    """
    make = import_factory(factory)
    if not weights:
        with suppress(Exception):  # a factory that cannot be traced (it computes with its weights, say) is simply called
            abstract = nnx.eval_shape(make)
            if isinstance(abstract, nnx.Module | Classifier):
                return abstract
    try:
        return make()
    except Exception as error:  # the user's own function, which may raise anything
        raise BadInput(f"expected {factory}() to make a classifier, got {one_line(error)}; check the factory") from error


def _said(module: object, shape: Any, preprocessing: Preprocessing | None, names: tuple[str, ...] | None) -> dict[str, Any]:
    """What a module says of itself, as a card has it."""
    return {
        "input_shape": shape,
        "class_names": names,
        "preprocessing": getattr(module, "preprocessing", "inside the module"),
        "photographs": None if preprocessing is None else asdict(preprocessing),
    }


def _class_names(names: Any, classes: int | None) -> tuple[str, ...] | None:
    """Names that a module, a card or a user gives, one for each class."""
    if names is None:
        return None
    if isinstance(names, str) or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise BadInput(f"expected class_names as different texts, got {str(names)[:80]}; correct them")
    if classes is not None and len(names) != classes:
        raise BadInput(f"expected names of {classes} classes, got {len(names)} (first {names[0]!r}); give one for each, in their order")
    return tuple(names)


def _parameter_count(module: object, weights: dict[Name, jax.Array]) -> int:
    """Numbers that training learns: statistics of batch norm are weights of a checkpoint, but no parameters."""
    if isinstance(module, nnx.Module):
        return sum(array.size for array in jax.tree.leaves(nnx.state(module, nnx.Param)))
    return sum(array.size for name, array in weights.items() if name[0] != "batch_stats")  # as Linen calls them


def _refuse_existing(directory: Path, force: bool, how: str) -> None:
    parent = directory.absolute().parent
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise BadInput(f"expected an existing, writable folder for the output {directory}, got {parent}; create it or choose another")
    if directory.exists() and not force:
        raise BadInput(f"expected a new output, got {directory}, which exists; choose another name or pass {how}")
    if directory.exists() and not (directory / CARD).is_file():
        raise BadInput(f"expected a checkpoint to replace, got {directory}, which has no {CARD}; choose another name")


def _load_weights(directory: Path, variables: Any, factory: str) -> Any:
    """Weights of a checkpoint in the structure of `variables`."""
    folder = directory / WEIGHTS if (directory / WEIGHTS).is_dir() else directory
    place = str(folder.absolute())  # Orbax takes no relative ones
    try:
        stored: dict[Name, Any] = traverse_util.flatten_dict(ocp.metadata(place).metadata)
    except Exception as error:  # no checkpoint, or a damaged one, which raises whatever the damage leads to
        raise _unreadable(directory, error) from error
    wanted = _named(variables)
    trouble = [f"{'.'.join(name)} {array.shape} is missing" for name, array in wanted.items() if name not in stored]
    trouble += [f"{'.'.join(name)} {tuple(array.shape)} is unexpected" for name, array in stored.items() if name not in wanted]
    trouble += [
        f"{'.'.join(name)} is {tuple(stored[name].shape)} and should be {array.shape}"
        for name, array in wanted.items()
        if name in stored and tuple(stored[name].shape) != array.shape
    ]
    if trouble:
        raise BadInput(f"expected a checkpoint of {factory}, got other arrays in {directory}: {'; '.join(trouble)}; pass the one that fits")
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])  # without it, Orbax would restore onto the devices of the writer
    target = {name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=here) for name, array in wanted.items()}
    try:
        loaded: dict[Name, Any] = traverse_util.flatten_dict(ocp.load(place, traverse_util.unflatten_dict(target)))
    except Exception as error:  # as above
        raise _unreadable(directory, error) from error

    def pick(path: tuple[Any, ...], leaf: Any) -> Any:
        return loaded.get(_name(path), leaf)

    return jax.tree_util.tree_map_with_path(pick, variables)


def _named(variables: Any) -> dict[Name, jax.Array]:
    """Arrays by name, without random keys, which evaluation does not use."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {_name(path): leaf for path, leaf in leaves if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)}


def _name(path: tuple[Any, ...]) -> Name:
    """Name of a leaf from its path; Flax's `.value` inside a variable is no part of it."""
    keys = [key for key in path if not (isinstance(key, jax.tree_util.GetAttrKey) and key.name == "value")]
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in keys) or (WEIGHTS,)


def _read_card(directory: Path) -> dict[str, Any]:
    path = directory / CARD
    if not path.is_file():
        return {}
    try:
        card = json.loads(path.read_text())
    except ValueError as error:
        raise BadInput(f"expected JSON in {path}, got {one_line(error)}; convert the checkpoint again") from error
    if card.get("weights_sha256") != _sha256(directory / WEIGHTS):
        raise BadInput(f"expected the weights that {path} describes, got damaged or exchanged ones; convert the checkpoint again")
    return card


def _sha256(path: Path) -> str:
    """Hash of a file, or of all files of a folder: their names and contents in order."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            whole.update(f"{file.relative_to(path)} {_sha256(file)}\n".encode())
    return whole.hexdigest()


def _unreadable(directory: Path, error: Exception) -> BadInput:
    return BadInput(f"expected an Orbax checkpoint, got {directory}, which does not load ({one_line(error)}); make one with `a2d convert`")
