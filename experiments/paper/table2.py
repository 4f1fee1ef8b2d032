"""Table 2: AUROC of four defences, of what stands beside them, and of the baselines."""

from collections.abc import Sequence

from experiments.pages.blocks import Block, Number, Row, Table
from experiments.paper.baselines import Ranked, density, dimension, dissection, mutation
from experiments.paper.beside import mutations, released, shape
from experiments.paper.items import Item
from experiments.paper.networks import Subject
from experiments.paper.numbers import area
from experiments.paper.published import number, published
from experiments.paper.sets import BENIGN
from experiments.paper.study import Study

ROLES = {
    "env1-mnist": ("Env1", "MNIST"),
    "env1-cifar10": ("Env1", "CIFAR10"),
    "env2-mnist": ("Env2", "MNIST"),
    "env2-cifar10": ("Env2", "CIFAR10"),
    "env2-imagenet": ("Env2", "ImageNet"),
}
DEFENCES = {"JSMA_d": "jsma", "BIM_d": "bim", "BIM2_d": "bim2", "DBA_d": "dba"}
OURS = ("Newton (ours)", "margin (free)")
BASELINES = ("BL1", "BL2", "BL3", "BL4")
BANDS = {("env1-mnist", "BIM_d"): (0.98, 1.0), ("env1-mnist", "BIM2_d"): (0.98, 1.0)}
"""Where the shape of the paper's result is narrower than a distance from its number."""


def make(study: Study) -> Sequence[Block]:
    """One table over all networks and sets, and what stands beside it."""
    paper = {(row["env"], row["dataset"], row["attack"]): row for row in published("table2")}
    columns = [*DEFENCES, *OURS, *BASELINES]
    cells: dict[tuple[str, str], list[Number | str]] = {}
    for role, keys in ROLES.items():
        if (subject := study.subjects.get(role)) is None:
            continue
        for name in (*study.sets(subject), *study.others(subject)):
            cells[role, name] = _cells(study, subject, name, paper.get((*keys, name), {}))
        for name in study.left_out(subject):
            cells[role, name] = [_none(paper.get((*keys, name), {}), column) for column in columns]
    rows = [Row((study.subjects[role].title, name), found) for (role, name), found in cells.items()]
    note = (
        "Newton and the margin are not in the paper. Newton reads the crossing, which takes two to four gradients on a benign image. The "
        "margin between the two largest logits costs one forward pass. DBA is measured on fewer images, see n. BL1 and BL2 follow their "
        "published protocols: BL1 is scored on the images that it learned from, BL2 on the last images of each set, which it did not learn "
        "from; the negatives of both are benign and noisy images. BL3 takes the operator NAI. BL4 needs training images; those of ImageNet "
        "are not here. Sets of the paper's authors fool their network, whose weights are not public, and not always ours."
    )
    table = Table("AUROC against benign images", ("network", "set"), columns, rows, note=note)
    others = {"env1-mnist": released, "env2-mnist": mutations}
    return [table, *shape(study, cells, columns), *(make(study) for _, make in study.here(others))]


def _cells(study: Study, subject: Subject, name: str, paper: dict[str, str]) -> list[Number | str]:
    cells: list[Number | str] = []
    for title, attack in DEFENCES.items():
        theirs = number(paper.get(title, ""))
        if study.leaves_out(subject, attack):
            cells.append(Number(None, theirs, reason=f"{title} is left out at this size"))
            continue
        benign, crafted = (study.costs(subject, which, attack).cost for which in (BENIGN, name))
        cells.append(area(subject, benign, crafted, theirs, BANDS.get((subject.role, title))))
    cells.append(area(subject, *(study.costs(subject, which, "newton").cost for which in (BENIGN, name))))
    cells.append(area(subject, *(study.margins(subject, which) for which in (BENIGN, name))))
    return [*cells, *_baselines(study, subject, name, paper)]


def _none(paper: dict[str, str], column: str) -> Number | str:
    theirs = number(paper.get(column, ""))
    return "" if theirs is None else Number(None, theirs, reason="this size leaves the set out")


def _baselines(study: Study, subject: Subject, name: str, paper: dict[str, str]) -> list[Number | str]:
    def cell(found: Ranked | None, title: str, why: str = "") -> Number:
        theirs = number(paper.get(title, ""))
        return Number(None, theirs, reason=why) if found is None else area(subject, -found.benign, -found.adversarial, theirs)

    if name in study.others(subject):
        return [""] * len(BASELINES)
    if subject.role.startswith("env1"):
        return [cell(density(study, subject, name), "BL1"), cell(dimension(study, subject, name), "BL2"), "", ""]
    dissected = cell(dissection(study, subject, name), "BL4", "the training images of ImageNet are not here") if "BL4" in paper else ""
    if subject.role == "env2-imagenet":
        return ["", "", "", dissected]
    changed = mutation(study, subject)
    rates = Ranked(changed[BENIGN].mean(1), changed[name].mean(1))
    return ["", "", cell(rates, "BL3"), "" if subject.role == "env2-mnist" else dissected]


ITEM = Item("Table 2: detection by cost, against the baselines", tuple(ROLES), make)
