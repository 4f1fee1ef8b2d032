"""The process around a command: standard streams that may be closed or full, and signals that end it.

This file uses only the standard library, so that signals are handled before other libraries load, which takes seconds.
"""

import io
import os
import select
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO, cast

NARROWEST = 40
"""Columns that a terminal has at least, for those who lay out text: some never end on fewer than eight."""
GRACE = 5.0
"""Seconds that a command has to end after a signal: Python hears signals between two of its own instructions, and a compilation is one."""

temporaries: set[Path] = set()
"""Files and folders that are being written under a temporary name, removed if the process ends at once."""
outputs: list[Path] = []
"""What the command has written under its final name so far."""
unfinished: set[Path] = set()
"""Folders in which finished parts of the work are kept; the same command goes on there."""
arrived = 0
"""Signals that a command has heard so far."""


class Stopped(KeyboardInterrupt):
    """A signal asks the command to end. Like Ctrl-C, it is not caught by `except Exception`."""


class Stream(io.TextIOBase):
    """A standard stream that never fails: characters that its encoding lacks are escaped, and text that cannot be written is dropped.

    Attributes:
      lost: why text was dropped, if some was.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        self._try(lambda: self._write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] (the base class has no setter either)
        return self._stream.encoding

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def _try(self, what: Callable[[], object]) -> None:
        if self.lost is not None:
            return
        try:
            what()
        except OSError as error:
            self.lost = error
            with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:  # Python writes the rest of its buffer when it ends
                os.dup2(nowhere.fileno(), self._stream.fileno())


@contextmanager
def streams() -> Generator[Stream]:
    """Standard streams that never fail, for as long as the block runs.

    Yields:
      stdout, which tells whether text was lost.
    """
    open_closed()
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    old = sys.stdout, sys.stderr
    stdout, stderr = (Stream(stream or open(os.devnull, "w")) for stream in old)  # noqa: SIM115 (open as long as the process)
    sys.stdout, sys.stderr = cast(TextIO, stdout), cast(TextIO, stderr)
    try:
        yield stdout
    finally:
        stdout.flush()
        stderr.flush()
        sys.stdout, sys.stderr = old


class Signals:
    """Ctrl-C, SIGTERM and SIGHUP: the first ends the work by `Stopped`, the second ends the process at once.

    If the work does not react to the first signal, the process ends after `GRACE` seconds. A signal that is ignored (nohup, a job in the
    background) or that the program handles in its own way stays so. Only the main thread of a program can listen.

    Attributes:
      number: the first signal that came, if any.
    """

    def __init__(self, at_once: Callable[[int], object]) -> None:
        """Say nothing yet.

        Args:
          at_once: tells the user, if the process ends at once. Called in another thread.
        """
        self.number: int | None = None
        self._at_once = at_once
        self._heard = threading.Event()  # the work has ended, or ends
        self._old: dict[int, Any] = {}

    def listen(self) -> None:
        """Listen from now on, until `close`."""
        if threading.current_thread() is not threading.main_thread():
            return
        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        ours = {number: signal.getsignal(number) for number in numbers}
        ours = {number: old for number, old in ours.items() if old in (signal.SIG_DFL, signal.default_int_handler)}
        if not ours:
            return
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._watcher = threading.Thread(target=self._watch, args=(set(ours),), daemon=True)
        self._watcher.start()
        self._hooks = sys.excepthook, sys.unraisablehook
        sys.excepthook, sys.unraisablehook = self._printed, self._ignored
        for number in ours:
            self._old[number] = signal.signal(number, self._stop)

    def stopped(self) -> None:
        """The work has ended: any further signal is the user's second one."""
        self._heard.set()

    def close(self) -> None:
        """Listen no more."""
        self._heard.set()
        if not self._old:
            return
        for number, old in self._old.items():
            signal.signal(number, old)
        sys.excepthook, sys.unraisablehook = self._hooks
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._write)
        self._watcher.join()
        os.close(self._read)
        self._old = {}

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None or self._heard.is_set():
            return
        self.number = number
        while frame is not None:  # an exception in the middle of an import can crash a library that is written in C
            if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
                self._end()
            frame = frame.f_back
        raise Stopped

    def _printed(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        """What Python calls for an exception that C code prints instead of handing it on."""
        if isinstance(error, Stopped):
            self._end()
        self._hooks[0](kind, error, trace)

    def _ignored(self, unraisable: Any) -> None:
        """What Python calls for an exception that nobody above could hear, as in a callback of the garbage collector."""
        if isinstance(unraisable.exc_value, Stopped):
            self._end()
        self._hooks[1](unraisable)

    def _end(self) -> None:
        number = self.number or signal.SIGINT
        self._at_once(number)
        leave(128 + number)

    def _watch(self, numbers: set[int]) -> None:
        """Read what the interpreter writes the moment a signal comes, whatever the main thread does."""
        global arrived
        first: int | None = None
        while True:
            ready, _, _ = select.select([self._read], [], [], GRACE if first is not None and not self._heard.is_set() else None)
            came = os.read(self._read, 1) if ready else b""
            if ready and not came:
                return
            if came and came[0] not in numbers:
                continue
            arrived += len(came)
            if first is None and came:
                first = came[0]
            elif first is not None and (came or not self._heard.is_set()):
                if not self._heard.is_set():
                    self._at_once(first)
                leave(128 + first)


def sweep() -> None:
    """Remove the unfinished files of this process."""
    for path in tuple(temporaries):
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def leave(code: int) -> NoReturn:
    """End the process now: remove its unfinished files, and do not wait for running computations."""
    sweep()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def open_closed() -> None:
    """Give standard streams that are closed a file that takes everything, or the next file that is opened would stand in for them."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
