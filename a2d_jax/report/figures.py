"""Figures: distributions of a number by set, ROC curves, shares flagged along a day, p-values of a shift.

The figures of a page have one plot each and are as narrow as a phone. `overview` has all plots of several numbers side by side, as a file.
A figure does not grow with the number of images: distributions are binned, and curves are thinned to what an eye can see.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter
from sklearn.metrics import roc_curve

from a2d_jax import metrics
from a2d_jax.errors import BadInput
from a2d_jax.report.ink import COLOURS, INK, inked

BINS = 36  # of a histogram, from the smallest number to the largest; fewer where they would be narrower than one iteration
FILLED = 0.8  # of the height of a set's band
WIDTH = 4.0  # inches of a figure of a page: on a phone of 375 pixels its letters are as large as the page's small ones
FAINT, QUIET = (INK, 0.25), (INK, 0.55)
LINE = "#d55e00"  # of a threshold
POINTS = 200  # of a curve, at most
CROWDED = 4  # spans of the middle 99 % that the axis of a number may have; what lies beyond is drawn at its ends
PATTERNS: Sequence[Any] = ("-", (0, (4, 2)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))

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
    def suspicion(self) -> dict[str, Float[np.ndarray, " n"]]:
        """By set: the same numbers, higher where they are more suspicious."""
        return {name: values.astype(float) * (1 if self.kind == "score" else -1) for name, values in self.values.items()}

    @property
    def line(self) -> float | None:
        """Where the line of the threshold stands: between two whole costs."""
        return None if self.threshold is None else self.threshold - 0.5 * (self.kind == "cost")


def figure(costs: Mapping[str, Int[np.ndarray, "n attacks"]], attacks: Sequence[str], *, max_costs: Sequence[int] | None = None) -> Figure:
    """Distributions of costs and ROC curves, one column per attack used as defence; see `overview`.

    Args:
      costs: tables by set of images; the first set is the benign one.
      attacks: names of the columns of every table.
      max_costs: cost of a failure of each attack, `max_steps + 1`; such costs are drawn apart. None: no cost means failure.

    Raises:
      BadInput: fewer than two sets, or a table that is empty or has another number of columns.
    """
    for name, table in costs.items():
        if table.ndim != 2 or len(table) == 0 or table.shape[1] != len(attacks):
            raise BadInput(f"expected costs of shape (images, {len(attacks)}) for {name}, got {table.shape}; give one column per attack")
    return overview(
        [
            Panel(attack, {name: table[:, column] for name, table in costs.items()}, most=None if max_costs is None else max_costs[column])
            for column, attack in enumerate(attacks)
        ]
    )


@inked()
def overview(panels: Sequence[Panel]) -> Figure:
    """Distributions (above) and ROC curves on a linear and on a logarithmic axis (below), one column per number.

    Costs and numbers count as negative scores: a curve below the diagonal belongs to a set that is *harder* to attack than benign images.

    Raises:
      BadInput: no number, or one of fewer than two sets.
    """
    for panel in panels or [Panel("", {})]:
        if len(panel.values) < 2:
            raise BadInput(f"expected benign costs and at least one other set, got {len(panel.values)} set(s); give both")
    high = 0.62 * max(len(panel.values) for panel in panels) + 0.9
    drawn = Figure(figsize=(3.7 * len(panels) + 0.6, high + 7), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.12))
    FigureCanvasAgg(drawn)
    plots = drawn.subplots(3, len(panels), squeeze=False, height_ratios=[high, 3.5, 3.5])
    for column, panel in enumerate(panels):
        _distributions(plots[0, column], panel)
        _roc(plots[1, column], panel, logarithmic=False)
        plots[1, column].legend(title="set, AUROC", loc="lower right", fontsize=9, title_fontsize=9)
        _roc(plots[2, column], panel, logarithmic=True)
    for row in (1, 2):
        plots[row, 0].set_ylabel("adversarial images caught")
    return drawn


def distributions(
    costs: Mapping[str, Int[np.ndarray, " n"]], attack: str, *, max_cost: int | None = None, threshold: int | None = None
) -> Figure:
    """Distributions of one attack's costs, and the line from which a detector calls an image benign.

    Args:
      costs: by set of images; the first set is the benign one.
      attack: its name.
      max_cost: cost of a failure, `max_steps + 1`; such costs are drawn apart. None: no cost means failure.
      threshold: the smallest cost of a benign verdict; None draws no line.
    """
    return spread(Panel(attack, costs, most=max_cost, threshold=threshold), 7.4)


@inked()
def spread(panel: Panel, width: float = WIDTH) -> Figure:
    """Distributions of one number with its threshold, `width` inches wide."""
    drawn, axes = _begun(0.62 * len(panel.values) + 0.9, width)
    _distributions(axes, panel)
    return drawn


@inked()
def roc(panel: Panel, *, logarithmic: bool = False) -> Figure:
    """ROC curves of one number, with a mark at its threshold.

    Args:
      panel: the number, of benign images and at least one other set.
      logarithmic: of the false positives. The curves are then stairs: what a threshold can do, without interpolation.
    """
    drawn, axes = _begun(3.9)
    _roc(axes, panel, logarithmic)
    axes.set_ylabel("adversarial images caught")
    handles, names = axes.get_legend_handles_labels()
    drawn.set_size_inches(WIDTH, 3.9 + 0.17 * sum(name.count("\n") + 1 for name in names))
    drawn.legend(handles, names, loc="outside lower left", fontsize=9, labelspacing=0.3, borderpad=0.1)
    return drawn


@inked()
def shares(
    edges: np.ndarray,
    share: Float[np.ndarray, " bins"],
    low: Float[np.ndarray, " bins"],
    high: Float[np.ndarray, " bins"],
    name: str,
    overall: float,
) -> Figure:
    """Share of images flagged along their index or time, with its intervals.

    Args:
      edges: borders of the bins, numbers or datetime64, `bins + 1`.
      share: flagged in each bin; NaN in a bin without images.
      low: lower ends of the intervals.
      high: upper ends.
      name: of the axis.
      overall: the share of all images.
    """
    drawn, axes = _begun(2.6)
    timed = edges.dtype.kind == "M"
    middle = edges[:-1] + (edges[1:] - edges[:-1]) / 2
    axes.vlines(middle, low, high, color=COLOURS[2], linewidth=1.4, alpha=0.55)
    axes.plot(middle, share, "o", markersize=4, color=COLOURS[2])
    axes.axhline(overall, color=QUIET, linewidth=1, linestyle="--")
    axes.set_ylim(0, min(max(1.08 * float(np.nanmax(high)), 0.02), 1.02))
    axes.set_xlim(edges[0], edges[-1])
    if timed:
        locator = AutoDateLocator(maxticks=5)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="y", color=INK, alpha=0.12)
    axes.tick_params(labelsize=9)
    axes.set_xlabel(_wrapped(name, 50), fontsize=9)
    axes.set_ylabel("images flagged", fontsize=9)
    return drawn


@inked()
def shift_figure(p_values: Mapping[str, Float[np.ndarray, " n"]], level: float) -> Figure:
    """Distributions of the conformal p-values of new benign images, one panel per attack. The diagonal means no shift.

    A curve above the diagonal means that the images look more adversarial than those of the calibration. The height of the curve at the
    level of a detector is the share of new images that it flags.

    Args:
      p_values: of new images, by attack.
      level: of false alarms.

    Raises:
      BadInput: no attack, or one without p-values.
    """
    if not p_values or not all(len(p) for p in p_values.values()):
        raise BadInput(f"expected p-values of at least one image and attack, got {len(p_values)} attack(s); give some")
    drawn = Figure(figsize=(3.7 * len(p_values) + 0.6, 4), dpi=120, layout=ConstrainedLayoutEngine())
    FigureCanvasAgg(drawn)
    for axes, (name, p) in zip(drawn.subplots(1, len(p_values), squeeze=False)[0], p_values.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, label="no shift")
        axes.ecdf(p, color=COLOURS[2], linewidth=2, label=f"{len(p)} new images")
        axes.axvline(level, color=QUIET, linewidth=0.8, linestyle=":", label=f"level {level:g}: {np.mean(p < level):.1%} flagged")
        _unit_square(axes)
        axes.set_title(f"p-values of {name}", fontsize=12)
        axes.set_xlabel("conformal p-value among old images", fontsize=9)
        axes.legend(loc="lower right", fontsize=9)
    drawn.axes[0].set_ylabel("share of new images below")
    return drawn


def _begun(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    drawn = Figure(figsize=(width, height), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05))
    FigureCanvasAgg(drawn)
    return drawn, drawn.subplots()


def _distributions(axes: Axes, panel: Panel) -> None:
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
    axes.set_ylim(-0.06, len(sets))
    if panel.kind == "cost":
        ticks = [tick for tick in (1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 100000, 1000000) if edges[0] < tick < edges[-1] / 1.5]
        axes.set_xticks(ticks + ([] if most is None else [beyond(0.13)]))
        axes.set_xticklabels([f"{tick:g}" for tick in ticks] + ([] if most is None else ["failed"]))
        axes.xaxis.set_minor_locator(NullLocator())
    elif not logarithmic:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="x", labelsize=9)
    if most is not None:
        axes.axvline(beyond(0.04), color=QUIET, linewidth=0.8, linestyle=":")
    axes.set_yticks(
        [len(sets) - 1 - row + FILLED / 2 for row in range(len(sets))],
        [f"{_wrapped(name, 18)}\nmedian {_median(values, most)}" for name, values in sets.items()],
        fontsize=9,
    )
    axes.tick_params(axis="y", length=0)
    axes.set_title(_wrapped(panel.title, 34), fontsize=12)
    axes.set_xlabel(_wrapped(panel.axis, 50), fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if panel.line is not None:
        _divided(axes, panel.line, len(sets) - 0.15, panel.kind == "score")


def _divided(axes: Axes, line: float, height: float, flagged_above: bool) -> None:
    """The line of a threshold, with a word on each side that has room for it."""
    line = max(line, axes.get_xlim()[0])  # of a logarithmic axis: below every cost
    axes.axvline(line, color=LINE, linewidth=1.2)
    place = axes.transAxes.inverted().transform(axes.transData.transform((line, height)))[0]
    left, right = ("benign", "flagged") if flagged_above else ("flagged", "benign")
    if place > 0.15:
        axes.annotate(f"{left}  ", (line, height), color=LINE, ha="right", va="top", fontsize=9)
    if place < 0.85:
        axes.annotate(f"  {right}", (line, height), color=LINE, ha="left", va="top", fontsize=9)


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


def _roc(axes: Axes, panel: Panel, logarithmic: bool) -> None:
    """Curves that are the same are all visible: the first is the widest, the others are narrower and broken."""
    (_, benign), *others = panel.suspicion.items()
    least = 0.5 / len(benign)  # where no false positive at all is drawn
    chance = np.geomspace(least, 1, 50) if logarithmic else np.array([0, 1])
    axes.plot(chance, chance, color=FAINT, linewidth=0.8)
    at = None if panel.threshold is None else panel.threshold if panel.kind == "score" else -panel.threshold
    for number, (name, adversarial) in enumerate(others, start=1):
        fpr, tpr, _ = roc_curve(
            np.repeat([0, 1], [len(benign), len(adversarial)]), np.concatenate([benign, adversarial]), drop_intermediate=not logarithmic
        )
        style: dict[str, Any] = {"color": _colour(number), "linestyle": _pattern(number), "solid_capstyle": "butt"}
        style |= {"linewidth": 2 if len(others) == 1 else np.linspace(3.8, 1.6, len(others))[number - 1], "dash_capstyle": "butt"}
        if logarithmic:
            last = np.append(np.diff(fpr) > 0, True)  # of the points with the same false positives
            x, y = _thinned(np.maximum(fpr[last], least), tpr[last], logarithmic)
            style["drawstyle"] = "steps-post"
        else:
            x, y = _thinned(fpr, tpr, logarithmic)
        label = f"{_wrapped(name, 38)}  {metrics.auroc(benign, adversarial):.3f}"
        axes.plot(x, y, label=label, **style)
        if at is not None:
            false, caught = float(np.mean(benign > at)), float(np.mean(adversarial > at))
            axes.plot([max(false, least) if logarithmic else false], [caught], "o", markersize=6, color=LINE, zorder=4, clip_on=False)
    _unit_square(axes)
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
    axes.set_title(_wrapped(f"detection by {named}", 34), fontsize=12)
    axes.set_xlabel(f"benign images flagged{' (logarithmic)' * logarithmic}", fontsize=9)


def _unit_square(axes: Axes) -> None:
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


def _thinned(x: np.ndarray, y: np.ndarray, logarithmic: bool) -> tuple[np.ndarray, np.ndarray]:
    """At most `POINTS` points of a curve, evenly along its length, with the first and the last."""
    if len(x) <= POINTS:
        return x, y
    across = np.abs(np.diff(np.log(x) / -np.log(x[0]) if logarithmic else x))
    length = np.concatenate([[0], np.cumsum(across + np.abs(np.diff(y)))])
    kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], POINTS)).clip(max=len(x) - 1))
    return x[kept], y[kept]


def _edges(highest: int) -> np.ndarray:
    """Edges of bins of about equal width on a logarithmic axis; each holds at least one whole number, 0 falls into the first."""
    return np.unique(np.round(np.geomspace(1, highest + 1, BINS + 1))) - 0.5


def _median(values: np.ndarray, most: int | None) -> str:
    middle = float(np.median(values))
    return f"{middle:{'g' if values.dtype.kind in 'iu' else '.4g'}}" if most is None or middle < most else f"> {most - 1}"


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _pattern(number: int) -> Any:
    return PATTERNS[(number - 1) % len(PATTERNS)]


def _wrapped(name: str, width: int) -> str:
    return "\n".join(textwrap.wrap(name, width)) or " "
