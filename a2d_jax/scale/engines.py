"""Engines: who does what a run folder is missing.

An engine asks the folder what is missing, and finished units are committed to the folder; nothing else passes between the processes of a
job.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from a2d_jax.console import Report
from a2d_jax.errors import BadInput
from a2d_jax.scale.ray_engine import RayEngine
from a2d_jax.scale.runs import Run


class Engine(Protocol):
    """Does all that a run folder is missing."""

    def __call__(
        self, run: Run, do: Callable[[Run], None], elsewhere: Callable[[], Callable[[Sequence[int]], None]], report: Report
    ) -> None:
        """Do the work.

        Args:
          run: the run folder.
          do: does what the folder is missing, in this process.
          elsewhere: can be sent to another process; there it returns a function that does what the parts with given numbers are missing.
          report: is told the progress of work that is done elsewhere; `do` reports by itself.
        """
        ...


def engine(
    name: str, *, address: str | None = None, actors: int | None = None, cpus: int | None = None, gpus: float | None = None
) -> Engine:
    """An engine by name.

    Args:
      name: local, all devices of this machine; or ray, see `RayEngine` for the other arguments.
      address: ray only.
      actors: ray only.
      cpus: ray only.
      gpus: ray only.

    Raises:
      BadInput: no such engine, or settings that it does not have.
    """
    settings = {"--address": address, "--actors": actors, "--actor-cpus": cpus, "--actor-gpus": gpus}
    if name == "ray":
        return RayEngine(address, actors, cpus, gpus)
    if name != "local":
        raise BadInput(f"expected an engine among local, ray, got {name}; pass one of them")
    given = [flag for flag, value in settings.items() if value is not None]
    if given:
        raise BadInput(f"expected --engine ray for {', '.join(given)}, got the engine local; pass --engine ray, or leave {given[0]} out")
    return _here


def _here(run: Run, do: Callable[[Run], None], elsewhere: object, report: object) -> None:
    do(run)
