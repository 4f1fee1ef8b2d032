"""Run the parts one after the other, each until its time is over."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from a2d_jax.console import run
from a2d_jax.errors import BadInput
from experiments.speed import accelerator
from experiments.speed.accelerator.job import LINES, TABLE, Job

ENDS = {"machine": 0.08, "right": 0.24, "fast": 0.68, "where": 0.82, "lanes": 0.92, "training": 0.98}
"""The share of all minutes at which each part ends at the latest; what one leaves goes to the next."""
LEAST = 5.0  # seconds with which a part is begun
ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Settings:
    """Measure this project on an accelerator."""

    minutes: float = 8.0
    """Time limit of all parts together, in minutes."""
    out: Path = Path("accelerator-output")
    """Folder for results.jsonl, results.md, a profile and the logs."""
    checkpoint: Path | None = None
    """Weights of ResNet-20, resnet20-12fca82f.th."""
    golden: Path | None = None
    """Images by kind for the comparison of ResNet-20's costs, `.npz`."""
    parts: tuple[str, ...] = tuple(ENDS)
    """Parts to run."""


def main(settings: Settings) -> int:
    """Run the parts; 1 if one failed."""
    begin, failed = time.time(), False
    if settings.minutes <= 0:
        raise BadInput(f"expected --minutes above 0, got {settings.minutes}; give the minutes that the machine is yours")
    if unknown := set(settings.parts) - set(ENDS):
        raise BadInput(f"expected parts among {', '.join(ENDS)}, got {', '.join(sorted(unknown))}; name them so")
    settings.out.mkdir(parents=True, exist_ok=True)
    for name in (LINES, TABLE):
        (settings.out / name).unlink(missing_ok=True)
    files = [None if path is None else str(path.absolute()) for path in (settings.checkpoint, settings.golden)]
    tiny = _backend() == "cpu"
    for part in (part for part in ENDS if part in settings.parts):
        job = Job(part, str(settings.out.absolute()), begin + 60 * settings.minutes * ENDS[part], tiny, *files)
        if job.fits("all", LEAST):
            failed |= not _finished(job)
    return int(failed)


def _backend() -> str:
    """Of JAX, asked in a process of its own: this one takes no memory of the card."""
    asked = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _finished(job: Job) -> bool:
    """Run a part until it ends or its time is over; whether it did not fail."""
    log = Path(job.out) / f"{job.part}.log"
    command = [sys.executable, "-m", "experiments.speed.accelerator.parts", job.text()]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | ENVIRONMENT, start_new_session=True)
        try:
            code = process.wait(max(job.left(), 0))
        except subprocess.TimeoutExpired:
            job.tell("all", "stopped: its time was over", stopped=True)
            return True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and what it started: nothing is left on the card
            process.wait()
    if code:
        words = log.read_text().strip().splitlines()
        job.tell("all", f"failed: {words[-1][:200] if words else f'exit code {code}'}", failed=True)
    return not code


if __name__ == "__main__":
    sys.exit(run("experiments.speed.accelerator", lambda: main(tyro.cli(Settings, description=accelerator.__doc__))))
