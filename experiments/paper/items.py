"""The tables and figures of the paper by name, in the order of the page. Each is a file that makes its blocks from the protocol."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experiments.pages.blocks import Block
from experiments.paper.study import Study


@dataclass(frozen=True)
class Item:
    """A table or figure.

    Attributes:
      title: as the page shows it.
      roles: networks of the paper that it needs.
      make: makes its blocks.
      lacks: says which files it lacks beside its networks, before the work begins.
    """

    title: str
    roles: Sequence[str]
    make: Callable[[Study], Sequence[Block]]
    lacks: Callable[[Study], Sequence[str]] = lambda study: ()


NAMES = (*(f"table{n}" for n in range(1, 8)), *(f"figure{n}" for n in range(2, 14)))


def item(name: str) -> Item:
    """The item of a name."""
    return importlib.import_module(f"experiments.paper.{name}").ITEM
