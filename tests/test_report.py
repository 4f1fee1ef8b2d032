"""The figure and the page: figures show the measured costs, and a page needs no other file."""

import base64
import html.parser
import io
from itertools import pairwise

import matplotlib.pyplot
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve

from a2d_jax import metrics, report
from a2d_jax.errors import BadInput
from a2d_jax.report import numbers

GENERATOR = np.random.default_rng(0)
COSTS = {
    "benign": np.stack([GENERATOR.integers(50, 502, 80), GENERATOR.integers(0, 40, 80)], axis=1),
    "FGSM": np.stack([GENERATOR.integers(1, 120, 60), GENERATOR.integers(0, 60, 60)], axis=1),
    "JSMA": np.ones((7, 2), int),
}


class Reader(html.parser.HTMLParser):
    """Collects tags with their attributes, and the text of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_one_column_of_panels_per_attack():
    """Protects the layout: a distribution and two ROC panels per attack, titled with its name, whatever the number of attacks."""
    for attacks in (["BIM"], ["BIM", "DBA"]):
        drawn = report.figure({name: table[:, : len(attacks)] for name, table in COSTS.items()}, attacks)
        by = [f"detection by {a} cost" for a in attacks]
        assert [axes.get_title() for axes in drawn.axes] == [f"cost of {a}" for a in attacks] + by + by
        assert [axes.get_xscale() for axes in drawn.axes[len(attacks) :]] == ["linear"] * len(attacks) + ["log"] * len(attacks)


def test_legend_says_the_auroc_of_scikit_learn():
    """Protects the ROC panels: low cost is adversarial, and the numbers are those of roc_auc_score."""
    drawn = report.figure(COSTS, ["BIM", "JSMA"])
    for column in range(2):
        written = [text.get_text() for text in drawn.axes[2 + column].get_legend().get_texts()]
        for text, name in zip(written, ["FGSM", "JSMA"], strict=True):
            truth = np.repeat([0, 1], [80, len(COSTS[name])])
            expected = roc_auc_score(truth, -np.concatenate([COSTS["benign"][:, column], COSTS[name][:, column]]))
            assert text == f"{name}  {expected:.3f}"


def test_failures_are_drawn_apart():
    """Protects the meaning of a failure: it is no cost like others, its share is written, and the histogram holds the rest."""
    costs = {"benign": np.array([[3]] * 30 + [[501]] * 10), "FGSM": np.array([[2]] * 20)}
    axes = report.figure(costs, ["BIM"], max_costs=[501]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["25%"]
    assert "failed" in [label.get_text() for label in axes.get_xticklabels()]
    assert "at most 500" in axes.get_xlabel()
    shares = [
        np.sum((patch.get_data().values - patch.get_data().baseline) * np.diff(np.log10(patch.get_data().edges))) for patch in axes.patches
    ]
    assert shares[0] / shares[1] == pytest.approx(0.75)


def test_failure_of_everything_can_be_drawn():
    """Protects the edge: a set that no attack could turn still has its bar, and its median is said to lie beyond the budget."""
    axes = report.figure({"benign": np.full((5, 1), 11), "FGSM": np.full((5, 1), 11)}, ["BIM"], max_costs=[11]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["100%", "100%"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["benign\nmedian > 10", "FGSM\nmedian > 10"]


def test_the_line_of_a_threshold_divides_costs():
    """Protects the figure of one attack: the line stands between the last cost that is flagged and the first that is benign."""
    drawn = report.distributions({name: table[:, 0] for name, table in COSTS.items()}, "BIM", max_cost=501, threshold=90)
    (axes,) = drawn.axes
    lines = [line.get_xdata()[0] for line in axes.lines if line.get_color() == "#d55e00"]
    assert lines == [89.5]
    written = {text.get_text().strip(): text.get_ha() for text in axes.texts}
    assert (written["flagged"], written["benign"]) == ("right", "left")
    assert report.svg(drawn) == report.svg(drawn)
    assert report.svg(drawn).startswith("<?xml")


@pytest.mark.parametrize("highest", [10, 37, 500, 5000])
def test_no_gaps_between_costs(highest):
    """Protects the histograms: with every cost present once no bin is empty, and every cost is in one."""
    costs = np.arange(highest + 1)[:, None]
    axes = report.figure({"benign": costs, "same": costs}, ["BIM"]).axes[0]
    values, edges, baseline = axes.patches[0].get_data()
    assert (values > baseline).all()
    assert np.histogram(np.maximum(costs, 1), edges)[0].sum() == highest + 1


def test_nothing_of_matplotlib_is_global():
    """Protects programs with figures of their own: pyplot knows nothing of ours."""
    report.png(report.figure(COSTS, ["BIM", "JSMA"]))
    assert matplotlib.pyplot.get_fignums() == []


def test_figure_as_png_is_reproducible():
    """Protects comparisons of runs: the same costs give the same bytes, a readable PNG."""
    one, other = (report.png(report.figure(COSTS, ["BIM", "JSMA"], max_costs=[501, 2000])) for _ in range(2))
    assert one == other
    assert Image.open(io.BytesIO(one)).width > 600


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        ({"benign": np.ones((3, 1), int)}, "at least one other set, got 1"),
        ({"benign": np.ones((3, 1), int), "FGSM": np.ones((0, 1), int)}, r"for FGSM, got \(0, 1\)"),
        ({"benign": np.ones((3, 2), int), "FGSM": np.ones((3, 1), int)}, r"for benign, got \(3, 2\)"),
    ],
)
def test_unusable_costs_are_refused(costs, said):
    """Protects users from a wrong drawing: what cannot be drawn is said in one line."""
    with pytest.raises(BadInput, match=said):
        report.figure(costs, ["BIM"])


def page_of(name: str, x: np.ndarray) -> str:
    shot = report.Shot(x, name, name, {name: "12", "DBA": "failed (300)"}, {name: True, "vote": False}, adversarial=True)
    table = report.Table(name, [name, "AUROC"], [[name, "0.5"]], name)
    drawing = report.Drawing(report.figure({"benign": COSTS["benign"], name: COSTS["FGSM"]}, ["BIM", "JSMA"]), name, name)
    section = report.Section(name, [name], [drawing], [table], {name: [shot]})
    return report.page(name, lead=[name], sections=[section], facts={name: name}, foot=name)


def test_page_escapes_every_name():
    """Protects readers: a file or attack may be called anything and still cannot put markup into the page."""
    name = "<script>alert('\"&amp;')</script>"
    seen = Reader(page_of(name, np.zeros((8, 8, 1), np.float32)))
    assert not seen.of("script")
    # title, heading, lead; section: heading, text; figure: 2 labels, 2 legends, note; table: title, header, row, note; group; shot: name,
    # class, attack, detector; fact: name, text; foot
    assert seen.text.count(name) == 22
    assert name in next(image["alt"] for image in seen.of("img") if image["alt"].startswith("<"))
    assert name in [drawn["aria-label"] for drawn in seen.of("svg")]


def test_page_loads_nothing():
    """Protects self-containment: no address in any attribute but data URIs, and a policy that forbids the rest."""
    page = page_of("a name", np.zeros((8, 8, 1), np.float32))
    seen = Reader(page)
    assert all(image["src"].startswith("data:image/png;base64,") for image in seen.of("img"))
    assert not seen.of("link")
    assert "://" not in page
    assert any((meta.get("content") or "").startswith("default-src 'none'") for meta in seen.of("meta"))


def test_page_can_be_read_by_all():
    """Protects accessibility: language, width for phones, dark colours, alternative texts, scoped headers of every table."""
    page = page_of("a name", np.zeros((8, 8, 1), np.float32))
    seen = Reader(page)
    assert seen.of("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in seen.of("meta"))
    assert "prefers-color-scheme: dark" in page
    assert len(seen.of("img")) == len(seen.of("svg")) == 1
    assert all(image.get("alt") for image in seen.of("img"))
    assert all(drawn.get("aria-label") and drawn.get("role") == "img" for drawn in seen.of("svg"))
    assert all(header.get("scope") in ("col", "row") for header in seen.of("th"))


@pytest.mark.parametrize("channels", [1, 3])
def test_page_holds_the_pixels(channels):
    """Protects the images: decoded by Pillow they are the input, rounded to 8 bits."""
    x = GENERATOR.random((8, 6, channels), np.float32)
    source = next(image["src"] for image in Reader(page_of("a name", x)).of("img"))
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))))
    np.testing.assert_array_equal(decoded.reshape(x.shape), np.round(x * 255))


def test_images_of_other_channels_are_refused():
    """Protects users from a picture that means nothing: only grey and colour images can be shown."""
    with pytest.raises(BadInput, match=r"1 or 3 channels, got \(8, 8, 2\)"):
        page_of("a name", np.zeros((8, 8, 2), np.float32))


def test_wrong_verdicts_are_marked():
    """Protects honesty: a missed adversarial image and a false alarm are named so, a right or unknown verdict carries no remark."""
    x = np.zeros((8, 8, 1), np.float32)
    remarks = [
        [remark for _, _, remark in report.Shot(x, "", "", {}, {"yes": True, "no": False}, adversarial).judged()]
        for adversarial in (True, False, None)
    ]
    assert remarks == [["", "missed"], ["false alarm", ""], ["", ""]]


def test_curves_of_a_shift():
    """Protects the figure of a shift: a panel for each attack, the share below each p-value, and the share flagged in the legend."""
    p = {"bim": GENERATOR.random(50) ** 2, "jsma": GENERATOR.random(40)}
    drawn = report.shift_figure(p, 0.1)
    assert [axes.get_title() for axes in drawn.axes] == ["p-values of bim", "p-values of jsma"]
    for axes, values in zip(drawn.axes, p.values(), strict=True):
        curve = axes.get_lines()[1]
        x, y = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
        np.testing.assert_array_equal(np.sort(values), x[1:])
        np.testing.assert_allclose(y[1:], np.arange(1, len(values) + 1) / len(values))
        legend = axes.get_legend()
        assert legend is not None
        assert f"{np.mean(values < 0.1):.1%} flagged" in legend.get_texts()[-1].get_text()
    assert Image.open(io.BytesIO(report.png(drawn))).size[0] > 900
    for nothing in ({}, {"bim": np.zeros(0)}):
        with pytest.raises(BadInput, match="p-values of at least one image"):
            report.shift_figure(nothing, 0.1)


def test_stairs_of_the_logarithmic_axis_are_what_a_threshold_can_do():
    """Protects the logarithmic ROC: at each false-positive rate the curve has the best detection of a threshold within it, as in tables."""
    benign, other = COSTS["benign"][:, 0], COSTS["FGSM"][:, 0]
    (axes,) = report.roc(report.Panel("BIM", {"benign": benign, "FGSM": other}), logarithmic=True).axes
    x, y = axes.lines[1].get_data()
    for rate in (0.01, 0.05, 0.3):
        assert y[x <= rate][-1] == metrics.tpr_at_fpr(-benign, -other, rate)


def test_thinned_curves_stay_where_they_were():
    """Protects large sets: of 20,000 points a few hundred are drawn, none moved, and no gap is wider than the eye sees."""
    benign, other = GENERATOR.normal(0, 1, 20_000), GENERATOR.normal(1, 1, 20_000)
    for logarithmic in (False, True):
        panel = report.Panel("d", {"benign": benign, "other": other}, "score")
        (axes,) = report.roc(panel, logarithmic=logarithmic).axes
        x, y = axes.lines[1].get_data()
        assert len(x) <= 200
        fpr, tpr, _ = roc_curve(np.repeat([0, 1], 20_000), np.concatenate([benign, other]), drop_intermediate=False)
        points = set(zip(fpr.tolist(), tpr.tolist(), strict=True))
        assert sum(point in points for point in zip(x.tolist(), y.tolist(), strict=True)) >= len(x) - 1
        assert np.abs(np.diff(y)).max() < 0.02


def test_numbers_of_any_size_have_bins():
    """Protects scores and distances: far values do not squeeze the others, equal ones have a bar, and the threshold lies on the axis."""
    far = np.concatenate([GENERATOR.normal(0, 1, 500), [1e9]])
    (axes,) = report.spread(report.Panel("d", {"benign": far, "other": np.full(9, 3.0)}, "score", None, 2.0)).axes
    assert axes.get_xlim()[1] < 10
    values, edges, baseline = axes.patches[0].get_data()
    assert ((values - baseline) > 0).sum() > 10
    assert edges[0] < 2 < edges[-1]
    (axes,) = report.spread(report.Panel("d", {"benign": np.full(9, 3.0)}, "number")).axes
    assert len(axes.patches) == 1
    (axes,) = report.spread(report.Panel("d", {"benign": np.geomspace(1e-6, 1, 99)}, "number")).axes
    assert axes.get_xscale() == "log"


def test_shares_along_a_day():
    """Protects the share over time: the bins hold all images, their shares are NumPy's, and a bin without images has no share."""
    place = np.concatenate([np.arange(1000), np.arange(3000, 4000)])
    flagged = place % 7 == 0
    found = numbers.along(place, flagged)
    assert found.images.sum() == 2000
    for low, high, share, images in zip(found.edges[:-1], found.edges[1:], found.share, found.images, strict=True):
        here = (place >= low) & (place < high)
        assert images == here.sum()
        assert np.isnan(share) if not images else share == flagged[here].mean()
    assert np.isnan(found.share).any()
    assert len(numbers.along(np.array([2**63 - 1, 5]), np.array([True, False])).share) == 1


def test_many_sets_with_long_names_can_be_read():
    """Protects figures of many sets: names do not overlap, however long, and no set but the benign one is drawn in ink."""
    sets = {f"set {place} of images that someone gave a very long name": np.arange(1, 50) for place in range(20)}
    drawn = report.spread(report.Panel("BIM", sets))
    report.png(drawn)
    (axes,) = drawn.axes
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(below.y1 < above.y0 for above, below in pairwise(boxes))
    assert [patch.get_facecolor()[:3] for patch in axes.patches].count(axes.patches[0].get_facecolor()[:3]) == 1
