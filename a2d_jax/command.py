"""The arguments of the `a2d` command.

The computations are in `a2d_jax.jobs`, which loads JAX only when a command runs.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from a2d_jax import console
from a2d_jax.jobs import spec
from a2d_jax.jobs.starting import start_jax

Job = (
    Annotated[spec.ConvertSpec, tyro.conf.subcommand("convert")]
    | Annotated[spec.PredictSpec, tyro.conf.subcommand("predict")]
    | Annotated[spec.AttackSpec, tyro.conf.subcommand("attack")]
    | Annotated[spec.CostSpec, tyro.conf.subcommand("cost")]
    | Annotated[spec.CleverSpec, tyro.conf.subcommand("clever")]
    | Annotated[spec.FitSpec, tyro.conf.subcommand("fit")]
    | Annotated[spec.DetectSpec, tyro.conf.subcommand("detect")]
    | Annotated[spec.EvaluateSpec, tyro.conf.subcommand("eval")]
    | Annotated[spec.ReportSpec, tyro.conf.subcommand("report")]
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
    """Print the result as JSON on stdout, and nothing else on stdout."""
    json_progress: bool = False
    """Print the progress as lines of JSON on stderr, one a second at most for each measurement."""
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
    start_jax(elsewhere=getattr(given.job, "engine", "local") != "local")
    from a2d_jax import jobs  # here, so that help and usage errors do not wait for JAX

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries; ours are errors or notes of the result
        with console.progress(not given.no_progress, as_json=given.json_progress) as report:
            done = jobs.run(given.job, report)
    return console.tell(done, "a2d", given.json)
