"""Check the built site: every link has a target, every page is in the navigation, every public name is documented, nothing is external."""

import inspect
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import a2d_jax
from experiments.site.pages import PAGES, SITE

LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
RELATIONS = {"canonical", "prev", "next", "alternate"}  # links of a page's head that load nothing
UNNAVIGATED = ("decisions/",)  # their index lists them


class Page(HTMLParser):
    """The anchors of a page, where it leads, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.code = 0
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = dict(attrs)
        self.ids |= {str(has[key]) for key in ("id", "name") if has.get(key)}
        if tag == "a" and has.get("href"):
            self.links.append(str(has["href"]))
        if tag in LOADED and has.get(LOADED[tag]) and not set((has.get("rel") or "").split()) & RELATIONS:
            self.loads.append(str(has[LOADED[tag]]))
        self.code += tag in ("code", "pre", "script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.code -= tag in ("code", "pre", "script", "style")

    def handle_data(self, data: str) -> None:
        if not self.code:
            self.words.append(data)


def faults(root: Path) -> list[str]:
    """What is wrong with the site, one line each."""
    site = root / SITE
    found = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    anchors = {path: page.ids for path, page in found.items()}
    wrong: list[str] = []
    for path, page in found.items():
        where = path.relative_to(site)
        wrong += [f"{where} loads {load} from elsewhere" for load in page.loads if urlsplit(load).netloc]
        if where.name == "404.html":
            continue  # its links are absolute
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                wrong.append(f"{where} leads to {link}, which is not there")
            elif parts.fragment and target in anchors and unquote(parts.fragment) not in anchors[target] | {"__top"}:
                wrong.append(f"{where} leads to {link}, which has no such place")
        wrong += [f"{where} shows markup: {word.strip()[:80]}" for word in page.words if "](" in word or "][" in word or ":::" in word]
    return wrong + outside_navigation(root) + undocumented(set().union(*anchors.values()))


def outside_navigation(root: Path) -> list[str]:
    """Pages that the navigation lacks."""
    nav = tomllib.loads((root / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    named = set(_pages(nav))
    there = {str(path.relative_to(root / PAGES)) for path in (root / PAGES).rglob("*.md")}
    return [f"zensical.toml lacks {page} in its nav" for page in sorted(there - named) if not page.startswith(UNNAVIGATED)] + [
        f"zensical.toml names {page}, which is not there" for page in sorted(named - there)
    ]


def _pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in _pages(entry)]


def undocumented(anchors: set[str]) -> list[str]:
    """Public names of the package and of its public modules that no page has."""
    public: list[tuple[str, Any]] = []
    for name in a2d_jax.__all__:
        value = getattr(a2d_jax, name)
        if inspect.ismodule(value) and hasattr(value, "__all__"):
            public += [(f"{value.__name__}.{each}", getattr(value, each)) for each in value.__all__]
        else:
            public.append((f"a2d_jax.{name}", value))
    return [f"the reference lacks {name}" for name, value in public if not _homes(name, value) & anchors]


def _homes(name: str, value: Any) -> set[str]:
    """A name where it is public, and in every module from where it is defined upwards."""
    if inspect.ismodule(value):
        return {value.__name__}
    modules = getattr(value, "__module__", "").split(".")
    return {name, *(f"{'.'.join(modules[:end])}.{getattr(value, '__name__', '')}" for end in range(1, len(modules) + 1))}
