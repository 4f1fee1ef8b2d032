"""A job in another process: its spec travels as JSON, and the process opens classifier, images and run folder by itself.

Importing this file does not load JAX, so that the process can set what JAX reads first.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from a2d_jax import jobs
from a2d_jax.console import silent
from a2d_jax.jobs.spec import PartsSpec
from a2d_jax.jobs.starting import start_jax


@dataclass(frozen=True)
class Elsewhere:
    """Opens a job again, in the process in which it is called.

    Attributes:
      job: name of the job.
      spec: its spec, as JSON.
      folder: the current folder of the process that began it: paths and modules are found from there.
    """

    job: str
    spec: Mapping[str, Any]
    folder: str

    @classmethod
    def of(cls, spec: PartsSpec) -> "Elsewhere":
        """The job that a spec describes, to be opened elsewhere."""
        folder = ""
        with suppress(OSError):  # the folder is gone, and nothing is found from there
            folder = str(Path.cwd())
        return cls(jobs.name_of(spec), spec.as_json(), folder)

    def __call__(self) -> Callable[[Sequence[int]], None]:
        """Open the job.

        Returns:
          A function that does all that is missing of the parts with these numbers.

        Raises:
          BadInput: as in the process that began the job; or this machine has other weights, images or versions.
        """
        with suppress(OSError):  # a machine that does not have the folder may not need it
            os.chdir(self.folder)
        start_jax()
        from a2d_jax.jobs.large import opened_again

        job = jobs.prepared(jobs.spec_of(self.job, self.spec), silent)
        run = opened_again(job)
        return lambda parts: job.work(replace(run, only=parts))
