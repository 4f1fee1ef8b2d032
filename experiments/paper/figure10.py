"""Figure 10: seconds of JSMA_d against its iterations."""

from collections.abc import Sequence

import numpy as np

from experiments.pages.blocks import Block, Row, Scatter, Table
from experiments.paper.clever import ROLES, efforts
from experiments.paper.items import Item
from experiments.paper.numbers import correlation
from experiments.paper.study import Study

ENDS = {"MNIST": "80 iterations and 0.5 s", "CIFAR10": "100 iterations and 0.8 s"}


def make(study: Study) -> Sequence[Block]:
    """A scatter plot for each network, and rank correlations of all its points."""
    blocks: list[Block] = []
    rows: list[Row] = []
    for subject, data in study.here(ROLES):
        found = efforts(study, subject)
        points = {name: np.stack([one.iterations, one.seconds], axis=1) for name, one in found.items()}
        scores = {name: np.stack([one.clever, one.iterations], axis=1) for name, one in found.items()}
        title, note = f"JSMA_d on {subject.title}", f"The paper's axes end at about {ENDS[data]}."
        blocks.append(Scatter(title, "iterations", "seconds, one image alone", points, note))
        cells = [correlation(subject, np.concatenate(list(one.values()))) for one in (points, scores)]
        rows.append(Row((subject.title,), cells))
    note = "Spearman's rank correlation of all points. The paper prints no number; it sees a positive correlation."
    columns = ["iterations and seconds", "CLEVER and iterations"]
    return [*blocks, Table("Rank correlation", ("network",), columns, rows, decimals=2, note=note)]


ITEM = Item("Figure 10: attack time and iterations", tuple(ROLES), make)
