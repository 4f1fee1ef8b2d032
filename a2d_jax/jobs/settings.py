"""The settings of a run as a page states them: what tables and detectors record, as texts."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from a2d_jax.io.detectors import StoredDetector
from a2d_jax.io.provenance import versions
from a2d_jax.jobs.drawing import shown
from a2d_jax.jobs.spec import ReportSpec
from a2d_jax.measurements import ATTACK_NUMBERS, CLEVER, CLEVER_NUMBERS

LONG = 300
"""Letters of a fact, at most."""


def of_detector(stored: StoredDetector, path: object) -> dict[str, str]:
    """A detector and the run that its costs come from."""
    given = stored.meta.get("settings")
    settings = {name: value for name, value in given.items() if value not in (None, False)} if isinstance(given, Mapping) else {}
    said = ", ".join(f"{name}={value}" for name, value in settings.items())
    return {
        "detector": f"{detector_name(stored)}{f' ({said})' if said else ''}, from {path}",
        "it reads": ", ".join(map(in_words, stored.columns)),
        "its threshold": f"{stored.fitted.threshold:.6g}",
        "fitted to": str(stored.meta.get("benign", "not recorded")),
    }


def in_words(column: str) -> str:
    """What a detector reads, in words: the name of an attack alone is its cost, and may be the name of crafted images too."""
    numbered = column.rpartition(".")[2] in (*ATTACK_NUMBERS, *CLEVER_NUMBERS)
    return shown(column if numbered or column.startswith(CLEVER) else f"cost of {column}")


def detector_name(stored: StoredDetector) -> str:
    """What the user called a detector when it was fitted."""
    return str(stored.meta.get("detector") or getattr(stored.fitted, "kind", type(stored.fitted).__name__))


def of_run(meta: Mapping[str, Any], measurements: Sequence[str]) -> dict[str, str]:
    """How numbers were measured: the network, the attacks, the seed, the versions."""
    attacks = meta.get("attacks", {})
    found = {
        "network": str(meta.get("classifier") or "not recorded") + _digest(" with the weights {}", meta.get("weights_sha256")),
        "precision": meta.get("precision"),
        "preset": meta.get("preset"),
        "target": meta.get("target"),
        **{f"attack {name}": _listed(attacks[name]) for name in measurements if name in attacks},
        "CLEVER": _listed(meta["clever"]) if meta.get("clever") else None,
        "seed of the run": meta.get("seed"),
        "measured with": _listed(meta["versions"], " ") if isinstance(meta.get("versions"), Mapping) else None,
        "mixed origins": ", ".join(meta["mixed_origins"]) if isinstance(meta.get("mixed_origins"), Mapping) else None,
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def of_table(path: object, images: int, failed: int, meta: Mapping[str, Any]) -> str:
    """A table and the images that it was measured on."""
    source = f", of {meta['images']}" if meta.get("images") else ""
    errors = f"; {failed} more with an error are left out" if failed else ""
    return f"{path}: {images} images{errors}{source}{_digest(' ({})', meta.get('images_sha256'))}"


def of_page(seed: int) -> dict[str, str]:
    """When and with what the page was made."""
    return {"seed of this page": str(seed), "made on": date.today().isoformat(), "made with": _listed(versions(), " ")}


def texts(facts: Mapping[str, str]) -> dict[str, str]:
    """Facts that fit into a page, whatever a file says."""
    cut = {shown(name): shown(text) for name, text in facts.items()}
    return {name: text if len(text) <= LONG else f"{text[: LONG - 3]}..." for name, text in cut.items()}


def class_of(label: Any) -> str:
    """A predicted class in words."""
    return f"class {int(label)}" if label >= 0 else "an unknown class"


def made_by(spec: ReportSpec) -> str:
    """The command of a page."""
    given: list[str] = []
    for name, value in spec.as_json().items():
        if value not in (None, [], False, 0):
            values = value if isinstance(value, list) else [] if value is True else [value]
            given.append(" ".join([f"--{name.replace('_', '-')}", *(shlex.quote(str(one)) for one in values)]))
    return shown(f"Made by: a2d report {' '.join(given)}")


def _listed(values: Mapping[str, Any], between: str = "=") -> str:
    return ", ".join(
        f"{name}{between}{value:.6g}" if isinstance(value, float) else f"{name}{between}{value}" for name, value in values.items()
    )


def _digest(text: str, digest: object) -> str:
    return text.format(f"{digest[:12]}...") if isinstance(digest, str) else ""
