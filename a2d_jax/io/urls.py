"""Paths that are URLs: what a user gives as a path may be in a store.

Importing this file loads only the standard library.
"""

import os
import re
from pathlib import Path

URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(?P<rest>.*)")
"""Also with one slash, which is what a path keeps of two."""


def url_of(path: str | Path) -> str | None:
    """The URL that a user gave as a path; None for a path."""
    found = URL.fullmatch(str(path))
    return None if found is None else f"{found[1]}://{found['rest']}"


class Url(type(Path())):
    """The path of something in a store. It is written as its URL; its parts, such as the last name, are those of a path."""

    def __str__(self) -> str:
        text = super().__str__()
        return url_of(text) or text


def as_path(path: str | Path) -> Path:
    """A path as given: a `Url` for what is in a store; a URL of this machine (`file:`) is a path."""
    url = url_of(path)
    if url is None or os.path.isdir(str(path).split("/")[0]):  # a folder may have such a name
        return Path(path) if isinstance(path, str) else path
    scheme, _, rest = url.partition("://")
    return Path(f"/{rest}") if scheme in ("file", "local") else path if isinstance(path, Url) else Url(path)
