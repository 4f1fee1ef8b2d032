"""Table 6: how the second environment crafts its sets."""

from collections.abc import Sequence

from experiments.paper.blocks import Block, Row, Table
from experiments.paper.items import Item
from experiments.paper.study import Study

ROLES = ("env2-mnist", "env2-cifar10", "env2-imagenet")


def make(study: Study) -> Sequence[Block]:
    """The settings file beside the paper's text."""
    rows = [
        Row((subject.title, name), (how.published, how.text))
        for subject in (study.subjects[role] for role in ROLES if role in study.subjects)
        for name, how in study.sets(subject).items()
    ]
    return [Table("How the sets of the second environment are crafted", ("network", "set"), ("the paper", "here"), rows)]


ITEM = Item("Table 6: crafting, second environment", ROLES, make)
