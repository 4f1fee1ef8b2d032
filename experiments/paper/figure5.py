"""Figure 5: iterations of four defences on benign and crafted images."""

from collections.abc import Sequence

import numpy as np

from experiments.pages.blocks import Block, Boxes, Row, Table
from experiments.paper.items import Item
from experiments.paper.numbers import mean
from experiments.paper.sets import BENIGN
from experiments.paper.study import Study

ROLE = "env1-mnist"
DEFENCES = {
    "BIM_d": ("bim", "ticks to 400"),
    "BIM2_d": ("bim2", "ticks to 500"),
    "JSMA_d": ("jsma", "ticks to 400"),
    "DBA_d": ("dba", "ticks to 500"),
    "Newton (ours)": ("newton", ""),
}


def make(study: Study) -> Sequence[Block]:
    """A box plot for each defence, and the means."""
    subject = study.subjects[ROLE]
    names = [BENIGN, *study.sets(subject)]
    counted = {
        title: {name: study.costs(subject, name, attack).numbers["iterations"].astype(float) for name in names}
        for title, (attack, _) in DEFENCES.items()
    }
    boxes = [Boxes(f"{title} on {subject.title}", "iterations", groups, published=DEFENCES[title][1]) for title, groups in counted.items()]
    rows = [Row((title,), [mean(subject, np.asarray(values)) for values in groups.values()]) for title, groups in counted.items()]
    note = "The paper prints no numbers for this figure. An iteration of Newton is one gradient; its score is the crossing, not this count."
    return [*boxes, Table("Mean iterations", ("defence",), names, rows, decimals=1, note=note)]


ITEM = Item("Figure 5: iterations of the attacks", (ROLE,), make)
