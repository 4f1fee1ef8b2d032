"""What jobs share: their result, the settings of attacks by name, and the record of a run."""

import hashlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from a2d_jax import attacks as families
from a2d_jax.errors import BadInput
from a2d_jax.io.images import ImageSource
from a2d_jax.presets import PRESETS, Role, make
from a2d_jax.types import Attack, Classifier

Report = Callable[[str, int, int], None]
"""Told of progress: what is being done, how many are done, of how many."""


@dataclass(frozen=True)
class Done:
    """What a job tells.

    Attributes:
      summary: numbers and paths, anything JSON can say.
      failed: rows that carry an error.
      notes: choices made on the user's behalf.
    """

    summary: dict[str, Any]
    failed: int = 0
    notes: list[str] = field(default_factory=list)


def silent(what: str, done: int, total: int) -> None:
    """Report to nobody."""


def names_of(text: str) -> list[str]:
    """Names separated by commas, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def preset_attacks(preset: str, role: Role, names: Sequence[str], **overrides: float | None) -> dict[str, Attack]:
    """Attacks of a preset by name; an override goes to every attack that has this setting.

    Raises:
      BadInput: an unknown preset or attack, no attack at all, or an override that none of the attacks has.
    """
    if not names:
        raise BadInput(f"expected at least one attack, got none; name some of {', '.join(getattr(PRESETS[preset], role))}")
    given = {setting: value for setting, value in overrides.items() if value is not None}
    attacks: dict[str, Attack] = {}
    unused = set(given)
    for name in names:
        make(preset, role, name)  # refuses unknown names
        own = inspect.signature(getattr(PRESETS[preset], role)[name]).parameters
        attacks[name] = make(preset, role, name, **{setting: value for setting, value in given.items() if setting in own})
        unused -= set(own)
    if unused:
        flags = ", ".join("--" + setting.replace("_", "-") for setting in sorted(unused))
        raise BadInput(f"expected settings of {', '.join(names)}, got {flags}, which none of them has; leave it out")
    return attacks


_KINDS: dict[str, Callable[..., Any]] = {name: kind for name, kind in vars(families).items() if isinstance(kind, type)}


def settings_of(attacks: Mapping[str, Attack]) -> dict[str, dict[str, Any]]:
    """Every setting of every attack, as JSON has it."""
    return {name: {"kind": type(attack).__name__, **asdict(attack)} for name, attack in attacks.items()}  # pyright: ignore[reportArgumentType] (attacks are dataclasses)


def attacks_from(settings: Mapping[str, Mapping[str, Any]], names: Iterable[str], path: Path) -> dict[str, Attack]:
    """Inverse of `settings_of` for the attacks named.

    Raises:
      BadInput: settings are missing or are not those of an attack.
    """
    attacks: dict[str, Attack] = {}
    for name in names:
        try:
            attacks[name] = _KINDS[settings[name]["kind"]](**{key: value for key, value in settings[name].items() if key != "kind"})
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"expected the settings of attack {name} in {path}, got none that can be used; fit the detector to a table of `a2d cost`"
            ) from error
    return attacks


def same_settings(names: Iterable[str], one: Mapping[str, Any], one_name: str, other: Mapping[str, Any], other_name: str) -> None:
    """Refuse costs that were counted in another precision or with different settings; what is not recorded cannot differ."""
    precisions = [meta.get("precision") for meta in (one, other)]
    if None not in precisions and precisions[0] != precisions[1]:
        raise BadInput(
            f"expected costs in {precisions[0]} as in {one_name}, got {precisions[1]} in {other_name}; "
            f"run `a2d cost` with --precision {precisions[0]}"
        )
    for name in names:
        mine, theirs = (meta.get("attacks", {}).get(name, {}) for meta in (one, other))
        for setting in mine.keys() & theirs.keys():
            if mine[setting] != theirs[setting]:
                raise BadInput(
                    f"expected costs of {name} with {setting} {mine[setting]} as in {one_name}, "
                    f"got {theirs[setting]} in {other_name}; run `a2d cost` with the same settings"
                )


def record(classifier: Classifier, source: ImageSource, /, **settings: Any) -> dict[str, Any]:
    """What a table should know of its origin: versions, inputs with their hashes, settings."""
    return {
        "versions": versions(),
        "weights_sha256": _weights_digest(classifier),
        "images": str(source.path),
        "images_sha256": source.digest(),
        "photographs": None if source.preprocessing is None else asdict(source.preprocessing),
        "count": len(source),
        **settings,
    }


def versions() -> dict[str, str]:
    """Versions of this project and of what its numbers depend on."""
    return {name: importlib.metadata.version(name) for name in ("a2d-jax", "jax", "jaxlib", "flax", "numpy", "scipy", "scikit-learn")}


def _weights_digest(classifier: Classifier) -> str:
    hashed = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(classifier.variables):
        array = np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
        hashed.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        hashed.update(array.tobytes())
    return hashed.hexdigest()
