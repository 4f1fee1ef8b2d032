"""Table 2: AUROC of four defences, of what stands beside them, and of the baselines."""

from collections.abc import Sequence

from experiments.paper.blocks import Block, Number, Row, Table
from experiments.paper.items import Item
from experiments.paper.networks import Subject
from experiments.paper.numbers import area
from experiments.paper.published import number, published
from experiments.paper.study import BENIGN, Study

ROLES = {
    "env1-mnist": ("Env1", "MNIST"),
    "env1-cifar10": ("Env1", "CIFAR10"),
    "env2-mnist": ("Env2", "MNIST"),
    "env2-cifar10": ("Env2", "CIFAR10"),
    "env2-imagenet": ("Env2", "ImageNet"),
}
DEFENCES = {"JSMA_d": "jsma", "BIM_d": "bim", "BIM2_d": "bim2", "DBA_d": "dba"}
BANDS = {("env1-mnist", "BIM_d"): (0.98, 1.0), ("env1-mnist", "BIM2_d"): (0.98, 1.0)}
"""Where the shape of the paper's result is narrower than a distance from its number."""


def make(study: Study) -> Sequence[Block]:
    """One table over all networks and sets."""
    paper = {(row["env"], row["dataset"], row["attack"]): row for row in published("table2")}
    rows = [
        _row(study, study.subjects[role], name, paper.get((*keys, name), {}))
        for role, keys in ROLES.items()
        if role in study.subjects
        for name in (*study.sets(study.subjects[role]), *study.others(study.subjects[role]))
    ]
    note = (
        "Newton and the margin are not in the paper. Newton reads the crossing, which takes two to four gradients on a benign image. The "
        "margin between the two largest logits costs one forward pass. DBA is measured on fewer images, see n. Sets of the "
        "paper's authors fool their network, whose weights are not public, and not always ours."
    )
    columns = [*DEFENCES, "Newton (ours)", "margin (free)"]
    return [Table("AUROC against benign images", ("network", "set"), columns, rows, note=note)]


def _row(study: Study, subject: Subject, name: str, paper: dict[str, str]) -> Row:
    cells: list[Number] = []
    for title, attack in DEFENCES.items():
        theirs = number(paper.get(title, ""))
        if study.leaves_out(subject, attack):
            cells.append(Number(None, theirs, reason=f"{title} is left out at this size"))
            continue
        benign, crafted = (study.costs(subject, which, attack).cost for which in (BENIGN, name))
        cells.append(area(subject, benign, crafted, theirs, BANDS.get((subject.role, title))))
    cells.append(area(subject, *(study.costs(subject, which, "newton").cost for which in (BENIGN, name))))
    cells.append(area(subject, *(study.margins(subject, which) for which in (BENIGN, name))))
    return Row((subject.title, name), cells)


ITEM = Item("Table 2: detection by cost, against the baselines", tuple(ROLES), make)
