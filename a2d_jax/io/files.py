"""Output files appear whole or not at all: refused before the work starts, renamed into place after it."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from a2d_jax.errors import BadInput

FORCE = "force=True"
"""How a caller in Python has an output replaced."""


def cache_folder() -> Path:
    """Where things are kept for the next command; nothing in it is needed. It may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "a2d-jax"


def refuse_existing(path: str | Path, force: bool, how: str = FORCE) -> None:
    """Refuse an output that cannot or must not be written. Call it before the work, which may take hours.

    Args:
      path: of the output.
      force: replace it if it exists.
      how: what the caller's user passes to have it replaced.

    Raises:
      BadInput: `path` exists and `force` is not given, or it is a folder, or its own folder is missing or read-only.
    """
    path = Path(path)
    folder = path.absolute().parent
    if not folder.is_dir():
        raise BadInput(f"expected an existing folder for the output {path}, got {folder}; create it first")
    if not os.access(folder, os.W_OK):
        raise BadInput(f"expected a writable folder for the output {path}, got {folder}; choose another place")
    if path.is_dir():
        raise BadInput(f"expected a file name for the output, got the folder {path}; add a name")
    if path.exists() and not force:
        raise BadInput(f"expected a new output, got {path}, which exists; choose another name or pass {how}")


@contextmanager
def atomic(path: str | Path) -> Generator[Path]:
    """A temporary name beside `path`, renamed to `path` at the end of the block, removed if the block fails.

    The block writes a file under that name and closes it. Readers see the old content or the new one, whole: same
    folder, hence same file system, hence an atomic rename. An interrupt (Ctrl-C) counts as failure.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
