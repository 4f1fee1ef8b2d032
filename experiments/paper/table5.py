"""Table 5: how the first environment crafts its sets."""

from collections.abc import Sequence

from experiments.pages.blocks import Block
from experiments.paper.items import Item
from experiments.paper.parameters import parameters
from experiments.paper.study import Study

ROLES = ("env1-mnist", "env1-cifar10")


def make(study: Study) -> Sequence[Block]:
    """The settings file beside the paper's text."""
    return [parameters(study, ROLES, "How the sets of the first environment are crafted")]


ITEM = Item("Table 5: crafting, first environment", ROLES, make)
