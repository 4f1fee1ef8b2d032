"""Figure 7: how often attacks with confidence get through, by what guards the network."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.paper.blocks import Block, Lines, Number, Row, Table
from experiments.paper.confident import CIFAR10_CAP, MNIST_CAP, attacked, gets_through, named
from experiments.paper.guards import LEVEL, Guard, a2d, lacks_magnet, magnet, newton, newton_both
from experiments.paper.items import Item
from experiments.paper.networks import Subject
from experiments.paper.numbers import share
from experiments.paper.published import published
from experiments.paper.study import BENIGN, Study

KAPPAS = (0, 5, 10, 15, 20)
OURS = {"Newton (ours)": (newton,), "Newton, both ends (ours)": (newton_both,)}
PANELS: Mapping[str, tuple[str, float, str, Mapping[str, Sequence[Guard]]]] = {
    "magnet-mnist": (
        *("a_MNIST", MNIST_CAP, "No defense"),
        {"A2D": (a2d,), "AE": (magnet,), "A2D+AE": (a2d, magnet), **OURS, "Newton (ours)+AE": (newton, magnet)},
    ),
    "adversarial-cifar10": (
        *("b_CIFAR10", CIFAR10_CAP, "AT"),
        {"A2D+AT": (a2d,), **{f"{name}+AT": guards for name, guards in OURS.items()}},
    ),
}
"""By network: the paper's panel, the largest distance, the name of no detector, and the detectors of each defence."""


def make(study: Study) -> Sequence[Block]:
    """Curves and a table for each panel."""
    return [block for role in PANELS if role in study.subjects for block in _panel(study, study.subjects[role], *PANELS[role])]


def _panel(study: Study, subject: Subject, panel: str, cap: float, bare: str, defences: Mapping[str, Sequence[Guard]]) -> Sequence[Block]:
    lacks = lacks_magnet(study, subject)
    every = {bare: (), **{name: guards for name, guards in defences.items() if not (lacks and magnet in guards)}}
    found = {kappa: attacked(study, subject, kappa) for kappa in KAPPAS}
    through = {
        name: [gets_through(one, cap, *(guard(study, subject, named(kappa)) for guard in guards)) for kappa, one in found.items()]
        for name, guards in every.items()
    }
    theirs = {name: texts(panel, name) for name in (bare, *defences)}
    rows = [
        Row((name,), [share(subject, hits, theirs[name].get(kappa), scale=100) for kappa, hits in zip(KAPPAS, through[name], strict=True)])
        if name in through
        else Row((name,), [Number(None, theirs[name].get(kappa), reason=lacks) for kappa in KAPPAS])
        for name in theirs
    ]
    within = [one.distance[gets_through(one, cap)] for one in found.values()]
    nothing = "no attack reached its target within the largest distance"
    distances = [Number(float(one.mean()), n=(len(one),)) if len(one) else Number(None, reason=nothing) for one in within]
    curves = {name: _curve([100 * float(hits.mean()) for hits in one]) for name, one in through.items()}
    curves |= {f"{name} (published)": np.array(list(marks.items()), float) for name, marks in theirs.items() if marks}
    alarms = {name: share(subject, _flagged(study, subject, guards), scale=100) for name, guards in every.items() if guards}
    note = (
        f"Percent of all attacks that reach the target within an L2 distance of {cap:g} and are not flagged. A2D is the Z-score of BIM_d. "
        f"Newton is a conformal detector at {LEVEL:g} that reads the low end of Newton's crossing, or both ends. The paper says in words "
        "what it plots; '<= 3' counts as 3."
    )
    lengths = {"mean L2": _curve([float(one.mean()) if len(one) else np.nan for one in within])}
    names = [f"kappa {one}" for one in KAPPAS]
    return [
        Lines(f"Attack success rate, {subject.title}", "confidence", "attacks that get through, %", curves),
        Lines(f"Distance, {subject.title}", "confidence", "mean L2", lengths),
        Table(f"Attacks that get through, {subject.title}, %", ("defence",), names, rows, decimals=1, note=note),
        Table(
            f"Distance of attacks that no detector stops, {subject.title}", ("number",), names, [Row(("mean L2",), distances)], decimals=2
        ),
        Table(f"Benign images flagged, {subject.title}, %", ("images",), list(alarms), [Row((BENIGN,), list(alarms.values()))], decimals=1),
    ]


def _curve(values: Sequence[float]) -> np.ndarray:
    return np.array(list(zip(KAPPAS, values, strict=True)), float)


def _flagged(study: Study, subject: Subject, guards: Sequence[Guard]) -> np.ndarray:
    return np.any([guard(study, subject, BENIGN) for guard in guards], axis=0)


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


ITEM = Item("Figure 7: attacks with confidence against A2D and others", tuple(PANELS), make)
