"""Lanes `auto`: find the fastest number of lanes once and remember it.

A JSON file in the user's cache folder keeps the number for each attack, network, image shape, devices and version of JAX. Delete the file
to search again.
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import jax

from a2d_jax import drivers
from a2d_jax.drivers.loops import MIN_WIDTH
from a2d_jax.errors import BadInput
from a2d_jax.io.files import atomic, cache_folder
from a2d_jax.io.source import text
from a2d_jax.types import Attack, Classifier, Example

Lanes = int | Literal["auto"] | None
"""Number of images that each device works on at the same time: a number, the fastest one, or the default of `stream`."""


def fastest_lanes(attack: Attack, classifier: Classifier, examples: Example, keep_x_adv: bool) -> int:
    """The remembered number of lanes, or the result of trying now.

    Args:
      attack: the attack, with the settings it will run with.
      classifier: one image to logits.
      examples: some examples of the job.
      keep_x_adv: as for `stream`.

    Raises:
      BadInput: the file of remembered numbers is broken.
    """
    folder, key = cache_folder(), _key(attack, classifier, examples)
    path = folder and folder / "lanes.json"
    remembered = {} if path is None else _read(path)
    if key not in remembered:
        try:
            found = drivers.calibrate(attack, classifier, examples, keep_x_adv=keep_x_adv)
        except ValueError as error:
            raise BadInput(str(error)) from error
        if path is not None:
            _remember(path, {key: asdict(found)})
        return found.lanes
    return remembered[key]["lanes"]


def _remember(path: Path, found: dict[str, Any]) -> None:
    """Add what was found; a folder that takes no files remembers nothing."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.access(path.parent, os.W_OK):
            with atomic(path) as temporary:  # read again: another command may have written meanwhile
                temporary.write_text(json.dumps(_read(path) | found, indent=1))


def _read(path: Path) -> dict[str, Any]:
    if not os.access(path, os.R_OK):
        return {}
    try:
        remembered = json.loads(path.read_text())
        if any(type(one["lanes"]) is not int or one["lanes"] < MIN_WIDTH for one in remembered.values()):
            raise ValueError
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise BadInput(
            f"expected the numbers of lanes that earlier commands stored in {path}, got something else; delete the file"
        ) from error
    return remembered


def _key(attack: Attack, classifier: Classifier, examples: Example) -> str:
    """All that the time of a step depends on, readable: numbers of an attack and values of weights are not among it."""
    leaves = jax.tree_util.tree_leaves_with_path(classifier.variables)
    weights = [f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}" for path, leaf in leaves]
    network = f"{len(weights)} arrays {hashlib.sha256(' '.join(weights).encode()).hexdigest()[:16]}"
    devices = jax.local_devices()
    machine = f"{len(devices)} x {devices[0].platform} {devices[0].device_kind}, JAX {jax.__version__}"
    return f"{jax.tree.structure(attack)}; {network}; {text(examples.x.shape[1:])}; {machine}"
