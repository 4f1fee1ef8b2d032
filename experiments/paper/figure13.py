"""Figure 13: the grid of CIFAR-10, adversarial training, confidence 10."""

from collections.abc import Sequence

from experiments.pages.blocks import Block
from experiments.paper.grids import grid
from experiments.paper.items import Item
from experiments.paper.study import Study

ROLE = "adversarial-cifar10"


def make(study: Study) -> Sequence[Block]:
    """The grid, and its mean distance."""
    return grid(study, study.subjects[ROLE], 10, "fig13_l2")


ITEM = Item("Figure 13: every class as every other, confidence 10", (ROLE,), make)
