"""The numbers that the paper and its code publish, as CSV files beside this one."""

import csv
from importlib.resources import files


def published(name: str) -> list[dict[str, str]]:
    """The rows of a file of published numbers, by column.

    Args:
      name: of the file, such as `table2`.
    """
    text = files("experiments.paper").joinpath("published", f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def number(text: str) -> float | None:
    """A published number; None where the paper has none."""
    return float(text) if text else None
