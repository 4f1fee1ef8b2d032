"""Readers of HDF5 try a file in a process of its own first: in a damaged one the library may loop for ever, or crash.

Python cannot interrupt a loop in that library, and one damaged file in some thousand leads to one.
"""

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds that a trial may take, and one more for each of so many bytes:"""
A_SECOND = 10_000_000

TRIAL = """
import importlib, pathlib, sys
module, name, path, *sys.path = sys.argv[1:]
getattr(importlib.import_module(module), name).__wrapped__(pathlib.Path(path))
"""


def tried(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """A function of a module that reads a file, done in another process before it is done in this one.

    It raises OSError if the trial does not end, or its process crashes. What else it raises there, it raises here too.
    """

    @functools.wraps(read)
    def careful(path: Path) -> T:
        if sys.executable:  # none in a Python inside another program
            command = [sys.executable, "-c", TRIAL, read.__module__, read.__name__, str(path.absolute()), *sys.path]
            try:
                trial = subprocess.run(command, timeout=PATIENCE + path.stat().st_size / A_SECOND, capture_output=True, check=False)
            except subprocess.TimeoutExpired:
                raise OSError("reading it never ends") from None
            if trial.returncode < 0:
                raise OSError("reading it crashes the library of HDF5")
        return read(path)

    return careful
