"""Rows of costs under several attacks, for detectors that read them together (Figure 6, Table 7)."""

import numpy as np

from experiments.paper.networks import Subject
from experiments.paper.sets import BENIGN, FIT, TEST
from experiments.paper.study import Study

DEFENCES = ("jsma", "bim", "bim2", "dba")
NEIGHBOURS, TRAINING = 100, 2000
"""The paper's K, and the training rows that it is for."""


def neighbours(rows: int, k: int = NEIGHBOURS) -> int:
    """K for a smaller training set: the same share of its rows, and odd, so that no vote is a tie by itself."""
    return k if rows >= TRAINING else max(1, round(k * rows / TRAINING)) | 1


def defences(study: Study, subject: Subject) -> list[str]:
    """The attacks that this size makes on this network."""
    return [attack for attack in DEFENCES if not study.leaves_out(subject, attack)]


def costs(study: Study, subject: Subject, name: str, split: str) -> np.ndarray:
    """Costs of the images of a set under all attacks, `n attacks`: as many images as the slowest attack was made on."""
    columns = [study.costs(subject, name, attack, split).cost for attack in defences(study, subject)]
    many = min(map(len, columns))
    return np.stack([column[:many] for column in columns], axis=1)


def training(study: Study, subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """Rows of benign images, and as many of adversarial ones, the same number of each set."""
    benign = costs(study, subject, BENIGN, FIT)
    names = list(study.sets(subject))
    each = max(1, len(benign) // len(names))
    return benign, np.concatenate([costs(study, subject, name, FIT)[:each] for name in names])


def judged(study: Study, subject: Subject) -> dict[str, np.ndarray]:
    """Rows of test images by set, the benign ones first."""
    return {name: costs(study, subject, name, TEST) for name in (BENIGN, *study.sets(subject))}
