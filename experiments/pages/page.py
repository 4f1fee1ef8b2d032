"""The page of an experiment: HTML to look at, Markdown for the documents, CSV for other programs.

Each number stands beside the published one, where there is one, with its 95 % interval, its number of images, and whether it lies in the
band where it is expected. The HTML is one self-contained text: figures are inline SVG, images are data URIs, and nothing is loaded from
elsewhere.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path

import numpy as np

from a2d_jax import report  # before matplotlib: it says which extra is missing
from a2d_jax.errors import BadInput, require
from a2d_jax.io.files import atomic
from experiments.pages import drawing
from experiments.pages.blocks import Bars, Block, Boxes, Images, Lines, Made, Matrix, Number, Scatter, Table

LONG = 30  # rows of a table that scrolls in a box of its own
SIGNS = {True: "✓", False: "✗", None: ""}
NOTHING_STATED = {"missing": "It was not measured; no reason is stated.", "outside": "It lies outside its band; no reason is stated."}
CSV_COLUMNS = ["column", "ours", "published", "n", "low", "high", "band low", "band high", "inside", "reason", "text"]


@dataclass(frozen=True)
class Cell:
    """A number as it is printed; parts that it lacks are empty."""

    ours: str
    published: str
    interval: str
    n: str
    band: str
    inside: bool | None
    note: int | None  # its footnote, from 1

    @property
    def sign(self) -> str:
        return SIGNS[self.inside]


@dataclass(frozen=True)
class Printed:
    """A table whose numbers are texts."""

    table: Table
    rows: Sequence[tuple[Sequence[str], Sequence[Cell | str]]]
    n: str  # of every number, if they agree
    reasons: Sequence[str]
    words: Sequence[bool]  # whether a column has texts alone


def page(title: str, made: Sequence[Made], lead: Sequence[str], facts: Mapping[str, str]) -> str:
    """All tables and figures as one page of HTML, for light and dark mode, wide and narrow screens.

    Args:
      title: of the page.
      made: the tables and figures, in order.
      lead: paragraphs that come first.
      facts: size, date, machine and versions, by name.

    Raises:
      BadInput: two items share a name, or a block does not fit together, such as a row with too few cells.
    """
    _check(made)
    template = files("experiments.pages").joinpath("page.html.j2").read_text(encoding="utf-8")
    items = [(one, [_view(one, places) for places in _runs(one.blocks)], _counts(one), _duration(one.seconds)) for one in made]
    return report.filled(template, title=title, lead=lead, facts=facts, items=items, long=LONG)


def markdown(title: str, made: Sequence[Made], lead: Sequence[str], facts: Mapping[str, str]) -> str:
    """The same as Markdown: tables, and one line for each figure with its key numbers. Takes and raises what `page` does."""
    _check(made)
    lines = [f"# {_plain(title)}", *map(_plain, lead), "\n".join(f"- {_plain(name)}: {_plain(fact)}" for name, fact in facts.items())]
    lines.append(
        "How to read a cell: our number, the published one in round brackets, the 95 % interval in square ones, n (images; benign + "
        f"adversarial), and {SIGNS[True]} for a number in the band where it is expected or {SIGNS[False]} for one outside. "
        "Raised numbers lead to the reasons below a table."
    )
    for one in made:
        lines += [f"## {_plain(one.title)}", *(f"Missing: {_plain(why)}" for why in one.missing)]
        for block in one.blocks:
            if isinstance(block, Table):
                lines += _table_lines(_printed(block))
            else:
                published = f" The paper: {block.published}." if isinstance(block, Boxes) and block.published else ""
                lines.append(_plain(f"Figure: {block.title}. {drawing.described(block)}{published} {block.note}"))
    return "\n\n".join(filter(None, lines)) + "\n"


def tables(made: Sequence[Made]) -> dict[str, str]:
    """Every table as CSV with all digits, one line for each cell, by the name of its file. Takes and raises what `page` does."""
    _check(made)
    found: dict[str, str] = {}
    for one in made:
        for place, table in enumerate((block for block in one.blocks if isinstance(block, Table)), start=1):
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow([*table.heads, *CSV_COLUMNS])
            for row in table.rows:
                writer.writerows([*row.heads, column, *_values(cell)] for column, cell in zip(table.columns, row.cells, strict=True))
            found[f"{one.name}-{place}.csv"] = text.getvalue()
    return found


def write(folder: str | Path, title: str, made: Sequence[Made], lead: Sequence[str], facts: Mapping[str, str]) -> Path:
    """Write the page, `index.html`, and every table, such as `table2-1.csv`; files of these names are replaced.

    Args:
      folder: where to; made if it is missing.
      title: of the page.
      made: as in `page`, which says what is refused.
      lead: as in `page`.
      facts: as in `page`.

    Returns:
      The page.

    Raises:
      BadInput: the folder cannot be made or written, or `page` refuses.
    """
    texts = {**tables(made), "index.html": page(title, made, lead, facts)}
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"expected a folder for the page, got {folder} ({error.strerror}); choose another place") from error
    for name, text in texts.items():
        with atomic(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    return folder / "index.html"


def _runs(blocks: Sequence[Block]) -> list[list[int]]:
    """Places of the blocks; figures of one kind that follow each other stand side by side."""
    kinds = [type(block) if not isinstance(block, Table | Images) else place for place, block in enumerate(blocks)]
    return [list(places) for _, places in groupby(range(len(blocks)), key=kinds.__getitem__)]


def _view(one: Made, places: Sequence[int]) -> dict[str, object]:
    """What the template needs of a run of blocks."""
    shown: list[dict[str, object]] = []
    for place in places:
        block, key = one.blocks[place], f"{one.name}-{place + 1}"
        if isinstance(block, Table):
            return {"kind": "table", "key": key, "printed": _printed(block)}
        if isinstance(block, Images):
            uris = [[None if x is None else (report.image_uri(x), min(x.shape[:2]) < 96) for x in row] for row in block.x]
            return {"kind": "images", "key": key, "block": block, "uris": uris}
        published = block.published if isinstance(block, Boxes) else ""
        shown.append({"block": block, "said": drawing.described(block), "svg": drawing.svg(block, key), "published": published})
    return {"kind": "figures", "shown": shown}


def _printed(table: Table) -> Printed:
    decimals = [table.decimals] * len(table.columns) if isinstance(table.decimals, int) else table.decimals
    sizes = {_n(cell) for row in table.rows for cell in row.cells if isinstance(cell, Number) and cell.ours is not None}
    common = sizes.pop() if len(sizes) == 1 else ""
    reasons: dict[str, int] = {}
    rows = [
        (
            row.heads,
            [
                cell if isinstance(cell, str) else _cell(cell, digits, common, reasons)
                for cell, digits in zip(row.cells, decimals, strict=True)
            ],
        )
        for row in table.rows
    ]
    words = [all(isinstance(row.cells[place], str) for row in table.rows) for place in range(len(table.columns))]
    return Printed(table, rows, common, list(reasons), words)


def _cell(number: Number, digits: int, common: str, reasons: dict[str, int]) -> Cell:
    """A number as texts. Its reason joins the footnotes, where equal ones stand once."""
    lacking = "missing" if number.ours is None else "outside" if number.inside is False else ""
    reason = _sentence(number.reason or NOTHING_STATED.get(lacking, ""))
    return Cell(
        ours=drawing.NOTHING if number.ours is None else f"{number.ours:.{digits}f}",
        published="" if number.published is None else f"{number.published:.{digits}f}",
        interval=_range(number.interval, digits),
        n="" if number.ours is None or _n(number) == common else _n(number),
        band="" if number.band is None else f"[{number.band[0]:.6g}, {number.band[1]:.6g}]",
        inside=number.inside,
        note=reasons.setdefault(reason, len(reasons) + 1) if reason else None,
    )


def _sentence(text: str) -> str:
    return text and f"{text[0].upper()}{text[1:].removesuffix('.')}."


def _n(number: Number) -> str:
    return " + ".join(str(int(count)) for count in number.n)


def _range(ends: tuple[float, float] | None, digits: int) -> str:
    return "" if ends is None else f"[{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"


def _values(cell: Number | str) -> list[str]:
    """A cell in the columns of CSV."""
    if isinstance(cell, str):
        return [""] * (len(CSV_COLUMNS) - 2) + [cell]
    low, high = cell.interval or (None, None)
    band = cell.band or (None, None)
    inside = {True: "yes", False: "no", None: ""}[cell.inside]
    ours, published, low, high, *band = (
        "" if value is None else repr(float(value)) for value in (cell.ours, cell.published, low, high, *band)
    )
    return [ours, published, _n(cell), low, high, *band, inside, cell.reason, ""]


def _table_lines(printed: Printed) -> list[str]:
    """A table in Markdown: its name, its rows with columns that line up, its reasons and its note."""
    table = printed.table
    rows = [[*table.heads, *table.columns], *([*heads, *cells] for heads, cells in printed.rows)]
    texts = [[_plain(cell).replace("|", "\\|") if isinstance(cell, str) else _one_line(cell) for cell in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*texts, strict=True)]
    lines = [f"| {' | '.join(text.ljust(width) for text, width in zip(row, widths, strict=True))} |" for row in texts]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    size = f" n = {printed.n} for every number." if printed.n else ""
    reasons = "\n".join(f"{place}. {_plain(reason)}" for place, reason in enumerate(printed.reasons, start=1))
    return [f"**{_plain(table.title)}**{size}", "\n".join(lines), reasons, _plain(table.note)]


def _one_line(cell: Cell) -> str:
    note = "" if cell.note is None else f"<sup>{cell.note}</sup>"
    band = f"outside {cell.band}" if cell.inside is False else ""
    parts = [cell.ours, f"({cell.published})" * bool(cell.published), cell.interval, f"n = {cell.n}" * bool(cell.n), cell.sign, band]
    return " ".join(filter(None, parts)) + note


def _plain(text: str) -> str:
    """A text on one line, without the marks of Markdown and HTML that could occur in a name."""
    return re.sub(r"([\\*\[\]])", r"\\\1", " ".join(text.split())).replace("<", "&lt;")


def _counts(one: Made) -> list[int]:
    """How many of an item's numbers lie in their band, lie outside, have no band, and are missing."""
    numbers = [
        cell for block in one.blocks if isinstance(block, Table) for row in block.rows for cell in row.cells if isinstance(cell, Number)
    ]
    counts = Counter("missing" if number.ours is None else number.inside for number in numbers)
    return [counts[kind] for kind in (True, False, None, "missing")]


def _duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def _check(made: Sequence[Made]) -> None:
    """Refuse what no page can show, before anything is drawn."""
    names = [one.name for one in made]
    require(len(set(names)) == len(names), "items with different names", ", ".join(names), "give each table and figure once")
    for one in made:
        require(
            re.fullmatch(r"[A-Za-z0-9_]+", one.name) is not None, "a name of letters and digits", one.name, "it names files of the page"
        )
        for block in one.blocks:
            for holds, what, got in _fits(block):
                require(bool(holds), f"{what} in {one.name}, {block.title!r}", got, "mend the block")


def _fits(block: Block) -> list[tuple[bool, str, object]]:
    """What must hold for a block: whether it does, what was expected, what came."""
    match block:
        case Table():
            width = len(block.columns)
            digits = [block.decimals] if isinstance(block.decimals, int) else list(block.decimals)
            heads = {len(row.heads) for row in block.rows} - {len(block.heads)}
            cells = {len(row.cells) for row in block.rows} - {width}
            kinds = {type(cell).__name__ for row in block.rows for cell in row.cells if not isinstance(cell, Number | str)}
            return [
                (not heads, f"rows with {len(block.heads)} heads", heads),
                (not cells, f"rows with {width} cells", cells),
                (not kinds, "cells that are numbers with their facts or texts", kinds),
                (isinstance(block.decimals, int) or len(digits) == width, f"decimals for {width} columns", len(digits)),
                (all(digit >= 0 for digit in digits), "decimals from 0", digits),
            ]
        case Boxes():
            return [
                (np.ndim(values) == 1, f"one number for each image of {name}", np.shape(values)) for name, values in block.groups.items()
            ]
        case Scatter() | Lines():
            shapes = {name: np.shape(points) for name, points in block.series.items()}
            return [(len(shape) == 2 and shape[1] == 2, f"points (n, 2) of {name}", shape) for name, shape in shapes.items()]
        case Bars():
            count = len(block.groups)
            return [
                (np.shape(heights) == (count,), f"{count} heights of {name}", np.shape(heights)) for name, heights in block.series.items()
            ]
        case Matrix():
            shape = (len(block.names),) * 2
            return [(np.shape(block.values) == shape, f"a matrix {shape}", np.shape(block.values))]
        case Images():
            shape, found = (len(block.rows), len(block.columns)), [x for row in block.x for x in row if x is not None]
            grids = {"images": [len(row) for row in block.x], "captions": [len(row) for row in block.captions]}
            pixels = {x.shape for x in found if x.ndim != 3 or x.shape[2] not in (1, 3) or 0 in x.shape}
            return [
                *((lengths == [shape[1]] * shape[0], f"{what} in a grid {shape}", lengths) for what, lengths in grids.items()),
                (not pixels, "images h w c with 1 or 3 channels", pixels),
                (all(np.isfinite(x).all() for x in found), "finite pixels", "others"),
            ]
