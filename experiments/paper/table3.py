"""Table 3: what the detectors cost: iterations, true queries, with the bound and without, at the baseline's rate of false alarms."""

from collections.abc import Sequence

import numpy as np

from experiments.baselines.sprt import sprt, threshold_of
from experiments.pages.blocks import Block, Number, Row, Table
from experiments.paper.baselines import ALL_TEST, mutation
from experiments.paper.items import Item
from experiments.paper.networks import Subject
from experiments.paper.numbers import mean, share
from experiments.paper.published import number, published
from experiments.paper.sets import BENIGN
from experiments.paper.study import Measured, Study

ROLES = {"env2-mnist": "MNIST", "env2-cifar10": "CIFAR10", "env2-imagenet": "ImageNet"}
DEFENCES = {"JSMA_d": "jsma", "BIM_d": "bim", "BIM2_d": "bim2", "DBA_d": "dba", "Newton (ours)": "newton"}
PUBLISHED = ("n_queries_adv", "acc_adv_percent", "n_queries_benign", "threshold", "acc_benign_percent")
"""What the file of published numbers calls the columns."""
RIGHT = {"MNIST": 0.897, "CIFAR10": 0.740, "ImageNet": 0.88}
"""Share of benign images that the paper's baseline, or for ImageNet its own detectors, judge right: thresholds are set for it."""


def make(study: Study) -> Sequence[Block]:
    """The paper's columns, and the queries behind them."""
    paper = {(row["dataset"], row["detector"]): row for row in published("table3")}
    iterations: list[Row] = []
    queries: list[Row] = []
    for subject, data in study.here(ROLES):
        if data != "ImageNet":
            iterations += _mutants(study, subject, paper.get((data, "BL3"), {}))
        for title, attack in DEFENCES.items():
            theirs = _published(paper.get((data, title), {}))
            if study.leaves_out(subject, attack):
                why = f"{title} is left out at this size"
                iterations.append(Row((subject.title, title), [Number(None, one, reason=why) for one in theirs]))
                continue
            one, other = _rows(study, subject, title, attack, RIGHT[data], theirs)
            iterations.append(one)
            queries.append(other)
    heads = ("network", "detector")
    first = ("iterations, adversarial", "caught, %", "iterations, benign", "threshold", "benign right, %")
    note = (
        "The threshold is the largest cost at which the paper's share of benign images is still judged benign. The paper's counts are "
        "iterations without the bound. The threshold of Newton is a radius, given in thousandths of the pixel range. BL3 counts mutants, "
        "each of them a forward pass; its threshold is a label change rate in percent; its benign images are test images, right or wrong. "
        "An image of which its test is not sure after all mutants counts as benign, so that few mutants catch few images."
    )
    second = ("forward", "backward", "forward, bound", "backward, bound", "saved by the bound, %")
    bound = "With the bound an attack stops as soon as the verdict must be benign; no verdict changes."
    return [
        Table("Iterations and accuracy", heads, first, iterations, decimals=1, note=note),
        Table("Queries of a benign image", heads, second, queries, decimals=1, note=bound),
    ]


def _rows(study: Study, subject: Subject, title: str, attack: str, right: float, theirs: Sequence[float | None]) -> tuple[Row, Row]:
    benign = study.costs(subject, BENIGN, attack)
    crafted = [study.costs(subject, name, attack) for name in study.sets(subject)]
    cost = np.concatenate([one.cost for one in crafted])
    threshold = threshold_for(benign.cost, right)
    unit = 1000 if title.startswith("Newton") else 1
    found = (
        mean(subject, _iterations(crafted), theirs[0]),
        share(subject, cost < threshold, theirs[1], scale=100),
        mean(subject, _iterations([benign]), theirs[2]),
        Number(threshold * unit, theirs[3], (len(benign.cost),)),
        share(subject, benign.cost >= threshold, theirs[4], scale=100),
    )
    heads = (subject.title, title)
    return Row(heads, found), Row(heads, _queries(study, subject, attack, benign, threshold))


def _mutants(study: Study, subject: Subject, paper: dict[str, str]) -> list[Row]:
    """BL3: mutants that the sequential test looks at, as its authors coded it and as Wald wrote it."""
    changed = mutation(study, subject)
    threshold = threshold_of(changed[BENIGN].mean(1))
    rows: list[Row] = []
    for title, as_coded in (("BL3, as coded", True), ("BL3, Wald's test", False)):
        if threshold == 0:
            none = Number(None, reason="no mutant changes the label of a benign image")
            rows.append(Row((subject.title, title), [none] * 5))
            continue
        crafted, benign = (
            sprt(one, threshold, as_coded=as_coded)
            for one in (np.concatenate([changed[name] for name in study.sets(subject)]), changed[ALL_TEST])
        )
        theirs = _published(paper if as_coded else {})
        found = (
            mean(subject, crafted.used.astype(float), theirs[0]),
            share(subject, crafted.adversarial, theirs[1], scale=100),
            mean(subject, benign.used.astype(float), theirs[2]),
            Number(100 * threshold, theirs[3], (len(changed[BENIGN]),)),
            share(subject, ~benign.adversarial, theirs[4], scale=100),
        )
        rows.append(Row((subject.title, title), found))
    return rows


def _queries(study: Study, subject: Subject, attack: str, benign: Measured, threshold: float) -> list[Number]:
    """Forward and backward queries of a benign image: in full, and stopped at the threshold."""
    full = [benign.numbers[name].astype(float) for name in ("forward_queries", "backward_queries")]
    if attack == "newton":  # its bound is a radius; docs/newton.md gives what it saves
        none = Number(None, reason="the bound of Newton is a radius, not a number of updates; docs/newton.md says what it saves")
        return [*(mean(subject, one) for one in full), none, none, none]
    stopped = study.costs(subject, BENIGN, attack, bound=max(1, int(np.ceil(threshold)) - 1))
    short = [stopped.numbers[name].astype(float) for name in ("forward_queries", "backward_queries")]
    saved = 100 * (1 - sum(map(np.sum, short)) / max(sum(map(np.sum, full)), 1))
    return [*(mean(subject, one) for one in (*full, *short)), Number(float(saved), n=(len(benign.cost),))]


def _published(row: dict[str, str]) -> list[float | None]:
    """The published numbers of a detector, by column."""
    return [number(row.get(key, "").removeprefix(">=")) for key in PUBLISHED]


def threshold_for(benign: np.ndarray, right: float) -> float:
    """The largest threshold that leaves at least this share of benign costs at or above it."""
    ranked = np.sort(benign)
    return float(ranked[int(np.floor(len(ranked) * (1 - right) + 1e-9))])


def _iterations(found: Sequence[Measured]) -> np.ndarray:
    return np.concatenate([one.numbers["iterations"].astype(float) for one in found])


ITEM = Item("Table 3: what detection costs", tuple(ROLES), make)
