"""Figures of the paper as SVG that lies within a page of HTML, and the key numbers of each as a sentence.

The text and the axes take the colour of the page's text (`currentColor`) and the ground is transparent, so that a figure is legible in
light and in dark mode. The first series, the benign set, has this colour too. The same block gives the same text. Names lie to the left of
their boxes and bars, where long ones can be read on a phone.
"""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cbook import boxplot_stats
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import NullFormatter
from scipy.stats import spearmanr

from a2d_jax import report
from a2d_jax.report import INK
from experiments.pages.blocks import Bars, Boxes, Images, Lines, Matrix, Scatter

PUBLISHED = "(published)"
DRAWN = 1000  # points of a series, at most: each costs 80 bytes of the page
MARKERS = "os^Dv<>P"
WIDER = 3  # curves of a figure, at most, of which the first are drawn wider
WIDTH = 4.0  # inches: on a phone of 375 pixels the letters are then as large as here, or larger
NOTHING, TIMES, RHO = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}", "\N{GREEK SMALL LETTER RHO}"
Drawable = Boxes | Scatter | Lines | Bars | Matrix


def svg(block: Drawable, key: str) -> str:
    """Draw a figure.

    Args:
      block: what to draw.
      key: begins every id in the text; unique on the page.

    Returns:
      The element `svg` with its key numbers as accessible text; "" if the block holds nothing.
    """
    if _empty(block):
        return ""
    with report.inked():
        return report.inline(_DRAW[type(block)](block), key, f"{block.title}. {described(block)}")


def described(block: Drawable | Images) -> str:
    """The key numbers of a figure, as one line of text."""
    if _empty(block):
        return "Nothing was measured."
    match block:
        case Boxes():
            return (
                f"Medians, {block.y}: {'; '.join(f'{name} {_median(values)} ({_size(values)})' for name, values in block.groups.items())}."
            )
        case Scatter():
            return f"Rank correlations: {'; '.join(_correlation(name, points) for name, points in block.series.items())}."
        case Lines():
            return f"Curves, {block.y} over {block.x}: {'; '.join(_ends(name, points) for name, points in block.series.items())}."
        case Bars():
            return f"Bars, {block.y}: {'; '.join(_heights(name, block.groups, heights) for name, heights in block.series.items())}."
        case Matrix():
            return _extremes(block)
        case Images():
            return (
                f"{len(block.rows)} {TIMES} {len(block.columns)} images; rows {', '.join(block.rows)}; columns {', '.join(block.columns)}."
            )


def _empty(block: Drawable | Images) -> bool:
    match block:
        case Boxes():
            return not any(len(values) for values in block.groups.values())
        case Scatter() | Lines():
            return not any(len(points) for points in block.series.values())
        case Bars():
            return not block.groups or not block.series
        case Matrix():
            return not block.names
        case Images():
            return not block.rows or not block.columns


def _boxes(block: Boxes) -> Figure:
    """Horizontal boxes. Lines end at the farthest point within 1.5 heights of the box, as matplotlib has it; points lie beyond."""
    names = [f"{_wrapped(name, 20)}\nmedian {_median(values)}, {_size(values)}" for name, values in block.groups.items()]
    drawn, axes = _begun((0.2 + 0.14 * max(name.count("\n") + 1 for name in names)) * len(names) + 0.7)
    finite = {name: values[np.isfinite(values)] for name, values in block.groups.items()}
    if block.log:
        _logarithms(axes, np.concatenate(list(finite.values())))
    for row, (values, (colour, _)) in enumerate(zip(finite.values(), _numbered(finite), strict=True)):
        if not len(values):
            continue
        (stats,) = boxplot_stats(values)
        low, left, median, right, high = (stats[name] for name in ("whislo", "q1", "med", "q3", "whishi"))
        axes.plot([low, left, np.nan, right, high], [row] * 5, color=colour, linewidth=1.2)
        axes.plot([low, low, np.nan, high, high], row + np.array([-0.15, 0.15, 0, -0.15, 0.15]), color=colour, linewidth=1.2)
        axes.add_patch(Rectangle((left, row - 0.27), right - left, 0.54, facecolor=(colour, 0.3), edgecolor=colour, linewidth=1.2))
        axes.plot([median] * 2, [row - 0.27, row + 0.27], color=INK, linewidth=2, solid_capstyle="butt")
        beyond = _thinned(np.unique(stats["fliers"]))
        axes.plot(beyond, np.full(len(beyond), row), "o", markersize=2.6, color=colour, alpha=0.5, markeredgewidth=0)
    _rows(axes, names)
    axes.set_xlabel(_wrapped(block.y, 50))
    return drawn


def _scatter(block: Scatter) -> Figure:
    drawn, axes = _begun(3)
    handles: dict[str, Artist] = {}
    for (name, points), (colour, number) in zip(block.series.items(), _numbered(block.series), strict=True):
        shown = _thinned(_finite(points))
        handles[_correlation(name, points) + (f", {DRAWN} drawn" if len(points) > DRAWN else "")] = axes.plot(
            shown[:, 0], shown[:, 1], MARKERS[number % len(MARKERS)], markersize=3.5, color=colour, alpha=0.7, markeredgewidth=0
        )[0]
    return _named(drawn, axes, block.x, block.y, handles)


def _lines(block: Lines) -> Figure:
    drawn, axes = _begun(2.8)
    handles: dict[str, Artist] = {}
    for (name, points), (colour, number) in zip(block.series.items(), _numbered(block.series), strict=True):
        style = {"linestyle": _dash(number), "marker": MARKERS[number % len(MARKERS)], "markersize": 3 if len(points) < 30 else 0}
        if name.endswith(PUBLISHED):
            style = {"linestyle": "none", "marker": "D", "markersize": 5.5, "markerfacecolor": "none", "zorder": 3}
        wide = max(min(len(block.series), WIDER) - 1 - number, 0)  # of equal curves the first shows at the sides of the last
        handles[name] = axes.plot(points[:, 0], points[:, 1], color=colour, linewidth=1.5 + 1.1 * wide, **style)[0]
    return _named(drawn, axes, block.x, block.y, handles)


def _bars(block: Bars) -> Figure:
    count = len(block.series)
    drawn, axes = _begun(max(0.32, 0.16 * count + 0.14) * len(block.groups) + 0.6)
    handles: dict[str, Artist] = {}
    for place, ((name, heights), (colour, _)) in enumerate(zip(block.series.items(), _numbered(block.series), strict=True)):
        where = np.arange(len(block.groups)) + 0.8 * ((place + 0.5) / count - 0.5)
        held = np.isfinite(heights)
        face = (colour, 0.15 if name.endswith(PUBLISHED) else 0.75)
        axes.barh(where[held], heights[held], 0.72 / count, facecolor=face, edgecolor=colour, linewidth=0.7)
        for row, height in zip(where[held], heights[held], strict=True):
            axes.annotate(_short(height), (max(height, 0), row), (2, 0), textcoords="offset points", va="center", fontsize=7)
        handles[name] = Patch(facecolor=face, edgecolor=colour, linewidth=0.7)
    axes.margins(x=0.12)
    if not any(np.nan_to_num(heights).any() for heights in block.series.values()):
        axes.set_xlim(0, 1)
    axes.set_axisbelow(True)
    _rows(axes, [_wrapped(name, 24) for name in block.groups])
    axes.grid(axis="x", color=INK, alpha=0.15, linewidth=0.6)
    return _named(drawn, axes, block.y, "", handles)


def _matrix(block: Matrix) -> Figure:
    """The ground is more blue where the number is higher, but never so blue that the number cannot be read on it."""
    count, long = len(block.names), max(map(len, block.names)) > 5
    drawn, axes = _begun(0.4 * count + (1.2 if long else 0.4), max(2.6, 0.42 * count + 1.2))
    for (row, column), value in np.ndenumerate(block.values):
        blue = to_rgba(report.COLOURS[2], 0.6 * float(np.clip(np.nan_to_num(value), 0, 1)))
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=blue, edgecolor=(INK, 0.15), linewidth=0.5))
        axes.text(column, row, f"{value:.2f}" if np.isfinite(value) else NOTHING, ha="center", va="center", fontsize=8)
    axes.set_xlim(-0.5, count - 0.5)
    _rows(axes, [_wrapped(name, 20) for name in block.names])
    axes.set_xticks(range(count), [_wrapped(name, 20) for name in block.names], rotation=90 if long else 0, fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return drawn


_DRAW: Mapping[type, Callable[..., Figure]] = {Boxes: _boxes, Scatter: _scatter, Lines: _lines, Bars: _bars, Matrix: _matrix}


def _begun(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    drawn = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03))
    return drawn, drawn.subplots()


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """Names of the rows, from the top."""
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def _named(drawn: Figure, axes: Axes, x: str, y: str, handles: Mapping[str, Artist]) -> Figure:
    """Names of the axes, and a legend below them, which makes the figure higher."""
    axes.set_xlabel(_wrapped(x, 50))
    axes.set_ylabel(_wrapped(y, 40))
    names = [_wrapped(name, 50) for name in handles]
    if names:
        width, height = drawn.get_size_inches()
        drawn.set_size_inches(width, height + 0.18 * sum(name.count("\n") + 1 for name in names) + 0.1)
        names = [f" {name}" if name.startswith("_") else name for name in names]  # matplotlib hides names that begin with a line
        drawn.legend(handles.values(), names, loc="outside lower left", fontsize=9, labelspacing=0.3, borderpad=0.1)
    return drawn


def _logarithms(axes: Axes, values: np.ndarray) -> None:
    """A logarithmic axis; one with zeros is linear up to the smallest number above them."""
    positive = values[values > 0]
    if len(positive) == len(values):
        axes.set_xscale("log")
    elif len(positive):
        axes.set_xscale("symlog", linthresh=max(float(positive.min()), 1e-12 * float(positive.max())))
    if len(positive):
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())


def _numbered(names: Iterable[str]) -> list[tuple[str, int]]:
    """Colour and place of each series; a published one has those of its own."""
    names = [name.removesuffix(PUBLISHED).strip() for name in names]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return [(INK if not places[name] else report.COLOURS[1:][(places[name] - 1) % 7], places[name]) for name in names]


def _dash(number: int) -> str:
    return report.DASHES[number // len(report.COLOURS) % len(report.DASHES)]


def _thinned(points: np.ndarray) -> np.ndarray:
    """At most `DRAWN` of the points, evenly chosen, with the first and the last."""
    return points if len(points) <= DRAWN else points[np.linspace(0, len(points) - 1, DRAWN).astype(int)]


def _finite(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    return points[np.isfinite(points).all(axis=1)]


def _median(values: Float[np.ndarray, " n"]) -> str:
    finite = values[np.isfinite(values)]
    return _short(float(np.median(finite))) if len(finite) else NOTHING


def _size(values: Float[np.ndarray, "n ..."]) -> str:
    """How many images there are, and how many of them cannot be drawn."""
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1).sum() if len(values) else 0
    return f"n = {finite}" + (f", {len(values) - finite} not finite" if finite < len(values) else "")


def _correlation(name: str, points: Float[np.ndarray, "n 2"]) -> str:
    finite = _finite(points)
    defined = len(finite) > 1 and (np.ptp(finite, axis=0) > 0).all()
    rho = f"{spearmanr(finite[:, 0], finite[:, 1]).statistic:.2f}" if defined else "not defined"
    return f"{name}: Spearman's {RHO} {rho}, {_size(points)}"


def _ends(name: str, points: Float[np.ndarray, "n 2"]) -> str:
    """The first and the last point of a curve."""
    finite = _finite(points)
    if not len(finite):
        return f"{name} nothing"
    ends = dict.fromkeys(f"{_short(y)} at {_short(x)}" for x, y in finite[[0, -1]])
    return f"{name} {', '.join(ends)}"


def _heights(name: str, groups: Sequence[str], heights: Float[np.ndarray, " groups"]) -> str:
    return f"{name} {', '.join(f'{_short(height)} ({group})' for group, height in zip(groups, heights, strict=True))}"


def _extremes(block: Matrix) -> str:
    """The highest and the lowest number, the diagonal left aside."""
    others = np.where(np.eye(len(block.names), dtype=bool), np.nan, block.values)
    if not np.isfinite(others).any():
        return f"{len(block.names)} {TIMES} {len(block.names)} numbers."
    places = [np.unravel_index(find(others), others.shape) for find in (np.nanargmax, np.nanargmin)]
    said = [
        f"{word} {others[at]:.2f} ({block.names[at[0]]}, {block.names[at[1]]})"
        for word, at in zip(["highest", "lowest"], places, strict=True)
    ]
    return f"Off the diagonal: {', '.join(said)}."


def _short(value: float) -> str:
    """Three digits, and every digit before the point of numbers below ten million."""
    return NOTHING if not np.isfinite(value) else f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def _wrapped(name: str, width: int) -> str:
    return "\n".join(textwrap.wrap(name, width)) or " "
