"""Pages of the documentation: their code runs."""

import pathlib
import re

import pytest

PAGES = pathlib.Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["converting.md"])
def test_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """The Python blocks of a page run in their order, as one program, as printed."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (PAGES / page).read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    exec(compile("\n".join(blocks), page, "exec"), {"__name__": "page"})
