"""Plots of one number: its distributions by set with a threshold, and its ROC curves, drawn into given axes.

A plot does not grow with the number of images: distributions are binned, and curves are thinned to what an eye can see.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter
from sklearn.metrics import roc_curve

from a2d_jax import metrics
from a2d_jax.report.ink import COLOURS, INK

BINS = 36  # of a histogram, from the smallest number to the largest; fewer where they would be narrower than one iteration
FILLED = 0.8  # of the height of a set's band
FAINT, QUIET = (INK, 0.25), (INK, 0.55)
LINE = "#d55e00"  # of a threshold
NAMES = 18  # letters in a line of the name of a set
POINTS = 200  # of a curve, at most
CROWDED = 4  # spans of the middle 99 % that the axis of a number may have; what lies beyond is drawn at its ends
PATTERNS: Sequence[Any] = ((0, (4, 2)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))  # of all curves but the first
DASH = 4.0  # widths of a line: where curves are the same, their colours take turns

Kind = Literal["cost", "number", "score"]


@dataclass(frozen=True)
class Panel:
    """One number of every image, by set.

    Attributes:
      name: of the attack, the number or the detector.
      values: by set, each `n`; the benign set is the first one.
      kind: a cost counts iterations; low costs and numbers are suspicious, and high scores.
      most: cost of a failure, `max_steps + 1`; such costs are drawn apart. None: no cost means failure.
      threshold: the smallest cost or number of a benign verdict; a score is adversarial above it. None draws no line.
    """

    name: str
    values: Mapping[str, np.ndarray]
    kind: Kind = "cost"
    most: int | None = None
    threshold: float | None = None

    @property
    def title(self) -> str:
        """The number in words."""
        return {"cost": f"cost of {self.name}", "number": self.name, "score": f"score of {self.name}"}[self.kind]

    @property
    def axis(self) -> str:
        """The number and its unit."""
        if self.kind == "cost":
            return "iterations until success" + ("" if self.most is None else f", at most {self.most - 1}")
        return self.name if self.kind == "number" else "score; higher is more adversarial"

    @property
    def height(self) -> float:
        """Inches that the distributions take: the names of all sets can be read beside them."""
        lines = max((wrapped(name, NAMES).count("\n") + 2 for name in self.values), default=0)
        return max(0.62, 0.15 * lines + 0.12) * len(self.values) + 0.9

    @property
    def suspicion(self) -> dict[str, Float[np.ndarray, " n"]]:
        """By set: the same numbers, higher where they are more suspicious."""
        return {name: values.astype(float) * (1 if self.kind == "score" else -1) for name, values in self.values.items()}

    @property
    def line(self) -> float | None:
        """Where the line of the threshold stands: between two whole costs."""
        return None if self.threshold is None else self.threshold - 0.5 * (self.kind == "cost")


def distributions(axes: Axes, panel: Panel) -> None:
    """One band per set: a histogram, failures as a hatched bar at the right, a triangle at the median, and the line of the threshold."""
    sets, most = panel.values, panel.most
    succeeded = {name: values if most is None else values[values < most] for name, values in sets.items()}
    edges, logarithmic = _bins(panel, succeeded)
    place = np.log10 if logarithmic else np.asarray
    widths = np.diff(place(edges))
    inside = {name: np.clip(values, edges[0], np.nextafter(edges[-1], -np.inf)) for name, values in succeeded.items()}
    density = {name: np.histogram(values, edges)[0] / len(sets[name]) / widths for name, values in inside.items()}
    peak = max(float(d.max()) for d in density.values()) or 1.0

    def beyond(share: float) -> float:
        """A place to the right of all bins, as a share of their width."""
        end = place(edges[-1]) + share * (place(edges[-1]) - place(edges[0]))
        return float(10**end if logarithmic else end)

    for row, (name, values) in enumerate(sets.items()):
        base, colour = len(sets) - 1 - row, _colour(row)
        axes.stairs(base + FILLED * density[name] / peak, edges, baseline=base, fill=True, color=colour, alpha=0.8)
        axes.axhline(base, color=FAINT, linewidth=0.6, zorder=0)
        if failed := 1 - len(succeeded[name]) / len(values):
            axes.fill_between([beyond(0.08), beyond(0.18)], base, base + FILLED * failed, facecolor="none", edgecolor=colour, hatch="/////")
            axes.text(beyond(0.13), base + FILLED * failed + 0.03, f"{failed:.0%}", ha="center", va="bottom", fontsize=8)
        axes.plot([np.clip(np.median(values), edges[0], edges[-1])], [base], marker="^", markersize=6, color=INK, clip_on=False, zorder=3)
    axes.set_xscale("log" if logarithmic else "linear")
    axes.set_xlim(edges[0], edges[-1] if most is None else beyond(0.22))
    axes.set_ylim(-0.06, len(sets) + (0 if panel.line is None else 0.15))
    if panel.kind == "cost":
        ticks = [tick for tick in (1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 100000, 1000000) if edges[0] < tick < edges[-1] / 1.5]
        axes.set_xticks(ticks + ([] if most is None else [beyond(0.13)]))
        axes.set_xticklabels([f"{tick:g}" for tick in ticks] + ([] if most is None else ["failed"]))
        axes.xaxis.set_minor_locator(NullLocator())
    elif logarithmic:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="x", labelsize=9)
    if most is not None:
        axes.axvline(beyond(0.04), color=QUIET, linewidth=0.8, linestyle=":")
    axes.set_yticks(
        [len(sets) - 1 - row + FILLED / 2 for row in range(len(sets))],
        [f"{wrapped(name, NAMES)}\nmedian {_median(values, most)}" for name, values in sets.items()],
        fontsize=9,
    )
    axes.tick_params(axis="y", length=0)
    axes.set_title(wrapped(panel.title, 34), fontsize=12)
    axes.set_xlabel(wrapped(panel.axis, 50), fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if panel.line is not None:
        _divided(axes, panel.line, len(sets) + 0.1, panel.kind == "score")


def _divided(axes: Axes, line: float, height: float, flagged_above: bool) -> None:
    """The line of a threshold, with a word on each side that has room for it."""
    line = max(line, axes.get_xlim()[0])  # of a logarithmic axis: below every cost
    axes.axvline(line, color=LINE, linewidth=1.2)
    place = axes.transAxes.inverted().transform(axes.transData.transform((line, height)))[0]
    left, right = ("benign", "flagged") if flagged_above else ("flagged", "benign")
    if place > 0.15:
        axes.annotate(left, (line, height), (-4, 0), textcoords="offset points", color=LINE, ha="right", va="top", fontsize=9)
    if place < 0.85:
        axes.annotate(right, (line, height), (4, 0), textcoords="offset points", color=LINE, ha="left", va="top", fontsize=9)


def _bins(panel: Panel, succeeded: Mapping[str, np.ndarray]) -> tuple[np.ndarray, bool]:
    """Edges of bins, and whether they lie on a logarithmic axis. The threshold lies among them.

    A number may have few values far from all others. The axis then ends near the others, and these are counted in the outermost bins.
    """
    line = [] if panel.line is None else [panel.line]
    if panel.kind == "cost":
        return _edges(max([10, *(int(values.max()) for values in succeeded.values() if len(values)), *(int(one) for one in line)])), True
    values = np.concatenate([*(values.astype(float) for values in succeeded.values()), line])
    low, high = float(values.min()), float(values.max())
    if panel.kind == "number" and low > 0 and high / low > 30:
        return np.geomspace(low, high, BINS + 1), True
    middle = np.quantile(values, [0.005, 0.995])
    span = float(middle[1] - middle[0])
    if span > 0 and high - low > CROWDED * span:
        low, high = (max(low, float(middle[0]) - span / 4), min(high, float(middle[1]) + span / 4))
        low, high = (min([low, *line]), max([high, *line]))
    room = (high - low) * 0.02 or max(abs(low), 1.0) * 0.1
    return np.linspace(low - room, high + room, BINS + 1), False


def roc(axes: Axes, panel: Panel, logarithmic: bool) -> None:
    """All curves are visible: where several are the same, their dashes take turns; the others are the narrower the later they come."""
    (_, benign), *others = panel.suspicion.items()
    least = 0.5 / len(benign)  # where no false positive at all is drawn
    chance = np.geomspace(least, 1, 50) if logarithmic else np.array([0, 1])
    axes.plot(chance, chance, color=FAINT, linewidth=0.8)
    at = None if panel.threshold is None else panel.threshold if panel.kind == "score" else -panel.threshold
    curves = [_curve(benign, adversarial, least if logarithmic else None) for _, adversarial in others]
    same = [curve.tobytes() for curve in curves]
    for number, ((name, adversarial), curve) in enumerate(zip(others, curves, strict=True), start=1):
        turns, turn = same.count(same[number - 1]), same[: number - 1].count(same[number - 1])
        style: dict[str, Any] = {"color": _colour(number), "linestyle": PATTERNS[(number - 2) % 3] if number > 1 else "-"}
        style["linewidth"] = 2 if len(others) == 1 else np.linspace(3.8, 1.6, len(others))[number - 1]
        if turns > 1:
            style |= {"linestyle": (DASH * turn, (DASH, DASH * (turns - 1))), "linewidth": 2.4}
        style |= {"solid_capstyle": "butt", "dash_capstyle": "butt", "drawstyle": "steps-post" if logarithmic else "default"}
        axes.plot(*curve, **style)
        style |= {"linestyle": "-"} if turns > 1 else {}  # the dashes of a turn may lie beside the short line of a legend
        axes.plot([], [], label=f"{wrapped(name, 38)}  {metrics.auroc(benign, adversarial):.3f}", **style)
        if at is not None:
            false, caught = float(np.mean(benign > at)), float(np.mean(adversarial > at))
            axes.plot([max(false, least) if logarithmic else false], [caught], "o", markersize=6, color=LINE, zorder=4, clip_on=False)
    unit_square(axes)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    if logarithmic:
        axes.set_aspect("auto")
        axes.set_box_aspect(1)
        axes.set_xscale("log")
        axes.set_xlim(least, 1.03)
        axes.set_xticks([tick for tick in 10.0 ** np.arange(-7, 1) if tick >= least])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
        axes.xaxis.set_minor_locator(NullLocator())
        for rate in (0.01, 0.05):
            if rate > least:
                axes.axvline(rate, color=QUIET, linewidth=0.8, linestyle=":")
    if at is not None:
        false = float(np.mean(benign > at))
        axes.axvline(max(false, least) if logarithmic else false, color=LINE, linewidth=1, zorder=1.5)
    named = {"cost": f"{panel.name} cost", "number": panel.name, "score": f"the score of {panel.name}"}[panel.kind]
    axes.set_title(wrapped(f"detection by {named}", 34), fontsize=12)
    axes.set_xlabel(f"benign images flagged{' (logarithmic)' * logarithmic}", fontsize=9)


def _curve(benign: np.ndarray, adversarial: np.ndarray, least: float | None) -> np.ndarray:
    """A ROC curve, `2 points`; with `least` the stairs of a logarithmic axis that begins there."""
    truth = np.repeat([0, 1], [len(benign), len(adversarial)])
    fpr, tpr, _ = roc_curve(truth, np.concatenate([benign, adversarial]), drop_intermediate=least is None)
    if least is None:
        return _thinned(fpr, tpr, fpr)
    last = np.append(np.diff(fpr) > 0, True)  # of the points with the same false positives
    fpr, tpr = np.maximum(fpr[last], least), tpr[last]
    return _thinned(fpr, tpr, np.log(fpr) / -np.log(least))


def unit_square(axes: Axes) -> None:
    """Both axes from 0 to 1, heights in per cent."""
    axes.set_aspect("equal")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks([0, 0.5, 1])
    axes.grid(color=INK, alpha=0.1)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _thinned(x: np.ndarray, y: np.ndarray, place: np.ndarray) -> np.ndarray:
    """At most `POINTS` points of a curve, evenly along its length on the page, with the first and the last.

    Args:
      x: of the points.
      y: of the points.
      place: of `x` along its axis.
    """
    if len(x) > POINTS:
        length = np.concatenate([[0], np.cumsum(np.abs(np.diff(place)) + np.abs(np.diff(y)))])
        kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], POINTS)).clip(max=len(x) - 1))
        x, y = x[kept], y[kept]
    return np.stack([x, y])


def _edges(highest: int) -> np.ndarray:
    """Edges of bins of about equal width on a logarithmic axis; each holds at least one whole number, 0 falls into the first."""
    return np.unique(np.round(np.geomspace(1, highest + 1, BINS + 1))) - 0.5


def _median(values: np.ndarray, most: int | None) -> str:
    middle = float(np.median(values))
    return f"{middle:{'g' if values.dtype.kind in 'iu' else '.4g'}}" if most is None or middle < most else f"> {most - 1}"


def _colour(number: int) -> str:
    """Of a set; the ink is that of the benign one alone."""
    return COLOURS[1 + (number - 1) % (len(COLOURS) - 1)] if number else INK


def wrapped(name: str, width: int) -> str:
    """A name on lines of at most `width` letters; never empty, which matplotlib would leave out."""
    return "\n".join(textwrap.wrap(name, width)) or " "
