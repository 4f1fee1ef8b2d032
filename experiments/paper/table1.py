"""Table 1: CLEVER scores of benign and crafted images, by target."""

from collections.abc import Mapping, Sequence

import numpy as np

from a2d_jax.robustness import mean_interval
from experiments.pages.blocks import Block, Number, Row, Table
from experiments.paper.items import Item
from experiments.paper.networks import Subject
from experiments.paper.published import number, published
from experiments.paper.sets import BENIGN
from experiments.paper.study import CLEVER_TARGETS, Study

ROLES = {"env1-mnist": "MNIST", "env1-cifar10": "CIFAR10"}
COLUMNS = {BENIGN: "benign", "FGSM": "fgsm", "BIM": "bim", "JSMA": "jsma", "C&W": "cw"}
"""Sets, and what the file of published numbers calls them."""
LAST = {"least-likely": "LLC"}


def make(study: Study) -> Sequence[Block]:
    """Means, the intervals around them, and how many times more robust benign images are."""
    paper = {(row["dataset"], row["label_for_clever"]): row for row in published("table1")}
    means: list[Row] = []
    halves: list[Row] = []
    ratios: list[Row] = []
    for subject, data in study.here(ROLES):
        for target in CLEVER_TARGETS:
            theirs, scores = paper[data, LAST.get(target, target)], _scores(study, subject, target)
            heads, n = (subject.title, target), {name: (len(one),) for name, one in scores.items()}
            found = {name: mean_interval(one) for name, one in scores.items()}
            middles = {name: middle for name, (middle, _) in found.items()}
            means.append(Row(heads, [Number(middles[name], number(theirs[f"{key}_mean"]), n[name]) for name, key in COLUMNS.items()]))
            keys = {name: f"{key}_ci90_halfwidth" for name, key in COLUMNS.items()}
            halves.append(Row(heads, [Number(found[name][1], number(theirs[key]), n[name]) for name, key in keys.items()]))
            ratio, average = lambdas(middles)
            cells = [_ratio(one, number(theirs[f"{COLUMNS[name]}_lambda"]), n[BENIGN] + n[name]) for name, one in ratio.items()]
            ratios.append(Row(heads, [*cells, _ratio(average, number(theirs["avg_lambda"]), n[BENIGN])]))
    score, heads = study.size.score, ("network", "target")
    note = (
        f"CLEVER in L2, R = {score.radius:g}, N_b = {score.batches}, N_s = {score.samples}, against the class that the network predicts. "
        "The paper's R, N_b, N_s and norm are not known. Few and small batches find less steep slopes, so the scores come out larger."
    )
    ratio_note = "Lambda is the benign mean over the mean of the set. Avg lambda is the benign mean over the mean of the four means."
    return [
        Table("Mean CLEVER score", heads, list(COLUMNS), means, note=note),
        Table("Half the width of its 90 % interval", heads, list(COLUMNS), halves),
        Table("Lambda", heads, [*list(COLUMNS)[1:], "Avg lambda"], ratios, decimals=2, note=ratio_note),
    ]


def lambdas(means: Mapping[str, float]) -> tuple[dict[str, float], float]:
    """The benign mean over that of each set, and over the mean of all sets' means; infinite over a mean of 0."""
    sets = {name: one for name, one in means.items() if name != BENIGN}
    values = np.array([*sets.values(), np.mean(list(sets.values()))])
    *ratios, average = np.divide(means[BENIGN], values, out=np.full(len(values), np.inf), where=values != 0).tolist()
    return dict(zip(sets, ratios, strict=True)), average


def _ratio(ours: float, theirs: float | None, n: Sequence[int]) -> Number:
    return Number(ours, theirs, n) if np.isfinite(ours) else Number(None, theirs, n, reason="all scores of the set are 0")


def _scores(study: Study, subject: Subject, target: str) -> dict[str, np.ndarray]:
    return {name: study.clever(subject, name).numbers[f"clever:{target}"]["score"].astype(np.float64) for name in COLUMNS}


ITEM = Item("Table 1: CLEVER scores", tuple(ROLES), make)
