"""The job behind `a2d info`: installed versions, devices and settings."""

import os
import platform

from a2d_jax import detectors, hardware
from a2d_jax.console import Done, Report, silent
from a2d_jax.io.provenance import versions
from a2d_jax.jobs.spec import InfoSpec
from a2d_jax.presets import PRESETS
from a2d_jax.specs import settings_of


def info(spec: InfoSpec | None = None, report: Report = silent) -> Done:
    """Versions, devices, and the settings of every attack of every preset."""
    settings = [
        {"preset": name, "role": role, "attack": attack, "settings": ", ".join(f"{key}={value}" for key, value in fields.items())}
        for name, preset in PRESETS.items()
        for role in ("defence", "crafting")
        for attack, fields in settings_of({key: make() for key, make in getattr(preset, role).items()}).items()
    ]
    devices = [f"{device.platform}:{device.id} {device.device_kind}" for device in hardware.devices()]
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
