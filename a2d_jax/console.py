"""The terminal output of a command: progress bars, the result, one line for an error, and the exit code.

The commands of the library, of `models/` and of `experiments/` all use this. Exit codes: 0 done; 1 bad input, explained in one line; 2
wrong usage of the command line; 3 some rows failed and contain their error, the rest is done; 129, 130, 143 ended by SIGHUP, Ctrl-C,
SIGTERM.

Trouble with printing never stops the work. A closed pipe (`| head`) is not a failure. A full stdout gives one line on stderr. It is a
failure only for a command that wrote no file, because its result is lost.

Importing this file loads only the standard library, so that a command can handle signals from its first moment.
"""

import errno
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from a2d_jax import process
from a2d_jax.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

Report = Callable[[str, int, int], None]
"""Told of progress: what is being done, how many are done, of how many."""


@dataclass(frozen=True)
class Done:
    """What a job tells.

    Attributes:
      summary: numbers and paths, anything JSON can say.
      failed: rows that carry an error.
      notes: choices made on the user's behalf.
    """

    summary: dict[str, Any]
    failed: int = 0
    notes: list[str] = field(default_factory=list)


def silent(what: str, done: int, total: int) -> None:
    """Report to nobody."""


@contextmanager
def progress(wanted: bool = True, console: "Console | None" = None, *, as_json: bool = False) -> Generator[Report]:
    """A `Report` that shows one bar for each stage of the work, only on a terminal; or lines of JSON for machines.

    Args:
      wanted: False shows nothing.
      console: where; default stderr.
      as_json: print a line on stderr for each stage, at most one a second and at its end: what, done, total, and, since the stage began,
        "per second" and "seconds left".
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """How many are done in a second."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.3g}/s")

    if as_json:
        yield _Lines() if wanted else silent
        return
    console = console or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (wanted and console.is_terminal)) as shown:
        bars: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = shown.add_task(what, total=total)
            shown.update(bars[what], completed=done, total=total)

        yield report


class _Lines:
    """Progress as lines of JSON."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[float, int]] = {}  # when a stage was first heard of, and how many were done then
        self._told: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.perf_counter()
        begin, before = self._begun.setdefault(what, (now, done))
        if done < total and now - self._told.get(what, -math.inf) < 1:
            return
        self._told[what] = now
        rate = (done - before) / (now - begin) if now > begin else None
        left = {"per second": rate, "seconds left": (total - done) / rate} if rate else {}
        print(json.dumps({"what": what, "done": done, "total": total, **left}), file=sys.stderr)


@contextmanager
def stage(console: "Console", what: str, total: int) -> Generator[Callable[[int], None]]:
    """Show a bar during a stage, on a terminal only; then print one line with its seconds."""
    begin = time.perf_counter()
    with progress(console=console) as report:
        yield lambda done: report(what, done, total)
    console.print(f"{what}: {total} in {time.perf_counter() - begin:.1f} s")


def note(text: str) -> None:
    """Tell the user at once what happens in the middle of the work."""
    print(f"a2d: {text}", file=sys.stderr, flush=True)


def tell(done: Done, name: str, as_json: bool = False) -> int:
    """Print the result of a job, print its notes on stderr, and return the exit code."""
    for note in done.notes:
        print(f"{name}: {note}", file=sys.stderr)
    if as_json:
        print(json.dumps(done.summary))
    else:
        _show(done.summary)
    if done.failed:
        print(f"{name}: {done.failed} rows failed and carry their error", file=sys.stderr)
    return 3 if done.failed else 0


def run(name: str, work: Callable[[], object], interrupted: str = "no output was written") -> int:
    """Run a command and return its exit code.

    Args:
      name: name of the command, printed in front of its messages.
      work: the function to run. If it returns a number, this is the exit code; otherwise the code is 0. `SystemExit` passes through.
      interrupted: message after Ctrl-C, unless an output is complete by then.
    """

    def stopped(number: int) -> int:
        process.sweep()
        how = "interrupted" if number == signal.SIGINT else f"interrupted by {signal.Signals(number).name}"
        what = f"{', '.join(map(str, process.outputs))} is complete" if process.outputs else interrupted
        if process.unfinished and not process.outputs:
            what = f"finished parts are in {', '.join(map(str, process.unfinished))}; the same command goes on"
        print(f"{_normal()}{name}: {how}; {what}", file=sys.stderr)
        return 128 + number

    process.outputs.clear()
    process.unfinished.clear()
    with process.streams() as stdout:
        signals = process.Signals(at_once=stopped)
        try:
            signals.listen()
            code = work()
            return _printed(name, stdout, code if isinstance(code, int) else 0)
        except BaseException as error:  # libraries that a signal interrupts may raise anything
            signals.stopped()
            if signals.number is not None or isinstance(error, KeyboardInterrupt):
                return stopped(signals.number or signal.SIGINT)
            if isinstance(error, SystemExit) and error.code in (None, 0):
                raise SystemExit(_printed(name, stdout, 0)) from error
            if not isinstance(error, BadInput | OSError):
                raise
            print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
            return 1
        finally:
            signals.close()


def _printed(name: str, stdout: process.Stream, code: int) -> int:
    """The exit code after all is printed, or could not be."""
    stdout.flush()
    if stdout.lost is None or stdout.lost.errno == errno.EPIPE:
        return code
    print(
        f"{name}: expected room for the result on stdout, got: {stdout.lost.strerror}; the printed result is incomplete",
        file=sys.stderr,
    )
    return code if process.outputs else code or 1


def _normal() -> str:
    """What makes a terminal usable again in the middle of a progress bar: an empty line, and a cursor."""
    return "\r\x1b[K\x1b[?25h" if sys.stderr.isatty() else ""


def _show(summary: Mapping[str, Any]) -> None:
    """Lists of records as tables, the rest as lines."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160)
    for name, value in summary.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold underline")
            for column, cell in value[0].items():
                table.add_column(column.replace("_", " "), justify="left" if isinstance(cell, str) else "right", overflow="fold")
            for record in value:
                table.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in record.values()))
            console.print(table)
        else:
            print(f"{name}: {value}")
