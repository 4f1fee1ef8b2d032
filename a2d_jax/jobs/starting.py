"""How a command, or a process that works for one, starts JAX."""

import importlib
import logging
import os

from a2d_jax.errors import BadInput
from a2d_jax.imports import one_line
from a2d_jax.io.files import cache_folder


def start_jax(*, elsewhere: bool = False) -> None:
    """Set what JAX reads when it is imported, and import it.

    Args:
      elsewhere: other processes compute; this one leaves accelerators to them.

    Raises:
      BadInput: it does not import, for instance because of a variable of the environment.
    """
    given = ", ".join(name for name in sorted(os.environ) if name.startswith("JAX_")) or "none of them is set"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's start-up lines
    # On a CPU one device for each core: small batches leave cores idle otherwise (docs/performance_notebook.md). Accelerators do not mind.
    os.environ.setdefault(
        "JAX_NUM_CPU_DEVICES", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    )
    folder = cache_folder()
    # Compiled programs are kept for the next command: most of a short one would be spent compiling. An empty value turns this off.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled") if folder else "")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    for library in ("absl", "jax"):
        logging.getLogger(library).setLevel(logging.ERROR)
    mine = elsewhere and "JAX_PLATFORMS" not in os.environ
    if mine:
        os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        importlib.import_module("jax")
    except Exception as error:
        raise BadInput(f"expected JAX to start, got {one_line(error)}; check the environment variables JAX_* ({given})") from error
    finally:
        if mine:  # JAX has read it, and processes that this one starts shall not
            del os.environ["JAX_PLATFORMS"]
