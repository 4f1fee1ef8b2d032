"""The page of an experiment: it holds every number, needs no other file, and shows whatever the experiments hand over."""

import csv
import html.parser
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import spearmanr

from a2d_jax.errors import BadInput
from experiments.pages import drawing, page
from experiments.pages.blocks import Bars, Boxes, Images, Lines, Made, Matrix, Number, Row, Scatter, Table

TITLE = "Tables & figures"
LEAD = ["ResNet-20 <stands in> for GoogLeNet.", "One run & one seed."]
FACTS = {"size": "tiny", "versions": "NumPy <2.3>"}
HARSH = 'a <b> & "c" | $x_1$ *d*'
VOID = {"meta", "img"}
GENERATOR = np.random.default_rng(0)


class Reader(html.parser.HTMLParser):
    """Collects tags with their attributes and the text of the page, and finds tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += "" if self.open[-1:] == ["style"] else data

    def values(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.tags if name in attributes]


def numbers() -> Table:
    """A table with every kind of cell."""
    cells = [
        [Number(0.98765, 0.9811, (1000, 200), (0.97, 0.999), (0.9511, 1.0)), "a text"],
        [Number(0.7, 0.9822, (1000, 190), (0.6, 0.8), (0.9522, 1.0123), "Another network stands in."), Number(1234.5)],
        [Number(None, 0.9833, reason="It needs 40 hours."), Number(12, 13.4, (5,))],
        [Number(0.1, 0.9844, band=(0.95, 1.01)), Number(None)],
        [Number(0.2, reason="Another network stands in.", band=(0.3, 1)), Number(np.float32(-3), interval=(-4, 1))],
    ]
    rows = [Row(["Env1", name], row) for name, row in zip(["FGSM", "BIM", "JSMA", HARSH, "C&W"], cells, strict=True)]
    return Table("AUROC " + HARSH, ["network", "set"], ["BIM_d", "iterations"], rows, (4, 1), "A note.")


def every_kind() -> list[Made]:
    costs = {"benign": GENERATOR.lognormal(4, 1, 300), "FGSM": GENERATOR.lognormal(2, 1, 50), HARSH: np.arange(5.0)}
    points = {"benign": GENERATOR.normal(size=(40, 2)), "_hidden": GENERATOR.normal(size=(9, 2)), HARSH: np.zeros((0, 2))}
    over = np.stack([np.arange(5.0), np.arange(5.0) ** 2], axis=1)
    curves = {"A2D": over, "A2D (published)": over[:2], "_AE": over + 1, HARSH: over * 2}
    bars = {"MNIST": np.array([0.9, 0.8]), "MNIST (published)": np.array([0.91, np.nan]), HARSH: np.array([-0.1, 0.3])}
    x = [[None, GENERATOR.uniform(size=(28, 28, 1))], [GENERATOR.uniform(size=(120, 100, 3)).astype(np.float32), None]]
    blocks = [
        *(
            Boxes(f"Iterations of {name}", "iterations", costs, log=name == "BIM", published="the axis ends at 900")
            for name in ("BIM", "DBA")
        ),
        Scatter("Against CLEVER", "CLEVER score", "iterations", points, "About the points."),
        Lines("Success", "confidence", "success rate", curves, "About the curves."),
        Bars("Accuracy", "accuracy", ["K-NN", HARSH], bars, "About the bars."),
        Matrix("Differences", ["benign", "FGSM", HARSH], GENERATOR.uniform(size=(3, 3)), "About the matrix."),
        Images("Digits", ["0", HARSH], ["to 0", "to 1"], x, [["", "1.25"], [HARSH, ""]], "About the images."),
    ]
    return [
        Made("table2", "Table 2 " + HARSH, [numbers(), Table("Settings", ["attack"], ["MNIST"], [Row(["FGSM"], ["epsilon=0.3"])])], 4000),
        Made("figure5", "Figure 5", blocks, 77, ["CIFAR-10: there are no weights."]),
        Made("figure9", "Figure 9", [], 0, ["There is no MagNet."]),
    ]


MADE = every_kind()
TEXT = page.page(TITLE, MADE, LEAD, FACTS)
READ = Reader(TEXT)
VISIBLE = " ".join(READ.text.split())


def test_the_page_is_well_formed_and_needs_nothing_else():
    """Protects the promise of one file: tags close in order, a strict policy, no script, and only data and places of the page are named."""
    assert TEXT.startswith("<!DOCTYPE html>")
    assert "default-src 'none'" in TEXT
    assert not {tag for tag, _ in READ.tags} & {"script", "link", "iframe", "object", "image"}
    assert all(value.startswith("#") for value in READ.values("href"))
    assert all(value.startswith("data:image/png;base64,") for value in READ.values("src"))
    everything = [value or "" for _, attributes in READ.tags for value in attributes.values()]
    assert not [value for value in everything if "//" in value and not value.startswith("data:")]
    assert set(re.findall(r"url\(([^)]{0,2})", TEXT)) <= {"#f", "#t"}  # of the items figure5 and table2
    assert "@import" not in TEXT


def test_names_are_escaped():
    """Protects readers from names: marks of HTML in a name are text, wherever the name stands."""
    assert "<b>" not in TEXT
    for place in ["Table 2 ", "AUROC ", ""]:
        assert place + HARSH in VISIBLE
    assert all(text in VISIBLE for text in [*LEAD, *FACTS.values()])


def test_every_number_stands_beside_the_published_one():
    """Protects the purpose of the page: ours, the paper's, the interval and the images of every number are readable in its cell."""
    for text in [
        "0.9877",
        "paper 0.9811",
        "[0.9700, 0.9990]",
        "n = 1000 + 200",
        "1234.5",
        "12.0",
        "paper 13.4",
        "n = 5",
        "-3.0",
        "[-4.0, 1.0]",
        "a text",
    ]:
        assert text in VISIBLE, text
    for text in ["paper 0.9822", "paper 0.9833", "paper 0.9844", "n = 1000 + 190"]:
        assert text in VISIBLE, text


def test_inside_and_outside_are_said_in_words_and_signs():
    """Protects readers who see no colours or no screen: each number with a band has a sign and words, and one outside shows the band."""
    cells = re.findall(r"<td>.*?</td>", TEXT, re.DOTALL)
    inside, outside = ([cell for cell in cells if sign in cell] for sign in "✓✗")
    assert [len(inside), len(outside)] == [1, 3]
    assert all("in band" in cell for cell in inside)
    assert all("outside" in cell and "band [" in cell for cell in outside)
    assert "band [0.9522, 1.0123]" in outside[0]


def test_reasons_are_footnotes_where_a_number_is_outside_or_missing():
    """Protects honesty: such a number leads to its reason, equal reasons stand once, and a missing reason is said to be missing."""
    reasons = re.findall(r'<li id="table2-1-reason-(\d)">(.*?)</li>', TEXT)
    assert [reason for _, reason in reasons] == [
        "Another network stands in.",
        "It needs 40 hours.",
        "It lies outside its band; no reason is stated.",
        "It was not measured; no reason is stated.",
    ]
    led = re.findall(r'<span class="ours">([^<]*).*?reason-(\d)', TEXT)
    assert len(re.findall(r'href="#table2-1-reason-1"', TEXT)) == 2
    assert {place for _, place in led} == {"1", "2", "3", "4"}


def test_size_of_all_numbers_is_said_once_if_it_is_one():
    """Protects a narrow table: one n for all numbers stands above it and not in each cell."""
    rows = [Row([str(value)], [Number(value, n=(70, 30)), Number(None, 1)]) for value in (0.5, 0.6)]
    seen = Reader(page.page(TITLE, [Made("t", "T", [Table("T", ["set"], ["a", "b"], rows)], 0)], [], {})).text
    assert seen.count("n = 70 + 30") == 1
    assert "n = 70 + 30 for every number" in seen


def test_contents_count_bands_and_name_what_is_missing():
    """Protects the overview: every item is linked with its counts and time, and what is missing is listed with why."""
    row = re.search(r'<tr><th scope="row"><a href="#table2">.*?</tr>', TEXT)
    assert row is not None
    assert re.findall(r"<td>(.*?)</td>", row.group()) == ["1", "3", "3", "2", "67 min"]
    assert {"#table2", "#figure5", "#figure9"} <= set(READ.values("href"))
    for text in ["Missing: CIFAR-10: there are no weights.", "Missing: There is no MagNet.", "not made", "something is missing"]:
        assert text in VISIBLE


def test_ids_are_unique_and_every_reference_finds_its_own():
    """Protects figures from each other: no two elements of the page share an id, and each reference leads to one."""
    ids = READ.values("id")
    assert len(ids) == len(set(ids))
    used = [value[1:] for value in READ.values("href")] + re.findall(r"url\(#([^)]+)\)", TEXT)
    assert set(used) <= set(ids)
    assert len(re.findall("<svg", TEXT)) == 6


def test_figures_take_the_colour_of_the_page_and_say_their_numbers():
    """Protects dark mode and readers of the accessible text: nothing is black or white, and medians and correlations are in words."""
    for drawn in re.findall(r"<svg.*?</svg>", TEXT, re.DOTALL):
        root = ElementTree.fromstring(drawn)
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"]
        assert "currentColor" in drawn
        assert not re.search(r"#000000|#ffffff|#010203|<style|<metadata|DejaVu|\$\\", drawn)
        assert all("fill: currentColor" in element.attrib["style"] for element in root.iter("text"))
    costs, points = MADE[1].blocks[0].groups, MADE[1].blocks[2].series
    assert f"benign {np.median(costs['benign']):.3g} (n = 300)" in READ.values("aria-label")[-6]
    rho = spearmanr(*points["benign"].T).statistic
    assert f"benign: Spearman's ρ {rho:.2f}, n = 40" in VISIBLE  # noqa: RUF001


def test_box_plots_of_one_item_stand_side_by_side():
    """Protects the layout: figures of one kind that follow each other share a grid; other kinds stand alone."""
    assert [found.count("<svg") for found in re.findall(r'<div class="figures.*?(?=<div class="figures|<h3>)', TEXT, re.DOTALL)] == [
        2,
        1,
        1,
        1,
        1,
    ]


def test_boxes_are_those_of_matplotlib():
    """Protects the box plots: quartiles, lines and points beyond them are those of matplotlib's own."""
    values = np.concatenate([np.arange(100.0), [500, 900]])
    axes = drawing._boxes(Boxes("t", "y", {"benign": values})).axes[0]
    lines, _, median, beyond = (line.get_xdata() for line in axes.lines)
    low, high = np.percentile(values, [25, 75])
    box = axes.patches[0]
    assert [box.get_x(), box.get_x() + box.get_width()] == pytest.approx([low, high])
    assert list(median) == [np.median(values)] * 2
    assert [lines[0], lines[4]] == [0, 99]
    assert sorted(beyond) == [500, 900]


def test_published_curves_are_single_marks():
    """Protects the difference between ours and the paper's: published points have no line, and the colour of our curve."""
    block = next(block for block in MADE[1].blocks if isinstance(block, Lines))
    ours, published, *_ = drawing._lines(block).axes[0].lines
    assert published.get_linestyle() == "None"
    assert ours.get_linestyle() == "-"
    assert ours.get_color() == published.get_color()


def test_a_logarithmic_axis_bears_zeros():
    """Protects costs of zero: a logarithmic axis shows them, linear up to the smallest cost above them."""
    costs = {"benign": np.array([0.0, 4, 900]), "FGSM": np.zeros(3)}
    assert drawing._boxes(Boxes("t", "y", costs, log=True)).axes[0].get_xscale() == "symlog"
    assert drawing._boxes(Boxes("t", "y", {"a": costs["benign"][1:]}, log=True)).axes[0].get_xscale() == "log"
    assert drawing._boxes(Boxes("t", "y", {"a": np.zeros(3)}, log=True)).axes[0].get_xscale() == "linear"


def test_the_same_input_gives_the_same_bytes():
    """Protects comparisons of two pages: no date, no random id."""
    assert page.page(TITLE, MADE, LEAD, FACTS) == TEXT
    assert page.markdown(TITLE, MADE, LEAD, FACTS) == page.markdown(TITLE, MADE, LEAD, FACTS)


def test_csv_has_every_digit_and_comes_back(tmp_path):
    """Protects other programs: a table read back from CSV has the numbers that were handed over, exactly."""
    assert page.write(tmp_path / "new" / "folder", TITLE, MADE, LEAD, FACTS) == tmp_path / "new" / "folder" / "index.html"
    page.write(tmp_path / "new" / "folder", TITLE, MADE, LEAD, FACTS)  # it replaces its own files
    found = {file.name: file for file in (tmp_path / "new" / "folder").iterdir()}
    assert sorted(found) == ["index.html", "table2-1.csv", "table2-2.csv"]
    assert found["index.html"].read_text(encoding="utf-8") == TEXT
    with found["table2-1.csv"].open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    wanted = [(row, column, cell) for row in numbers().rows for column, cell in zip(numbers().columns, row.cells, strict=True)]
    for got, (row, column, cell) in zip(read, wanted, strict=True):
        assert [got["network"], got["set"], got["column"]] == [*row.heads, column]
        if isinstance(cell, str):
            assert got["text"] == cell
            continue
        ends = [*(cell.interval or (None, None)), *(cell.band or (None, None))]
        for name, value in zip(
            ["ours", "published", "low", "high", "band low", "band high"], [cell.ours, cell.published, *ends], strict=True
        ):
            assert (float(got[name]) if got[name] else None) == value
        assert got["n"] == " + ".join(map(str, cell.n))
        assert got["inside"] == {True: "yes", False: "no", None: ""}[cell.inside]
        assert got["reason"] == cell.reason


def test_columns_of_markdown_line_up():
    """Protects `docs/paper.md`: every line of a table has its bars at the same places, and bars within names are escaped."""
    text = page.markdown(TITLE, MADE, LEAD, FACTS)
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("| ")]
    assert [len(lines) for lines in tables] == [7, 3]
    for lines in tables:
        places = [[found.start() for found in re.finditer(r"(?<!\\)\|", line)] for line in lines]
        assert all(place == places[0] for place in places)


def test_markdown_has_the_numbers_the_reasons_and_the_figures():
    """Protects the document: cells with the published number and the band, numbered reasons, and a line for each figure."""
    text = page.markdown(TITLE, MADE, LEAD, FACTS)
    for part in [
        "0.9877 (0.9811) [0.9700, 0.9990] n = 1000 + 200 ✓ ",
        "0.7000 (0.9822) [0.6000, 0.8000] n = 1000 + 190 ✗ outside [0.9522, 1.0123]<sup>1</sup> ",
        "\n1. Another network stands in.\n2. It needs 40 hours.\n",
        "Missing: There is no MagNet.",
        "- size: tiny",
        "ResNet-20 &lt;stands in> for GoogLeNet.",
        f"benign {np.median(MADE[1].blocks[0].groups['benign']):.3g} (n = 300)",
        "The paper: the axis ends at 900.",
    ]:
        assert part in text, part
    assert text.count("\nFigure: ") == 7
    assert text.endswith("\n")
    assert "\n\n\n" not in text


@pytest.mark.parametrize(
    "block",
    [
        Table("no rows", ["set"], ["a"], []),
        Table("no heads", [], ["a"], [Row([], [Number(1)])]),
        Table("hundreds of rows", ["set"], ["a", "b"], [Row([str(i)], [Number(i / 7, i, (i,)), Number(None)]) for i in range(400)], 0),
        Table("not a number", ["set"], ["a"], [Row(["a"], [Number(float("nan"), float("inf"), band=(0, 1))])]),
        Boxes("no group", "y", {}),
        Boxes("empty groups", "y", {"benign": np.zeros(0)}),
        Boxes("one empty group", "y", {"benign": np.zeros(0), "FGSM": np.ones(1)}, log=True),
        Boxes("one box", "y", {"benign": np.arange(9)}),
        Boxes("equal values", "y", {"benign": np.full(9, 3.0), "FGSM": np.full(5, 3.0)}, log=True),
        Boxes("not finite", "y", {"benign": np.array([1, np.nan, np.inf]), "FGSM": np.full(2, np.nan)}, log=True),
        Boxes("negative", "y", {"benign": np.array([-1.0, -2, 5]), "FGSM": np.array([1e300, 1e-300])}, log=True),
        Boxes("many values", "y", {"benign": np.random.default_rng(0).standard_cauchy(50_000), "FGSM": np.arange(50_000)}),
        Boxes("many sets", "y", {f"set {i} " * 9: np.arange(9.0) for i in range(40)}),
        Boxes("letters of the world", "y", {"数字 🎲": np.arange(9.0), "\x00\x1b": np.arange(3.0), "": np.arange(2.0)}),
        Scatter("no series", "x", "y", {}),
        Scatter("one point", "x", "y", {"a": np.ones((1, 2)), "b": np.zeros((0, 2))}),
        Scatter("equal", "x", "y", {"a": np.ones((9, 2)), "b": np.array([[np.nan, 1], [1, 2]])}),
        Scatter("many points", "x", "y", {f"s{i}": np.random.default_rng(0).normal(size=(20_000, 2)) for i in range(12)}),
        Lines("one point", "x", "y", {"a": np.ones((1, 2)), "b": np.zeros((0, 2)), "c (published)": np.ones((1, 2))}),
        Lines("gaps", "x", "y", {"a": np.array([[0, 1], [1, np.nan], [2, 3.0]]), "b": np.full((2, 2), np.nan)}),
        Lines("many", "x", "y", {f"series {i} of a long name that goes on and on and on": np.ones((50, 2)) * i for i in range(20)}),
        Bars("no bars", "y", [], {}),
        Bars("one bar", "y", ["a"], {"s": np.array([0.5])}),
        Bars("nothing known", "y", ["a", "b"], {"s": np.full(2, np.nan)}),
        Bars("many", "y", [f"g{i}" for i in range(30)], {f"s{i}": np.zeros(30) for i in range(6)}),
        Matrix("none", [], np.zeros((0, 0))),
        Matrix("one", ["a"], np.ones((1, 1))),
        Matrix("not finite", ["a", "b"], np.full((2, 2), np.nan)),
        Matrix("many", [f"a set of images with a long name {i}" for i in range(15)], np.ones((15, 15))),
        Images("none", [], [], [], []),
        Images("one", ["a"], ["b"], [[np.ones((1, 1, 1))]], [["c"]]),
        Images("nothing there", ["a"], ["b"], [[None]], [[""]]),
    ],
    ids=lambda block: f"{type(block).__name__} {block.title}",
)
def test_unusual_blocks_are_shown(block):
    """Protects hours of work from their page: empty, single, equal, infinite and very many values make a page of a bearable size."""
    made = [Made("item", "Item", [block], 1.0)]
    text = page.page(TITLE, made, [], {})
    read = Reader(text)
    assert block.title in read.text
    assert block.title in page.markdown(TITLE, made, [], {})
    assert len(text) < 2e6
    assert len(page.tables(made)) == isinstance(block, Table)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([Made("a", "A", [], 0), Made("a", "B", [], 0)], "different names"),
        ([Made("../a", "A", [], 0)], "name of letters and digits"),
        ([Table("T", ["set"], ["a", "b"], [Row(["x"], [Number(1)])])], "rows with 2 cells"),
        ([Table("T", ["set"], ["a"], [Row(["x", "y"], [Number(1)])])], "rows with 1 heads"),
        ([Table("T", ["set"], ["a"], [Row(["x"], [0.5])])], "cells that are numbers"),
        ([Table("T", ["set"], ["a"], [], (1, 2))], "decimals for 1 columns"),
        ([Table("T", ["set"], ["a"], [], -1)], "decimals from 0"),
        ([Boxes("T", "y", {"a": np.zeros((2, 2))})], "one number for each image of a"),
        ([Scatter("T", "x", "y", {"a": np.zeros(4)})], r"points \(n, 2\) of a"),
        ([Lines("T", "x", "y", {"a": np.zeros((4, 3))})], r"points \(n, 2\) of a"),
        ([Bars("T", "y", ["a", "b"], {"s": np.zeros(3)})], "2 heights of s"),
        ([Matrix("T", ["a", "b"], np.zeros((3, 3)))], "a matrix"),
        ([Images("T", ["a"], ["b"], [[None, None]], [[""]])], "images in a grid"),
        ([Images("T", ["a"], ["b"], [[None]], [])], "captions in a grid"),
        ([Images("T", ["a"], ["b"], [[np.zeros((4, 4, 2))]], [[""]])], "1 or 3 channels"),
        ([Images("T", ["a"], ["b"], [[np.full((4, 4, 1), np.nan)]], [[""]])], "finite pixels"),
    ],
)
def test_impossible_input_is_refused_in_one_line(made, message, tmp_path):
    """Protects whoever writes a table file: what does not fit is named, with its item and title, before anything is drawn or written."""
    made = [one if isinstance(one, Made) else Made("item", "Item", [one], 0) for one in made]
    for work in (partial(page.page, TITLE), partial(page.markdown, TITLE), lambda *rest: page.write(tmp_path / "out", TITLE, *rest)):
        with pytest.raises(BadInput, match=message) as caught:
            work(made, [], {})
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    """Protects the user's files: a file where the folder should be stays, and the error is one line."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInput, match="expected a folder for the page"):
        page.write(tmp_path / "file", TITLE, [], [], {})
    assert (tmp_path / "file").read_text() == "mine"


def test_a_missing_extra_is_named():
    """Protects a plain installation: without matplotlib the import says in one line what to install."""
    code = "import sys; sys.modules['matplotlib'] = None; import experiments.pages.page"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith('run: pip install "a2d-jax[report]"')


def test_a_reason_is_a_sentence():
    """Protects the reader: a reason that a network has in words stands below the table as a sentence, and once."""
    cells = [Number(None, reason=reason) for reason in ("no attack gets through", "No attack gets through.")]
    text = page.markdown(TITLE, [Made("table1", "One", [Table("T", ("a",), ("b", "c"), [Row(("x",), cells)])], 1.0)], [], {})
    assert text.count("1. No attack gets through.\n") == 1
    assert "2. " not in text
