"""A self-contained page of HTML: sections of text, tables, figures and images, for light and dark mode, wide and narrow screens.

The page is one text. Figures are inline SVG in the colours of the page, images are data URIs, nothing is loaded from elsewhere, and names
are escaped.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

import jinja2
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image

from a2d_jax.errors import BadInput
from a2d_jax.report.ink import inline

LONG = 20  # rows of a table that scrolls in a box of its own
SMALL = 96  # pixels of an image that is shown enlarged, without blur


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


@dataclass(frozen=True)
class Drawing:
    """A figure of a page."""

    figure: Figure
    said: str  # the figure in words, for readers who do not see it
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page: text, figures, tables, and images side by side by heading, in this order."""

    title: str
    text: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    groups: Mapping[str, Sequence[Shot]] = field(default_factory=dict)
    paired: bool = False  # two figures side by side where the screen has room, never three


def page(
    title: str, *, lead: Sequence[str] = (), sections: Sequence[Section] = (), facts: Mapping[str, str] | None = None, foot: str = ""
) -> str:
    """A self-contained page of HTML without scripts or external files, for light and dark mode, wide and narrow screens.

    Args:
      title: heading.
      lead: paragraphs under it.
      sections: in order.
      facts: settings, versions and the like, by name; they come last.
      foot: one line at the end.
    """
    shown = [
        {
            "section": section,
            "svgs": [inline(one.figure, f"figure-{number}-{place}", one.said) for place, one in enumerate(section.drawings, start=1)],
            "groups": {
                name: [(shot, image_uri(shot.x), min(shot.x.shape[:2]) < SMALL) for shot in shots] for name, shots in section.groups.items()
            },
        }
        for number, section in enumerate(sections, start=1)
    ]
    template = files("a2d_jax.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    return filled(template, title=title, lead=lead, sections=shown, facts=facts or {}, foot=foot, long=LONG)


def image_uri(x: Float[np.ndarray, "h w c"]) -> str:
    """An image as a data URI of HTML: a PNG, grey with one channel and in colours with three.

    Args:
      x: the image, in [0, 1].

    Raises:
      BadInput: another number of channels.
    """
    if x.ndim != 3 or x.shape[2] not in (1, 3):
        raise BadInput(f"expected an image h w c with 1 or 3 channels, got {x.shape}; choose the channels to show")
    pixels = np.round(np.clip(x, 0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if x.shape[2] == 1 else pixels).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def filled(template: str, **values: object) -> str:
    """A template of Jinja with its values; they are escaped as HTML, and a value that is missing is an error."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(template).render(**values)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # names of files may hold bytes that are no text
