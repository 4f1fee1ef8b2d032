"""Figure 7: how often attacks with confidence get through, by what guards the network."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.pages.blocks import Block, Lines, Number, Row, Table
from experiments.paper.confident import CIFAR10_CAP, KAPPAS, MNIST_CAP, attacked, gets_through, named, told
from experiments.paper.guards import LEVEL, Guard, a2d, lacks, lacks_magnet, magnet, newton, newton_both
from experiments.paper.items import Item
from experiments.paper.networks import Subject
from experiments.paper.numbers import share
from experiments.paper.published import published
from experiments.paper.sets import BENIGN
from experiments.paper.study import Study

NAMES = [named(kappa) for kappa in KAPPAS]
OURS = {"Newton (ours)": (newton,), "Newton, both ends (ours)": (newton_both,)}


class Panel(NamedTuple):
    """A panel of the figure.

    Attributes:
      paper: what the file of published texts calls it.
      cap: the largest L2 distance of an attack that counts.
      defences: the detectors of each, all of which an attack must pass; the first one has none.
    """

    paper: str
    cap: float
    defences: Mapping[str, Sequence[Guard]]


PANELS = {
    "magnet-mnist": Panel(
        *("a_MNIST", MNIST_CAP),
        {"No defense": (), "A2D": (a2d,), "AE": (magnet,), "A2D+AE": (a2d, magnet), **OURS, "Newton (ours)+AE": (newton, magnet)},
    ),
    "adversarial-cifar10": Panel(
        *("b_CIFAR10", CIFAR10_CAP),
        {"AT": (), "A2D+AT": (a2d,), **{f"{name}+AT": guards for name, guards in OURS.items()}},
    ),
}


def make(study: Study) -> Sequence[Block]:
    """Curves and tables for each panel."""
    return [block for subject, panel in study.here(PANELS) for block in _blocks(study, subject, panel)]


def _blocks(study: Study, subject: Subject, panel: Panel) -> Sequence[Block]:
    without = lacks_magnet(study, subject)
    made = {name: guards for name, guards in panel.defences.items() if not (without and magnet in guards)}
    found = {kappa: attacked(study, subject, kappa) for kappa in KAPPAS}
    through = {
        name: {kappa: gets_through(one, panel.cap, *_flags(study, subject, named(kappa), guards)) for kappa, one in found.items()}
        for name, guards in made.items()
    }
    theirs = {name: texts(panel.paper, name) for name in panel.defences}
    rows = [
        Row((name,), [_share(subject, through.get(name, {}).get(kappa), theirs[name].get(kappa), without) for kappa in KAPPAS])
        for name in panel.defences
    ]
    near = [one.distance[gets_through(one, panel.cap)] for one in found.values()]
    alarms = [share(subject, np.any(_flags(study, subject, BENIGN, guards), axis=0), scale=100) for guards in made.values() if guards]
    note = (
        f"{told(study)} An attack gets through if it reaches the target within an L2 distance of {panel.cap:g} and is not flagged. A2D is "
        f"the Z-score of BIM_d. Newton is a conformal detector at {LEVEL:g} that reads the low end of Newton's crossing, or both ends. The "
        "paper says in words what it plots; '<= 3' counts as 3."
    )
    shares = f"Attacks that get through, {subject.title}, %"
    curves = {name: _curve([100 * hits.mean() for hits in one.values()]) for name, one in through.items()}
    marks = {f"{name} (published)": np.array(list(one.items()), float) for name, one in theirs.items() if one}
    length = f"Mean L2 of attacks that get through without a detector, {subject.title}"
    lengths = [Number(float(one.mean()), n=(len(one),)) if len(one) else Number(None, reason="no attack gets through") for one in near]
    return [
        Lines(shares, "confidence", "attacks, %", curves | marks),
        Lines(length, "confidence", "mean L2", {"mean L2": _curve([one.mean() if len(one) else np.nan for one in near])}),
        Table(shares, ("defence",), NAMES, rows, decimals=1, note=note),
        Table(length, ("number",), NAMES, [Row(("mean L2",), lengths)], decimals=2),
        Table(
            f"Benign images flagged, {subject.title}, %",
            *(("images",), [name for name, guards in made.items() if guards], [Row((BENIGN,), alarms)]),
            decimals=1,
        ),
    ]


def _flags(study: Study, subject: Subject, name: str, guards: Sequence[Guard]) -> list[np.ndarray]:
    """What each detector flags of a set."""
    return [guard(study, subject, name) for guard in guards]


def _share(subject: Subject, hits: np.ndarray | None, theirs: float | None, without: str) -> Number:
    return Number(None, theirs, reason=without) if hits is None else share(subject, hits, theirs, scale=100)


def _curve(values: Sequence[float]) -> np.ndarray:
    return np.array(list(zip(KAPPAS, values, strict=True)), float)


def texts(panel: str, defence: str) -> dict[int, float]:
    """What the paper says about a defence, by confidence."""
    said: dict[int, float] = {}
    for row, kappa in itertools.product(published("fig7_text_values"), KAPPAS):
        if (
            row["panel"] == panel
            and defence in (row["defence"], {"No defense (=AT)": "AT"}.get(row["defence"]))
            and _holds(row["kappa"], kappa)
        ):
            said.setdefault(kappa, float(row["attack_success_rate_percent"].removeprefix("<=")))
    return said


def _holds(text: str, kappa: int) -> bool:
    """Whether a text such as `any`, `<=15` or `20` is about this confidence."""
    if text.startswith("<="):
        return kappa <= int(text[2:])
    return text == "any" or (kappa >= int(text[2:]) if text.startswith(">=") else kappa == int(text))


ITEM = Item("Figure 7: attacks with confidence against A2D and others", tuple(PANELS), make, lacks)
