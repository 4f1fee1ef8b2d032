"""Changes and errors found while reading a set, and the notes about them: one line for each kind, with the number of images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DARK = 16
"""Of 255: where no value of a set is larger, its values have most likely another range."""


class Seen:
    """Findings of one source. They live as long as the source, so that a set that is read several times gives each note once."""

    def __init__(self) -> None:
        self._done: dict[str, bytearray] = {}  # by what was done, a flag for each place in the set
        self._largest: float = -1
        self._bytes = False

    def add(self, begin: int, x: NDArray[Any], done: Sequence[Sequence[str]] | None) -> None:
        """Note a block.

        Args:
          begin: place of its first image in the set.
          x: its pixels as the reader found them, zeros where an image has an error.
          done: what was done to each image.
        """
        self._bytes = x.dtype == np.uint8
        self._largest = max(self._largest, np.fmax.reduce(x, axis=None, initial=0))  # NaN is no value
        for place, kinds in enumerate(done or (), begin):
            for kind in kinds:
                flags = self._done.setdefault(kind, bytearray())
                flags.extend(bytes(max(0, place + 1 - len(flags))))
                flags[place] = 1

    def facts(self, begin: int, end: int) -> dict[str, Any]:
        """What was done to the images from place `begin` to `end - 1`, as JSON can say it: see `notes`."""
        told = {kind: sum(flags[begin:end]) for kind, flags in self._done.items()}
        return {"done": {kind: n for kind, n in told.items() if n}, "largest": float(self._largest), "bytes": self._bytes}

    def lines(self, count: int) -> list[str]:
        """Notes for the user on the first `count` images, as far as they were read."""
        return notes([self.facts(0, count)], count)


def notes(facts: Sequence[Mapping[str, Any]], count: int) -> list[str]:
    """Notes for the user on a set of `count` images, from the facts of its parts."""
    told: dict[str, int] = {}
    for part in facts:
        for kind, n in part["done"].items():
            told[kind] = told.get(kind, 0) + n
    largest, are_bytes = max((part["largest"] for part in facts), default=-1.0), any(part["bytes"] for part in facts)
    return [f"{kind}: {n} of {count} images" for kind, n in told.items()] + _dark(largest, are_bytes)


def _dark(largest: float, are_bytes: bool) -> list[str]:
    """A note on a set whose values are all small."""
    if not 0 <= largest <= (DARK if are_bytes else DARK / 255):
        return []
    if not are_bytes:
        return [
            f"no value of any image is larger than {largest:.3g}, so all are nearly black; if they were divided by 255 twice, divide once"
        ]
    mend = f"; if they range from 0 to {largest:g}, save x / {largest:g} as float32" if largest > 1 else ""
    mend = "; if they mean 0 and 1, save them as float32" if largest == 1 else mend
    return [f"no value of any image is larger than {largest:g}, and bytes count from 0 to 255, so all are nearly black{mend}"]
