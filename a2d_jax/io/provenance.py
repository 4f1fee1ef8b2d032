"""The origin of numbers: the facts that a table records about its run, and the check that two records agree.

Costs depend on the network, on the preparation of images and on the settings of the attack. A threshold fitted to costs of one origin means
nothing for costs of another. Mixed origins are refused unless the user asks for them, and then they are recorded. Facts that a file does
not record (older files, tables that passed through another tool) cannot be compared; a note says so.
"""

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from a2d_jax.errors import BadInput
from a2d_jax.io.parts import RECORDS
from a2d_jax.io.source import ImageSource
from a2d_jax.specs import completed
from a2d_jax.types import Classifier

PACKAGES = ("a2d-jax", "jax", "jaxlib", "flax", "numpy", "scipy", "scikit-learn")

COUNTS = 1
"""Raised whenever the same attack with the same settings on the same image counts otherwise than before: such costs do not mix."""

FACTS: Mapping[str, tuple[str, str]] = {
    "counts": ("counted by revision {} of the attacks", "measure both with one version of a2d-jax"),
    "precision": ("in {}", "measure both with precision {}"),
    "classifier": ("of the classifier {}", "measure both with one network"),
    "weights_sha256": ("of the network with the weights {}", "measure both with one network"),
    "photographs": ("of photographs prepared with {}", "prepare both in the same way"),
    "background": ("with transparent pixels over {}", "give both the same --background"),
    "shape": ("of images of the shape {}", "measure images of one shape"),
    "labels": ("with labels from the {}", "measure both with labels {}"),
    "target": ("with the target {}", "measure both with target {}"),
    "clever": ("of {}", "run `a2d clever` with the same settings"),
}
"""What all numbers of two records must have in common: how an error says it, and what to do. Settings of attacks come after these."""
OF_SETTINGS = "run `a2d cost` with the same settings"
FEW = 3
"""Origins that lack the same facts are named one by one up to this number."""
MIXED = "mixed_origins=True"
"""How a caller in Python has origins mixed."""


@dataclass(frozen=True)
class Origin:
    """Something that records the origin of its numbers: a table, a detector, or a network in memory.

    Attributes:
      name: what the user knows it by.
      meta: what it records.
      measured: the measurements that it has numbers of; None if all that are compared. It need not record the settings of others.
    """

    name: str
    meta: Mapping[str, Any]
    measured: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Meeting:
    """The result of a comparison of origins.

    Attributes:
      notes: notes for the user.
      mixed: facts that differ but should agree, by fact and by name of the origin; empty unless the user allowed it.
    """

    notes: list[str] = field(default_factory=list)
    mixed: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def as_meta(self) -> dict[str, Any]:
        """The part that an output records."""
        return {"mixed_origins": self.mixed} if self.mixed else {}

    def __add__(self, other: "Meeting") -> "Meeting":
        both = {fact: {**self.mixed.get(fact, {}), **other.mixed.get(fact, {})} for fact in {**self.mixed, **other.mixed}}
        return Meeting(list(dict.fromkeys(self.notes + other.notes)), both)


def record(classifier: Classifier, source: ImageSource, /, **settings: Any) -> dict[str, Any]:
    """The origin that a table records: versions, inputs with their hashes, settings."""
    crafted = archive_meta(source.path)
    prepared = crafted.get("photographs") if source.preprocessing is None else asdict(source.preprocessing)
    return {
        "versions": versions(),
        "counts": COUNTS,
        "weights_sha256": weights_digest(classifier),
        "images": source.url or str(source.path),
        "images_sha256": source.digest(),
        "photographs": prepared,  # of images that an archive holds: how they were prepared before they were attacked
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


def archive_meta(path: Path) -> Mapping[str, Any]:
    """The facts that crafted images record about their run, in an archive or in parts; empty for other images."""
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                found = json.loads(str(archive["a2d"])) if "a2d" in archive else {}
        else:
            found = _parts_meta(path)
    except Exception:  # of many kinds, whatever the damage leads to; who reads the images refuses them
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("photographs"), dict | None) else {}


def _parts_meta(path: Path) -> Any:
    """What a part of crafted images, or the folder of all of them, says of its run."""
    folder = path.is_dir() and (path / RECORDS).is_dir()  # other folders may hold a million files
    for file in sorted(path.glob("*/*.parquet"))[:1] if folder else [path] if path.suffix.lower() == ".parquet" else []:
        with pa.OSFile(os.fsencode(file)) as stream:
            return json.loads((pq.read_schema(stream).metadata or {}).get(b"a2d", b"{}"))
    return {}


def checked_meta(found: object, path: Path) -> dict[str, Any]:
    """The facts that a file records about its run. They are refused unless they have our form; unknown facts are left as they are.

    Raises:
      BadInput: settings, norms or a shape of another form.
    """
    meta = found if isinstance(found, dict) else {}
    settings, norms, shape = meta.get("attacks", {}), meta.get("norms", {}), meta.get("shape")
    tables = [
        settings,
        norms,
        *(settings.values() if isinstance(settings, dict) else ()),
        *(meta.get(name) or {} for name in ("clever", "photographs")),
    ]
    fits = all(isinstance(one, dict) for one in tables) and all(isinstance(norm, str) for norm in norms.values())
    if not (fits and (shape is None or (isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)))):
        raise BadInput(f"expected settings of the run as `a2d cost` writes them, got others in the metadata of {path}; measure again")
    return meta


def same_origins(names: Iterable[str], origins: Sequence[Origin], mixed: bool = False, how: str = MIXED) -> Meeting:
    """Refuse numbers of different origins, unless the user allows them.

    Args:
      names: the measurements that are compared.
      origins: origins of the numbers; the others are compared with the first.
      mixed: accept different origins and return the differences.
      how: the option that the user must pass for this, for the error.

    Raises:
      BadInput: origins differ; the message names the difference, both values, and what to do.
    """
    names = tuple(names)
    # a large job has thousands of files that say the same: each record is looked at once
    records = {id(origin.meta): _facts(origin.meta, names) for origin in origins}
    told = [(origin, records[id(origin.meta)]) for origin in origins]
    facts = dict.fromkeys(fact for one in records.values() for fact in one)
    differs: dict[str, dict[str, Any]] = {}
    for fact in facts:
        if len({_text(one[fact]) for one in records.values() if one.get(fact) is not None}) > 1:
            differs[fact] = {origin.name: one[fact] for origin, one in told if one.get(fact) is not None}
    if differs and not mixed:
        raise _refusal(differs, how)
    notes = [f"origins are mixed as asked: {fact} is {_listed(known)}" for fact, known in differs.items()]
    lacking: dict[tuple[str, ...], list[str]] = {}
    for origin, one in told:
        if missing := tuple(fact for fact in _needed(facts, origin, names) if fact not in one) if one else ("how its costs were measured",):
            lacking.setdefault(missing, []).append(origin.name)
    for missing, those in lacking.items():
        shown = [f"{name} does" for name in those] if len(those) <= FEW else [f"{those[0]} and {len(those) - 1} more files do"]
        notes += [f"{who} not record {_some(missing)}, so this could not be compared" for who in shown]
    return Meeting(notes, differs)


def _facts(meta: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Everything on which numbers depend, flat: `precision`, `photographs.resize`, `bim.max_steps`. None stands for no choice made."""
    attacks, norms = meta.get("attacks", {}), meta.get("norms", {})
    found: dict[str, Any] = {}
    aimed = any(attacks.get(name, {}).get("targeted") for name in names)
    for fact in FACTS:
        if fact in meta and (fact != "target" or aimed):
            nested = meta[fact]
            found |= {f"{fact}.{key}": value for key, value in nested.items()} if isinstance(nested, dict) else {fact: nested}
    for name in names:
        found |= {f"{name}.{setting}": value for setting, value in completed(attacks.get(name, {})).items()}
        if name in norms:
            found[f"{name}.norm"] = norms[name]
    return found


def _needed(facts: Iterable[str], origin: Origin, names: Sequence[str]) -> list[str]:
    """Facts that some origin records and this one should, but for those of photographs and of transparent pixels: most images have none."""
    others = tuple(f"{name}." for name in names if origin.measured is not None and name not in origin.measured)
    return [fact for fact in facts if not fact.startswith(("photographs", "background", *others))]


def _refusal(differs: Mapping[str, Mapping[str, Any]], how: str) -> BadInput:
    fact, *more = differs
    (first, mine), (other, theirs) = _two(differs[fact])
    what, _, setting = fact.partition(".")
    said, remedy = FACTS.get(what, (f"of {what} with {{}}", OF_SETTINGS))
    shown = f"{setting} {_short(mine)}" if setting else _short(mine)
    also = [f"{one} {_short(here)} and {_short(there)}" for one in more[:3] for (_, here), (_, there) in [_two(differs[one])]]
    also += [f"{len(more) - 3} more"] if len(more) > 3 else []
    others = f" (also different: {', '.join(also)})" if also else ""
    return BadInput(
        f"expected costs {said.format(shown)} as in {first}, got {_short(theirs)} in {other}{others}; "
        f"{remedy.format(_short(mine))}, or pass {how} to mix them"
    )


def _two(known: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The first origin, and the first that differs from it."""
    first, *others = known.items()
    return [first, next(one for one in others if _text(one[1]) != _text(first[1]))]


def _some(facts: Sequence[str]) -> str:
    return ", ".join(facts[:6]) + (f" and {len(facts) - 6} more" if len(facts) > 6 else "")


def _listed(known: Mapping[str, Any]) -> str:
    return ", ".join(f"{_short(value)} in {name}" for name, value in known.items())


def _text(value: Any) -> str:
    """A value as JSON has it, by which values are compared: a tuple equals the list that a file makes of it."""
    return json.dumps(value, sort_keys=True, default=str)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else " x ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    digest = len(text) == 64 and not set(text) - set("0123456789abcdef")
    return f"{text[:12]}..." if digest else text if len(text) <= 60 else f"{text[:28]}...{text[-28:]}"
