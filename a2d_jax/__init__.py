"""Attack as Defense in JAX: detect adversarial examples by the cost of attacking an input.

The names below are loaded when they are first used, so that `import a2d_jax` and `a2d --help` do not wait for JAX.
"""

import importlib

TYPE_CHECKING = False  # type checkers read it as true; the module `typing` need not be loaded before a command hears Ctrl-C
if TYPE_CHECKING:
    from typing import Any

    from a2d_jax import attacks, classifiers, costs, detectors, drivers, metrics, nn, norms, presets
    from a2d_jax.costs import Defense
    from a2d_jax.io.checkpoints import load_classifier
    from a2d_jax.types import Attack, AttackResult, Classifier, Example

__version__ = "0.2.0"
__all__ = [
    "Attack",
    "AttackResult",
    "Classifier",
    "Defense",
    "Example",
    "attacks",
    "classifiers",
    "costs",
    "detectors",
    "drivers",
    "load_classifier",
    "metrics",
    "nn",
    "norms",
    "presets",
]
_HOME = {
    **dict.fromkeys(("Attack", "AttackResult", "Classifier", "Example"), "types"),
    "Defense": "costs",
    "load_classifier": "io.checkpoints",
}


def __getattr__(name: str) -> "Any":
    if name not in __all__:
        raise AttributeError(f"module 'a2d_jax' has no attribute {name!r}")
    module = importlib.import_module(f"a2d_jax.{_HOME.get(name, name)}")
    return getattr(module, name) if name in _HOME else module


def __dir__() -> list[str]:
    return __all__
