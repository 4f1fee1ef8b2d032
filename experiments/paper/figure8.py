"""Figure 8: a four that is taken for a zero, by confidence."""

from collections.abc import Sequence

from experiments.pages.blocks import Block, Images, Number, Row, Table
from experiments.paper.confident import KAPPAS, attacked, firsts, named, told
from experiments.paper.grids import caption
from experiments.paper.items import Item
from experiments.paper.published import number, published
from experiments.paper.study import Study

ROLE = "magnet-mnist"
PAIR = (4, 0)


def make(study: Study) -> Sequence[Block]:
    """A row of images, and their distances."""
    subject = study.subjects[ROLE]
    paper = {row["setting"]: number(row["l2"]) for row in published("fig8_fig9_l2") if row["figure"] == "8"}
    found = [attacked(study, subject, kappa) for kappa in KAPPAS]
    places = [one.pairs.place(*PAIR) for one in found]
    x = [firsts(study, subject)[0][PAIR[0]], *(one.x_adv[place] for one, place in zip(found, places, strict=True))]
    captions = ["benign", *(caption(one, place) for one, place in zip(found, places, strict=True))]
    names = [named(kappa) for kappa in KAPPAS]
    cells = [
        Number(float(one.distance[place]), paper[f"kappa={kappa}"], (1,))
        if one.reached[place]
        else Number(None, paper[f"kappa={kappa}"], reason="the attack did not reach its target with this confidence")
        for kappa, one, place in zip(KAPPAS, found, places, strict=True)
    ]
    note = f"{told(study)} The paper's image is not known."
    return [
        Images(
            f"4 taken for 0, {subject.title}", ["4 as 0"], ["benign", *names], [x], [captions], "Below each image stands its L2 distance."
        ),
        Table("L2 distance", ("image",), names, [Row(("4 as 0",), cells)], decimals=2, note=note),
    ]


ITEM = Item("Figure 8: one digit by confidence", (ROLE,), make)
