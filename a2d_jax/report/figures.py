"""Figures: distributions and ROC curves of a number, shares flagged along a day, p-values of a shift.

The figures of a page have one plot each and are as narrow as a phone. `overview` has all plots of several numbers side by side, as a file.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from a2d_jax.errors import BadInput
from a2d_jax.report import panels as plots
from a2d_jax.report.ink import COLOURS, INK, inked
from a2d_jax.report.panels import FAINT, QUIET, Panel

WIDTH = 4.0  # inches of a figure of a page: on a phone of 375 pixels its letters are as large as the page's small ones


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
    high = max(panel.height for panel in panels)
    drawn = Figure(figsize=(3.7 * len(panels) + 0.6, high + 7), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.12))
    FigureCanvasAgg(drawn)
    rows = drawn.subplots(3, len(panels), squeeze=False, height_ratios=[high, 3.5, 3.5])
    for column, panel in enumerate(panels):
        plots.distributions(rows[0, column], panel)
        plots.roc(rows[1, column], panel, logarithmic=False)
        rows[1, column].legend(title="set, AUROC", loc="lower right", fontsize=9, title_fontsize=9)
        plots.roc(rows[2, column], panel, logarithmic=True)
    for row in (1, 2):
        rows[row, 0].set_ylabel("adversarial images caught")
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
    drawn, axes = _begun(panel.height, width)
    plots.distributions(axes, panel)
    return drawn


@inked()
def roc(panel: Panel, *, logarithmic: bool = False) -> Figure:
    """ROC curves of one number, with a mark at its threshold.

    Args:
      panel: the number, of benign images and at least one other set.
      logarithmic: of the false positives. The curves are then stairs: what a threshold can do, without interpolation.
    """
    drawn, axes = _begun(3.9)
    plots.roc(axes, panel, logarithmic)
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
    axes.set_xlabel(plots.wrapped(name, 50), fontsize=9)
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
        plots.unit_square(axes)
        axes.set_title(f"p-values of {name}", fontsize=12)
        axes.set_xlabel("conformal p-value among old images", fontsize=9)
        axes.legend(loc="lower right", fontsize=9)
    drawn.axes[0].set_ylabel("share of new images below")
    return drawn


def _begun(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    drawn = Figure(figsize=(width, height), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05))
    FigureCanvasAgg(drawn)
    return drawn, drawn.subplots()
