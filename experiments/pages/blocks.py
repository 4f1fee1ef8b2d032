"""What a table or figure is made of: plain data, which the page draws and a page of the documents prints.

An experiment returns blocks and knows nothing of HTML; the page knows nothing of networks and attacks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Number:
    """A number beside the published one.

    Attributes:
      ours: what was measured; None if it was not.
      published: what the paper says, in the same unit; None if it says nothing.
      n: numbers of images behind it, the benign ones first.
      interval: its 95 % interval.
      band: where it is expected, both ends included; None if nothing is stated, or if another network stands in.
      reason: one sentence that says why it was not measured, or why it lies outside its band.
    """

    ours: float | None
    published: float | None = None
    n: Sequence[int] = ()
    interval: tuple[float, float] | None = None
    band: tuple[float, float] | None = None
    reason: str = ""

    @property
    def inside(self) -> bool | None:
        """Whether it lies in its band; None if there is no band or no number."""
        if self.ours is None or self.band is None:
            return None
        return bool(self.band[0] <= self.ours <= self.band[1])


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
      heads: what the row is about, such as network and set.
      cells: numbers, or texts.
    """

    heads: Sequence[str]
    cells: Sequence[Number | str]


@dataclass(frozen=True)
class Table:
    """A table of numbers.

    Attributes:
      title: what it shows.
      heads: names of the columns that say what a row is about.
      columns: names of the others.
      rows: its rows.
      decimals: of every number, or of the numbers of each column.
      note: what a reader must know, in sentences.
    """

    title: str
    heads: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[Row]
    decimals: int | Sequence[int] = 4
    note: str = ""


@dataclass(frozen=True)
class Boxes:
    """Box plots of one number, one box for each set of images.

    Attributes:
      title: what it shows.
      y: name and unit of the number.
      groups: the number of every image, by set; the benign set first.
      log: draw the axis with logarithms.
      published: what the paper's plot shows, such as the end of its axis; words without a full stop.
      note: what a reader must know.
    """

    title: str
    y: str
    groups: Mapping[str, Float[np.ndarray, " n"]]
    log: bool = False
    published: str = ""
    note: str = ""


@dataclass(frozen=True)
class Scatter:
    """Points of two numbers, with their rank correlation in the legend.

    Attributes:
      title: what it shows.
      x: name and unit of the first number.
      y: name and unit of the second.
      series: points `n 2` by name.
      note: what a reader must know.
    """

    title: str
    x: str
    y: str
    series: Mapping[str, Float[np.ndarray, "n 2"]]
    note: str = ""


@dataclass(frozen=True)
class Lines:
    """Curves over one variable.

    Attributes:
      title: what it shows.
      x: name and unit of the variable.
      y: name and unit of the curves.
      series: `n 2` by name; a name that ends in "(published)" is drawn as single marks.
      note: what a reader must know.
    """

    title: str
    x: str
    y: str
    series: Mapping[str, Float[np.ndarray, "n 2"]]
    note: str = ""


@dataclass(frozen=True)
class Bars:
    """Groups of bars: a share for each detector and set.

    Attributes:
      title: what it shows.
      y: name and unit of the height.
      groups: names along the axis.
      series: one height for each group, by name; NaN leaves a bar out.
      note: what a reader must know.
    """

    title: str
    y: str
    groups: Sequence[str]
    series: Mapping[str, Float[np.ndarray, " groups"]]
    note: str = ""


@dataclass(frozen=True)
class Matrix:
    """A square matrix of numbers in [0, 1], drawn as a heat map with its numbers.

    Attributes:
      title: what it shows.
      names: of rows and columns.
      values: the numbers.
      note: what a reader must know.
    """

    title: str
    names: Sequence[str]
    values: Float[np.ndarray, "n n"]
    note: str = ""


@dataclass(frozen=True)
class Images:
    """A grid of images.

    Attributes:
      title: what it shows.
      rows: names of the rows.
      columns: names of the columns.
      x: images by row and column, `h w c` in [0, 1]; None leaves a place empty.
      captions: a short text below each image, such as its distance.
      note: what a reader must know.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    x: Sequence[Sequence[Float[np.ndarray, "h w c"] | None]]
    captions: Sequence[Sequence[str]]
    note: str = ""


Block = Table | Boxes | Scatter | Lines | Bars | Matrix | Images


@dataclass(frozen=True)
class Made:
    """A table or figure as it was made.

    Attributes:
      name: by which the command knows it, such as `table2`.
      title: as the page shows it.
      blocks: what it consists of.
      seconds: that its own work took; work that items share counts where it was done first.
      missing: why it, or a part of it, could not be made.
    """

    name: str
    title: str
    blocks: Sequence[Block]
    seconds: float
    missing: Sequence[str] = ()
