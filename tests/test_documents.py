"""The documents: every block of code runs, in the order of its page, and every link has a target.

A page of docs/ starts in a folder with the files that the blocks of the README made, as the first lines of the page say. If a block begins
with a file name as a comment, it is stored in this file.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "models" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OUTSIDE = re.compile(r"^(make|pip install) ")  # what makes the environment that this runs in
NO_CODE = {"text", "toml", "json", "bibtex"}


def blocks(page: Path) -> list[tuple[str, str, int]]:
    """Language, text and line of every block of code."""
    text = page.read_text(encoding="utf-8")
    return [(found[1], found[2], text[: found.start()].count("\n") + 2) for found in BLOCK.finditer(text)]


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def has(page: Path, *languages: str) -> bool:
    """Whether a page has blocks in one of the languages."""
    return any(language in languages for language, _, _ in blocks(page))


def name(page: Path) -> str:
    """A page as a person names it."""
    return str(page.relative_to(ROOT))


def run(page: Path) -> None:
    """Run the blocks of a page, one after the other, in the current folder, from which Python imports as in a program that lies there."""
    names: dict[str, object] = {"__name__": "__main__"}
    sys.path.insert(0, str(Path.cwd()))
    try:
        _run(page, names)
    finally:
        sys.path.remove(str(Path.cwd()))
        for module in [name for name, found in sys.modules.items() if Path(getattr(found, "__file__", None) or "/").parent == Path.cwd()]:
            del sys.modules[module]


def _run(page: Path, names: dict[str, object]) -> None:
    for language, text, line in blocks(page):
        if language == "python":
            if file := re.match(r"# (\w+\.py)\n", text):
                Path(file[1]).write_text(text, encoding="utf-8")
            with jax.numpy_rank_promotion("allow"):  # as in a user's program
                exec(compile("\n" * (line - 1) + text, str(page), "exec"), names)
        elif language == "bash":
            commands = "\n".join(command for command in text.splitlines() if not OUTSIDE.match(command))
            found = {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", commands],
                env=os.environ | found,
                check=False,
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert done.returncode == 0, f"{name(page)}, line {line}:\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="session")
def made_by_readme(tmp_path_factory):
    """The folder in which the README's blocks have run."""
    folder, before = tmp_path_factory.mktemp("readme"), Path.cwd()
    os.chdir(folder)
    try:
        run(README)
    finally:
        os.chdir(before)
    return folder


@pytest.mark.slow
@pytest.mark.xdist_group("documents")
@pytest.mark.parametrize("page", [page for page in PAGES if has(page, "python", "bash")], ids=name)
def test_every_block_runs(page, made_by_readme, tmp_path, monkeypatch):
    """Protects who copies from a page: what is printed there runs as printed, without a warning."""
    if page == README:
        assert {"benign.npz", "lenet", "benign.parquet", "detector.json", "verdicts.parquet"} <= set(os.listdir(made_by_readme))
        return
    folder = shutil.copytree(made_by_readme, tmp_path / "folder")
    monkeypatch.chdir(folder)
    run(page)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_what_it_is(page):
    """Protects the test above: no code hides in a block without a language, in an unknown one, or in an indented one."""
    languages = {language for language, _, _ in blocks(page)}
    assert languages <= {"python", "bash"} | NO_CODE
    assert not re.search(r"(^|\n)\s*\n {4,}(?![-*\d])\S", prose(page))
    assert "```" not in prose(page)


def test_what_is_not_run_here_is_there():
    """Protects the lines that make the environment: targets of make, and extras of the package."""
    lines = [line for page in PAGES for language, text, _ in blocks(page) if language == "bash" for line in text.splitlines()]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    outside = [line for line in lines if OUTSIDE.match(line)]
    assert any("make demo" in line for line in outside)
    for line in outside:
        words = line.partition("#")[0].split()
        if words[0] == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        for named in re.findall(r"\[([\w,]+)\]", line):
            assert set(named.split(",")) <= set(extras)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    """Protects the reader: files and headings that a page links to are there."""
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        file, _, heading = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{name(page)} links to {link}"
        if heading:
            headings = re.findall(r"^#+ (.*)$", prose(target), re.MULTILINE)
            assert heading in {anchor(text) for text in headings}, f"{name(page)} links to {link}"


def anchor(heading: str) -> str:
    """How a heading is linked to, on GitHub."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_readme_is_short():
    """Protects the first visit: at most 800 words, code and tables included, and an example of 12 lines."""
    assert len(README.read_text(encoding="utf-8").split()) <= 800
    example = next(text for language, text, _ in blocks(README) if language == "python")
    assert sum(bool(line.strip()) for line in example.splitlines()) <= 12
