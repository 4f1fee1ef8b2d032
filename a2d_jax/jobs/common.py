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


def preset_attacks(preset: str, role: Role, text: str, **flags: float | None) -> dict[str, Attack]:
    """Attacks of a preset by name, with the settings that are given instead of its own.

    Args:
      preset: by name.
      role: as defence or for crafting.
      text: attacks separated by commas, each a name or `name:setting=value:setting=value`.
      **flags: settings for every attack named; None is not given. Lengths (all but `max_steps`) mean something else in each attack and
        are taken for one attack alone.

    Raises:
      BadInput: an unknown preset, attack or setting, a value of another type, no attack at all, or a flag that does not suit every attack.
    """
    specs = [spec.strip().split(":") for spec in text.split(",") if spec.strip()]
    if not specs:
        raise BadInput(f"expected at least one attack, got {text!r}; name some, such as bim (`a2d info` lists all)")
    given = {setting: value for setting, value in flags.items() if value is not None}
    if len(specs) > 1 and (lengths := given.keys() - {"max_steps"}):
        told = ", ".join("--" + setting.replace("_", "-") for setting in sorted(lengths))
        example = ",".join(f"{name}:{min(lengths)}={given[min(lengths)]:g}" for name, *_ in specs)
        raise BadInput(f"expected {told} for one attack, whose units it has, got {len(specs)} attacks; write --attacks {example}")
    attacks: dict[str, Attack] = {}
    for name, *texts in specs:
        if name in attacks:
            raise BadInput(f"expected each attack once, got {name} again; run the command twice, a table has one column for a name")
        make(preset, role, name)  # refuses unknown names
        own = inspect.signature(getattr(PRESETS[preset], role)[name]).parameters
        for setting in given.keys() - own.keys():
            flag = "--" + setting.replace("_", "-")
            raise BadInput(f"expected {flag} for attacks that have it, got {name}, whose settings are {', '.join(own)}; leave it out")
        attacks[name] = make(preset, role, name, **{**given, **_settings(name, own, texts)})
    return attacks


def _settings(name: str, own: Mapping[str, inspect.Parameter], texts: Sequence[str]) -> dict[str, Any]:
    """Settings written as `setting=value`, of the types that the attack's own have."""
    found: dict[str, Any] = {}
    for text in texts:
        setting, equals, value = text.partition("=")
        if not equals or setting not in own:
            raise BadInput(f"expected setting=value for {name} with a setting among {', '.join(own)}, got {text!r}; correct it")
        found[setting] = _value(value, own[setting].default, f"{name}:{setting}")
    return found


def _value(text: str, usual: object, what: str) -> object:
    """A value of the type of the usual one, scales for each channel being given as one number for all."""
    if isinstance(usual, bool):
        if text not in ("true", "false"):
            raise BadInput(f"expected true or false for {what}, got {text!r}; pass one of them")
        return text == "true"
    kind = int if isinstance(usual, int) else str if isinstance(usual, str) else float
    try:
        return kind(text)
    except ValueError as error:
        wanted = "a whole number" if kind is int else "a number"
        raise BadInput(f"expected {wanted} for {what}, got {text!r}; correct it") from error


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
