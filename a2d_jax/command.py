"""The arguments of the `a2d` command, and how a command starts JAX.

The computations are in `a2d_jax.jobs`, which loads JAX only when a command runs.
"""

import importlib
import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from a2d_jax import console
from a2d_jax.errors import BadInput
from a2d_jax.imports import one_line
from a2d_jax.io.files import cache_folder
from a2d_jax.jobs import spec

Job = (
    Annotated[spec.ConvertSpec, tyro.conf.subcommand("convert")]
    | Annotated[spec.PredictSpec, tyro.conf.subcommand("predict")]
    | Annotated[spec.AttackSpec, tyro.conf.subcommand("attack")]
    | Annotated[spec.CostSpec, tyro.conf.subcommand("cost")]
    | Annotated[spec.CleverSpec, tyro.conf.subcommand("clever")]
    | Annotated[spec.FitSpec, tyro.conf.subcommand("fit")]
    | Annotated[spec.DetectSpec, tyro.conf.subcommand("detect")]
    | Annotated[spec.EvaluateSpec, tyro.conf.subcommand("eval")]
    | Annotated[spec.ShiftSpec, tyro.conf.subcommand("shift")]
    | Annotated[spec.StatusSpec, tyro.conf.subcommand("status")]
    | Annotated[spec.InfoSpec, tyro.conf.subcommand("info")]
)


@dataclass(frozen=True, kw_only=True)
class Command:
    """Detect adversarial images by what it costs to attack them."""

    job: Job
    """The command to run."""
    json: bool = False
    """Print the result as JSON on stdout, and nothing else on stdout. Progress becomes lines of JSON on stderr."""
    no_progress: bool = False
    """Hide the progress bars on stderr. They are always hidden if stderr is not a terminal."""


def command(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Wrong usage exits with 2."""
    given = tyro.cli(
        Command,
        prog="a2d",
        args=arguments,
        config=(
            tyro.conf.FlagCreatePairsOff,
            tyro.conf.OmitArgPrefixes,
            tyro.conf.OmitSubcommandPrefixes,
            tyro.conf.CascadeSubcommandArgs,
        ),
    )
    _start_jax()
    from a2d_jax import jobs  # here, so that help and usage errors do not wait for JAX

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries; ours are errors or notes of the result
        with console.progress(not given.no_progress, as_json=given.json) as report:
            done = jobs.run(given.job, report)
    return console.tell(done, "a2d", given.json)


def _start_jax() -> None:
    """Set what JAX reads when it is imported, and import it.

    Raises:
      BadInput: it does not import, for instance because of a variable of the environment.
    """
    given = ", ".join(name for name in sorted(os.environ) if name.startswith("JAX_")) or "none of them is set"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's start-up lines
    # On a CPU one device for each core: small batches leave cores idle otherwise (docs/performance.md). Accelerators do not mind.
    os.environ.setdefault(
        "JAX_NUM_CPU_DEVICES", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    )
    folder = cache_folder()
    # Compiled programs are kept for the next command: most of a short one would be spent compiling. An empty value turns this off.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled") if folder else "")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    for library in ("absl", "jax"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        importlib.import_module("jax")
    except Exception as error:
        raise BadInput(f"expected JAX to start, got {one_line(error)}; check the environment variables JAX_* ({given})") from error
