"""Classifiers on disk: an Orbax checkpoint of the weights and a card (`classifier.json`) with the import string of the module's factory.

    DIR/weights/          Orbax, a nested dict of arrays named like the module's attributes
    DIR/classifier.json   import string, input shape, classes and their names, preprocessing, source file and its hash, versions, and
                          a digest of the arrays

The card repeats attributes of the module, all optional: `input_shape` (h, w, c); `class_names`, in the order of its logits;
`preprocessing`, a text on what the module does to pixels; `photographs`, how photographs get its shape (`a2d_jax.io.photographs`). The card
has priority over the module.

The digest is over names, types, shapes and values: other files in the folder do not matter. `load` also takes Orbax checkpoints
without a card, as a user's own training writes them (`a2d_jax.io.orbax_files`). Nothing is ever unpickled.
"""

import hashlib
import importlib.metadata
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx, traverse_util
from orbax.checkpoint import v1 as ocp

from a2d_jax.classifiers import as_classifier, input_shape
from a2d_jax.errors import BadInput
from a2d_jax.hardware import devices
from a2d_jax.imports import import_string, one_line
from a2d_jax.io.files import FORCE, atomic_folder, refuse_existing
from a2d_jax.io.orbax_files import Name, Unreadable, choose, open_orbax, read
from a2d_jax.io.photographs import Preprocessing, preprocessing_from
from a2d_jax.types import Classifier

CARD = "classifier.json"
WEIGHTS = "weights"
DIGEST = "arrays_sha256"


@dataclass(frozen=True)
class LoadedClassifier:
    """A classifier ready for use, with the facts that its factory and its checkpoint give about it."""

    classifier: Classifier
    input_shape: tuple[int, int, int] | None  # h, w, c; None if the module does not say
    card: dict[str, Any]  # content of classifier.json; empty without a checkpoint
    preprocessing: Preprocessing | None  # of photographs of any size; None if they must have the input shape
    class_names: tuple[str, ...] | None
    notes: list[str] = field(default_factory=list)  # choices made on the user's behalf


def load_classifier(factory: str | object, checkpoint: str | Path | None = None) -> Classifier:
    """A classifier for attacks and `Defense`, in evaluation mode, from a network and its converted weights.

    The notes of the commands (weights that look untrained, the step that was taken) are warnings here.

    Args:
      factory: import string `module:factory`, a function without arguments that makes the network, or the network itself: a Flax NNX or
        Linen module, or a `Classifier`.
      checkpoint: folder that `a2d convert` wrote, or an Orbax checkpoint; None keeps the weights that the network has.

    Returns:
      A function of one image (`h w c`, float32 in [0, 1]) to its logits, with its weights beside it.

    Raises:
      BadInput: the network or the checkpoint cannot be used, or they do not fit each other (each array and both shapes).

    Example:
      ```python
      >>> from flax import nnx
      >>> from a2d_jax import load_classifier
      >>> class Net(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.fc = nnx.Linear(64, 10, rngs=rngs)
      ...     def __call__(self, x):  # images n h w c
      ...         return self.fc(x.reshape(len(x), -1))
      >>> classifier = load_classifier(lambda: Net(nnx.Rngs(0)), "net")  # doctest: +SKIP
      ```
    """
    loaded = load(factory, None if checkpoint is None else Path(checkpoint))
    for note in loaded.notes:
        warnings.warn(note, stacklevel=2)
    return loaded.classifier


def save(
    module: object,
    directory: str | Path,
    *,
    factory: str,
    source: Path | None = None,
    class_names: Sequence[str] | None = None,
    force: bool = False,
    how: str = FORCE,
    says: Mapping[str, Any] | None = None,
    beside: Callable[[Path], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write a checkpoint of a Flax module or a `Classifier`. It appears complete or not at all.

    Args:
      module: the result of the factory, with the weights to keep.
      directory: new folder; its parent must exist.
      factory: import string `module:factory` that makes the module again.
      source: file from which the weights came; its name and hash go into the card.
      class_names: names of the classes in the order of the logits; default the module's own, if it has any.
      force: replace an existing checkpoint (never another kind of folder).
      how: the option that the user must pass to replace it, for the error.
      says: more entries for the card; they replace those of the module.
      beside: writes more files into the folder, before it appears, and returns more entries for the card.

    Returns:
      The card.

    Raises:
      BadInput: the output cannot or must not be written there, or an attribute of the module is invalid.
    """
    directory = Path(directory)
    refuse_existing(directory, force, how, card=CARD)
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
        "source": None if source is None else {"name": source.name, "sha256": None if source.is_dir() else _sha256(source)},
        "versions": {name: importlib.metadata.version(name) for name in ("a2d-jax", "jax", "flax", "orbax-checkpoint")},
        **(says or {}),
    }
    with atomic_folder(directory, force) as temporary:
        ocp.save(str(temporary.absolute() / WEIGHTS), traverse_util.unflatten_dict(weights))
        for receipt in temporary.rglob("commit_success.txt"):  # Orbax reads it on object stores alone; it holds this machine's path
            receipt.unlink()
        card[DIGEST] = arrays_digest({name: np.asarray(array) for name, array in weights.items()})
        card |= {} if beside is None else beside(temporary)
        (temporary / CARD).write_text(json.dumps(card, indent=2) + "\n")
    return card


def load(factory: str | object, directory: Path | None = None, *, key: str | None = None) -> LoadedClassifier:
    """Make the classifier that an import string names and give it the weights of a checkpoint.

    Args:
      factory: `module:factory`, see `import_factory`; or the factory itself, or the network that it makes.
      directory: folder that `save` wrote, or an Orbax checkpoint; None keeps the weights of the factory.
      key: for an Orbax checkpoint without a card, the part with the weights, as names joined by dots; default the part that fits.

    Raises:
      BadInput: the import string or the checkpoint cannot be used, or they do not fit each other (each array and both shapes), or the
        network raises its own error for images of its declared shape.
    """
    module = make_module(factory, weights=directory is None)
    name = _called(factory)
    try:
        classifier = as_classifier(module)
    except BadInput as error:
        raise BadInput(f"the classifier {name}: {error}") from error
    card: dict[str, Any] = {}
    notes: list[str] = []
    if directory is not None:
        card = _read_card(directory)
        variables, notes = _load_weights(directory, classifier.variables, name, card, key)
        classifier = replace(classifier, variables=variables)
    elif isinstance(module, linen.Module) or (isinstance(module, nnx.Module) and looks_untrained(classifier)):
        notes = [f"no checkpoint is given, and the weights that {name} makes look untrained; pass trained ones with --checkpoint"]
    shape = input_shape(module)
    if shape is not None:
        _try(classifier, shape, name)
    preprocessing = preprocessing_from(card.get("photographs", getattr(module, "photographs", None)), shape)
    names = _class_names(card.get("class_names") or getattr(module, "class_names", None), card.get("classes"))
    said = {**_said(module, shape, preprocessing, names), **card, "factory": factory if isinstance(factory, str) else None}
    classifier = replace(classifier, card=said)
    return LoadedClassifier(classifier, shape, card, preprocessing, names, notes)


def looks_untrained(classifier: Classifier) -> bool:
    """Whether weights look like those of an initialiser: every bias, scale and statistic still has one single value.

    For a network without biases, scales and statistics the bounds decide: the usual initialisers never draw beyond 2.28 standard
    deviations, and training soon goes beyond.
    """
    arrays = [np.asarray(array, np.float32) for array in _named(classifier.variables).values() if array.size > 1]
    flat = [array for array in arrays if array.ndim == 1]
    if flat:
        return all((array == array[0]).all() for array in flat)
    return any(array.size >= 256 for array in arrays) and all(bool(np.abs(array).max() <= 2.28 * array.std()) for array in arrays)


def arrays_digest(arrays: Mapping[Name, np.ndarray]) -> str:
    """SHA-256 of the names, types, shapes and values of arrays, in the order of their names."""
    hashed = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        hashed.update(f"{'.'.join(name)} {array.dtype} {array.shape}\n".encode())
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


def read_class_names(path: Path) -> list[str]:
    """Names of classes in the order of the logits, one per line.

    Raises:
      BadInput: no such file, not a text, an empty line, or a name given twice.
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


def make_module(factory: str | object, *, weights: bool = True) -> object:
    """Call the factory of an import string.

    Args:
      factory: `module:factory`, see `import_factory`; or a function; or a network, which is returned as it is.
      weights: False leaves arrays abstract (shapes only) if the factory allows it. Use it for weights that will be replaced: drawing
        the first weights of a network takes seconds to minutes.

    Raises:
      BadInput: the import string cannot be used, the factory raises, or there is no hardware to compute on.
    """
    if isinstance(factory, nnx.Module | linen.Module | Classifier) or not (isinstance(factory, str) or callable(factory)):
        return factory
    make = import_factory(factory) if isinstance(factory, str) else factory
    devices()
    if not weights:
        with suppress(Exception):  # a factory that cannot be traced (it computes with its weights, say) is simply called
            abstract = nnx.eval_shape(make)
            if isinstance(abstract, nnx.Module | Classifier):
                return abstract
    try:
        return make()
    except Exception as error:  # the user's own function, which may raise anything
        raise BadInput(f"expected {_called(factory)}() to make a classifier, got {one_line(error)}; check the factory") from error


def _called(factory: object) -> str:
    """What to call a factory, or the network itself."""
    return factory if isinstance(factory, str) else getattr(factory, "__name__", type(factory).__name__)


def _try(classifier: Classifier, shape: tuple[int, int, int], name: str) -> None:
    """Refuse a network whose own code raises for images of the shape that it says it takes. Nothing is computed."""
    try:
        jax.eval_shape(classifier, jax.ShapeDtypeStruct(shape, jnp.float32))
    except Exception as error:  # the user's own code, which may raise anything
        raise BadInput(
            f"expected {name} to give logits for images {shape} (h, w, c), got {one_line(error)}, raised by its own code; "
            "correct the module"
        ) from error


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
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise BadInput(f"expected class_names as different texts, got {str(names)[:80]}; correct them")
    if classes is not None and len(names) != classes:
        raise BadInput(f"expected names of {classes} classes, got {len(names)} (first {names[0]!r}); give one for each, in their order")
    return tuple(names)


def _parameter_count(module: object, weights: dict[Name, jax.Array]) -> int:
    """Numbers that training learns: statistics of batch norm are weights of a checkpoint, but no parameters."""
    if isinstance(module, nnx.Module):
        return sum(array.size for array in jax.tree.leaves(nnx.state(module, nnx.Param)))
    return sum(array.size for name, array in weights.items() if name[0] != "batch_stats")  # as Linen calls them


def _load_weights(directory: Path, variables: Any, factory: str, card: Mapping[str, Any], key: str | None) -> tuple[Any, list[str]]:
    """Weights of a checkpoint in the structure of `variables`, and what the user should know of the choice."""
    wanted = _named(variables)
    try:
        stored = open_orbax(directory, directory / WEIGHTS if (directory / WEIGHTS).is_dir() else None)
        node, places = choose(stored, {name: tuple(array.shape) for name, array in wanted.items()}, factory, key)
        found = read(stored, places.values())
    except Unreadable as error:
        raise (_exchanged(directory) if card else error) from error
    arrays = {name: found[place] for name, place in places.items()}
    if card.get(DIGEST, digest := arrays_digest(arrays)) != digest:
        raise _exchanged(directory)

    def pick(path: tuple[Any, ...], leaf: Any) -> Any:
        if (name := _name(path)) in arrays:
            return jnp.asarray(arrays[name], leaf.dtype)
        return jax.random.key(0) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf  # a random key, which evaluation does not use

    notes = [f"took step {stored.step}, the newest of {directory}"] if stored.step else []
    notes += [f"took {'.'.join(node)} of {directory}"] if node else []
    return jax.tree_util.tree_map_with_path(pick, variables), notes


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
        card = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(card, dict):
            raise ValueError(f"a {type(card).__name__} instead of an object")
    except ValueError as error:
        raise BadInput(f"expected JSON in {path}, got {one_line(error)}; convert the checkpoint again") from error
    if "weights_sha256" in card and card["weights_sha256"] != _files_digest(directory / WEIGHTS):
        raise _exchanged(directory)
    return card


def _exchanged(directory: Path) -> BadInput:
    return BadInput(f"expected the weights that {directory / CARD} describes, got damaged or exchanged ones; convert the checkpoint again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


WRITTEN = re.compile(
    r"_CHECKPOINT_METADATA|orbax\.checkpoint|commit_success\.txt|state/(ocdbt\.process_\d+/)?(manifest\.ocdbt|d/[0-9a-f]{32})"
    r"|state/(_sharding|_METADATA|commit_success\.txt|array_metadatas/process_\d+)"
)
"""Files of the folder of weights that Orbax writes."""


def _files_digest(folder: Path) -> str:
    """What cards held before they held the digest of the arrays: hash of the names and contents of the files that Orbax wrote."""
    whole = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and WRITTEN.fullmatch(name := file.relative_to(folder).as_posix()):
            whole.update(f"{name} {_sha256(file)}\n".encode())
    return whole.hexdigest()
