"""Figures of costs, scores and ROC curves, and pages of HTML with images, their costs and verdicts.

All functions take plain arrays and names and touch no file. `panels` and `figures` draw with matplotlib;
`ink` makes a PNG, an SVG, or a part of a page of a figure; `numbers` makes tables; `pages` makes one self-contained text of HTML of all.
"""

try:
    import jinja2 as _jinja2
    import matplotlib as _matplotlib
except ImportError as error:
    raise ImportError('expected matplotlib and jinja2 for figures and pages, got none; run: pip install "a2d-jax[report]"') from error

from a2d_jax.report.figures import distributions, figure, overview, roc, shares, shift_figure, spread
from a2d_jax.report.ink import COLOURS, DASHES, INK, inked, inline, png, svg
from a2d_jax.report.pages import Drawing, Section, Shot, Table, filled, image_uri, page
from a2d_jax.report.panels import Panel

__all__ = [
    "COLOURS",
    "DASHES",
    "INK",
    "Drawing",
    "Panel",
    "Section",
    "Shot",
    "Table",
    "distributions",
    "figure",
    "filled",
    "image_uri",
    "inked",
    "inline",
    "overview",
    "page",
    "png",
    "roc",
    "shares",
    "shift_figure",
    "spread",
    "svg",
]
del _jinja2, _matplotlib
