"""The detectors of this package, found by a search through its modules: a new file needs no entry in a list."""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from a2d_jax.detectors.base import Detector


def by_name() -> dict[str, type[Detector]]:
    """All detectors, not yet fitted, by the name that commands know them by, in alphabetical order."""
    return dict(sorted(classes_with("name").items()))


def maker(detector: type[Detector]) -> Callable[..., Detector]:
    """What makes a detector from flat settings: its `with_settings` if it has one, else the class itself. Its signature names them."""
    return getattr(detector, "with_settings", detector)


@functools.cache
def classes_with(attribute: str) -> dict[str, Any]:
    """Classes of this package by a class attribute that they set themselves: `name` of detectors, `kind` of fitted ones."""
    package = importlib.import_module("a2d_jax.detectors")
    modules = [importlib.import_module(f"{package.__name__}.{found.name}") for found in pkgutil.iter_modules(package.__path__)]
    classes = [
        found for module in modules for _, found in inspect.getmembers(module, inspect.isclass) if found.__module__ == module.__name__
    ]
    return {vars(found)[attribute]: found for found in classes if attribute in vars(found)}
