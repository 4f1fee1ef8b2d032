"""Images that end the process that reads them: found after three deaths, and left out from then on.

    RUN/.a2d/reading/part-000123-TOKEN        a process is reading images of the part; it holds a lock on the file
    RUN/.a2d/quarantine/part-000123.json      what a careful reading of the part has found: places, and the signals that ended the process

A process removes its marks when it has read a part, or stops. A mark without a lock is thus left by a dead process. If a part has three of
them, a small second process reads the part (`a2d_jax.io.probe`) before it is read here. An image that ends this process too gets a row with
an error and is not read again; a part whose processes were killed by somebody is just read once more.
"""

import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from a2d_jax import process, supervision
from a2d_jax.costs.units import Cut
from a2d_jax.errors import BadInput
from a2d_jax.io.encoded import DEPTH
from a2d_jax.io.files import atomic, locked
from a2d_jax.io.probe import killers
from a2d_jax.io.source import Block, ImageSource
from a2d_jax.scale.runs import RECORDS, Run

READING = "reading"
QUARANTINE = "quarantine"
UNREADABLE = (
    "expected an image that can be decoded, got one that ended the process ({}); save it again, or report it to the authors of the decoder"
)


def guarded(source: ImageSource, run: Run) -> ImageSource:
    """The images of a run without those that end the process: their rows have an error.

    The parts that three processes have died on are read carefully first, as far as this process shall do them.

    Args:
      source: the set of the run.
      run: the run folder.
    """
    marks = _Marks(run.folder / RECORDS / READING, run.cut)
    found = _read_quarantine(run)
    again = {part for part, places in found.items() if places is None}
    passed = {place // run.cut.size for place in range((source.description or {}).get("first", 0))}  # as the set was opened
    for part in sorted(set(run.own) & (marks.suspects() | again | passed - set(found))):
        found[part] = {**(found.get(part) or {}), **_found(source, run, part)}
        _write_quarantine(run, part, found[part])
        marks.clear(part)
    out = {place: how for places in found.values() for place, how in (places or {}).items()}

    def blocks(begin: int, end: int, size: int) -> Iterator[Block]:
        with marks.held() as hold, closing(_around(source, out, begin, end, size)) as inner:
            hold(begin, min(end, begin + size + DEPTH))
            for block in inner:
                yield block
                begin += len(block.x)
                if begin < end:
                    hold(begin, min(end, begin + size + DEPTH))

    return replace(source, blocks=blocks)


def forget(run: Run, part: int) -> None:
    """Have a part read carefully again, if an image of it was left out."""
    if _quarantine(run, part).exists():
        _write_quarantine(run, part, None)


def _found(source: ImageSource, run: Run, part: int) -> dict[int, str]:
    if source.description is None:
        return {}
    begin, end = run.cut.span(part)
    found = killers(source.description, begin, end)
    if found:
        supervision.progressed()
    return found


def _around(source: ImageSource, out: Mapping[int, str], begin: int, end: int, size: int) -> Generator[Block]:
    """The images of a range; those that are left out have a block of their own."""
    for place in [*sorted(place for place in out if begin <= place < end), end]:
        if begin < place:
            yield from source.blocks(begin, place, size)
        if place < end:
            name, label = (str(place), None) if source.known is None else source.known(place)
            known = np.asarray([-1 if label is None else label]) if source.labels else None
            yield Block(np.zeros((1, *source.shape), np.uint8), known, [name], [UNREADABLE.format(out[place])])
        begin = place + 1


def _quarantine(run: Run, part: int) -> Path:
    return run.folder / RECORDS / QUARANTINE / f"part-{part:06}.json"


def _read_quarantine(run: Run) -> dict[int, dict[int, str] | None]:
    """Places that are left out, by part; None for a part that shall be read carefully again."""
    found: dict[int, dict[int, str] | None] = {}
    for path in (run.folder / RECORDS / QUARANTINE).glob("part-*.json"):
        try:
            written = json.loads(path.read_text(encoding="utf-8"))
            places: Any = written["places"]
            found[int(written["part"])] = None if places is None else {int(place): str(how) for place, how in places.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"expected {path} as a job writes it, got something else; remove it") from error
    return found


def _write_quarantine(run: Run, part: int, places: Mapping[int, str] | None) -> None:
    path = _quarantine(run, part)
    if not places and places is not None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_text(json.dumps({"part": part, "places": places}), encoding="utf-8")


class _Marks:
    """The marks of all processes that read parts of a run, and of those that died meanwhile."""

    def __init__(self, folder: Path, cut: Cut) -> None:
        self._folder, self._cut = folder, cut
        self._dead: dict[Path, int] = {}
        for path in folder.glob("part-*"):
            number = path.name.split("-")[1]
            if number.isdecimal() and _is_free(path):
                self._dead[path] = int(number)

    def suspects(self) -> set[int]:
        """Parts on which processes died too often."""
        return {part for part, deaths in Counter(self._dead.values()).items() if deaths >= supervision.DEATHS}

    def clear(self, part: int) -> None:
        """Forget the deaths on a part: it was read."""
        for path in [path for path, number in self._dead.items() if number == part]:
            path.unlink(missing_ok=True)
            del self._dead[path]

    @contextmanager
    def held(self) -> Generator[Callable[[int, int], None]]:
        """Mark parts while they are read: the block is given a function that takes the places that may be read from now on."""
        held: dict[int, tuple[Path, int]] = {}

        def release(part: int) -> None:
            path, lock = held.pop(part)
            path.unlink(missing_ok=True)
            os.close(lock)
            process.temporaries.discard(path)

        def hold(begin: int, end: int) -> None:
            now = range(begin // self._cut.size, (end - 1) // self._cut.size + 1)
            for part in [part for part in held if part not in now]:
                release(part)
                self.clear(part)
            for part in [part for part in now if part not in held]:
                held[part] = self._mark(part)

        try:
            yield hold
            for part in held:
                self.clear(part)
        finally:
            for part in list(held):
                release(part)

    def _mark(self, part: int) -> tuple[Path, int]:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"part-{part:06}-{secrets.token_hex(4)}"
        process.temporaries.add(path)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        locked(lock)
        return path, lock


def _is_free(path: Path) -> bool:
    """Whether no process holds the lock of a file; not known where there are no locks, as on Windows."""
    with suppress(OSError):
        file = os.open(path, os.O_RDWR)
        try:
            return locked(file) is True
        finally:
            os.close(file)
    return False
