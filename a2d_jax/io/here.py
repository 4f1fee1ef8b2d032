"""The files of a set: those of this machine, and what it takes to bring those of a store here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from a2d_jax.io.listing import Listing, listing


class Fetching(NamedTuple):
    """What must be on this machine to read images of a set in a store.

    Attributes:
      ends: of each file of the set in their order, the place behind its last image.
      sizes: bytes of each file.
      room: bytes that may be on this machine to be read again.
    """

    ends: NDArray[np.int64]
    sizes: NDArray[np.int64]
    room: int


@dataclass(frozen=True)
class Here:
    """Files of a set on this machine; `a2d_jax.io.remote.Remote` does the same for a store.

    Attributes:
      path: a file, a folder or a pattern.
    """

    path: Path

    def listing(self, depth: int) -> Listing | None:
        """What lies in the folder, `depth` levels down, or in the folder of the pattern; None for a file."""
        if self.path.is_dir():
            return listing(self.path, depth)
        return None if self.path.exists() else listing(self.path.parent)

    def local(self, file: Path) -> Path:
        """A file of the set on this machine."""
        return file

    def read(self, file: Path) -> bytes:
        """All bytes of a file of the set."""
        return file.read_bytes()

    def head(self, file: Path) -> IO[bytes]:
        """A file of which little is read."""
        return file.open("rb")

    def fetching(self, files: Sequence[Path | str], ends: NDArray[np.int64]) -> None:
        """Nothing needs to be fetched."""
