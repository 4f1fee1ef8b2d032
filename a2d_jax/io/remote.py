"""Sets by URL (`s3://`, `gs://`, and what else fsspec knows): files are fetched when they are read, into a folder of bounded size.

A set is listed when it is opened. The names, sizes and versions that the store tells name a folder of the cache, so a set that has changed
is never mixed with what was fetched before. A file appears in the cache whole or not at all, so several processes may share it. If the
cache grows above its limit, the files that were used longest ago go first. A file that is open stays readable while it goes.
"""

import hashlib
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from a2d_jax.errors import BadInput
from a2d_jax.io.arrays import idx_labels_names
from a2d_jax.io.asking import asked, connected, info, told
from a2d_jax.io.files import cache_folder
from a2d_jax.io.here import Fetching, Here
from a2d_jax.io.listing import Listing, is_stray

LIMIT = 20.0
"""Gigabytes of the cache at most, if `LIMIT_GIVEN` does not say otherwise."""

LIMIT_GIVEN = "A2D_CACHE_GB"
"""The variable of the environment that gives another limit."""

TRIES = 5
"""How often a file is fetched for one reading, if it goes at once."""

ABANDONED = 86_400
"""Seconds after which nobody fetches a file any more."""

VERSION = ("ETag", "etag", "generation", "md5Hash", "LastModified", "last_modified", "mtime", "created")
"""What stores say of the version of a file."""


@dataclass(frozen=True)
class Remote:
    """A set in a store: what `a2d_jax.io.source.Here` is for this machine.

    Attributes:
      url: the set in the store.
      path: where the set lies in the cache: a file, a folder, or a pattern.
      found: what lies in the folder; None for one file.
      beside: files that belong to this one file.
      digest: SHA-256 of names, sizes and versions.
      cache: the cache.
      system: file system of fsspec.
      base: folder of the set in the store.
      sizes: bytes of its files, by name relative to the base.
    """

    url: str
    path: Path
    found: Listing | None
    beside: Sequence[Path]
    digest: str
    cache: "Cache"
    system: Any
    base: str
    sizes: Mapping[str, int]

    def listing(self, depth: int) -> Listing | None:
        """What lies in the folder, `depth` levels down, which the store told when it was opened."""
        del depth
        return self.found

    def local(self, file: Path) -> Path:
        """A file of the set on this machine, fetched if it is not there.

        Raises:
          BadInput: the store does not give it.
        """
        if not self.cache.has(file):
            source = self._there(file)
            self.cache.add(file, lambda here: told(source, lambda: self.system.get_file(source, str(here))))
        return file

    def read(self, file: Path) -> bytes:
        """All bytes of a file of the set.

        Raises:
          BadInput: the store does not give it, or the cache is too small for the files in use.
        """
        for _ in range(TRIES):
            with suppress(FileNotFoundError):  # another thread needed the room
                return self.local(file).read_bytes()
        raise BadInput(f"expected room for the files in use, got a limit of {self.cache.limit} bytes in {self.cache.folder}; raise it")

    def head(self, file: Path) -> IO[bytes]:
        """A file of which little is read: it is not fetched."""
        source = self._there(file)
        return told(source, lambda: self.system.open(source, "rb", block_size=1 << 16))

    def fetching(self, files: Sequence[Path | str], ends: NDArray[np.int64]) -> Fetching:
        """What it takes to read images of the set; see `Fetching`. Names are relative to the folder."""
        names = [file if isinstance(file, str) else self._name(file) for file in files]
        sizes = np.fromiter((self.sizes.get(name, 0) for name in names), np.int64, len(names))
        return Fetching(ends, sizes, self.cache.limit // 2)

    def _there(self, file: Path) -> str:
        return f"{self.base}/{self._name(file)}"

    def _name(self, file: Path) -> str:
        folder = self.path if self.found is not None and not is_pattern(self.path.name) else self.path.parent
        return file.relative_to(folder).as_posix()


Files = Here | Remote
"""The files of a set, wherever they are."""


@dataclass(frozen=True)
class Cache:
    """Files on this machine, together below a limit.

    Attributes:
      folder: where they are.
      limit: bytes at most; a single file may be larger.
    """

    folder: Path
    limit: int = int(LIMIT * 1e9)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _known: dict[str, int] = field(default_factory=dict[str, int], repr=False)  # bytes since the folder was looked through

    def has(self, file: Path) -> bool:
        """Whether a file is there; it counts as used now."""
        try:
            os.utime(file)
        except OSError:
            return False
        return True

    def add(self, file: Path, fetch: Callable[[Path], object]) -> None:
        """Fetch a file, and remove others if there are too many."""
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            fetch(temporary)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
        with self._lock:
            # the first file looks through the folder, since nothing is known of it
            self._known["bytes"] = self._known.get("bytes", self.limit) + file.stat().st_size
            if self._known["bytes"] > self.limit:
                self._known["bytes"] = self._shrink(file)

    def _shrink(self, kept: Path) -> int:
        """Remove the files used longest ago until a tenth of the limit is free; returns the bytes that are left."""
        every: list[tuple[Path, os.stat_result]] = []
        for path in self.folder.rglob("*"):
            with suppress(FileNotFoundError):  # another process was faster
                stat = path.stat()
                if is_stray(path.name):  # is being fetched, or was when its process was killed
                    if time.time() - stat.st_mtime > ABANDONED:
                        path.unlink()
                elif path.is_file():
                    every.append((path, stat))
        left = sum(stat.st_size for _, stat in every)
        if left > self.limit:
            for path, stat in sorted(every, key=lambda item: item[1].st_mtime_ns):
                if left <= 0.9 * self.limit:
                    break
                if path != kept:
                    path.unlink(missing_ok=True)
                    left -= stat.st_size
        return left


def open_remote(url: str, cache: Cache | None = None) -> Remote:
    """List a set in a store.

    Args:
      url: a file, a folder (one level of sub-folders is read), or a pattern in the last name.
      cache: where files are kept; default `default_cache()`.

    Raises:
      BadInput: a package is missing, or there is no such set, or it cannot be listed.
    """
    system, root = connected(url, whole=False)
    system.invalidate_cache()  # of lists: the set may have changed since this process saw it
    above, _, own = root.rpartition("/")
    kind = _kind(url, system, root)
    folder = kind == "directory"
    if kind == "file":
        names = [own, *(name for name in idx_labels_names(own) if _kind(url, system, f"{above}/{name}") == "file")]
        base, infos = above, {name: told(url, lambda name=name: system.info(f"{above}/{name}")) for name in names}
    elif folder:
        base, infos = root, _below(root, told(url, lambda: asked(lambda: system.find(root, maxdepth=2, withdirs=True, detail=True))))
    elif is_pattern(own) and _kind(url, system, above) == "directory":
        every = _below(above, told(url, lambda: asked(lambda: system.find(above, maxdepth=1, detail=True))))
        base, infos = above, {name: info for name, info in every.items() if fnmatchcase(name, own)}
    else:
        base, infos = root, {}
    if not infos:
        raise BadInput(f"expected images, got {url}, which does not exist or is empty; check the URL")
    hashed = hashlib.sha256(url.encode())
    for name, one in sorted(infos.items()):
        hashed.update(os.fsencode(f"{name} {one.get('size')} {[str(one[key]) for key in VERSION if key in one]}\n"))
    cache = cache or default_cache()
    here = cache.folder / hashed.hexdigest()[:24]
    single = not folder and not is_pattern(own)
    return Remote(
        url,
        here if folder else here / own,
        None if single else _listed(infos),
        [here / name for name in infos if single and name != own],
        hashed.hexdigest(),
        cache,
        system,
        base,
        {name: int(one.get("size") or 0) for name, one in infos.items()},
    )


def default_cache() -> Cache:
    """The cache of the program: `remote` in the folder of its own data.

    Raises:
      BadInput: the environment gives a limit that is none.
    """
    given = os.environ.get(LIMIT_GIVEN) or str(LIMIT)
    try:
        limit = float(given)
    except ValueError:
        limit = 0.0
    if not 0 < limit < 1e9:
        raise BadInput(f"expected a number of gigabytes above 0 in {LIMIT_GIVEN}, got {given}; correct or unset it")
    return Cache((cache_folder() or Path(tempfile.gettempdir(), "a2d-jax")) / "remote", int(limit * 1e9))


def _kind(url: str, system: Any, path: str) -> str | None:
    """A file, a directory or None."""
    found = told(url, lambda: info(system, path))
    return None if found is None else found["type"]


def is_pattern(name: str) -> bool:
    """Whether a name has signs that stand for others."""
    return bool(set("*?[") & set(name))


def _below(root: str, infos: Mapping[str, Any]) -> dict[str, Any]:
    """By name relative to the folder."""
    return {path[len(root) + 1 :].rstrip("/"): info for path, info in infos.items() if len(path) > len(root) + 1}


def _listed(infos: Mapping[str, Any]) -> Listing:
    """The same kinds as `a2d_jax.io.listing.listing` finds."""
    found = Listing()
    for name, one in sorted(infos.items()):
        parts = name.split("/")
        stray = next((place for place, part in enumerate(parts, 1) if is_stray(part)), None)
        if stray is not None:
            if stray == len(parts):
                found.strays.append(name)
        elif one["type"] != "directory":
            found.files.append(name)
        else:
            (found.deeper if len(parts) > 1 else found.folders).append(name)
    return found
