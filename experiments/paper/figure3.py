"""Figure 3: how far the mean costs of two halves of each set lie from each other."""

from collections.abc import Sequence

import numpy as np

from experiments.pages.blocks import Block, Matrix, Number, Row, Table
from experiments.paper.items import Item
from experiments.paper.published import published
from experiments.paper.sets import BENIGN
from experiments.paper.study import Study

ROLE = "env1-mnist"
SETS = ("FGSM", "BIM", "DeepFool", "C&W")
PUBLISHED = {BENIGN: "Benign"}
"""Sets that the file of published numbers calls otherwise."""


def make(study: Study) -> Sequence[Block]:
    """The matrix of |mean_i - mean_j| over its largest entry, and the distances from the paper's matrix."""
    subject = study.subjects[ROLE]
    halves: dict[str, float] = {}
    counts: list[int] = []
    for name in (BENIGN, *SETS):
        cost = study.costs(subject, name, "jsma").cost
        drawn = np.random.default_rng(study.seed).permutation(cost)
        counts.append(len(cost))
        for number, half in enumerate(np.array_split(drawn, 2), 1):
            halves[f"{PUBLISHED.get(name, name)}_{number}"] = float(half.mean())
    means = np.array(list(halves.values()))
    apart = np.abs(means[:, None] - means[None])
    apart /= apart.max() or 1.0
    paper = np.array([[float(row[name]) for name in halves] for row in published("fig3")])
    same, other = apart[np.arange(1, 10, 2), np.arange(0, 10, 2)], apart[:2, 2:]
    theirs = paper[np.arange(1, 10, 2), np.arange(0, 10, 2)], paper[:2, 2:]
    rows = [
        Row(("largest distance between the halves of one set",), (Number(float(same.max()), float(theirs[0].max()), (sum(counts),)),)),
        Row(("smallest distance of a crafted set from benign",), (Number(float(other.min()), float(theirs[1].min()), (sum(counts),)),)),
    ]
    note = (
        "The entries are |mean_i - mean_j| of the costs of JSMA, divided by the largest of them. The paper does not say which network it "
        f"took; this is {subject.title}. Images of each set: {', '.join(map(str, counts))}."
    )
    title = "Distances of the mean cost of JSMA between halves of sets"
    return [
        Matrix(title, [name.replace("_", " ") for name in halves], apart, note),
        Table("The matrix in two numbers", ("distance",), ("ours",), rows, decimals=3),
    ]


ITEM = Item("Figure 3: sets differ in cost, halves of a set do not", (ROLE,), make)
