"""Which images of a set end the process that reads them: found out in a small second process, which only decodes.

`python -m a2d_jax.io.probe` is that process. It opens a set from its description, reads some places and tells how far it got. If a signal
ends it, the image is among those that it read ahead; these are then read one by one.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress

from a2d_jax import supervision
from a2d_jax.imports import imported
from a2d_jax.io.encoded import DEPTH, first_place
from a2d_jax.io.source import Description

BLOCK = 16
"""Images read at a time, where no image is suspected."""
ENDED = (signal.SIGINT, signal.SIGTERM)
"""Signals that people send: no image is to blame."""


def killers(description: Description, begin: int, end: int) -> dict[int, str]:
    """Read images of a set in another process.

    Args:
      description: of the set, see `ImageSource.description`.
      begin: place of the first image.
      end: place behind the last one.

    Returns:
      Places of the images that end a process in which they are read alone, and by which signal.
    """
    return _killers(description, begin, end, ()) or _killers(description, begin, end, tuple(imported))


@contextmanager
def opening(description: Description) -> Generator[Description]:
    """The block opens a set that has this description; the images at its start may end the process.

    Yields:
      The description with which it can be opened again.
    """
    with supervision.opening() as careful:
        first = max(first_place.get(), supervision.first_place())
        if careful:
            first = _first_place(description, first)
            supervision.found_first_place(first)
        description = {**description, "first": first} if first else description
        with looking_from(description):
            yield description


@contextmanager
def looking_from(description: Description) -> Generator[None]:
    """The block opens a set; its first good image is looked for behind those that end the process."""
    before = first_place.set(int(description.get("first", 0)))
    try:
        yield
    finally:
        first_place.reset(before)


def _killers(description: Description, begin: int, end: int, modules: Sequence[str]) -> dict[int, str]:
    found: dict[int, str] = {}
    while begin < end:
        begin, died = _read(description, begin, end, BLOCK, modules)
        if died is None:
            break
        last = min(end, begin + BLOCK + DEPTH)
        begin, died = _read(description, begin, last, 1, modules)
        if died is not None:
            found[begin] = died
            begin += 1
    return found


def _first_place(description: Description, first: int) -> int:
    """The first place from which the shape of a set can be looked for, or the one that was given if none is better."""
    for modules in ((), tuple(imported)):
        for place in range(first, first + DEPTH):
            if _read({**description, "count": 0, "first": place}, 0, 0, 1, modules)[1] is None:
                break
        else:
            continue
        if place > first:
            return place
    return first


def _read(description: Description, begin: int, end: int, size: int, modules: Sequence[str]) -> tuple[int, str | None]:
    """Read in another process: how far it got, and the signal that ended it, if one did.

    It has none of the command's libraries. Some modules are imported first if what they do may matter.
    """
    asked = {"description": description, "begin": begin, "end": end, "size": size, "modules": list(modules)}
    command = [sys.executable, "-P", "-m", "a2d_jax.io.probe", json.dumps(asked)]
    path = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path}
    ) as reading:
        try:
            assert reading.stdout is not None
            for line in reading.stdout:
                with suppress(ValueError):  # what a module prints
                    begin = int(line)
        finally:
            reading.kill()
    code = reading.returncode
    if code >= 0 or -code in ENDED:
        return begin, None
    return begin, signal.Signals(-code).name


def main() -> None:
    """Read the places that the argument names, and print how far that got."""
    from a2d_jax.io.images import reopen

    asked = json.loads(sys.argv[1])
    for module in asked["modules"]:
        with suppress(Exception):  # its trouble is not that of an image
            importlib.import_module(module)
    source = reopen(asked["description"])
    begin, end, size = asked["begin"], asked["end"], asked["size"]
    step = size if size == 1 else max(end - begin, 1)
    for start in range(begin, end, step):
        for block in source.blocks(start, min(start + step, end), size):
            begin += len(block.x)
            print(begin, flush=True)


if __name__ == "__main__":
    main()
