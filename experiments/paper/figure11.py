"""Figure 11: the grid of MNIST digits, confidence 20."""

from collections.abc import Sequence

from experiments.pages.blocks import Block
from experiments.paper.grids import grid
from experiments.paper.items import Item
from experiments.paper.study import Study

ROLE = "magnet-mnist"


def make(study: Study) -> Sequence[Block]:
    """The grid, and its mean distance."""
    return grid(study, study.subjects[ROLE], 20, "fig11_l2")


ITEM = Item("Figure 11: every class as every other, confidence 20", (ROLE,), make)
