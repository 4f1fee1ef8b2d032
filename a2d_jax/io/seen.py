"""Changes and errors found while reading a set, and the notes about them: one line for each kind, with the number of images."""

from collections.abc import Sequence
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

    def lines(self, count: int) -> list[str]:
        """Notes for the user on the first `count` images, as far as they were read."""
        told = [(kind, sum(flags[:count])) for kind, flags in self._done.items()]
        return [f"{kind}: {n} of {count} images" for kind, n in told if n] + self._dark()

    def _dark(self) -> list[str]:
        largest = float(self._largest)
        if not 0 <= largest <= (DARK if self._bytes else DARK / 255):
            return []
        if not self._bytes:
            return [
                f"no value of any image is larger than {largest:.3g}, so all are nearly black; "
                "if they were divided by 255 twice, divide once"
            ]
        mend = f"; if they range from 0 to {largest:g}, save x / {largest:g} as float32" if largest > 1 else ""
        mend = "; if they mean 0 and 1, save them as float32" if largest == 1 else mend
        return [f"no value of any image is larger than {largest:g}, and bytes count from 0 to 255, so all are nearly black{mend}"]
