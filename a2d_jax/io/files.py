"""Output files and folders appear complete or not at all: they are tried before the work starts and moved into place after it.

While it is written, an output has a short temporary name, `.a2d-KEY-TOKEN.tmp`, in its final folder. KEY derives from the final name, and
the writing process holds a lock on the file. Files of a killed process have no lock; the next process that writes the same output removes
them. If the output is a link, its target is written and the link stays. An output by URL is written on this machine and put to its store
when it is complete (`a2d_jax.io.store`).
"""

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

from a2d_jax import process
from a2d_jax.errors import BadInput
from a2d_jax.io import store
from a2d_jax.io.asking import FULL
from a2d_jax.io.urls import Url, as_path

try:
    import fcntl
except ImportError:  # Windows has no locks of this kind; leftovers stay there
    fcntl = None

FORCE = "force=True"
"""How a caller in Python has an output replaced."""


def cache_folder() -> Path | None:
    """The folder of data that speeds up later commands; none of it is required. It may not exist yet; None for a user without a home."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "a2d-jax"
    home = home_folder()
    return home and home / ".cache" / "a2d-jax"


def home_folder() -> Path | None:
    """The user's home; None without HOME and a known user, as in some containers."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def refuse_existing(path: str | Path, force: bool, how: str = FORCE, *, inputs: Iterable[str | Path] = (), card: str | None = None) -> None:
    """Refuse an output that cannot or must not be written, by trying. Call it before the work, which may take hours.

    Args:
      path: path of the output.
      force: replace it if it exists.
      how: the option that the user must pass to replace it, for the error.
      inputs: files that the work reads; none of them may be replaced.
      card: for a folder, the file that marks a folder of its kind; other folders are never replaced. None for a file.

    Raises:
      BadInput: `path` exists and `force` is not given, or it is a folder, a device or an input, or nothing can be written there.
    """
    if isinstance(place := as_path(path), Url):
        store.refuse_existing(place, force, how, inputs, folder=card is not None)
        return
    final = _followed(path)
    if card is None and final.is_dir():
        raise BadInput(f"expected a file name for the output, got the folder {path}; add a name")
    if any(one.exists() and not (one.is_file() or one.is_dir()) for one in (Path(path), final)):  # /dev/stdout leads nowhere by its name
        raise BadInput(f"expected a file as output, got {path}, a device or a pipe; give the name of a file")
    for one in filter(os.path.exists, inputs):
        place = Path(os.path.realpath(one))
        if final.exists() and (final in place.parents or final.samefile(place)):
            raise BadInput(f"expected an output apart from the input {one}, got {path}, which would replace it; choose another name")
    if any(_is_stream(one) for one in (Path(path), final)):
        raise BadInput(f"expected an output apart from what the command prints, got {path}, where stdout or stderr goes; choose another")
    if final.exists() and not force:
        raise BadInput(f"expected a new output, got {path}, which exists; choose another name or pass {how}")
    if card is not None and final.exists() and not (final / card).is_file():
        raise BadInput(f"expected a folder of the same kind to replace, got {path}, which has no {card}; choose another name")
    temporary, lock = _begun(final, folder=card is not None)
    _removed(temporary, lock)


@contextmanager
def atomic(path: str | Path, force: bool | None = None) -> Generator[Path]:
    """A temporary file beside `path`. It replaces `path` at the end of the block and is removed if the block fails.

    The block gets an empty file to write and close. Readers see either the complete old content or the complete new content. An interrupt
    (Ctrl-C) counts as failure.

    Args:
      path: path of the file.
      force: replace an existing file. False replaces nothing, not even a file that appears during the block. None is for the program's own
        files: they are replaced and are not an output of the command.

    Raises:
      BadInput: a file that must not be replaced has appeared (the new file is then kept under another name), or the disk is full, or the
        store of a URL does not take the file.
    """
    if isinstance(place := as_path(path), Url):
        with store.written(place, force) as temporary:
            yield temporary
        return
    with _written(_followed(path), force, folder=False) as temporary:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())


@contextmanager
def atomic_folder(path: str | Path, force: bool | None = None) -> Generator[Path]:
    """The same for a folder: the block fills an empty folder."""
    with _written(_followed(path), force, folder=True) as temporary:
        yield temporary


@contextmanager
def _written(final: Path, force: bool | None, folder: bool) -> Generator[Path]:
    temporary, lock = _begun(final, folder)
    try:
        yield temporary
        (_place_folder if folder else _place_file)(temporary, final, force)
        if force is not None:
            process.outputs.append(final)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise BadInput(
            f"expected room for the output {final}, got: {os.strerror(error.errno)}; free some space, or choose another place"
        ) from error
    finally:
        _removed(temporary, lock)


def _followed(path: str | Path) -> Path:
    """Where an output really is, all links followed.

    Raises:
      BadInput: nowhere: the working directory is gone, the folder is missing, links form a loop, or the name is none.
    """
    try:
        final = Path(os.path.realpath(path))
        folder = final.parent
        if not folder.is_dir():
            raise BadInput(f"expected an existing, writable folder for the output {path}, got {folder}, which is missing; create it first")
        with suppress(FileNotFoundError):
            if stat.S_ISLNK(final.lstat().st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    except (OSError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadInput(f"expected a place for the output {path}, got: {reason}; choose another name or folder") from error
    return final


def _is_stream(path: Path) -> bool:
    """Whether stdout or stderr goes to this file."""
    with suppress(OSError):
        return any(os.path.samestat(path.stat(), os.fstat(number)) for number in (1, 2))
    return False


def _begun(final: Path, folder: bool) -> tuple[Path, int]:
    """A new temporary file or folder for an output, and the lock that says that its process lives."""
    while True:
        temporary = final.with_name(f"{hidden_name(final)}-{secrets.token_hex(4)}.tmp")
        process.temporaries.add(temporary)
        try:
            _sweep(final)
            if folder:
                temporary.mkdir()
            lock = os.open(temporary, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as error:
            process.temporaries.discard(temporary)
            raise BadInput(
                f"expected an existing, writable folder for the output {final}, got {final.parent} ({error.strerror}); choose another place"
            ) from error
        if locked(lock) is not False and os.fstat(lock).st_nlink:  # else another process has just swept it away
            return temporary, lock
        _removed(temporary, lock)


def _removed(temporary: Path, lock: int) -> None:
    with suppress(OSError):
        shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()
    with suppress(OSError):
        os.close(lock)
    process.temporaries.discard(temporary)


def _place_file(temporary: Path, final: Path, force: bool | None) -> None:
    try:
        if force is False:
            store.link(temporary, final)
        else:
            temporary.replace(final)
    except (FileExistsError, IsADirectoryError) as error:
        raise _kept(temporary, final) from error


def _place_folder(temporary: Path, final: Path, force: bool | None) -> None:
    try:
        if force is not False and final.exists():
            old = final.rename(temporary.with_suffix(".old.tmp"))
            try:
                temporary.rename(final)
            except OSError:
                old.rename(final)
                raise
            shutil.rmtree(old, ignore_errors=True)
        elif os.path.lexists(final):
            raise FileExistsError
        else:
            temporary.rename(final)
    except OSError as error:
        if not os.path.lexists(final):
            raise
        raise _kept(temporary, final) from error


def _kept(temporary: Path, final: Path) -> BadInput:
    """Keep what was written under a name of its own: it may have taken hours."""
    suffix = final.suffix if len(final.suffix) < 20 else ""
    kept = temporary.rename(final.with_name(f"a2d-{secrets.token_hex(4)}{suffix}"))
    return BadInput(f"expected {final} to be free when the work ended, got something that appeared meanwhile; the result is in {kept}")


def hidden_name(path: Path) -> str:
    """The beginning of hidden names that belong to an output: short, however long its own is."""
    return f".a2d-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}"


def _sweep(final: Path) -> None:
    """Remove what killed processes left of this output: named by it, of this user, and locked by nobody."""
    if fcntl is None:
        return
    for found in final.parent.glob(f"{hidden_name(final)}-*.tmp"):
        with suppress(OSError):
            is_folder = found.is_dir()
            lock = os.open(found, (os.O_RDONLY if is_folder else os.O_RDWR) | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                ours = os.fstat(lock).st_uid == os.geteuid() and (is_folder or stat.S_ISREG(os.fstat(lock).st_mode))
                if ours and locked(lock):
                    shutil.rmtree(found) if is_folder else found.unlink()
            finally:
                os.close(lock)


def locked(file: int) -> bool | None:
    """Lock an open file: whether that succeeded; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
