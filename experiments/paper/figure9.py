"""Figure 9: an airplane that is taken for a cat, by what the attack must overcome."""

from collections.abc import Sequence

import numpy as np

from experiments.pages.blocks import Block, Images, Number, Row, Table
from experiments.paper.confident import KAPPAS, attacked, class_name, firsts, named, told
from experiments.paper.guards import a2d
from experiments.paper.items import Item
from experiments.paper.networks import Subject
from experiments.paper.published import number, published
from experiments.paper.study import Study

STANDARD, ADVERSARIAL = "standard-cifar10", "adversarial-cifar10"
PAIR = (0, 3)
FAILED = "no attack reached its target, or each was flagged"


def make(study: Study) -> Sequence[Block]:
    """The benign image and one for each defence, and their distances."""
    paper = {row["setting"]: number(row["l2"]) for row in published("fig8_fig9_l2") if row["figure"].startswith("9")}
    wanted = {"no AT": (STANDARD, False), "AT": (ADVERSARIAL, False), "A2D+AT": (ADVERSARIAL, True)}
    wanted = {title: (study.subjects[role], guarded) for title, (role, guarded) in wanted.items() if role in study.subjects}
    subject = next(iter(wanted.values()))[0]
    x: list[np.ndarray | None] = [firsts(study, subject)[0][PAIR[0]]]
    captions = ["benign"]
    cells: list[Number] = []
    for title, (one, guarded) in wanted.items():
        image, distance, kappa = _nearest(study, one, guarded)
        x.append(image)
        captions.append("failed" if image is None else f"{distance:.2f}, kappa {kappa}")
        cells.append(Number(distance, paper[title], (1,)) if image is not None else Number(None, paper[title], reason=FAILED))
    pair = f"{class_name(subject, PAIR[0])} as {class_name(subject, PAIR[1])}"
    note = (
        f"{told(study)} The confidence is the smallest of {', '.join(map(str, KAPPAS))} whose image reaches the target "
        "and, for A2D, is not flagged. The paper's image is not known; ours may differ between the networks."
    )
    columns = ["benign", *wanted]
    return [
        Images(
            f"{pair}, CIFAR-10{' (digits)' if subject.stands_in else ''}",
            [pair],
            columns,
            [x],
            [captions],
            "Below each image stand its L2 distance and its confidence.",
        ),
        Table("L2 distance", ("image",), list(wanted), [Row((pair,), cells)], decimals=2, note=note),
    ]


def _nearest(study: Study, subject: Subject, guarded: bool) -> tuple[np.ndarray | None, float, int]:
    """The image of the smallest confidence that works, its distance and the confidence."""
    for kappa in KAPPAS:
        found = attacked(study, subject, kappa)
        place = found.pairs.place(*PAIR)
        if found.reached[place] and not (guarded and a2d(study, subject, named(kappa))[place]):
            return found.x_adv[place], float(found.distance[place]), kappa
    return None, np.nan, KAPPAS[-1]


ITEM = Item("Figure 9: one photograph by defence", (STANDARD, ADVERSARIAL), make)
