"""Where a job keeps its files: in folders of this machine, or in an object store (`s3://`, `gs://`) through fsspec.

A store has no folders, no rename and no locks. It has one promise that is enough: a file appears whole by one put, or not at all.
"""

import io
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from a2d_jax import process
from a2d_jax.errors import BadInput
from a2d_jax.io.asking import FULL, asked, connected, info, no_room, told
from a2d_jax.io.urls import Url, as_path

FOOTER = 1 << 16
"""Bytes from the end of a parquet file that are read first, to find its schema."""

AT_ONCE = 16
"""Requests to a store at the same time."""

T = TypeVar("T")


class Store(Protocol):
    """Files and folders by their paths."""

    def names(self, folder: Path) -> list[str]:
        """Names of what lies in a folder; none if there is no folder."""
        ...

    def below(self, folder: Path, suffix: str) -> list[Path]:
        """Files with this ending in a folder and one level down."""
        ...

    def is_file(self, path: Path) -> bool: ...
    def is_dir(self, path: Path) -> bool: ...
    def make(self, folder: Path) -> None:
        """Make a folder and those above it."""
        ...

    def local(self, path: Path) -> Any:
        """A context manager: a file with this content on this machine, for as long as the block runs.

        Raises:
          FileNotFoundError: there is none.
        """
        ...

    def footer(self, path: Path) -> Any:
        """A context manager: a parquet file, open, of which only what is behind the rows can be read."""
        ...

    def create(self, path: Path, content: bytes) -> None:
        """Write a new file unless another process was first: then its file stays."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        ...

    def remove_folder(self, folder: Path, last: Path) -> None:
        """Remove a folder and all that is in it, the file `last` after all others where the order can be chosen."""
        ...


def store_of(path: Path) -> Store:
    """The store in which a path is."""
    return OBJECTS if isinstance(as_path(path), Url) else DISK


class _Disk:
    """Folders of this machine."""

    def names(self, folder: Path) -> list[str]:
        try:
            return os.listdir(folder)
        except FileNotFoundError:
            return []

    def below(self, folder: Path, suffix: str) -> list[Path]:
        return [file for pattern in (f"*{suffix}", f"*/*{suffix}") for file in folder.glob(pattern) if file.is_file()]

    def is_file(self, path: Path) -> bool:
        return os.path.isfile(path)

    def is_dir(self, path: Path) -> bool:
        return os.path.isdir(path)  # pathlib raises for names that are too long

    def make(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def local(self, path: Path) -> Generator[Path]:
        yield path

    @contextmanager
    def footer(self, path: Path) -> Generator[IO[bytes]]:
        with path.open("rb") as file:
            yield file

    def create(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def remove_folder(self, folder: Path, last: Path) -> None:
        shutil.rmtree(folder)


class _Objects:
    """Stores by URL."""

    def names(self, folder: Path) -> list[str]:
        return [name for name in self._listed(folder, 1) if "/" not in name]

    def below(self, folder: Path, suffix: str) -> list[Path]:
        return [folder / name for name, kind in self._listed(folder, 2).items() if kind == "file" and name.endswith(suffix)]

    def is_file(self, path: Path) -> bool:
        return self._kind(path) == "file"

    def is_dir(self, path: Path) -> bool:
        return self._kind(path) == "directory"

    def make(self, folder: Path) -> None:
        pass

    @contextmanager
    def local(self, path: Path) -> Generator[Path]:
        system, there = connected(path)
        with _scratch(path) as here:
            self._read(path, lambda: system.get_file(there, str(here)))
            yield here

    @contextmanager
    def footer(self, path: Path) -> Generator[IO[bytes]]:
        system, there = connected(path)
        found = told(path, lambda: info(system, there))
        if found is None:
            raise FileNotFoundError(path)
        size = found["size"]
        end, length = b"", min(size, FOOTER)
        while len(end) < length:
            end = self._read(path, lambda length=length: system.cat_file(there, start=size - length, end=size))
            length = min(size, int.from_bytes(end[-8:-4], "little") + 8)  # as the format says
        yield io.BytesIO(bytes(size - len(end)) + end)

    def put(self, here: Path, path: Path, *, new: bool) -> None:
        """Let a file of this machine appear.

        Raises:
          FileExistsError: there is one, and it must be `new`.
        """
        system, there = connected(path)
        if new and self._kind(path) is not None:
            raise FileExistsError
        told(path, lambda: asked(lambda: system.put_file(str(here), there), here.stat().st_size), "write")

    def create(self, path: Path, content: bytes) -> None:
        system, there = connected(path)
        try:
            asked(lambda: system.pipe_file(there, content, mode="create"), tries=1)
        except Exception:  # each library has its own for a file that is there
            if self.is_file(path):
                return
            told(path, lambda: asked(lambda: system.pipe_file(there, content)), "write")

    def remove(self, path: Path) -> None:
        system, there = connected(path)
        with suppress(FileNotFoundError):
            told(path, lambda: asked(lambda: system.rm_file(there)), "remove", FileNotFoundError)

    def remove_folder(self, folder: Path, last: Path) -> None:
        system, there = connected(folder)
        system.invalidate_cache()
        files = told(folder, lambda: asked(lambda: system.find(there)), "remove")
        keep = connected(last)[1]
        if others := [file for file in files if file != keep]:
            told(folder, lambda: asked(lambda: _remove(system, others)), "remove")
        self.remove(last)
        with suppress(FileNotFoundError):  # some stores keep empty folders
            told(folder, lambda: asked(lambda: system.rm(there, recursive=True)), "remove", FileNotFoundError)

    def _kind(self, path: Path) -> str | None:
        system, there = connected(path)
        found = told(path, lambda: info(system, there))
        return None if found is None else found["type"]

    def _listed(self, folder: Path, depth: int) -> dict[str, str]:
        """Kinds by names relative to the folder."""
        system, there = connected(folder)
        system.invalidate_cache()
        with suppress(FileNotFoundError):
            found = told(
                folder, lambda: asked(lambda: system.find(there, maxdepth=depth, withdirs=True, detail=True)), "read", FileNotFoundError
            )
            return {path[len(there) + 1 :].rstrip("/"): one["type"] for path, one in found.items() if len(path) > len(there) + 1}
        return {}

    def _read(self, path: Path, call: Callable[[], T]) -> T:
        return told(path, lambda: asked(call), "read", FileNotFoundError)


DISK, OBJECTS = _Disk(), _Objects()


def link(temporary: Path, final: Path) -> None:
    """Give a file its final name, if that is still free: a link is made in one step, or not at all."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        raise
    except OSError:  # a file system without links, as on memory cards; looking first leaves a moment open
        if os.path.lexists(final):
            raise FileExistsError from None
        temporary.rename(final)


def each(call: Callable[[Path], T], paths: Sequence[Path]) -> Iterator[T]:
    """What a call returns for each path, in order; in a store several are asked for at a time, since each takes a while."""
    if not paths or store_of(paths[0]) is DISK:
        yield from map(call, paths)
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(call, paths)


@contextmanager
def written(path: Path, force: bool | None) -> Generator[Path]:
    """A file of this machine that is put to a URL at the end of the block; see `a2d_jax.io.files.atomic`."""
    with _scratch(path) as temporary:
        temporary.touch()
        try:
            yield temporary
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise no_room(path, error) from error
        try:
            OBJECTS.put(temporary, path, new=force is False)
        except FileExistsError as error:
            kept = path.with_name(f"a2d-{secrets.token_hex(4)}{path.suffix}")
            OBJECTS.put(temporary, kept, new=False)
            raise Appeared(path, kept) from error
        if force is not None:
            process.outputs.append(path)


class Appeared(BadInput):
    """A file that must not be replaced has appeared during the work.

    Attributes:
      kept: where the result is instead.
    """

    def __init__(self, path: Path, kept: Path) -> None:
        super().__init__(f"expected {path} to be free when the work ended, got something that appeared meanwhile; the result is in {kept}")
        self.kept = kept


def refuse_existing(path: Path, force: bool, how: str, inputs: Iterable[str | Path], folder: bool = False) -> None:
    """Refuse an output in a store that cannot or must not be written, by trying; see `a2d_jax.io.files.refuse_existing`."""
    if folder:
        raise BadInput(f"expected a folder of this machine for the output, got {path}; write it here and copy it")
    if OBJECTS.is_dir(path):
        raise BadInput(f"expected a file name for the output, got the folder {path}; add a name")
    there = OBJECTS.is_file(path)
    for one in inputs:
        if there and (given := as_path(one)) and isinstance(given, Url) and given == path:
            raise BadInput(f"expected an output apart from the input {one}, got {path}, which would replace it; choose another name")
    if there and not force:
        raise BadInput(f"expected a new output, got {path}, which exists; choose another name or pass {how}")
    tried = path.with_name(f".a2d-{secrets.token_hex(4)}.tmp")
    system, name = connected(tried)
    told(path, lambda: asked(lambda: system.pipe_file(name, b"tried")), "write")
    OBJECTS.remove(tried)


def _remove(system: Any, files: Sequence[str]) -> None:
    with suppress(FileNotFoundError):  # another process is faster
        system.rm(files)


@contextmanager
def _scratch(path: Path) -> Generator[Path]:
    """The place of a file on this machine that is removed after the block."""
    folder = Path(tempfile.mkdtemp(prefix="a2d-"))
    process.temporaries.add(folder)
    try:
        yield folder / f"file{path.suffix}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        process.temporaries.discard(folder)
