"""Archives of arrays in the folder of a run: written whole or not at all, so that a kill or a second process leaves none in part."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from a2d_jax.errors import BadInput
from a2d_jax.io.files import atomic


def write(path: Path, **arrays: Any) -> None:
    """Write arrays by name; a file of this name is replaced, and its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an archive, by name.

    Raises:
      BadInput: it is damaged, or not there any more.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:  # numpy leaves a damaged file open
            return dict(arrays)
    except (OSError, EOFError, ValueError, TypeError, zlib.error, zipfile.BadZipFile) as error:
        why = f"expected the arrays that a step wrote, got {path}, which is damaged or missing"
        raise BadInput(f"{why}; put it back, or pass --restart to begin anew") from error
