"""A folder of steps: what a command of several stages has finished, for stages that are no measurements of a set.

    OUT/.a2d/job.json            what the command is: its identity
    OUT/.a2d/steps/NAME.json     a step that is done: when, where, in how many seconds, and what it told

As in a run folder (`a2d_jax.scale.runs`), a step is done if and only if that file is there. It appears by rename when everything else that
the step writes is there, so that a kill costs only the step in work. A step that is a job in parts goes on in its own run folder.
"""

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from a2d_jax import process
from a2d_jax.errors import BadInput
from a2d_jax.io.files import atomic
from a2d_jax.io.parts import JOB, RECORDS
from a2d_jax.scale.runs import open_job

STEPS = "steps"


@dataclass(frozen=True)
class Steps:
    """A folder of steps that is open.

    Attributes:
      folder: where it is.
    """

    folder: Path

    def done(self, name: str) -> bool:
        """Whether a step is done."""
        return self._path(name).exists()

    def once(self, name: str, work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Do a step unless it is done.

        Args:
          name: any text.
          work: does the step and returns what it tells, as JSON can say it. It must be able to begin again over what a kill has left of it.

        Returns:
          What the step told, and `seconds` by the clock and `processor_seconds` of the process that finished it, `machine` and `time`.

        Raises:
          BadInput: what is there of the step is damaged.
        """
        if not self.done(name):
            begin, worked = time.perf_counter(), time.process_time()
            try:
                with on_the_way():
                    told = work()
            except BaseException:
                self._remove_empty()
                raise
            spent = {"seconds": time.perf_counter() - begin, "processor_seconds": time.process_time() - worked}
            facts = {**spent, "machine": socket.gethostname(), "time": datetime.now(UTC).isoformat(timespec="seconds"), **told}
            self._path(name).parent.mkdir(exist_ok=True)
            with on_the_way(), atomic(self._path(name)) as temporary:
                temporary.write_text(json.dumps(facts, indent=1), encoding="utf-8")
        return _read(self._path(name))

    def facts(self) -> dict[str, dict[str, Any]]:
        """What all steps told that are done, by name, the earliest first.

        Raises:
          BadInput: a step is damaged.
        """
        found = {unquote(path.stem): _read(path) for path in (self.folder / RECORDS / STEPS).glob("*.json")}
        return dict(sorted(found.items(), key=lambda step: (step[1]["time"], step[0])))

    def _path(self, name: str) -> Path:
        return self.folder / RECORDS / STEPS / f"{quote(name, safe=' ,=+-()')}.json"

    def _remove_empty(self) -> None:
        """Remove the folder if nothing is in it, so that a command with other settings may have its name."""
        with suppress(OSError):
            if os.listdir(self.folder) == [RECORDS] and os.listdir(self.folder / RECORDS) == [JOB]:
                shutil.rmtree(self.folder)
                process.unfinished.discard(self.folder)


@contextmanager
def on_the_way() -> Generator[None]:
    """What this block writes is not yet what the command is for: if the command is interrupted, it says that it can go on."""
    before = len(process.outputs)
    try:
        yield
    finally:
        del process.outputs[before:]


def open_steps(folder: Path, identity: Mapping[str, Any], restart: bool = False) -> Steps:
    """Open a folder of steps; make it if it is not there.

    Args:
      folder: the folder.
      identity: everything on which the results depend, as JSON can say it.
      restart: remove what is there and begin anew.

    Raises:
      BadInput: the folder is that of another command, naming what differs, or holds other files.
    """
    with suppress(OSError):  # a folder that cannot be made is told below
        folder.parent.mkdir(parents=True, exist_ok=True)
    open_job(folder, {"identity": identity}, restart)
    process.unfinished.add(folder)
    return Steps(folder)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if "time" not in found:
            raise TypeError
    except (ValueError, TypeError) as error:
        raise BadInput(f"expected a finished step, got {path}, which is damaged; remove it and run the command again") from error
    return found
