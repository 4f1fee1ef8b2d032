"""What sees images that passed: further numbers, judged before and after an attack that knows them, and the toll that they raise.

Each number is judged twice. First on images that passed the detector of BIM's cost: does it tell them from benign ones? Then an attacker
who knows the joined detector (flagged by cost or by the number, each at half the rate) attacks again. The toll is how much more distortion
this attacker needs for the same joint success.
"""

from collections.abc import Sequence

import numpy as np

from a2d_jax.adaptive.audit import within
from a2d_jax.metrics import auroc, auroc_interval
from experiments.adaptive.attackers import Try, raising
from experiments.adaptive.detectors import COST, FEATURES, LEVEL, Detector, joined
from experiments.adaptive.measured import Numbers, column
from experiments.adaptive.study import Study, won
from experiments.adaptive.subjects import Ball
from experiments.adaptive.tables import interval, title
from experiments.pages.blocks import Block, Number, Row, Table

RESAMPLES = 1000
WANTED = 0.5
"""Joint success at which tolls are compared."""


def blocks(study: Study) -> list[Block]:
    """The tables of one network, in its first norm."""
    norm = next(iter(study.subject.budgets))
    passed = _passed(study, norm)
    benign = {key: np.concatenate([part[key] for part in study.benign]) for key in study.benign[0]}
    if len(passed["bim"]) < 2:
        return []
    names = [name for name in FEATURES if name in passed]
    signs: dict[str, float] = {}
    rows: list[Row] = []
    for name in names:
        one, other = column(benign, name), column(passed, name)
        signs[name] = 1.0 if auroc(one, other) >= 0.5 else -1.0
        sign = signs[name]
        area = Number(
            auroc(sign * one, sign * other),
            n=(len(one), len(other)),
            interval=auroc_interval(sign * one, sign * other),
        )
        rows.append(Row((name,), [area, "high" if sign > 0 else "low"]))
    note = (
        "The sign was read from these data, so a number of no worth has an area of .5 or a little more. Images that passed: all runs of "
        "all attackers, at every radius."
    )
    seen = Table(f"{study.name}: numbers on images that passed the cost", ("number",), ("AUROC", "suspicious"), rows, 3, note)
    return [seen, _tolls(study, norm, benign, signs)]


def _passed(study: Study, norm: Ball) -> Numbers:
    """Numbers of all images that fool and pass the detector of BIM's cost."""
    detector = next(one for one in study.detectors if one.name == COST)
    found: dict[str, list[np.ndarray]] = {}
    for results in study.runs(norm).values():
        for one in results:
            rows = won(study, detector, one, LEVEL)
            for key in study.benign[0]:
                found.setdefault(key, []).append(one[key][rows])
    return {key: np.concatenate(parts) for key, parts in found.items()}


def _tolls(study: Study, norm: Ball, benign: Numbers, signs: dict[str, float]) -> Block:
    """Joint success against the joined detectors, by attackers who know them, and the tolls."""
    budgets = study.subject.budgets[norm]
    plain = next(one for one in study.detectors if one.name == COST)
    rows = [_row(study, norm, plain, COST, [], budgets)]
    for name, sign in signs.items():
        detector = joined(study.opened, benign, name, sign)
        rows.append(_row(study, norm, detector, f"{COST} and {name}", _known(study, norm, detector, budgets), budgets, plain))
    columns = [*(title(norm, epsilon, study.name) for epsilon in budgets), f"toll at {WANTED:.0%}"]
    note = (
        "Worst case over all attackers, with one who raises the joined rule itself. The return class has two values and no gradient, so "
        "there the cost alone is raised. The toll is the radius at which half of the images are won, over that radius for the cost alone; "
        "its interval is from resampled images. "
        "1 means that the number protects nothing."
    )
    return Table(f"{study.name}: what a further number costs the attacker", ("detector",), columns, rows, 3, note)


def _known(study: Study, norm: Ball, detector: Detector, budgets: Sequence[float]) -> list[Try]:
    if detector.accepts is None:
        return []
    name, network, steps = f"against {detector.name}", study.opened.classifier, study.size.steps
    return [raising(name, detector, network, norm, epsilon, steps) for epsilon in budgets]


def _row(
    study: Study, norm: Ball, detector: Detector, name: str, more: list[Try], budgets: Sequence[float], plain: Detector | None = None
) -> Row:
    nearest = _nearest(study, norm, detector, more)
    cells: list[Number | str] = [interval(hits) for hits in within(nearest, tuple(budgets)).T]
    if plain is None:
        return Row((name,), [*cells, Number(1.0)])
    alone = _nearest(study, norm, plain, [])
    return Row((name,), [*cells, _toll(alone, nearest, study.seed)])


def _nearest(study: Study, norm: Ball, detector: Detector, more: list[Try]) -> np.ndarray:
    """Distance at which each image is first won; infinite where it never is."""
    runs = [one for results in study.runs(norm).values() for one in results] + [study.ran(norm, one) for one in more]
    return np.min([np.where(won(study, detector, one, LEVEL), one["distance"], np.inf) for one in runs], axis=0)


def _toll(alone: np.ndarray, both: np.ndarray, seed: int) -> Number:
    """The ratio of the radii at which `WANTED` of the images are won, and its interval."""

    def ratio(rows: np.ndarray) -> float:
        first, second = (float(np.quantile(values[rows], WANTED, method="higher")) for values in (alone, both))
        return second / first if np.isfinite(first) and first > 0 else np.nan

    every = np.arange(len(alone))
    middle = ratio(every)
    if not np.isfinite(middle):
        return Number(None, n=(len(alone),), reason="fewer than half of the images are won at the largest radius")
    random = np.random.default_rng(seed)
    drawn = [ratio(random.choice(every, len(every))) for _ in range(RESAMPLES)]
    drawn = [one for one in drawn if not np.isnan(one)]
    low, high = np.quantile(drawn, (0.025, 0.975), method="nearest")
    return Number(middle, n=(len(alone),), interval=(float(low), float(high)))
