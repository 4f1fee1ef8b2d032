"""The registry of attacks and detectors: as text that people type, and as JSON in tables and detector files.

    bim:epsilon=0.3                  an attack or a detector of this package by its name, with settings after colons
    my.module:MyAttack:epsilon=0.3   your own by import string, in the same way; a class, or a function that makes one

Your own attacks and detectors work exactly like those of this package. The user types the text, so an import string in it is imported. JSON
comes from a file, and a file alone never imports anything: its import strings are looked up only in the modules that the user names
(`plugins`).
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from a2d_jax import attacks as attacks_in_the_box
from a2d_jax import detectors
from a2d_jax.errors import BadInput
from a2d_jax.imports import import_string, one_line, plugged
from a2d_jax.norms import NORMS
from a2d_jax.types import Attack

MOST_STEPS = 2**31 - 1
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}

Maker = Callable[..., Any]
"""Makes an attack or a detector of its settings."""

IN_THE_BOX: Mapping[str, Maker] = {name: vars(attacks_in_the_box)[name] for name in attacks_in_the_box.__all__}
"""Every attack of the library: classes as JSON names them, and the functions that fill in settings."""


class Parsed(NamedTuple):
    """The parts of one text."""

    name: str  # of the attack or detector; an import string where it is one
    maker: Maker
    settings: dict[str, Any]


def names_of(text: str) -> list[str]:
    """Names separated by commas, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def attacks(text: str, makers: Mapping[str, Maker], called: Callable[[str], str] = str, **given: float | None) -> dict[str, Attack]:
    """Read attacks from text: separated by commas, each a name or an import string, with settings after colons.

    Args:
      text: such as `bim,dba:mse_threshold=0.01,my.module:MyAttack:epsilon=0.1`.
      makers: the attacks that have a name, such as those of a preset.
      called: returns the user's name of a setting, such as `--epsilon` on a command line.
      **given: settings for every attack named; None is not given. Lengths (all settings but `max_steps`) have another meaning in each
        attack and need exactly one attack.

    Returns:
      The attacks by name.

    Raises:
      BadInput: an unknown attack or setting, a value of another type, no attack at all, something that is no attack, or a setting
        that does not suit every attack.
    """
    texts = [spec.strip() for spec in text.split(",") if spec.strip()]
    if not texts:
        raise BadInput(f"expected at least one attack, got {text!r}; name some, such as bim (`a2d info` lists all)")
    shared = {setting: value for setting, value in given.items() if value is not None}
    if len(texts) > 1 and (lengths := shared.keys() - {"max_steps"}):
        told = ", ".join(map(called, sorted(lengths)))
        example = ",".join(f"{one.partition(':')[0]}:{min(lengths)}={shared[min(lengths)]:g}" for one in texts)
        raise BadInput(f"expected exactly one attack with {told}, which uses its units, got {len(texts)} attacks; write {example}")
    found: dict[str, Attack] = {}
    for one in texts:
        spec = parse(one, makers, "attack")
        if spec.name in found:
            raise BadInput(f"expected each attack once, got {spec.name} twice; run the command twice, as a table has one column per name")
        own = parameters(spec.maker)
        for setting in shared.keys() - own.keys():
            raise BadInput(
                f"expected {called(setting)} for attacks that have it, got {spec.name}, whose settings are {', '.join(own)}; leave it out"
            )
        found[spec.name] = make_attack(spec.name, spec.maker, {**shared, **spec.settings})
    return found


def make_attack(name: str, maker: Maker, settings: Mapping[str, Any]) -> Attack:
    """Make an attack from its settings, and refuse an object that is not an attack."""
    made = _make("attack", name, maker, settings)
    whole_attack(made, f"{name} to make an attack")
    if isinstance(made, type) or not is_dataclass(made) or jax.tree.leaves(made) == [made]:
        raise BadInput(
            f"expected {name} to make an attack, a frozen dataclass registered with jax.tree_util.register_dataclass, "
            f"got a {type(made).__name__}; see `Attack` in a2d_jax.types"
        )
    attack: Any = made
    if attack.norm not in NORMS:
        raise BadInput(f"expected {name} with a norm among {', '.join(NORMS)}, got {attack.norm!r}; correct it")
    if isinstance(attack.max_steps, float) or (isinstance(attack.max_steps, int) and not 0 <= attack.max_steps < MOST_STEPS):
        raise BadInput(f"expected max_steps of {name} as a whole number from 0 to {MOST_STEPS - 1}, got {attack.max_steps!r}; correct it")
    kind_of(attack)  # refuses what no file could name
    return made  # pyright: ignore[reportReturnType] (checked above)


def whole_attack(made: object, expected: str) -> None:
    """Refuse an object that is not an attack.

    Raises:
      BadInput: a part is missing.
    """
    lacks = [part for part in ("init", "step", "length", "norm", "max_steps") if not hasattr(made, part)]
    if lacks:
        raise BadInput(f"expected {expected}, got a {type(made).__name__} without {', '.join(lacks)}; see `Attack` in a2d_jax.types")


def detector(text: str, called: Callable[[str], str] = str, **given: Any) -> detectors.Detector:
    """Read a detector from text, such as `knn`, `knn:k=50` or `my.module:MyDetector`.

    Args:
      text: the name of a detector in this package, or an import string, with settings after colons.
      called: returns the user's name of a setting.
      **given: more settings; None is not given.

    Raises:
      BadInput: an unknown name, a setting of another detector, or a value that the detector refuses.
    """
    spec = parse(text, _detectors(), "detector")
    own = parameters(spec.maker)
    shared = {setting: value for setting, value in given.items() if value is not None}
    if twice := sorted(shared.keys() & spec.settings.keys() - {"seed"}):
        raise BadInput(f"expected each setting once, got {', '.join(map(called, twice))} beside {text}; leave one out")
    if foreign := sorted(shared.keys() - own.keys()):
        raise BadInput(
            f"expected settings of {spec.name} ({', '.join(own) or 'none'}), got {', '.join(map(called, foreign))}; leave it out"
        )
    made = _make("detector", spec.name, spec.maker, {**shared, **spec.settings})
    if "labels" not in parameters(getattr(made, "fit", None)):
        raise BadInput(
            f"expected {spec.name} to make a detector with fit(benign, adversarial, *, labels), got a {type(made).__name__} without it; "
            "see a2d_jax.detectors.Detector"
        )
    return made


def has_setting(text: str, setting: str) -> bool:
    """Whether the detector that a text names has a setting of this name."""
    return setting in parameters(parse(text, _detectors(), "detector").maker)


def parse(text: str, makers: Mapping[str, Maker], what: str) -> Parsed:
    """Read `name:setting=value:...` or `module:name:setting=value:...`.

    Args:
      text: the user's text.
      makers: the attacks or detectors that have a name.
      what: attack or detector, for the error.
    """
    name, *rest = text.split(":")
    if name not in makers and rest and "=" not in rest[0]:
        name, rest = f"{name}:{rest[0]}", rest[1:]
        if name.startswith("clever:"):
            raise BadInput(f"expected a module of another name, got {name}, which would be taken for a CLEVER score; rename the module")
        maker = import_string(name, f"my.module:My{what.capitalize()}")
        if not callable(maker):
            raise BadInput(f"expected {_a(what)} as a class or a function, got {name}, a {type(maker).__name__}; check the import string")
    elif name in makers:
        maker = makers[name]
    else:
        raise BadInput(f"expected {_a(what)} among {', '.join(makers)}, got {name!r}; pass one of them, or an import string module:name")
    own = parameters(maker)
    settings: dict[str, Any] = {}
    for one in rest:
        setting, equals, value = one.partition("=")
        if not equals or setting not in own:
            raise BadInput(f"expected setting=value for {name} with a setting among {', '.join(own)}, got {one!r}; correct it")
        settings[setting] = _value(value, own[setting], f"{name}:{setting}")
    return Parsed(name, maker, settings)


def parameters(maker: Any) -> Mapping[str, inspect.Parameter]:
    """The settings of a class or function, with their defaults."""
    try:
        return inspect.signature(maker).parameters
    except (TypeError, ValueError):  # a builtin
        return {}


def settings_of(attacks: Mapping[str, Attack]) -> dict[str, dict[str, Any]]:
    """All settings of all attacks, as JSON values; those that attacks got later only where they are not the default.

    Raises:
      BadInput: a setting is a function, which no file can hold.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, attack in attacks.items():
        settings: dict[str, Any] = asdict(attack)  # pyright: ignore[reportArgumentType] (all are dataclasses)
        if functions := [setting for setting in settings if callable(getattr(attack, setting))]:
            raise BadInput(
                f"expected settings of {name} that a file can hold, got a function for {functions[0]}; take one by its name, "
                "or give the attack to costs.costs or drivers.attack, which write no file"
            )
        usual = _later(type(attack))
        settings = {setting: value for setting, value in settings.items() if setting not in usual or value != usual[setting]}
        found[name] = {"kind": kind_of(attack), **_plain(settings)}
    return found


def completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of one attack as a file has them, with those that the file leaves out because they are the default."""
    maker = IN_THE_BOX.get(str(settings.get("kind")))
    return {**(_later(maker) if isinstance(maker, type) else {}), **settings}


def _later(kind: type) -> dict[str, Any]:
    """The settings that an attack got later, with their defaults."""
    return {one.name: one.default for one in fields(kind) if one.metadata.get("later")}


def kind_of(made: object) -> str:
    """The name of an attack's class in JSON: its name in this package, else its import string."""
    kind = type(made)
    if "<locals>" in kind.__qualname__ or kind.__module__ == "__main__":
        raise BadInput(
            f"expected a class that can be imported, got {kind.__module__}:{kind.__qualname__}; move it to the top level of a module"
        )
    return kind.__name__ if IN_THE_BOX.get(kind.__name__) is kind else f"{kind.__module__}:{kind.__qualname__}"


def attacks_from(settings: Mapping[str, Any], names: Iterable[str], origin: object, plugins: Sequence[str] = ()) -> dict[str, Attack]:
    """Inverse of `settings_of` for the attacks named.

    Args:
      settings: settings of each attack by name.
      names: the attacks to make.
      origin: the file that they came from.
      plugins: modules that the user names; only their import strings are accepted.

    Raises:
      BadInput: settings are missing or do not belong to an attack, or an import string names a module that the user did not name.
    """
    found: dict[str, Attack] = {}
    for name in names:
        try:
            own = dict(settings[name])
            kind = own.pop("kind")
            maker = plugged(kind, origin, plugins) if ":" in kind else IN_THE_BOX[kind]
            found[name] = make_attack(name, maker, own)
        except BadInput:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"expected the settings of attack {name} in {origin}, got none that can be used; fit the detector to a table of `a2d cost`"
            ) from error
    return found


def _detectors() -> Mapping[str, Maker]:
    return {name: detectors.maker(kind) for name, kind in detectors.by_name().items()}


def _make(what: str, name: str, maker: Maker, settings: Mapping[str, Any]) -> Any:
    for setting, value in settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"expected a finite number for {name}:{setting}, got {value}; correct it")
    try:
        return maker(**settings)
    except ValueError as error:
        raise BadInput(f"{what} {name}: {' '.join(str(error).split())}") from error
    except Exception as error:  # the user's own, which may raise anything
        raise BadInput(f"{what} {name}: {one_line(error)}") from error


def typed(value: object, like: inspect.Parameter, what: str) -> object:
    """Check that a value from a file has the type of its setting: a number for a number, true or false for a flag."""
    kind = _kind(like)
    numbers = value if isinstance(value, list) and kind is float else [value]
    if not all(isinstance(one, (int, float) if kind is float else kind) and isinstance(one, bool) == (kind is bool) for one in numbers):
        raise BadInput(f"expected {WORDS[kind]} for {what}, got {value!r}; correct it")
    return tuple(numbers) if isinstance(value, list) else value


def _value(text: str, like: inspect.Parameter, what: str) -> object:
    """A value as typed; scales for each channel are given as one number for all."""
    kind = _kind(like)
    if kind is bool:
        if text not in ("true", "false"):
            raise BadInput(f"expected true or false for {what}, got {text!r}; pass one of them")
        return text == "true"
    try:
        return kind(text)
    except ValueError as error:
        raise BadInput(f"expected {WORDS[kind]} for {what}, got {text!r}; correct it") from error


def _kind(like: inspect.Parameter) -> type:
    """The type of a setting, by its usual value or else by its annotation."""
    if (usual := next((kind for kind in (bool, int, float, str) if isinstance(like.default, kind)), None)) is not None:
        return usual
    annotation = str(like.annotation)
    named = next((kind for kind in (bool, int, str) if annotation.startswith(kind.__name__) or f"'{kind.__name__}'" in annotation), None)
    return named or float


def _plain(value: Any) -> Any:
    """Settings as JSON has them: NumPy's and JAX's numbers become Python's."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.tolist() if isinstance(value, np.generic | np.ndarray | jax.Array) else value


def _a(what: str) -> str:
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"
