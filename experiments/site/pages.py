"""Gather the pages of the site: those that GitHub shows, with their links turned to where the pages lie here, and those made from code.

Pages of docs/ keep their names. README.md is the first page; the other pages outside docs/ have the names of `OUTSIDE`. A link to any other
file of the repository leads to a copy of it.
"""

import re
import shutil
from pathlib import Path

from experiments.site import attacks, notebooks, reference

PAGES, SITE = Path("build/pages"), Path("build/site")
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "models/README.md": "networks.md",
}
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
STYLE = Path(__file__).with_name("site.css")


def gather(root: Path) -> None:
    """Write all pages into `root / PAGES`, an empty or missing folder."""
    out = root / PAGES
    for source in [*OUTSIDE, *(str(path.relative_to(root)) for path in sorted((root / "docs").rglob("*.md")))]:
        write(out / place(source), turned((root / source).read_text(encoding="utf-8"), source, root))
    for notebook in sorted((root / "docs" / "tutorials").glob("*.ipynb")):
        source = str(notebook.relative_to(root))
        text, figures = notebooks.as_markdown(notebook)
        write(out / place(source), turned(text, source, root))
        for name, content in figures.items():
            (out / place(source)).with_name(name).write_bytes(content)
    made = attacks.pages((root / "docs" / "peers.md").read_text(encoding="utf-8")) | reference.pages()
    for name, text in (made | {"decisions/index.md": decisions(root)}).items():
        write(out / name, text)
    write(out / "assets" / "site.css", STYLE.read_text(encoding="utf-8"))


def write(path: Path, text: str) -> None:
    """Write a page, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def place(source: str) -> str:
    """Where a file of the repository lies in the site."""
    if source == "docs/decisions":
        return "decisions/index.md"
    if source in OUTSIDE:
        return OUTSIDE[source]
    inside = source.removeprefix("docs/")
    return inside.removesuffix(".ipynb") + ".md" if source.endswith(".ipynb") else inside if inside != source else f"files/{source}"


def turned(text: str, source: str, root: Path) -> str:
    """A page with its links, outside blocks of code, as they must be in the site. What links name and the site lacks is copied."""

    def link(found: re.Match[str]) -> str:
        target, mark, heading = found[2].partition("#")
        if not target or re.match(r"\w+:", target):
            return found[0]
        named = (root / source).parent.joinpath(target).resolve()
        if not named.is_relative_to(root) or not named.exists():
            return found[0]  # the build says where it leads
        there = place(str(named.relative_to(root)))
        if named.is_file() and named.suffix not in (".md", ".ipynb"):
            (root / PAGES / there).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(named, root / PAGES / there)
        up = "../" * place(source).count("/")
        return f"{found[1]}{up}{there}{mark}{heading}{found[3]}"

    parts = FENCED.split(text)  # blocks of code are at odd places
    return "".join(part if number % 2 else LINK.sub(link, part) for number, part in enumerate(parts))


def decisions(root: Path) -> str:
    """The index of all decision notes."""
    lines = ["# Decisions", "", "Each note says what was decided, why, and what was rejected, with the evidence.", ""]
    for note in sorted((root / "docs" / "decisions").glob("*.md")):
        title = note.read_text(encoding="utf-8").partition("\n")[0]
        number, words = re.fullmatch(r"# (\d+)[.:]? (.*)", title).groups()
        lines.append(f"- [{number.zfill(4)} {words[0].upper()}{words[1:]}]({note.name})")
    return "\n".join(lines) + "\n"
