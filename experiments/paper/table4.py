"""Table 4: what confidence changes: CLEVER score, cost and distance of targeted C&W images."""

from collections.abc import Sequence

import numpy as np

from experiments.pages.blocks import Block, Number, Row, Table
from experiments.paper.confident import attacked, named, told
from experiments.paper.items import Item
from experiments.paper.networks import Subject
from experiments.paper.numbers import mean, share
from experiments.paper.published import number, published
from experiments.paper.study import Study

ROLES = {"env1-mnist": "MNIST", "env1-cifar10": "CIFAR10"}


def make(study: Study) -> Sequence[Block]:
    """A row for each network and confidence."""
    rows: list[Row] = []
    for subject, data in study.here(ROLES):
        rows += [_row(study, subject, row) for row in published("table4") if row["dataset"] == data]
    note = (
        f"{told(study)} Means are over the images that reach the target with this confidence. CLEVER is untargeted, in L2. The paper does "
        "not say which attack's iterations it counts; these are those of BIM_d."
    )
    columns = ("CLEVER", "iterations of BIM_d", "L2", "target reached, %")
    return [Table("C&W by confidence", ("network", "kappa"), columns, rows, decimals=(3, 1, 2, 1), note=note)]


def _row(study: Study, subject: Subject, paper: dict[str, str]) -> Row:
    kappa = int(paper["kappa"])
    found, scores = attacked(study, subject, kappa), study.clever(subject, named(kappa))
    iterations = study.costs(subject, named(kappa), "bim").numbers["iterations"].astype(np.float64)
    untargeted = scores.numbers["clever:untargeted"]["score"].astype(np.float64)
    columns = {
        "clever_score": untargeted[found.reached[scores.index]],
        "n_iterations": iterations[found.reached],
        "l2_distance": found.distance[found.reached],
    }
    cells = [_mean(subject, values, number(paper[key].removeprefix("~"))) for key, values in columns.items()]
    return Row((subject.title, str(kappa)), [*cells, share(subject, found.reached, scale=100)])


def _mean(subject: Subject, values: np.ndarray, theirs: float | None) -> Number:
    return mean(subject, values, theirs) if len(values) else Number(None, theirs, reason="no attack reached its target")


ITEM = Item("Table 4: C&W with confidence", tuple(ROLES), make)
