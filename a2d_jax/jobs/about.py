"""Jobs around the others: convert a checkpoint, tell what is installed and how it is set."""

import os
import platform

import jax
from flax import nnx

from a2d_jax import detectors
from a2d_jax.console import Done, Report, silent
from a2d_jax.errors import BadInput
from a2d_jax.io.checkpoints import make_module, read_class_names, save
from a2d_jax.io.convert import read_arrays, to_module
from a2d_jax.io.provenance import versions
from a2d_jax.jobs.spec import ConvertSpec, InfoSpec
from a2d_jax.presets import PRESETS
from a2d_jax.specs import settings_of


def convert(spec: ConvertSpec, report: Report = silent) -> Done:
    """Read the weights of a checkpoint of another framework into a Flax module and write them as an Orbax folder."""
    names = None if spec.class_names is None else read_class_names(spec.class_names)
    module = make_module(spec.classifier, weights=False)
    if not isinstance(module, nnx.Module):
        raise BadInput(
            f"expected a factory of a Flax NNX module, got {type(module).__name__} from {spec.classifier}; convert into such a module"
        )
    whole = to_module(read_arrays(spec.source), module)
    card = save(whole, spec.out, factory=spec.classifier, source=spec.source, class_names=names, force=spec.force, how="--force")
    return Done({"out": str(spec.out), "parameters": card["parameters"], "classes": card["classes"]})


def info(spec: InfoSpec | None = None, report: Report = silent) -> Done:
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
            "detectors": ", ".join(detectors.by_name()),
            "attacks": settings,
        }
    )
