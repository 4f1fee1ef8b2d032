"""The tutorials: every notebook runs, and what it shows is what comes out."""

import re

import pytest

from experiments.site import notebooks

NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]\d+)?")


def shown(notebook) -> list[str]:
    """What every cell of code prints, and how many figures it draws."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [f"{notebooks.texts(cell)}\n{sum('image/png' in output.get('data', {}) for output in cell.outputs)} figures" for cell in cells]


def near(text: str, other: str) -> bool:
    """Whether the words are the same and the numbers about so: other machines round in another way, and training enlarges that."""
    if NUMBER.sub("#", text) != NUMBER.sub("#", other):
        return False
    pairs = zip(map(float, NUMBER.findall(text)), map(float, NUMBER.findall(other)), strict=True)
    return all(abs(one - two) <= max(3, 0.25 * max(one, two)) for one, two in pairs)


@pytest.mark.slow
@pytest.mark.xdist_group("tutorials")
@pytest.mark.parametrize("path", sorted(notebooks.TUTORIALS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_it_runs_and_shows_what_it_says(path, monkeypatch):
    """Protects who learns from a tutorial: each cell runs, and the numbers on the page are those that the reader will get."""
    for setting in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES"):  # of tests; the kernel runs as a reader's does
        monkeypatch.delenv(setting, raising=False)
    kept, now = notebooks.nbformat.read(path, 4), notebooks.run(path)
    for before, after in zip(shown(kept), shown(now), strict=True):
        assert near(before, after), f"{path.name} shows\n{before}\nand gives\n{after}\nrun: python -m experiments.site.notebooks"


@pytest.mark.parametrize("path", sorted(notebooks.TUTORIALS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_it_is_kept_small(path):
    """Protects the repository and the site: outputs are there, and a notebook stays below 100 kB."""
    assert path.stat().st_size < 100_000
    assert all(
        cell.get("outputs") for cell in notebooks.nbformat.read(path, 4).cells if "print(" in cell.source and "def " not in cell.source
    )


@pytest.mark.parametrize(
    ("text", "other", "same"),
    [
        ("flagged: 7.3% of 397", "flagged: 6.9% of 397", True),
        ("flagged: 100% of 397", "flagged: 60% of 397", False),
        ("flagged: 7% of 397", "caught: 7% of 397", False),
        ("radius 0.017", "radius 0.018", True),
        ("[1 4 2]", "[1 4]", False),
    ],
)
def test_near(text, other, same):
    """Protects the comparison above: it bears rounding, and no other result."""
    assert near(text, other) is same
