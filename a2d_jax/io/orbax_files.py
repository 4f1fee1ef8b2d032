"""The arrays in Orbax folders, and the choice of those that are the weights of a network.

A folder may contain one tree (`save`, `StandardCheckpointer`, `PyTreeCheckpointer`), several items with a tree each, or steps of a
`CheckpointManager`; the newest step is taken. A tree is either the weights alone, or a training state with the weights, a step number and
an optimizer. The ending `.value` in the names of a saved `nnx.State` is left out.
"""

import gc
import json
import re
import sys
import traceback
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as orbax
import tensorstore

from a2d_jax.errors import BadInput
from a2d_jax.imports import one_line

Name = tuple[str, ...]
Shapes = Mapping[Name, tuple[int, ...]]

TREE = ("_METADATA", "checkpoint", "manifest.ocdbt")
"""Files by which a folder with a tree is known: of today's Orbax and of older ones."""
STEP = re.compile(r"(?:[A-Za-z]\w*[_-])?(\d+)")
BESIDE = {"opt_state", "optimizer", "optimizer_state", "optim", "opt", "tx", "rng", "rngs", "step", "epoch", "metrics"}
"""What training keeps beside the weights, and evaluation does not need."""
ROOT = "params"
"""Where Flax Linen keeps parameters; some save what lies below it alone."""


@dataclass(frozen=True)
class Stored:
    """An Orbax folder; its arrays have not been read yet.

    Attributes:
      directory: the folder that the user named.
      trees: folder and metadata of each item; the key is "" for a folder without items.
      leaves: location and shape of every array by name; the item is the first part of the name.
      step: the step that was taken, for a folder with steps.
    """

    directory: Path
    trees: dict[str, tuple[Path, Any]]
    leaves: dict[Name, Any] = field(repr=False)
    step: str | None = None


class Unreadable(BadInput):
    """The folder is not an Orbax checkpoint, or is damaged."""

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(f"expected an Orbax checkpoint, got {directory}, which does not load ({reason}); make one with `a2d convert`")


def open_orbax(directory: Path, inside: Path | None = None) -> Stored:
    """Find the arrays in a folder.

    Args:
      directory: the folder that the user named.
      inside: the sub-folder to search; default the folder itself.

    Raises:
      Unreadable: not an Orbax folder, or a damaged one.
    """
    inside = inside or directory
    trees, step = _trees(inside), None
    if not trees:
        steps = {int(found[1]): child for child in _folders(inside) if (found := STEP.fullmatch(child.name)) and _trees(child)}
        if not steps:
            raise Unreadable(directory, "no arrays of Orbax in it" if directory.is_dir() else "no such folder")
        newest = steps[max(steps)]
        trees, step = _trees(newest), newest.name
    try:
        for folder in trees.values():
            _describe(folder)
        metadata = {item: (folder, _handler().metadata(folder.absolute()).tree) for item, folder in trees.items()}
        leaves = {
            (*([item] if item else []), *name): leaf
            for item, (_, tree) in metadata.items()
            for name, leaf in ((_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree))
            if getattr(leaf, "shape", None) is not None
        }
    except Exception as error:  # a damaged one raises whatever the damage leads to
        _forget(error)
        raise Unreadable(directory, one_line(error)) from error
    return Stored(directory, metadata, leaves, step)


def choose(stored: Stored, wanted: Shapes, network: str, key: str | None = None) -> tuple[Name, dict[Name, Name]]:
    """Find the part of the tree with the wanted arrays, and the stored name of each array.

    Args:
      stored: the contents of the folder.
      wanted: shapes by name.
      network: name of the network, for errors.
      key: the part of the tree to take, as names joined by dots; default the part that fits.

    Raises:
      BadInput: no part fits, several parts fit, or there is no such part; the message names arrays and shapes.
    """
    nodes = {name[:depth] for name in stored.leaves for depth in range(len(name))} or {()}
    if key is not None:
        nodes &= {tuple(key.split("."))}
        if not nodes:
            raise BadInput(f"expected a part of {stored.directory}, got the key {key!r}; it has {_listed({n[:1] for n in stored.leaves})}")
    below_root = {name[1:]: name for name in wanted} if all(len(name) > 1 and name[0] == ROOT for name in wanted) else None
    fits: dict[frozenset[Name], tuple[Name, dict[Name, Name]]] = {}
    for node in sorted(nodes, key=lambda node: (len(node), node)):
        if key is None and BESIDE & set(node):
            continue
        for asked in ({name: name for name in wanted}, below_root):
            taken = {ours: (*node, *theirs) for theirs, ours in asked.items()} if asked else {}
            if taken and not _trouble(stored, node, {theirs: wanted[ours] for theirs, ours in (asked or {}).items()}):
                fits.setdefault(frozenset(taken.values()), (node, taken))
    if len(fits) > 1:
        names = _listed(node for node, _ in fits.values())
        raise BadInput(
            f"expected one network in {stored.directory}, got {len(fits)} that fit: {names}; choose one with `a2d convert ... --key NAME`"
        )
    if not fits:
        node = min(nodes, key=lambda node: (bool(BESIDE & set(node)), -len(_below(stored, node).keys() & wanted.keys()), len(node), node))
        trouble = "; ".join(_trouble(stored, node, wanted))
        raise BadInput(f"expected a checkpoint of {network}, got other arrays in {stored.directory}: {trouble}; pass the one that fits")
    return next(iter(fits.values()))


def read(stored: Stored, names: Iterable[Name]) -> dict[Name, np.ndarray]:
    """Read the arrays with these names, and no others.

    Raises:
      Unreadable: the arrays are damaged.
    """
    names = set(names)
    arrays: dict[Name, np.ndarray] = {}
    for item, (folder, tree) in stored.trees.items():
        first = (item,) if item else ()
        leaves = {(*first, *_name(path)): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        wanted = {name: leaf for name, leaf in leaves.items() if name in names}
        try:
            if not wanted:
                continue
            if (folder / "manifest.ocdbt").is_file():
                arrays |= _read_ocdbt(folder, {name: leaf.name for name, leaf in wanted.items()})
            else:
                found = _handler().restore(folder.absolute(), args=_only(tree, {id(leaf) for leaf in wanted.values()}))
                arrays |= {
                    name: np.asarray(leaf)
                    for path, leaf in jax.tree_util.tree_leaves_with_path(found)
                    if (name := (*first, *_name(path))) in wanted
                }
        except Exception as error:  # a damaged one raises whatever the damage leads to
            _forget(error)
            raise Unreadable(stored.directory, one_line(error)) from error
    return arrays


def _forget(error: Exception) -> None:
    """Destroy what Orbax left unfinished at a damaged file; else Python complains about it on the terminal at some later moment."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings(action="ignore"):  # such as that a coroutine was never awaited
            traceback.clear_frames(error.__traceback__)
            gc.collect()
    finally:
        sys.unraisablehook = hook


def _describe(folder: Path) -> None:
    """Read the descriptions of all arrays, for the errors alone: Orbax's own reader leaves them on the terminal too."""
    if (folder / "manifest.ocdbt").is_file():
        store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{folder.absolute()}/"}).result()
        found = [store.read(key) for key in store.list().result() if key.endswith((b".zarray", b"zarr.json"))]
        for one in found:
            one.result()


def _read_ocdbt(folder: Path, keys: Mapping[Name, str]) -> dict[Name, np.ndarray]:
    """Read arrays where Orbax keeps them today."""
    metadata = json.loads((folder / "_METADATA").read_text(encoding="utf-8")) if (folder / "_METADATA").is_file() else {}
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    base = f"file://{folder.absolute()}/"
    opened = {
        name: tensorstore.open({"driver": driver, "kvstore": {"driver": "ocdbt", "base": base, "path": f"{key}/"}}, open=True)
        for name, key in keys.items()
    }
    reading = {name: array.result().read() for name, array in opened.items()}
    return {name: np.asarray(array.result()) for name, array in reading.items()}


def _only(tree: Any, wanted: set[int]) -> Any:
    """What Orbax's reader takes to read some leaves alone."""
    item = jax.tree.map(lambda leaf: leaf if id(leaf) in wanted else orbax.PLACEHOLDER, tree)
    return orbax.args.PyTreeRestore(item=item, restore_args=jax.tree.map(lambda _: orbax.RestoreArgs(restore_type=np.ndarray), tree))


def _trouble(stored: Stored, node: Name, wanted: Shapes) -> list[str]:
    """Arrays that are missing below a node, too many, or of other shapes; what training keeps beside the weights does not count."""
    below = _below(stored, node)
    trouble = [f"{'.'.join(name)} {shape} is missing" for name, shape in wanted.items() if name not in below]
    trouble += [
        f"{'.'.join(name)} {tuple(leaf.shape)} is unexpected"
        for name, leaf in below.items()
        if name not in wanted and leaf.shape and not BESIDE & set(name)
    ]
    trouble += [
        f"{'.'.join(name)} is {tuple(below[name].shape)} and should be {shape}"
        for name, shape in wanted.items()
        if name in below and tuple(below[name].shape) != shape
    ]
    return trouble


def _below(stored: Stored, node: Name) -> dict[Name, Any]:
    return {name[len(node) :]: leaf for name, leaf in stored.leaves.items() if name[: len(node)] == node}


def _trees(directory: Path) -> dict[str, Path]:
    """Folders with a tree: this one, or its items by name."""
    if _is_tree(directory):
        return {"": directory}
    items = {child.name: child for child in _folders(directory) if not STEP.fullmatch(child.name) and _is_tree(child)}
    return {"": only} if len(items) == 1 and (only := next(iter(items.values()))) else items


def _is_tree(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TREE)


def _folders(directory: Path) -> Sequence[Path]:
    try:
        return sorted(child for child in directory.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError:
        return []


def _handler() -> Any:
    return orbax.PyTreeCheckpointHandler()


def _name(path: tuple[Any, ...]) -> Name:
    keys = tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
    return keys[:-1] if len(keys) > 1 and keys[-1] in ("value", "raw_value") else keys


def _listed(names: Iterable[Name]) -> str:
    return ", ".join(sorted(".".join(name) or "the whole" for name in names))
