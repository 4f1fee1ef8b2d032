"""Table 7: how the settings of the detectors matter."""

from collections.abc import Sequence

import numpy as np

from a2d_jax.detectors import KNN, SVM, Forest, Tree, Vote, ZScore
from experiments.pages.blocks import Block, Row, Table
from experiments.paper.ensembles import NEIGHBOURS, TRAINING, judged, neighbours, training
from experiments.paper.items import Item
from experiments.paper.numbers import share
from experiments.paper.published import number, published
from experiments.paper.sets import BENIGN
from experiments.paper.study import Study

ROLE = "env1-mnist"
TITLES = {
    "knn_K": "K of K-NN",
    "benign_adv_ratio": "benign to crafted",
    "zscore_h": "h of two Z-scores of four",
    "zscore_ensemble_k": "k of four Z-scores",
    "classifier": "classifier",
    "DTC": "decision tree",
    "RFC": "random forest",
}
"""What the file of published numbers calls settings and values, in words."""


def make(study: Study) -> Sequence[Block]:
    """A row for each value of a setting; the others keep the paper's defaults."""
    subject = study.subjects[ROLE]
    benign, adversarial = training(study, subject)
    tests = judged(study, subject)
    crafted = np.concatenate([rows for name, rows in tests.items() if name != BENIGN])
    rows: list[Row] = []
    for row in published("table7"):
        fitted = _fitted(row["parameter"], row["value"], benign, adversarial)
        flagged = fitted.predict(crafted), fitted.predict(tests[BENIGN])
        numbers = (
            share(subject, ~flagged[1], number(row["acc_benign"])),
            share(subject, flagged[0], number(row["acc_adv"])),
        )
        rows.append(Row((TITLES[row["parameter"]], TITLES.get(row["value"], row["value"])), numbers))
    note = f"Detectors learn from the costs of {len(benign)} benign and {len(adversarial)} crafted training images under four attacks."
    if (k := neighbours(len(benign) + len(adversarial))) != NEIGHBOURS:
        note += f" The paper has {TRAINING:,} of both. K is the same share of ours: K = {NEIGHBOURS} becomes {k}."
    return [Table("Accuracy by setting", ("setting", "value"), ("benign right", "crafted caught"), rows, note=note)]


def _fitted(setting: str, value: str, benign: np.ndarray, adversarial: np.ndarray):
    rows = len(benign) + len(adversarial)
    detectors = {
        "knn_K": lambda: KNN(min(neighbours(rows, int(value)), rows)),
        "benign_adv_ratio": lambda: KNN(neighbours(rows)),
        "zscore_h": lambda: Vote(2, ZScore(float(value))),
        "zscore_ensemble_k": lambda: Vote(int(value)),
        "classifier": lambda: {"K-NN": KNN(neighbours(rows)), "SVM": SVM(), "DTC": Tree(), "RFC": Forest()}[value],
    }
    if setting == "benign_adv_ratio":
        benign, adversarial = at_ratio(benign, adversarial, float(value.partition(":")[2]))
    return detectors[setting]().fit(benign, adversarial)


def at_ratio(benign: np.ndarray, adversarial: np.ndarray, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows so that there are `ratio` crafted ones for each benign one; the set that is too large is thinned evenly."""
    many = min(len(adversarial), int(len(benign) * ratio))
    few = min(len(benign), int(many / ratio))
    return benign[_evenly(len(benign), few)], adversarial[_evenly(len(adversarial), many)]


def _evenly(rows: int, wanted: int) -> np.ndarray:
    return np.linspace(0, rows - 1, wanted).astype(int)


ITEM = Item("Table 7: settings of the detectors", (ROLE,), make)
