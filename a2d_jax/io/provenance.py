"""Where numbers come from: what a table records of its run, and what two of them must have in common to be compared."""

import hashlib
import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from a2d_jax.errors import BadInput
from a2d_jax.io.source import ImageSource
from a2d_jax.types import Classifier

PACKAGES = ("a2d-jax", "jax", "jaxlib", "flax", "numpy", "scipy", "scikit-learn")

SHARED = {"precision": "in {}", "labels": "with labels from the {}", "target": "with the target {}", "clever": "of {}"}
"""What all numbers of two tables must have in common, and how an error says it."""


def record(classifier: Classifier, source: ImageSource, /, **settings: Any) -> dict[str, Any]:
    """What a table should know of its origin: versions, inputs with their hashes, settings."""
    return {
        "versions": versions(),
        "weights_sha256": weights_digest(classifier),
        "images": str(source.path),
        "images_sha256": source.digest(),
        "photographs": None if source.preprocessing is None else asdict(source.preprocessing),
        "background": source.background,
        "shape": list(source.shape),
        "count": len(source),
        **settings,
    }


def versions() -> dict[str, str]:
    """Versions of this project and of what its numbers depend on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def weights_digest(classifier: Classifier) -> str:
    """SHA-256 of the names, types, shapes and values of all weights."""
    hashed = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(classifier.variables):
        array = np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
        hashed.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        hashed.update(array.tobytes())
    return hashed.hexdigest()


def same_settings(names: Iterable[str], one: Mapping[str, Any], one_name: str, other: Mapping[str, Any], other_name: str) -> None:
    """Refuse numbers that were measured in another precision, of other labels or with different settings.

    What is not recorded cannot differ.

    Args:
      names: the measurements that are compared.
      one: metadata of the first.
      one_name: what to call it.
      other: metadata of the second.
      other_name: what to call it.

    Raises:
      BadInput: something differs; it names what.
    """
    for what, said in (
        ("precision", "in {}"),
        ("labels", "with labels from the {}"),
        ("target", "with the target {}"),
        ("clever", "of {}"),
    ):
        mine, theirs = one.get(what), other.get(what)
        if None not in (mine, theirs) and mine != theirs:
            raise BadInput(
                f"expected costs {said.format(mine)} as in {one_name}, got {theirs} in {other_name}; measure both with {what} {mine}"
            )
    for name in names:
        mine, theirs = (meta.get("attacks", {}).get(name, {}) for meta in (one, other))
        for setting in mine.keys() & theirs.keys():
            if mine[setting] != theirs[setting]:
                raise BadInput(
                    f"expected costs of {name} with {setting} {mine[setting]} as in {one_name}, "
                    f"got {theirs[setting]} in {other_name}; run `a2d cost` with the same settings"
                )
