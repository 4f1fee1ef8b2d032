"""Import strings: those that a user types, and those in a file.

The user's import strings are imported. A file alone never imports anything: an import string in a file is used only if the user also names
its module as a plugin.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from a2d_jax.errors import BadInput

imported: dict[str, None] = {}
"""Modules that the user named and that were imported, in order."""


def import_string(text: str, example: str) -> Any:
    """Import the object `module:name`; modules in the current directory can be imported.

    Args:
      text: the user's text.
      example: an example of a valid text, for the error.

    Raises:
      BadInput: a text of another form, a module that does not import (with the original error), or no such name.
    """
    module_name, colon, name = text.partition(":")
    if not (module_name and colon and name):
        raise BadInput(f"expected an import string module:name, got {text!r}; write for instance {example}")
    with suppress(FileNotFoundError):  # a current directory that was deleted has no modules
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's own file, which may raise anything
        raise BadInput(
            f"expected an importable module, got {module_name!r}, which raises {one_line(error)}; check the import string"
        ) from error
    imported[module_name] = None
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise BadInput(
            f"expected a name that {module_name} defines, got the name {name!r}, which it does not have; check the import string"
        ) from error
    return found


def plugged(kind: str, origin: object, plugins: Sequence[str]) -> Any:
    """The class or function of an import string in a file, if the user names its module too. It must be defined in this module.

    Args:
      kind: the import string.
      origin: the file, or what to call it.
      plugins: modules that the user named.

    Raises:
      BadInput: the module is not named, the name is of something else, or as `import_string`.
    """
    module = kind.partition(":")[0]
    if module not in plugins:
        raise BadInput(
            f"expected {module} to be named as a plugin, since {origin} needs {kind}, got {', '.join(plugins) or 'none'}; "
            "a file never imports code by itself: name the module as a plugin if you trust it"
        )
    found = import_string(kind, "my.module:MyAttack")
    if (getattr(found, "__module__", None), getattr(found, "__qualname__", None)) != (module, kind.partition(":")[2]):
        raise BadInput(f"expected a class or function made in {module}, got {kind} in {origin}, which is neither; correct the file")
    return found


def one_line(error: Exception) -> str:
    """The kind of an error and its text, as one line."""
    reason = " ".join(str(error).split())
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
