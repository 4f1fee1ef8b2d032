"""Figures of costs, of ROC curves and of shifts, and an HTML page with images, their costs and verdicts.

All functions take plain arrays and names and touch no file. The page is one self-contained string of HTML: images are data URIs, nothing is
loaded from elsewhere, and names are escaped.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from sklearn.metrics import roc_curve

try:
    import jinja2
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import NullLocator, PercentFormatter
except ImportError as error:
    raise ImportError('expected matplotlib and jinja2 for figures and pages, got none; run: pip install "a2d-jax[report]"') from error

from a2d_jax import metrics
from a2d_jax.errors import BadInput

COLOURS = ["#4d4d4d", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#a6761d"]
"""Benign first. Told apart with any colour vision (Okabe and Ito); with more sets they repeat in other dashes."""
DASHES = ["-", "--", ":", "-."]

BINS = 36  # of a histogram, from the smallest cost to the largest; fewer where they would be narrower than one iteration
FILLED = 0.8  # of the height of a set's band


@dataclass(frozen=True)
class Table:
    """A table of texts: every row begins with its name."""

    title: str
    columns: Sequence[str]  # the first one names the rows
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Shot:
    """One image with its results."""

    x: Float[np.ndarray, "h w c"]  # in [0, 1]; one or three channels
    name: str
    seen_as: str  # the predicted class
    costs: Mapping[str, str]  # by attack
    verdicts: Mapping[str, bool]  # by detector; True: adversarial
    adversarial: bool | None = None  # the truth; None: unknown

    def judged(self) -> list[tuple[str, str, str]]:
        """Detector, verdict, and a remark if the verdict is known to be wrong."""
        wrong = "" if self.adversarial is None else "false alarm" if not self.adversarial else "missed"
        return [
            (name, "adversarial" if verdict else "benign", wrong if verdict != self.adversarial else "")
            for name, verdict in self.verdicts.items()
        ]


def figure(costs: Mapping[str, Int[np.ndarray, "n attacks"]], attacks: Sequence[str], *, max_costs: Sequence[int] | None = None) -> Figure:
    """Distributions of costs (above) and ROC curves (below), one column per attack used as defence.

    The score is the negative cost: a curve below the diagonal belongs to a set that is *harder* to attack than benign images.

    Args:
      costs: tables by set of images; the first set is the benign one.
      attacks: names of the columns of every table.
      max_costs: cost of a failure of each attack, `max_steps + 1`; such costs are drawn apart. None: no cost means failure.

    Raises:
      BadInput: fewer than two sets, or a table that is empty or has another number of columns.
    """
    if len(costs) < 2:
        raise BadInput(f"expected benign costs and at least one other set, got {len(costs)} set(s); give both")
    for name, table in costs.items():
        if table.ndim != 2 or len(table) == 0 or table.shape[1] != len(attacks):
            raise BadInput(f"expected costs of shape (images, {len(attacks)}) for {name}, got {table.shape}; give one column per attack")
    width = 3.7 * len(attacks) + 0.6
    drawn = Figure(
        figsize=(width, 4.4 + 0.62 * len(costs)), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.12), facecolor="white"
    )
    FigureCanvasAgg(drawn)
    panels = drawn.subplots(2, len(attacks), squeeze=False, height_ratios=[0.62 * len(costs) + 0.9, 3.5])
    for column, attack in enumerate(attacks):
        of_attack = {name: table[:, column] for name, table in costs.items()}
        _distributions(panels[0, column], attack, of_attack, None if max_costs is None else max_costs[column])
        _roc(panels[1, column], attack, of_attack)
    panels[1, 0].set_ylabel("adversarial images caught")
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
    drawn = Figure(figsize=(7.4, 0.62 * len(costs) + 0.9), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.05))
    FigureCanvasAgg(drawn)
    axes = drawn.subplots()
    _distributions(axes, attack, costs, max_cost)
    if threshold is not None:
        axes.axvline(threshold - 0.5, color="#d55e00", linewidth=1.2)
        axes.annotate("flagged  ", (threshold - 0.5, len(costs) - 0.15), color="#d55e00", ha="right", va="top", fontsize=9)
        axes.annotate("  benign", (threshold - 0.5, len(costs) - 0.15), color="#d55e00", ha="left", va="top", fontsize=9)
    return drawn


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
    drawn = Figure(figsize=(3.7 * len(p_values) + 0.6, 4), dpi=120, layout=ConstrainedLayoutEngine(), facecolor="white")
    FigureCanvasAgg(drawn)
    for axes, (name, p) in zip(drawn.subplots(1, len(p_values), squeeze=False)[0], p_values.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, label="no shift")
        axes.ecdf(p, color=COLOURS[2], linewidth=2, label=f"{len(p)} new images")
        axes.axvline(level, color="#888888", linewidth=0.8, linestyle=":", label=f"level {level:g}: {np.mean(p < level):.1%} flagged")
        _unit_square(axes)
        axes.set_title(f"p-values of {name}", fontsize=12)
        axes.set_xlabel("conformal p-value among old images", fontsize=9)
        axes.legend(loc="lower right", fontsize=9, framealpha=0.9)
    drawn.axes[0].set_ylabel("share of new images below")
    return drawn


def png(drawn: Figure) -> bytes:
    """The figure as a PNG file, the same bytes for the same figure."""
    file = io.BytesIO()
    drawn.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def svg(drawn: Figure) -> str:
    """The figure as an SVG file, the same text for the same figure."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "a2d"}):
        drawn.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def image_uri(x: Float[np.ndarray, "h w c"]) -> str:
    """An image as a data URI of HTML: a PNG, grey with one channel and in colours with three.

    Args:
      x: the image, in [0, 1].

    Raises:
      BadInput: another number of channels.
    """
    return _data_uri(_encode(x))


def filled(template: str, **values: object) -> str:
    """A template of Jinja with its values; they are escaped as HTML, and a value that is missing is an error."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(**values)


def page(
    title: str,
    *,
    lead: Sequence[str] = (),
    tables: Sequence[Table] = (),
    drawn: Figure | None = None,
    groups: Mapping[str, Sequence[Shot]] | None = None,
    foot: str = "",
) -> str:
    """A self-contained page of HTML without scripts or external files, for light and dark mode, wide and narrow screens.

    Args:
      title: heading.
      lead: paragraphs under it.
      tables: in order.
      drawn: the result of `figure`.
      groups: images side by side, by heading.
      foot: one line at the end.
    """
    return filled(
        files("a2d_jax").joinpath("report.html.j2").read_text(encoding="utf-8"),
        title=title,
        lead=lead,
        tables=tables,
        figure=None if drawn is None else _data_uri(png(drawn)),
        groups={name: [(shot, image_uri(shot.x)) for shot in shots] for name, shots in (groups or {}).items()},
        foot=foot,
    )


def _distributions(axes: Axes, attack: str, costs: Mapping[str, np.ndarray], max_cost: int | None) -> None:
    """One band per set: a histogram over the logarithm of the cost, failures as a hatched bar at the right."""
    succeeded = {name: cost if max_cost is None else cost[cost < max_cost] for name, cost in costs.items()}
    edges = _edges(max([10, *(int(cost.max()) for cost in succeeded.values() if len(cost))]))
    decades = np.diff(np.log10(edges))
    density = {name: np.histogram(np.maximum(cost, edges[0]), edges)[0] / len(costs[name]) / decades for name, cost in succeeded.items()}
    peak = max(float(d.max()) for d in density.values()) or 1.0
    cut, fail_left, fail_right, end = edges[-1] * (edges[-1] / edges[0]) ** np.array([0.04, 0.08, 0.18, 0.22])
    fail_middle = np.sqrt(fail_left * fail_right)

    for row, (name, cost) in enumerate(costs.items()):
        base, colour = len(costs) - 1 - row, _style(row)[0]
        axes.stairs(base + FILLED * density[name] / peak, edges, baseline=base, fill=True, color=colour, alpha=0.8)
        axes.axhline(base, color="#bbbbbb", linewidth=0.6, zorder=0)
        failed = 1 - len(succeeded[name]) / len(cost)
        if failed:
            axes.fill_between([fail_left, fail_right], base, base + FILLED * failed, facecolor="white", edgecolor=colour, hatch="/////")
            axes.text(fail_middle, base + FILLED * failed + 0.03, f"{failed:.0%}", ha="center", va="bottom", fontsize=8)
        axes.plot([np.clip(np.median(cost), edges[0], edges[-1])], [base], marker="^", markersize=6, color="black", clip_on=False, zorder=3)
    axes.set_xscale("log")
    axes.set_xlim(edges[0], edges[-1] if max_cost is None else end)
    axes.set_ylim(-0.06, len(costs))
    ticks = [tick for tick in (1, 3, 10, 30, 100, 300, 1000, 3000, 10000) if edges[0] < tick < edges[-1] / 1.5]
    axes.set_xticks(ticks + ([] if max_cost is None else [fail_middle]))
    axes.set_xticklabels([f"{tick:g}" for tick in ticks] + ([] if max_cost is None else ["failed"]), fontsize=9)
    axes.xaxis.set_minor_locator(NullLocator())
    if max_cost is not None:
        axes.axvline(cut, color="#888888", linewidth=0.8, linestyle=":")
    axes.set_yticks(
        [len(costs) - 1 - row + FILLED / 2 for row in range(len(costs))],
        [f"{name}\nmedian {_median(cost, max_cost)}" for name, cost in costs.items()],
        fontsize=9,
    )
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"cost of {attack}", fontsize=12)
    axes.set_xlabel("iterations until success" + ("" if max_cost is None else f", at most {max_cost - 1}"), fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _roc(axes: Axes, attack: str, costs: Mapping[str, np.ndarray]) -> None:
    (_, benign), *others = costs.items()
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
    for number, (name, adversarial) in enumerate(others, start=1):
        labels = np.repeat([0, 1], [len(benign), len(adversarial)])
        fpr, tpr, _ = roc_curve(labels, -np.concatenate([benign, adversarial]).astype(float))
        colour, dash = _style(number)
        area = metrics.auroc(-benign.astype(float), -adversarial.astype(float))
        axes.plot(fpr, tpr, color=colour, linestyle=dash, linewidth=2, label=f"{name}  {area:.3f}")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    _unit_square(axes)
    axes.set_title(f"detection by {attack} cost", fontsize=12)
    axes.set_xlabel("benign images flagged", fontsize=9)
    axes.legend(title="crafted by, AUROC", loc="lower right", fontsize=9, title_fontsize=9, framealpha=0.9)


def _unit_square(axes: Axes) -> None:
    """Both axes from 0 to 1, heights in per cent."""
    axes.set_aspect("equal")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks([0, 0.5, 1])
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _edges(highest: int) -> np.ndarray:
    """Edges of bins of about equal width on a logarithmic axis; each holds at least one whole number, 0 falls into the first."""
    return np.unique(np.round(np.geomspace(1, highest + 1, BINS + 1))) - 0.5


def _median(cost: np.ndarray, max_cost: int | None) -> str:
    middle = float(np.median(cost))
    return f"{middle:g}" if max_cost is None or middle < max_cost else f"> {max_cost - 1}"


def _style(number: int) -> tuple[str, str]:
    return COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]


def _encode(x: Float[np.ndarray, "h w c"]) -> bytes:
    """A PNG of an image; one channel is grey, three are colours."""
    if x.ndim != 3 or x.shape[2] not in (1, 3):
        raise BadInput(f"expected an image h w c with 1 or 3 channels, got {x.shape}; choose the channels to show")
    pixels = np.round(np.clip(x, 0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if x.shape[2] == 1 else pixels).save(file, format="PNG")
    return file.getvalue()


def _data_uri(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")
