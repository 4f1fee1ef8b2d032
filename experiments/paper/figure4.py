"""Figure 4: seconds that eight attacks need for one image."""

from collections.abc import Sequence
from typing import Any

from experiments.pages.blocks import Block, Boxes, Number, Row, Table
from experiments.paper.items import Item
from experiments.paper.numbers import mean
from experiments.paper.sets import BENIGN
from experiments.paper.study import Study

ROLE = "env1-mnist"
FEW = {"max_steps": 10}
"""The paper's figure stops these two attacks after ten iterations; the steps are Foolbox's."""
DEFENCES: dict[str, tuple[str, dict[str, Any], float]] = {
    "FGSM_d": ("gradient_sign", {}, 0.0125),
    "BIM_d": ("bim", {**FEW, "epsilon": 0.3, "step_size": 0.05}, 0.040),
    "BIM2_d": ("bim2", {**FEW, "epsilon": 0.3, "step_size": 0.05}, 0.030),
    "JSMA_d": ("jsma", {}, 4.5),
    "C&W_d": ("cw", {}, 25),
    "L-BFGS_d": ("lbfgs", {}, 15),
    "LSA_d": ("lsa", {}, 2.5),
    "DBA_d": ("dba", {}, 12),
}
"""Attack, settings that are not those of the preset, and the last tick of the paper's axis in seconds."""


def make(study: Study) -> Sequence[Block]:
    """A box plot for each attack, and a table of both ways to attack."""
    subject = study.subjects[ROLE]
    names = [BENIGN, *study.sets(subject)]
    blocks: list[Block] = []
    rows: list[Row] = []
    for title, (name, settings, last) in DEFENCES.items():
        attack = study.defence(subject, name, **settings)
        alone = {one: study.alone(subject, one, title, attack) for one in names}
        paper = f"the paper's axis ends at {last:g} s"
        blocks.append(Boxes(f"{title} on {subject.title}", "seconds, one image alone", alone, log=True, published=paper))
        rows.append(Row((title, "alone"), [mean(subject, seconds) for seconds in alone.values()]))
        together = [Number(study.together(subject, one, title, attack), n=(study.size.timed,)) for one in names]
        rows.append(Row((title, "stream"), together))
    note = (
        "Alone: a batch of one in lock-step, as the paper's times are. Stream: the mean time of an image when all of these go through the "
        "lanes together. Compilation is not counted. Times depend on the machine, so only their ratios can be compared with the paper."
    )
    return [*blocks, Table("Mean seconds of one image", ("attack", "way"), names, rows, decimals=5, note=note)]


ITEM = Item("Figure 4: seconds of the attacks", (ROLE,), make)
