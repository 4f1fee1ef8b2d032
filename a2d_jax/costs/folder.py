"""A fitted defense as a folder: a checkpoint of the classifier, which all commands can read, and the detector.

    DIR/weights/          Orbax, the weights of the classifier
    DIR/classifier.json   the import string of its factory, its image shape, the preprocessing of photographs, hashes, versions
    DIR/detector.json     the fitted detector, the columns it reads, and all settings of the attacks; `a2d detect --detector` takes it too

The folder appears complete or not at all. It contains no pickle and imports nothing. The program must import the module of the factory, or
name it as a plugin. Attacks and detectors from outside this package come from plugins only.
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from a2d_jax import specs
from a2d_jax.classifiers import as_classifier, in_bfloat16
from a2d_jax.detectors import FittedDetector
from a2d_jax.errors import BadInput
from a2d_jax.inputs import Shape
from a2d_jax.io import checkpoints
from a2d_jax.io.detectors import StoredDetector, read_detector, write_detector
from a2d_jax.io.files import refuse_existing
from a2d_jax.io.provenance import COUNTS, versions, weights_digest
from a2d_jax.measurements import Column
from a2d_jax.types import Attack, Classifier

DETECTOR = "detector.json"


class Parts(NamedTuple):
    """The contents of a folder: the fields of a `FittedDefense`."""

    classifier: Classifier
    attacks: Mapping[str, Attack]
    detector: FittedDetector
    columns: tuple[Column, ...]
    target: Any
    shape: Shape


def write_folder(parts: Parts, folder: str | Path, factory: str | None, force: bool) -> None:
    """Write a folder.

    Args:
      parts: the contents.
      folder: new folder; its parent must exist.
      factory: import string `module:factory` of the classifier's factory; default the factory that it was loaded with.
      force: replace a folder of this kind.

    Raises:
      BadInput: the folder cannot or must not be written, the factory of the classifier is not known, or the factory makes another
        classifier.
    """
    folder, card = Path(folder), dict(parts.classifier.card)
    factory = factory or card.get("factory")
    if factory is None:
        raise BadInput(
            "expected the import string module:factory of the classifier, got none; pass factory='my.module:my_network', "
            "or load the classifier by its import string"
        )
    refuse_existing(folder, force, card=DETECTOR)
    precision = card.get("precision", "float32")
    made = _made(factory, precision)
    if made.apply != parts.classifier.apply:
        raise BadInput(
            f"expected a factory that makes the classifier of this defense, got {factory}, which makes another one; name the right one"
        )
    costs = {
        "attacks": specs.settings_of(parts.attacks),
        "norms": {name: attack.norm for name, attack in parts.attacks.items()},
        "counts": COUNTS,
        "classifier": factory,
        "precision": precision,
        "labels": "prediction",
        "target": parts.target,
        "weights_sha256": weights_digest(parts.classifier),
        "photographs": card.get("photographs"),
        "shape": list(parts.shape),
    }
    says = {name: card[name] for name in ("class_names", "preprocessing", "photographs") if name in card}

    def beside(temporary: Path) -> dict[str, str]:
        meta = {"versions": versions(), "costs": costs}
        write_detector(temporary / DETECTOR, StoredDetector(parts.detector, tuple(map(str, parts.columns)), meta))
        return {"detector_sha256": _sha256(temporary / DETECTOR)}

    says["input_shape"] = list(parts.shape)
    checkpoints.save(parts.classifier, folder, factory=factory, says=says, force=force, beside=beside)


def read_folder(folder: str | Path, plugins: Sequence[str]) -> Parts:
    """Read a folder of `write_folder`.

    Args:
      folder: folder that `write_folder` wrote.
      plugins: modules that the factory, attacks and detector of the folder may come from.

    Raises:
      BadInput: no such folder, a damaged or foreign folder, or a folder that needs a module that is neither imported nor named.
    """
    folder = Path(folder)
    if not ((folder / checkpoints.CARD).is_file() and (folder / DETECTOR).is_file()):
        raise BadInput(
            f"expected the folder of a defense, got {folder}, which lacks {checkpoints.CARD} or {DETECTOR}; write one with `save`"
        )
    try:
        card = json.loads((folder / checkpoints.CARD).read_text())
        factory, digest = card["factory"], card["detector_sha256"]
        if not isinstance(factory, str) or digest != _sha256(folder / DETECTOR):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"expected a whole defense, got one with missing or changed parts in {folder}; save it again") from error
    module = factory.partition(":")[0]
    if module not in plugins and module not in sys.modules:
        raise BadInput(
            f"expected {module} to be imported, since {folder} needs {factory}, got a program without it; a folder never imports code by "
            f"itself: if you trust {module}, import it first, or name it in plugins"
        )
    stored = read_detector(folder / DETECTOR, plugins)
    costs = stored.meta.get("costs", {})
    try:
        columns = tuple(Column.named(text, costs["attacks"]) for text in stored.columns)
        attacks = specs.attacks_from(costs["attacks"], list(costs["attacks"]), folder / DETECTOR, plugins)
        shape, precision, target = tuple(map(int, costs["shape"])), costs["precision"], costs["target"]
        wanted = costs["weights_sha256"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"expected a whole defense, got one with missing or changed parts in {folder}; save it again") from error
    classifier = checkpoints.load(factory, folder).classifier
    classifier = in_bfloat16(classifier) if precision == "bfloat16" else classifier  # kept in bfloat16, which float32 holds exactly
    if weights_digest(classifier) != wanted:
        raise BadInput(f"expected the weights that {DETECTOR} was fitted with, got others in {folder}; save the defense again")
    h, w, c = shape
    return Parts(classifier, attacks, stored.fitted, columns, target, (h, w, c))


def _made(factory: str, precision: str) -> Classifier:
    """What a factory makes, without weights: to be compared by what it computes."""
    made = Classifier({}, as_classifier(checkpoints.make_module(factory, weights=False)).apply)
    return in_bfloat16(made) if precision == "bfloat16" else made


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
