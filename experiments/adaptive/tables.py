"""Blocks of the page: curves, tables of joint success, targets, checks, and what sees images that passed."""

from collections.abc import Mapping, Sequence

import numpy as np

from a2d_jax.adaptive import Audit, Finding
from a2d_jax.adaptive.audited import WORST
from a2d_jax.metrics import rate_interval
from experiments.adaptive.attackers import GUARDED
from experiments.adaptive.detectors import COST, LEVEL, TITLES
from experiments.adaptive.study import Study
from experiments.adaptive.subjects import Ball
from experiments.pages.blocks import Block, Lines, Number, Row, Table

UNITS = {"linf": "Linf", "l2": "L2"}


def title(norm: Ball, epsilon: float, network: str) -> str:
    """A radius as people write it."""
    if norm == "linf" and network not in ("MNIST", "MNIST-AT", "LeNet-5", "digits"):
        return f"{epsilon * 255:.3g}/255"
    return f"{epsilon:.3g}"


def joint(study: Study, norm: Ball, made: Audit) -> list[Block]:
    """The detector of BIM's cost: what each attacker wins at 5 % false positives, the worst case, the ceiling, and a figure of them."""
    point = next(one for one in made.points if one.level == LEVEL)
    names = [one.attacker for one in made.curves if one.level == LEVEL]
    columns = [title(norm, epsilon, study.name) for epsilon in made.budgets]
    rows = [
        Row((name,), [_number(study, share, low, high) for share, low, high in zip(one.success, one.low, one.high, strict=True)])
        for name in names
        for one in (made.curve(name, LEVEL),)
    ]
    worst, plain = made.curve(level=LEVEL), made.curve()
    if worst.ceiling is not None:
        rows.append(Row(("ceiling",), [Number(share, n=(made.images,)) for share in worst.ceiling]))
    rows.append(Row(("misclassified, no detector",), [Number(share, n=(made.images,)) for share in plain.success]))
    fresh = "" if point.fpr is None else f" It flags {point.fpr[0]:.1%} of fresh benign images."
    toll = "" if point.rho is None else f" An accepted image needs a radius of {title('linf', point.rho, study.name)} in Linf (the toll)."
    alone = (
        f" Selective and orthogonal PGD, survival ascent and the paper's loss ran at {title(norm, study.chosen(norm), study.name)} alone."
    )
    once = alone if study.subject.compared else ""
    note = f"Detector: {TITLES[COST]}, at 5 % false positives.{fresh}{toll}{once} What was won at a smaller radius counts at larger ones."
    series = {"worst case": worst.success, **({"ceiling": worst.ceiling} if worst.ceiling else {}), "no detector": plain.success}
    x = np.asarray(made.budgets)
    return [
        Table(f"{study.name}, {UNITS[norm]}: joint success by radius", ("attacker",), columns, rows, decimals=3, note=note),
        Lines(
            f"{study.name}, {UNITS[norm]}, 5 % false positives",
            f"radius, {UNITS[norm]}",
            "share of images won",
            {name: np.stack([x, np.asarray(shares)], axis=1) for name, shares in series.items()},
        ),
    ]


def _number(study: Study, share: float, low: float, high: float) -> Number:
    return Number(share, n=(len(study.parts[2]),), interval=(low, high))


def across(study: Study, norm: Ball, audits: Mapping[str, Audit]) -> Block:
    """The worst case over all attackers, for each detector and rate of false positives."""
    columns = [title(norm, epsilon, study.name) for epsilon in study.subject.budgets[norm]]
    rows = [
        Row(
            (TITLES[name], f"{point.level:.0%}"),
            [
                _number(study, *found)
                for one in (made.curve(WORST, point.level),)
                for found in zip(one.success, one.low, one.high, strict=True)
            ],
        )
        for name, made in audits.items()
        for point in made.points
    ]
    note = "The worst case of an image is the best of all attackers (MEAD). Attackers of one detector are judged by all others too."
    return Table(f"{study.name}, {UNITS[norm]}: worst case by detector", ("detector", "false positives"), columns, rows, 3, note)


def targets(study: Study, audits: dict[tuple[Ball, str], Audit]) -> Block | None:
    """What was asked, and what was reached."""
    rows: list[Row] = []
    for target in study.subject.targets:
        made = audits[target.norm, COST]
        place = made.budgets.index(target.epsilon)
        worst, guarded, plain = made.curve(level=LEVEL), made.curve(GUARDED, LEVEL), made.curve()
        band = (target.joint, 1.0)
        most = "" if worst.ceiling is None else f", and the ceiling is {worst.ceiling[place]:.3f}"
        why = f"Without a detector {plain.success[place]:.3f} of these images are misclassified{most}."
        hits = Number(worst.success[place], None, (made.images,), (worst.low[place], worst.high[place]), band, why)
        behind = worst.success[place] - guarded.success[place]
        rows.append(
            Row(
                (UNITS[target.norm], title(target.norm, target.epsilon, study.name)),
                [hits, Number(behind, None, (made.images,), None, (0.0, 0.1))],
            )
        )
    if not rows:
        return None
    note = f"Detector: {TITLES[COST]}, at 5 % false positives. Asked: the band of each number."
    return Table(
        f"{study.name}: what was asked of the attack", ("norm", "radius"), ("joint success", "best less guarded PGD"), rows, 3, note
    )


def checks(study: Study, norm: Ball, found: Sequence[Finding]) -> Block:
    """The checks with their sentences."""
    rows = [
        Row((one.name,), ["" if one.number is None else Number(one.number), "fires" if one.fires else "silent", one.sentence])
        for one in found
    ]
    return Table(f"{study.name}, {UNITS[norm]}: checks of the attacks", ("check",), ("number", "", "in words"), rows, 3)


def interval(hits: np.ndarray) -> Number:
    """A share with its interval."""
    low, high = rate_interval(hits)
    return Number(float(hits.mean()), n=(len(hits),), interval=(low, high))
