"""The colours of figures, and a figure as a PNG, as a file of SVG, or as an element of a page.

Text, axes and the benign set are drawn in one ink, and the ground is transparent. In SVG the ink is `currentColor`: in a page it is the
colour of the page's text, and a file of its own is dark on a light ground and light on a dark one. A PNG is dark on white.
"""

import io
import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.figure import Figure

INK = "#010203"
"""Stands for `currentColor`, which matplotlib does not know."""
COLOURS = [INK, "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#a6761d"]
"""Benign first. Told apart with any colour vision (Okabe and Ito); with more sets they repeat in other dashes."""
DASHES = ["-", "--", ":", "-."]

_SETTINGS: Any = {
    **dict.fromkeys(["text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color"], INK),
    **dict.fromkeys(["figure.facecolor", "axes.facecolor", "savefig.facecolor"], "none"),
    **dict.fromkeys(["axes.spines.top", "axes.spines.right", "legend.frameon", "text.parse_math", "text.usetex"], False),
    "hatch.color": INK,
    "font.family": "sans-serif",
    "font.size": 9.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "a2d",
}
_OF_FILE = "svg { color: #1d1f22 } @media (prefers-color-scheme: dark) { svg { color: #e8e8e6 } }"
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")  # no text of XML has these


@contextmanager
def inked() -> Generator[None]:
    """The settings of matplotlib in which all figures are drawn; also a decorator."""
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings(), np.errstate(all="ignore"):  # axes of extreme numbers overflow
        warnings.filterwarnings("ignore", "Glyph .* missing")  # in SVG the reader's browser draws the letters, not matplotlib
        yield


def png(drawn: Figure) -> bytes:
    """The figure as a PNG file, the same bytes for the same figure."""
    file = io.BytesIO()
    with inked():
        drawn.savefig(file, format="png", facecolor="white", metadata={"Software": None})
    return file.getvalue()


def svg(drawn: Figure) -> str:
    """The figure as an SVG file, the same text for the same figure. It suits light and dark grounds."""
    return _drawn(drawn).replace(INK, "currentColor").replace('<style type="text/css">', f'<style type="text/css">{_OF_FILE} ', 1)


def inline(drawn: Figure, key: str, said: str) -> str:
    """The figure as an element of HTML: no metadata or style of its own, and only ids that are used.

    Args:
      drawn: the figure.
      key: begins every id in the text; unique on the page.
      said: the figure in words, for readers who do not see it.
    """
    text = _drawn(drawn)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    root = ElementTree.fromstring(text)
    for element in root.iter():
        for child in [child for child in element if child.tag.endswith(("}metadata", "}style"))]:
            element.remove(child)
    for element in root.iter():
        element.tag, element.tail = element.tag.rpartition("}")[2], None  # else a third of the text is blanks
        element.text = element.text if element.text and element.text.strip() else None
        attributes = {name.rpartition("}")[2]: value.replace(INK, "currentColor") for name, value in element.attrib.items()}
        if (name := attributes.pop("id", None)) in used:
            attributes["id"] = f"{key}-{name}"
        if "href" in attributes:
            attributes["href"] = f"#{key}-{attributes['href'][1:]}"
        attributes = {name: value.replace("url(#", f"url(#{key}-") for name, value in attributes.items()}
        element.attrib.clear()
        element.attrib.update(attributes)
    width = float(root.attrib["viewBox"].split()[2])
    outer = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": _NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", said)}
    outer["style"] = f"stroke-linejoin: round; stroke-linecap: butt; min-width: {0.95 * width:.0f}px; max-width: {1.6 * width:.0f}px"
    root.attrib.clear()
    root.attrib.update(outer)
    return ElementTree.tostring(root, encoding="unicode")


def _drawn(drawn: Figure) -> str:
    """A file of SVG as matplotlib writes it, with the fonts of the reader."""
    file = io.StringIO()
    with inked():
        drawn.savefig(file, format="svg", metadata={"Date": None})
    return re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", _NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", file.getvalue()))
