"""What experiments share: jobs and arrays as steps that run once and tell their progress, and the number of processors."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from a2d_jax import jobs
from a2d_jax.console import progress
from a2d_jax.scale.steps import Steps
from experiments import archives


@dataclass(frozen=True)
class Work:
    """The folder of an experiment, and where its progress is told."""

    steps: Steps
    console: Console

    def once(self, name: str, kind: type[jobs.Spec], **settings: Any) -> Path:
        """The output of a job, which runs unless it has done so before.

        Args:
          name: of the output, in the folder.
          kind: the spec of the job.
          **settings: of the job.
        """
        path = self.steps.folder / name

        def work() -> dict[str, Any]:
            path.parent.mkdir(parents=True, exist_ok=True)
            spec: Any = kind(out=path, force=True, **settings)  # a file without its step is of a process that was killed in between
            with progress(console=self.console) as report:
                return {"summary": jobs.run(spec, lambda what, done, total: report(f"{name}: {what}", done, total)).summary}

        self._told(name, work)
        return path

    def arrays(self, name: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Arrays by name, computed unless they are there.

        Args:
          name: of their archive in the folder, which must say all that they depend on.
          make: computes them.

        Raises:
          BadInput: a damaged archive.
        """
        path = self.steps.folder / name

        def work() -> dict[str, Any]:
            archives.write(path, **make())
            return {}

        self._told(name, work)
        return archives.read(path)

    def _told(self, name: str, work: Callable[[], Mapping[str, Any]]) -> None:
        """Do a step unless it is done, and tell of it."""
        if self.steps.done(name):
            return
        self.console.print(f"{name} ...", highlight=False, soft_wrap=True)
        done = self.steps.once(name, work)
        seconds, processor = done["seconds"], done["processor_seconds"]
        self.console.print(f"{name}: {seconds:.0f} s, {processor:.0f} s of processor time", highlight=False, soft_wrap=True)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
