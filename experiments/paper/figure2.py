"""Figure 2: seconds of JSMA_d against the CLEVER score of the image."""

from collections.abc import Sequence

import numpy as np

from experiments.pages.blocks import Block, Row, Scatter, Table
from experiments.paper.clever import ROLES, efforts
from experiments.paper.items import Item
from experiments.paper.numbers import correlation
from experiments.paper.study import Study

LARGEST = 0.3
"""End of the paper's axis of CLEVER scores."""
ENDS = {"MNIST": "0.5 s", "CIFAR10": "1.0 s"}


def make(study: Study) -> Sequence[Block]:
    """A scatter plot for each network, and rank correlations of all its points."""
    blocks: list[Block] = []
    rows: list[Row] = []
    for subject, data in study.here(ROLES):
        found = {name: np.stack([one.clever, one.seconds], axis=1) for name, one in efforts(study, subject).items()}
        near = {name: one[one[:, 0] <= LARGEST] for name, one in found.items()}
        points = {name: one for name, one in near.items() if len(one)}
        note = f"The paper's axes end at {LARGEST:g} and {ENDS[data]}."
        blocks.append(Scatter(f"JSMA_d on {subject.title}", "CLEVER, untargeted", "seconds, one image alone", points, note))
        rows.append(Row((subject.title,), [correlation(subject, np.concatenate([np.zeros((0, 2)), *points.values()]))]))
    note = (
        f"Spearman's rank correlation of all points, which are the images with a CLEVER score of at most {LARGEST:g}. The paper prints no "
        "number; it sees a positive trend."
    )
    return [*blocks, Table("CLEVER and seconds", ("network",), ["rho"], rows, decimals=2, note=note)]


ITEM = Item("Figure 2: attack time and robustness", tuple(ROLES), make)
