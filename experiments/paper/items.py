"""The tables and figures of the paper by name, in the order of the page. Each is a file that makes its blocks from the protocol."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experiments.paper.blocks import Block
from experiments.paper.study import Study


@dataclass(frozen=True)
class Item:
    """A table or figure.

    Attributes:
      title: as the page shows it.
      roles: networks of the paper that it needs.
      make: makes its blocks.
    """

    title: str
    roles: Sequence[str]
    make: Callable[[Study], Sequence[Block]]


NAMES = (
    *("table5", "table6", "table1", "figure2", "figure10", "table2", "figure3", "figure4", "figure5", "figure6", "table3", "table7"),
    *("table4", "figure7", "figure8", "figure9", "figure11", "figure12", "figure13"),
)


def item(name: str) -> Item:
    """The item of a name."""
    return importlib.import_module(f"experiments.paper.{name}").ITEM
