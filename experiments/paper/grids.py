"""Grids of adversarial images: a row for each class that they come from, a column for each that they are taken for."""

from collections.abc import Sequence

import numpy as np

from experiments.pages.blocks import Block, Images, Number, Row, Table
from experiments.paper.confident import CLASSES, Attacked, attacked, class_name, firsts, told
from experiments.paper.networks import Subject
from experiments.paper.numbers import mean
from experiments.paper.published import number, published
from experiments.paper.study import Study


def grid(study: Study, subject: Subject, kappa: int, file: str) -> Sequence[Block]:
    """The grid of a confidence, with benign images on the diagonal, and the mean distance beside that of the published grid.

    Args:
      study: the protocol.
      subject: the network.
      kappa: the confidence.
      file: with the published distances.
    """
    found = attacked(study, subject, kappa)
    theirs = np.array([[number(row[f"grid_col_{column}"]) or np.nan for column in range(CLASSES)] for row in published(file)])
    names = [class_name(subject, label) for label in range(CLASSES)]
    title = f"{subject.title}, confidence {kappa}"
    x, captions = laid_out(found, firsts(study, subject)[0])
    note = (
        "Rows are the classes that the images come from, columns the classes that they are taken for; benign images are on the diagonal. "
        "Below each image stands its L2 distance. A smaller size makes fewer pairs and leaves places empty."
    )
    pictures = Images(title, [f"from {name}" for name in names], [f"as {name}" for name in names], x, captions, note)
    note = (
        f"{told(study)} The paper's images are not known. Means are over the images that reach the target; the published mean is over the "
        "same places of its grid."
    )
    columns = ("mean L2", "target reached, %")
    return [pictures, Table(f"Distances, {title}", ("grid",), columns, [_row(subject, found, theirs, kappa)], (3, 1), note)]


def laid_out(found: Attacked, benign: np.ndarray) -> tuple[list[list[np.ndarray | None]], list[list[str]]]:
    """Images and captions by row (source) and column (target); benign images by class are on the diagonal."""
    x: list[list[np.ndarray | None]] = [[None] * CLASSES for _ in range(CLASSES)]
    captions = [[""] * CLASSES for _ in range(CLASSES)]
    for label in range(CLASSES):
        x[label][label], captions[label][label] = benign[label], "benign"
    for place, (source, target) in enumerate(zip(found.pairs.source, found.pairs.target, strict=True)):
        x[source][target] = found.x_adv[place]
        captions[source][target] = caption(found, place)
    return x, captions


def caption(found: Attacked, place: int) -> str:
    """The distance of one image, or that the attack failed."""
    return f"{found.distance[place]:.2f}" if found.reached[place] else "failed"


def _row(subject: Subject, found: Attacked, theirs: np.ndarray, kappa: int) -> Row:
    reached = found.reached
    same = reached if reached.any() else np.ones_like(reached)
    there = float(np.nanmean(theirs[found.pairs.source[same], found.pairs.target[same]]))
    distance = found.distance[reached]
    middle = mean(subject, distance, there) if len(distance) else Number(None, there, reason="no attack reached its target")
    return Row((f"kappa {kappa}",), (middle, Number(100 * float(reached.mean()), n=(len(reached),))))
