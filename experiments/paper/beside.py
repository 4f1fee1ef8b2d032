"""What stands beside the AUROC of the defences: numbers of the released code and of BL3's authors, and the shape of the result."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.baselines.mutation import Operator
from experiments.pages.blocks import Number, Row, Table
from experiments.paper.baselines import mutation
from experiments.paper.numbers import area
from experiments.paper.published import published
from experiments.paper.sets import BENIGN
from experiments.paper.study import Study

RELEASED = {"BIM_d": "bim", "BIM2_d": "bim2", "JSMA_d": "jsma"}
OPERATORS: Mapping[str, Operator] = {"NAI": "nai", "GF": "gf", "NS": "ns", "WS": "ws"}
FAR = 0.05
"""How much lower an AUROC must be to be far below another."""
Areas = Mapping[tuple[str, str, str], float]
"""AUROC by role, set and column."""


def released(study: Study) -> Table:
    """Env1 MNIST beside the AUROC that the authors' released code gave when they ran it again."""
    subject = study.subjects["env1-mnist"]
    rows: list[Row] = []
    for row in published("official_code_reference_auroc"):
        name = {"BIM-a": "BIM"}.get(row["attack"], row["attack"])
        if name in study.sets(subject):
            costs = {title: [study.costs(subject, which, attack).cost for which in (BENIGN, name)] for title, attack in RELEASED.items()}
            rows.append(Row((subject.title, name), [area(subject, *costs[title], float(row[title])) for title in RELEASED]))
    note = "The authors' network and images are not public, so the numbers differ by the network too."
    return Table("AUROC beside the authors' own run of their released code", ("network", "set"), list(RELEASED), rows, note=note)


def mutations(study: Study) -> Table:
    """BL3 by each operator, beside the AUROC of its authors on the same weights."""
    subject = study.subjects["env2-mnist"]
    rows: list[Row] = []
    for row in published("bl3_repository_auroc"):
        if row["dataset"] == "MNIST" and row["attack"] in study.sets(subject):
            found = [(title, mutation(study, subject, operator)) for title, operator in OPERATORS.items()]
            cells = [
                area(subject, -changed[BENIGN].mean(1), -changed[row["attack"]].mean(1), float(row[title])) for title, changed in found
            ]
            rows.append(Row((subject.title, row["attack"]), cells))
    return Table("AUROC of mutation testing by operator, beside its authors' numbers", ("network", "set"), list(OPERATORS), rows)


def shape(study: Study, rows: Mapping[tuple[str, str], Sequence[Number | str]], columns: Sequence[str]) -> list[Table]:
    """What the paper's numbers say beyond each of them, and whether ours say it too; nothing where digits stand in.

    Args:
      study: the protocol.
      rows: the cells of the table of AUROC, by role and set.
      columns: their names.
    """
    areas: dict[tuple[str, str, str], float] = {}
    for (role, name), cells in rows.items():
        for column, cell in zip(columns, cells, strict=True):
            if isinstance(cell, Number) and cell.ours is not None and not study.subjects[role].stands_in:
                areas[role, name, column] = cell.ours
    said = [
        _order(areas),
        *(_worst(areas, role, title) for role, title in (("env1-mnist", "Env1 MNIST"), ("env1-cifar10", "Env1 CIFAR-10"))),
    ]
    found = [row for row in said if row is not None]
    return [Table("The shape of the result", ("statement",), ("ours", "holds"), found)] if found else []


def _order(areas: Areas) -> Row | None:
    values = [areas.get(("env1-cifar10", name, "BIM_d")) for name in ("FGSM", "BIM", "JSMA", "C&W")]
    if None in values:
        return None
    fgsm, bim, jsma, cw = (float(one) for one in values if one is not None)
    holds = fgsm < bim - FAR and bim < jsma < cw
    texts = ", ".join(f"{one:.3f}" for one in (fgsm, bim, jsma, cw))
    return Row(("Env1 CIFAR-10, BIM_d: FGSM far below BIM, BIM below JSMA, JSMA below C&W",), (texts, _word(holds)))


def _worst(areas: Areas, role: str, title: str) -> Row | None:
    sets = {name for at, name, column in areas if at == role and column == "DBA_d"}
    if not sets:
        return None
    means = {column: float(np.mean([areas[role, name, column] for name in sets])) for column in ("JSMA_d", "BIM_d", "BIM2_d", "DBA_d")}
    texts = ", ".join(f"{column} {one:.3f}" for column, one in means.items())
    return Row((f"{title}: DBA_d is the worst on average",), (texts, _word(min(means, key=lambda column: means[column]) == "DBA_d")))


def _word(holds: bool) -> str:
    return "yes" if holds else "no"
