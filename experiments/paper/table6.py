"""Table 6: how the second environment crafts its sets."""

from collections.abc import Sequence

from experiments.pages.blocks import Block
from experiments.paper.items import Item
from experiments.paper.parameters import parameters
from experiments.paper.study import Study

ROLES = ("env2-mnist", "env2-cifar10", "env2-imagenet")


def make(study: Study) -> Sequence[Block]:
    """The settings file beside the paper's text."""
    return [parameters(study, ROLES, "How the sets of the second environment are crafted")]


ITEM = Item("Table 6: crafting, second environment", ROLES, make)
