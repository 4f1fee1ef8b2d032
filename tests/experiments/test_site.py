"""The documentation site: how pages are gathered, and what its checks find. `make docs` builds the whole of it."""

import tomllib
from pathlib import Path

import nbformat
import pytest

from a2d_jax.presets import PRESETS
from experiments.site import attacks, check, notebooks, pages, reference

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path):
    """A small repository with a page in every place that links can lead to."""
    for name, text in {
        "README.md": "[more](docs/more.md#deep), [notes](docs/decisions), [licence](LICENSE)\n",
        "CONTRIBUTING.md": "",
        "CHANGELOG.md": "",
        "models/README.md": "[more](../docs/more.md)\n",
        "LICENSE": "free",
        "docs/more.md": "# More\n\n[start](../README.md), [lesson](tutorials/first.ipynb), [out](https://example.org), ![a](a.svg)\n",
        "docs/a.svg": "<svg/>",
        "docs/peers.md": (ROOT / "docs/peers.md").read_text(),
        "docs/decisions/0001-one.md": "# 0001 One\n\n[more](../more.md)\n\n```python\nx[0](1)\n```\n",
        "docs/decisions/0002-two.md": "# 2. Two: and more\n",
        "zensical.toml": '[project]\nnav = ["index.md", { "More" = ["more.md", { "Lost" = "lost.md" }] }]\n',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "docs/tutorials").mkdir()
    cells = [nbformat.v4.new_markdown_cell("# First\n\n[more](../more.md)"), nbformat.v4.new_code_cell("print(1)")]
    cells[1].outputs = [
        nbformat.v4.new_output("stream", text="\x1b[31m1\x1b[0m\n"),
        nbformat.v4.new_output("display_data", {"image/png": "aGVsbG8=", "text/plain": "<Figure>"}),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "docs/tutorials/first.ipynb")
    return tmp_path


def test_links_are_turned_to_where_pages_lie(checkout):
    """Protects readers of both GitHub and the site: one page serves both, whatever folder it moves to."""
    pages.gather(checkout)
    made = checkout / pages.PAGES
    assert "[more](more.md#deep), [notes](decisions/index.md), [licence](files/LICENSE)" in (made / "index.md").read_text()
    assert (made / "files/LICENSE").read_text() == "free"
    assert (made / "networks.md").read_text() == "[more](more.md)\n"
    turned = (made / "more.md").read_text()
    assert "[start](index.md), [lesson](tutorials/first.md), [out](https://example.org), ![a](a.svg)" in turned
    assert (made / "a.svg").exists()
    note = (made / "decisions/0001-one.md").read_text()
    assert "[more](../more.md)" in note
    assert "x[0](1)" in note
    assert "- [0001 One](0001-one.md)\n- [0002 Two: and more](0002-two.md)\n" in (made / "decisions/index.md").read_text()


def test_a_notebook_becomes_a_page(checkout):
    """Protects the tutorials on the site: text, code, what was printed and figures, in their order."""
    pages.gather(checkout)
    text = (checkout / pages.PAGES / "tutorials/first.md").read_text()
    assert text.startswith("# First\n\n[more](../more.md)\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n![")
    assert "<Figure>" not in text
    assert (checkout / pages.PAGES / "tutorials/first_1.png").read_bytes() == b"hello"
    assert notebooks.as_markdown(checkout / "docs/tutorials/first.ipynb")[1] == {"first_1.png": b"hello"}


def test_the_checks_find_faults(checkout, monkeypatch):
    """Protects strictness: a missing page, place or public name, a file from elsewhere and raw markup each fail the build."""
    monkeypatch.setattr(check, "undocumented", lambda anchors: [])
    (checkout / pages.PAGES).mkdir(parents=True)
    for name in ("index.md", "more.md", "astray.md", "decisions/0001-one.md"):
        pages.write(checkout / pages.PAGES / name, "")
    site = checkout / pages.SITE
    pages.write(site / "assets/ours.css", "")
    head = '<link rel="canonical" href="https://example.org/"><link rel="stylesheet" href="assets/ours.css">'
    good = '<a href="more.html#deep">a</a><a href="#here" id="here">b</a><a href="https://example.org">c</a><code>x[0](1)</code>'
    pages.write(site / "index.html", head + good)
    pages.write(site / "more.html", '<h2 id="deep"></h2>')
    nav = ["zensical.toml lacks astray.md in its nav", "zensical.toml names lost.md, which is not there"]
    assert check.faults(checkout) == nav
    bad = '<a href="gone.html">a</a><a href="more.html#none">b</a><script src="//cdn.example.org/x.js"></script><p>[a][b.c]</p>'
    pages.write(site / "index.html", bad)
    assert check.faults(checkout) == [
        "index.html loads //cdn.example.org/x.js from elsewhere",
        "index.html leads to gone.html, which is not there",
        "index.html leads to more.html#none, which has no such place",
        "index.html shows markup: [a][b.c]",
        *nav,
    ]


def test_every_public_name_is_asked_for():
    """Protects the reference: a name is documented where it is public or where it is defined, and is missed elsewhere."""
    missing = check.undocumented(set())
    assert {"the reference lacks a2d_jax.Defense", "the reference lacks a2d_jax.attacks.PGD"} <= set(missing)
    left = check.undocumented({"a2d_jax.costs.Defense", "a2d_jax.attacks.pgd.PGD"})
    assert set(missing) - set(left) == {
        "the reference lacks a2d_jax.Defense",
        "the reference lacks a2d_jax.costs.Defense",
        "the reference lacks a2d_jax.attacks.PGD",
    }


def test_every_attack_has_a_page():
    """Protects who looks up an attack: each module, each name of a preset and each row beside a peer is on one page."""
    modules = {path.stem for path in (ROOT / "a2d_jax/attacks").glob("*.py")} - {"__init__", "path"}
    assert set(attacks.ATTACKS) == modules
    named = [name for page in attacks.ATTACKS.values() for name in page.presets]
    assert len(named) == len(set(named))
    assert set(named) == {name for preset in PRESETS.values() for role in (preset.defence, preset.crafting) for name in role}
    peers = (ROOT / "docs/peers.md").read_text()
    made = "\n".join(attacks.pages(peers).values())
    rows = [line for line in peers.splitlines() if line.startswith("| ") and not line.startswith(("| attack", "|  |"))]
    assert rows
    assert all(made.count(line) == 1 for line in rows)


def test_pages_of_the_code_are_in_the_navigation():
    """Protects the way to a page that is made: the navigation names each of them."""
    nav = set(check._pages(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    assert set(reference.pages()) | {f"attacks/{module}.md" for module in attacks.ATTACKS} <= nav
