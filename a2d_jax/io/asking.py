"""How stores are asked, through fsspec: what they do not do at once is tried some more times, and no answer is waited for without end.

Then one line says what is wrong.
"""

import importlib
import os
import queue
import threading
import time
from collections.abc import Callable
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import Any, TypeVar

from a2d_jax.errors import BadInput

WHOLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
"""Stores in which a file appears whole by one put."""

WAITS = (0.5, 2.0, 5.0)
"""Seconds before each further try of what failed."""

PATIENCE = 60.0
"""Seconds after which nothing is tried again, and that an answer may take."""

SLOWEST = 1e6
"""Bytes a second that a file may take longer."""

FULL = (ENOSPC, EDQUOT, EFBIG)

T = TypeVar("T")


def connected(path: str | Path, *, whole: bool = True) -> tuple[Any, str]:
    """The file system of a URL, and what it calls the path.

    Args:
      path: the URL.
      whole: files must appear whole.

    Raises:
      BadInput: a package is missing, or there is no such kind of store.
    """
    url = str(path)
    scheme = url.partition("://")[0]
    if whole and scheme not in WHOLE:
        raise BadInput(f"expected a store in which a file appears whole ({', '.join(WHOLE[:-1])}), got {url}; choose one of these")
    options: dict[str, Any] = {}
    if scheme in ("s3", "s3a") and not {"AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"} & os.environ.keys():
        options["config_kwargs"] = {"retries": {"mode": "standard", "max_attempts": 2}}  # s3fs tries again by itself
    system, root = told(url, lambda: fsspec().core.url_to_fs(url, **options))
    return system, str(root).rstrip("/")


def fsspec() -> Any:
    """The package.

    Raises:
      BadInput: it is not installed.
    """
    try:
        return importlib.import_module("fsspec")
    except ImportError as error:
        raise BadInput('expected the package fsspec to use URLs, got none; run: pip install "a2d-jax[remote]"') from error


def info(system: Any, path: str) -> dict[str, Any] | None:
    """What a store tells of a path now; None if nothing is there. Its own `exists` is no if it does not answer."""
    system.invalidate_cache()  # of lists, which other processes change
    try:
        return asked(lambda: system.info(path))
    except FileNotFoundError:
        return None


def asked(call: Callable[[], T], size: int = 0, tries: int = len(WAITS) + 1) -> T:
    """What a store answers, if need be at a later try.

    Args:
      call: asks the store.
      size: bytes that are sent.
      tries: how often.

    Raises:
      FileNotFoundError, PermissionError, ImportError: no further try would help.
      Exception: the last one, of many kinds.
    """
    begin = time.monotonic()
    for wait in WAITS[: tries - 1]:
        try:
            return _in_time(call, PATIENCE + size / SLOWEST)
        except (FileNotFoundError, PermissionError, ImportError, BadInput):
            raise
        except Exception as error:
            if (isinstance(error, OSError) and error.errno in FULL) or time.monotonic() - begin > PATIENCE / 2:
                raise
        time.sleep(wait)
    return _in_time(call, PATIENCE + size / SLOWEST)


def told(path: str | Path, call: Callable[[], T], what: str = "read", but: type[Exception] | tuple[()] = ()) -> T:
    """What a store answers; its exceptions, of many kinds, as one line, but for one kind.

    Raises:
      BadInput: it does not answer, or does not do it.
    """
    try:
        return call()
    except BadInput:
        raise
    except but:
        raise
    except ImportError as error:
        raise BadInput(f'expected the package for {path}, got none ({error}); run: pip install "a2d-jax[remote]"') from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise no_room(path, error) from error
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"expected to {what} {path}, got: {why}; check the URL, the network and your rights, and run it again") from error


def _in_time(call: Callable[[], T], seconds: float) -> T:
    """What a call returns, if it does so in time. A call that does not is left alone."""
    ends: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def work() -> None:
        try:
            ends.put((True, call()))
        except Exception as error:
            ends.put((False, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        good, found = ends.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds:.0f} s") from None
    if good:
        return found
    raise found


def no_room(path: str | Path, error: OSError) -> BadInput:
    """The error of a full disk of this machine."""
    where = f"expected room for {path} on this machine, got: {os.strerror(error.errno or 0)}"
    return BadInput(f"{where}; free some space, or set XDG_CACHE_HOME or TMPDIR to another place")
