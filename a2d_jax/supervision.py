"""Two processes for a command that reads many images: one works, the other one waits and starts it again after a fault in a library.

A decoder that crashes ends its process, whatever Python does. The command therefore forks before it loads any library. What the process
that works has finished is on disk, so the next one goes on from there; after some deaths it finds the image (`a2d_jax.scale.quarantine`).
For everybody else the two are one process: a signal to the one that waits reaches the other one once, its end is the end of both, and its
exit code is the code of the command.

This file uses only the standard library. There is no second process where processes cannot fork, as on Windows, and none in a program that
calls the command with arguments of its own.
"""

import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

from a2d_jax import process

COMMANDS = frozenset({"attack", "clever", "cost", "detect", "predict"})
"""Commands that work in parts, so that a second process can go on."""
FAULTS = frozenset(getattr(signal, name) for name in ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE") if hasattr(signal, name))
DEATHS = 3
"""Deaths after which it is found out which image is to blame."""
PATIENCE = 0.3
"""Seconds until a signal that reached the process that waits must have reached the other one too, if it was sent to both."""

_STARTING, _OPENING, _WORKING, _ENDED = range(4)
_STAGE, _FINISHED, _FIRST, _BEGUN = range(4)
_shared: memoryview | None = None  # numbers that outlive the process that works, one for each of these names
_careful = False


def supervised(name: str) -> int | None:
    """Fork, if the command is one that works in parts.

    Args:
      name: name of the command, printed in front of its messages.

    Returns:
      None in the process that shall do the work. In the one that waits: the exit code, when the other one has ended.
    """
    global _shared, _careful
    wanted = COMMANDS & set(sys.argv[1:]) and not {"-h", "--help"} & set(sys.argv[1:])
    if not (wanted and hasattr(os, "fork") and threading.current_thread() is threading.main_thread()):
        return None
    if threading.active_count() > 1 or "jax" in sys.modules:  # a program around the command: its threads would not come along
        return None
    process.open_closed()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, nobody learns how a process ended
    _shared = shared = memoryview(mmap.mmap(-1, 32)).cast("Q")
    deaths = opening = seen = 0
    while True:
        _careful = opening >= DEATHS
        shared[_STAGE] = _STARTING
        try:
            child = _Child()
        except OSError:  # no room for a process: this one works alone, as far as it gets
            return None
        if child.is_me:
            return None
        status = child.wait()
        if not os.WIFSIGNALED(status):
            return os.waitstatus_to_exitcode(status)
        number, finished = os.WTERMSIG(status), shared[_FINISHED]
        if number in child.heard:
            if shared[_STAGE] == _STARTING:  # it could not say so itself yet
                how = "interrupted" if number == signal.SIGINT else f"interrupted by {_called(number)}"
                _say(f"{name}: {how}; no output was written")
            return 128 + number
        if child.heard or number not in FAULTS or shared[_STAGE] in (_STARTING, _ENDED):
            _say(f"{name}: error: expected the process to end by itself, got its end by {_called(number)}")
            return 128 + number
        deaths = deaths + 1 if finished == seen else 1
        opening = opening + 1 if shared[_STAGE] == _OPENING else 0
        seen = finished
        if deaths > DEATHS:
            _say(
                f"{name}: error: expected the process to finish some part of its work, got its end by {_called(number)} {deaths} times "
                "before it did; PYTHONFAULTHANDLER=1 in front of the command shows where"
            )
            return 128 + number
        _say(f"{name}: the process was ended by {_called(number)}, as when a decoder crashes; it goes on over what is missing")


@contextmanager
def opening() -> Generator[bool]:
    """The block opens a set of images, which may decode some.

    Yields:
      Whether the process has died so often in this block that it must be careful.
    """
    _set(_STAGE, _OPENING)
    yield _careful
    _set(_STAGE, _WORKING)


def first_place() -> int:
    """The first place of the set that can be decoded, as far as an earlier process has found out."""
    return 0 if _shared is None else _shared[_FIRST]


def found_first_place(place: int) -> None:
    """Keep that for the processes to come."""
    if place != first_place():
        _set(_FIRST, place)
        progressed()


def goes_on() -> bool:
    """Whether an earlier process of this command has `begun`: what the command does once, at its beginning, is done."""
    return _shared is not None and bool(_shared[_BEGUN])


def begun() -> None:
    """From here on, another process goes on with what this one has done."""
    _set(_BEGUN, 1)


def progressed() -> None:
    """Something was finished that the next process need not do again."""
    if _shared is not None:
        _shared[_FINISHED] += 1


def ended() -> None:
    """The work has ended: what happens to the process from now on is no reason to do it again."""
    _set(_STAGE, _ENDED)


def _set(what: int, number: int) -> None:
    if _shared is not None:
        _shared[what] = number


class _Child:
    """The process that works, as both see it.

    Attributes:
      is_me: whether this is that process.
      heard: signals that the process that waits has got meanwhile.
    """

    def __init__(self) -> None:
        self.heard: list[int] = []
        numbers = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
        self._old = {number: old for number in numbers if (old := signal.getsignal(number)) != signal.SIG_IGN}
        read, self._line = os.pipe()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        try:
            self._number = os.fork()
            self.is_me = not self._number
            if self.is_me:
                os.close(self._line)
                threading.Thread(target=_follow, args=(read,), daemon=True).start()
            else:
                os.close(read)
                for number in self._old:
                    signal.signal(number, self._pass_on)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def wait(self) -> int:
        """The status with which it ended."""
        status = os.waitpid(self._number, 0)[1]
        for number, old in self._old.items():
            signal.signal(number, old)
        os.close(self._line)
        return status

    def _pass_on(self, number: int, frame: Any) -> None:
        self.heard.append(number)
        with suppress(OSError):  # it has just ended
            os.write(self._line, bytes([number]))


def _follow(line: int) -> None:
    """In the process that works: take over the signals of the one that waits, and end with it.

    A terminal, `timeout` and `kill -- -GROUP` send a signal to both; then it is here already.
    """
    told = 0
    while came := os.read(line, 1):
        told += 1
        until = time.monotonic() + PATIENCE
        while process.arrived < told and time.monotonic() < until:
            time.sleep(0.01)
        if process.arrived < told:
            os.kill(os.getpid(), came[0])
    os.kill(os.getpid(), signal.SIGKILL)


def _called(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _say(line: str) -> None:
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())
