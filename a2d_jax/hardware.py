"""The devices that JAX computes on."""

import os
from typing import Any

import jax

from a2d_jax.errors import BadInput


def devices() -> list[Any]:
    """Devices of this process; the first call starts them.

    Raises:
      BadInput: there are no devices of the kind that the environment asks for, or they do not start.
    """
    try:
        return jax.local_devices()
    except Exception as error:  # JAX raises a RuntimeError, or fails an assertion when it has tried all that the variable names
        wanted = os.environ.get("JAX_PLATFORMS")
        asked = f"hardware for JAX_PLATFORMS={wanted}" if wanted else "hardware that JAX can use"
        reason = " ".join(str(error).split()) or "no such device"
        raise BadInput(
            f"expected {asked}, got: {reason}; set JAX_PLATFORMS=cpu, or install JAX for that hardware and its driver"
        ) from error
