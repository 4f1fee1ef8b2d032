"""What a person at a terminal sees of a command: bars while it works, its result, one line for an error, an exit code.

Commands of the library, of `models/` and of `experiments/` all use this. Exit codes: 0 done; 1 bad input, said in one line; 2 wrong
usage of the command line; 3 some rows failed and carry their error while the rest is done; 130 interrupted.
"""

import json
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from a2d_jax.errors import BadInput

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
def progress(wanted: bool = True, console: Console | None = None) -> Generator[Report]:
    """A `Report` that moves one bar for each thing that is done, on a terminal alone.

    Args:
      wanted: False shows nothing.
      console: where; default stderr.
    """
    console = console or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (wanted and console.is_terminal)) as shown:
        bars: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = shown.add_task(what, total=total)
            shown.update(bars[what], completed=done, total=total)

        yield report


@contextmanager
def stage(console: Console, what: str, total: int) -> Generator[Callable[[int], None]]:
    """A bar while it lasts, on a terminal; then one line with its seconds, anywhere."""
    begin = time.perf_counter()
    with progress(console=console) as report:
        yield lambda done: report(what, done, total)
    console.print(f"{what}: {total} in {time.perf_counter() - begin:.1f} s")


def tell(done: Done, name: str, as_json: bool = False) -> int:
    """Print what a job tells, its notes on stderr, and return the exit code."""
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
      name: of the command, in front of what it says.
      work: does it; a number that it returns is the exit code, anything else is 0.
      interrupted: what holds after Ctrl-C.
    """
    try:
        code = work()
        return code if isinstance(code, int) else 0
    except (BadInput, OSError) as error:
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted; {interrupted}", file=sys.stderr)
        return 130


def _show(summary: Mapping[str, Any]) -> None:
    """Lists of records as tables, the rest as lines."""
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
