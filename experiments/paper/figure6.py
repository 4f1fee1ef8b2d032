"""Figure 6: accuracy of K-NN and Z-score detectors, of one attack each and of all together."""

from collections.abc import Iterable, Sequence

import numpy as np

from a2d_jax.detectors import KNN, Vote, ZScore
from experiments.pages.blocks import Bars, Block, Number, Row, Table
from experiments.paper.ensembles import defences, judged, neighbours, training
from experiments.paper.items import Item
from experiments.paper.networks import Subject
from experiments.paper.published import number, published
from experiments.paper.sets import BENIGN, FIT, TEST
from experiments.paper.study import Study

ROLES = {"env1-mnist": "MNIST", "env1-cifar10": "CIFAR10", "env2-imagenet": "ImageNet"}
TITLES = {"jsma": "JSMA_d", "bim": "BIM_d", "bim2": "BIM2_d", "dba": "DBA_d"}
END = "END"


def make(study: Study) -> Sequence[Block]:
    """Two bar charts for each network, and the means that the paper prints."""
    paper = {(row["dataset"], row["detector"]): number(row["mean_accuracy_percent"]) for row in published("fig6_knn_average")}
    blocks: list[Block] = []
    rows: list[Row] = []
    for subject, data in study.here(ROLES):
        neighbour, score = _nearest(study, subject), _zscores(study, subject)
        names = [BENIGN, *study.sets(subject)]
        for title, found in (("K-NN", neighbour), ("Z-score", score)):
            blocks.append(
                Bars(f"{title} on {subject.title}", "judged right, %", names, {name: np.array(one) for name, one in found.items()})
            )
        counts = {TITLES[attack]: [len(study.costs(subject, one, attack).cost) for one in names] for attack in defences(study, subject)}
        counts[END] = list(map(len, judged(study, subject).values()))
        for name in score:
            means = [float(np.mean(one[name])) for one in (neighbour, score)]
            n = counts[name][0], sum(counts[name][1:])
            rows.append(Row((subject.title, name), (Number(means[0], paper.get((data, name)), n), Number(means[1], n=n))))
    note = (
        "The mean of a detector is that of its bars: benign images and every set. A K-NN of one attack learns for each set from benign "
        "images and from crafted images of that set; its benign bar is the mean over these. END reads the costs of all these attacks. As a "
        "K-NN it does not scale them and learns from all sets. As a Z-score it calls an image benign if the detectors of two attacks do. "
        f"Detectors learn from at most {study.size.learning} training images of each set."
    )
    return [*blocks, Table("Mean accuracy, %", ("network", "detector"), ("K-NN", "Z-score"), rows, decimals=2, note=note)]


def _nearest(study: Study, subject: Subject) -> dict[str, list[float]]:
    """Accuracy in percent by detector: on benign images, then on each set."""
    found: dict[str, list[float]] = {}
    for attack in defences(study, subject):
        cost = {(name, split): study.costs(subject, name, attack, split).cost for name in _names(study, subject) for split in (FIT, TEST)}
        benign: list[float] = []
        crafted: list[float] = []
        for name in study.sets(subject):
            learn = cost[BENIGN, FIT], cost[name, FIT]
            fitted = KNN(neighbours(sum(map(len, learn)))).fit(*learn)
            benign.append(100 * float(np.mean(~fitted.predict(cost[BENIGN, TEST]))))
            crafted.append(100 * float(np.mean(fitted.predict(cost[name, TEST]))))
        found[TITLES[attack]] = [float(np.mean(benign)), *crafted]
    learn = training(study, subject)
    return {**found, END: _accuracies(KNN(neighbours(sum(map(len, learn)))).fit(*learn), judged(study, subject))}


def _zscores(study: Study, subject: Subject) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for attack in defences(study, subject):
        fitted = ZScore().fit(study.costs(subject, BENIGN, attack, FIT).cost)
        found[TITLES[attack]] = _accuracies(fitted, {name: study.costs(subject, name, attack).cost for name in _names(study, subject)})
    return {**found, END: _accuracies(Vote(2).fit(training(study, subject)[0]), judged(study, subject))}


def _accuracies(fitted, rows) -> list[float]:
    return [100 * float(np.mean(fitted.predict(one) == (name != BENIGN))) for name, one in rows.items()]


def _names(study: Study, subject: Subject) -> Iterable[str]:
    return BENIGN, *study.sets(subject)


ITEM = Item("Figure 6: detectors of one cost and of four", tuple(ROLES), make)
