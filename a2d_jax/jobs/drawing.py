"""The common parts of jobs that draw: the extra that this needs, names of sets, what a panel of a column is, and files of figures."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from a2d_jax.errors import BadInput
from a2d_jax.io.files import atomic
from a2d_jax.io.measurements import Measurements
from a2d_jax.measurements import Column

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from a2d_jax.report import Panel

FIGURES = (".png", ".svg")
BENIGN = "benign"
"""The set that all others are compared with."""


def refuse_without_extra() -> None:
    """Refuse to draw if what draws is not installed."""
    try:
        importlib.import_module("a2d_jax.report")  # here: it needs an extra
    except ImportError as error:
        raise BadInput(str(error)) from error


def refuse_other_figures(path: Path) -> None:
    """Refuse the file of a figure that is neither PNG nor SVG."""
    if path.suffix.lower() not in FIGURES:
        raise BadInput(f"expected a figure as .png or .svg, got {path}; choose such a name")


def write_figure(path: Path, force: bool, drawn: "Figure") -> None:
    """Write a figure as SVG if its name says so, otherwise as PNG."""
    from a2d_jax import report  # here: it needs an extra

    content = report.svg(drawn).encode("utf-8") if path.suffix.lower() == ".svg" else report.png(drawn)
    with atomic(path, force) as temporary:
        temporary.write_bytes(content)


def set_names(paths: Sequence[Path]) -> list[str]:
    """A name for each set: that of its file, with folders where two files have the same name, and a number where two are one file.

    It begins with "set", since a file is often called like the attack that crafted its images, and attacks measure costs too.
    """
    parts = [shown(path).removesuffix(shown(path.suffix)).strip("/").split("/") for path in paths]
    names = ["/".join(one[-1:]) for one in parts]
    for deep in range(2, max(map(len, parts), default=0) + 1):
        names = ["/".join(one[-deep:]) if names.count(name) > 1 else name for one, name in zip(parts, names, strict=True)]
    found: list[str] = []
    for name in names:
        number, given = 1, name
        while given in found:
            number += 1
            given = f"{name} ({number})"
        found.append(given)
    return [f"set {name}" for name in found]


def shown(value: object) -> str:
    """Any value as a text that can be printed: bytes of a path that are no text become escapes."""
    try:
        return str(value).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # what stands for no byte
        return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def most_of(column: Column, tables: Sequence[Measurements]) -> int | None:
    """The cost of a failure; None if the column is no cost, or if no table tells and nothing failed."""
    if not column.is_cost:
        return None
    for table in tables:
        steps = table.meta.get("attacks", {}).get(column.measurement, {}).get("max_steps")
        if type(steps) is int:
            return steps + 1
    failed = [table.numbers[column.measurement]["cost"][table.censored[column.measurement]] for table in tables]
    costs = np.concatenate(failed)
    return int(costs.max()) if len(costs) else None


def panel_of(column: Column, values: Mapping[str, NDArray[Any]], tables: Sequence[Measurements], threshold: float | None = None) -> "Panel":
    """The panel of a column, of the sets in `values`."""
    from a2d_jax.report import Panel  # here: it needs an extra

    kind = "cost" if column.is_cost else "number"
    return Panel(shown(column), values, kind, most_of(column, tables), threshold)


def write_page(path: Path, force: bool, text: str) -> None:
    """Write a page of HTML."""
    with atomic(path, force) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
