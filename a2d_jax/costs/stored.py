"""A stored detector with a classifier: the attacks that the detector needs, and the check that both have the same origin."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from a2d_jax import specs
from a2d_jax.classifiers import precision
from a2d_jax.costs.defense import FittedDefense
from a2d_jax.errors import BadInput
from a2d_jax.io.detectors import StoredDetector, read_detector
from a2d_jax.io.provenance import COUNTS, Origin, same_origins, weights_digest
from a2d_jax.measurements import CLEVER, Column
from a2d_jax.types import Attack, Classifier


@dataclass(frozen=True)
class Reading:
    """The columns that a stored detector reads, and their attacks.

    Attributes:
      columns: the columns, in the detector's order.
      attacks: the attacks that the columns name, with the settings that the detector was fitted with.
    """

    columns: tuple[Column, ...]
    attacks: dict[str, Attack]


def reading(stored: StoredDetector, name: str | Path, plugins: Sequence[str] = ()) -> Reading:
    """The attacks and columns of a stored detector.

    Args:
      stored: the stored detector.
      name: name of its file.
      plugins: names of modules that its attacks may come from.

    Raises:
      BadInput: it reads CLEVER scores, or the file does not record how its costs were measured.
    """
    if any(text.startswith(CLEVER) for text in stored.columns):
        raise BadInput(f"expected a detector of attack costs, got one of CLEVER scores in {name}; judge a table of `a2d clever` with it")
    known = stored.meta.get("costs", {}).get("attacks", {})
    if not known:
        raise BadInput(
            f"expected a detector that records how its costs were measured, got {name}, which was fitted to a table without that record; "
            "judge only tables of costs with it, or fit a detector to a table of `a2d cost`"
        )
    columns = tuple(Column.named(text, known) for text in stored.columns)
    return Reading(columns, specs.attacks_from(known, dict.fromkeys(column.measurement for column in columns), name, plugins))


def read_defense(classifier: Classifier, path: str | Path, *, plugins: Sequence[str] = (), mixed_origins: bool = False) -> FittedDefense:
    """A classifier guarded by a detector of `a2d fit`: its attacks have the settings of the costs that it was fitted to.

    What a file does not record, as older ones do not, cannot be compared; a warning says so.

    Args:
      classifier: one image to logits; the one whose costs the detector was fitted to.
      path: file of `a2d fit`.
      plugins: names of modules that the detector may take its own class and its attacks from.
      mixed_origins: take the detector although it was fitted to costs of another network, or in another precision.

    Raises:
      BadInput: no such detector, one that cannot judge images, or one of another network.

    Example:
      ```python
      defense = read_defense(classifier, "detector.json")
      defense.predict(x)  # True where adversarial
      ```
    """
    stored = read_detector(path, plugins)
    found = reading(stored, path, plugins)
    fitted_on = stored.origin(str(path))
    here = {"weights_sha256": weights_digest(classifier), "precision": precision(classifier), "counts": COUNTS, "labels": "prediction"}
    mine = Origin("the classifier", {**fitted_on.meta, **here})
    for note in same_origins(found.attacks, [fitted_on, mine], mixed_origins).notes:
        warnings.warn(note, stacklevel=2)
    return FittedDefense(classifier, found.attacks, stored.fitted, found.columns, fitted_on.meta.get("target"))
