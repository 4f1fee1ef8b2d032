"""Jobs around the others: convert a checkpoint, tell what is installed and how it is set."""

import os
import platform
from pathlib import Path

import jax
from flax import nnx

from a2d_jax.detectors import by_name
from a2d_jax.errors import BadInput
from a2d_jax.io.checkpoints import make_module, read_class_names, save
from a2d_jax.io.convert import read_arrays, to_module
from a2d_jax.jobs.common import Done, settings_of, versions
from a2d_jax.presets import PRESETS


def convert(*, source: Path, classifier: str, out: Path, class_names: Path | None = None, force: bool = False) -> Done:
    """Read the weights of a checkpoint of another framework into a Flax module and write them as an Orbax folder."""
    names = None if class_names is None else read_class_names(class_names)
    module = make_module(classifier, weights=False)
    if not isinstance(module, nnx.Module):
        raise BadInput(
            f"expected a factory of a Flax NNX module, got {type(module).__name__} from {classifier}; convert into such a module"
        )
    card = save(to_module(read_arrays(source), module), out, factory=classifier, source=source, class_names=names, force=force)
    return Done({"out": str(out), "parameters": card["parameters"], "classes": card["classes"]})


def info() -> Done:
    """Versions, devices, and the settings of every attack of every preset."""
    settings = [
        {"preset": name, "role": role, "attack": attack, "settings": ", ".join(f"{key}={value}" for key, value in fields.items())}
        for name, preset in PRESETS.items()
        for role in ("defence", "crafting")
        for attack, fields in settings_of({key: make() for key, make in getattr(preset, role).items()}).items()
    ]
    devices = [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.local_devices()]
    return Done(
        {
            **versions(),
            "python": platform.python_version(),
            "devices": ", ".join(devices),
            "compiled programs": os.environ.get("JAX_COMPILATION_CACHE_DIR") or "not kept",
            "detectors": ", ".join(by_name()),
            "attacks": settings,
        }
    )
