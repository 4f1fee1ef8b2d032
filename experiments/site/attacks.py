"""A page for each attack: its formula, source and differences from its docstring, its settings, and its rows beside other libraries."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from a2d_jax import attacks
from a2d_jax.presets import PRESETS
from a2d_jax.specs import Maker, settings_of


class Page(NamedTuple):
    """What belongs on the page of one module of `a2d_jax.attacks`."""

    title: str
    presets: Sequence[str] = ()  # names on the command line
    peers: Sequence[str] = ()  # how the rows of docs/peers.md begin
    more: str = ""


ATTACKS = {
    "pgd": Page("FGSM, BIM, PGD", ("fgsm", "bim", "bim2", "bim_b", "pgd"), ("FGSM", "BIM-b", "PGD")),
    "apgd": Page("APGD", ("apgd", "apgd_dlr"), ("APGD",)),
    "gradient_sign": Page("FGSM by line search", ("gradient_sign",), ("GradientSign",)),
    "bim_search": Page("BIM by radius search", ("bim_search",), ("BIM with search",)),
    "newton": Page("Newton", ("newton", "newton_l2"), more="[Newton](../newton.md) has its measurements and says when to use it."),
    "deepfool": Page("DeepFool", ("deepfool",), ("DeepFool",)),
    "fmn": Page("FMN", ("fmn", "fmn_l2"), ("FMN",)),
    "carlini_wagner": Page("C&W", ("cw",), ("C&W",)),
    "cw_margin": Page("C&W of the paper's second environment", ("cw_margin",)),
    "lbfgs": Page("L-BFGS", ("lbfgs",), ("L-BFGS",)),
    "jsma": Page("JSMA", ("jsma",), more="[Results](../results.md) compares its costs with those of the authors' code."),
    "jsma_untargeted": Page("JSMA without a target", ("jsma_untargeted",)),
    "jsma_once": Page("JSMA, each scalar raised once", ("jsma_pairs", "jsma_single"), ("JSMA",)),
    "boundary": Page("Boundary attack", ("dba",), ("boundary",)),
    "local_search": Page("Local search", ("lsa",), ("local search",)),
}


def pages(peers: str) -> dict[str, str]:
    """Text by name of page.

    Args:
      peers: the text of docs/peers.md.
    """
    return {f"attacks/{module}.md": _page(module, page, peers) for module, page in ATTACKS.items()}


def _page(module: str, page: Page, peers: str) -> str:
    parts = [f"# {page.title}", f"::: a2d_jax.attacks.{module}\n{_options(module)}"]
    if page.presets:
        parts += ["## Settings of the presets", _NAMES, _settings(page.presets)]
    parts += ["## Beside its peers"]
    rows = _peers(page.peers, peers)
    parts += [f"Success and median distance, from [the whole comparison](../peers.md).\n\n{rows}" if rows else _NO_PEER]
    return "\n\n".join([*parts, *([page.more] if page.more else [])]) + "\n"


def _options(module: str) -> str:
    """What the page shows of the module: its public names, without its state."""
    public = [name for name in attacks.__all__ if getattr(attacks, name).__module__ == f"a2d_jax.attacks.{module}"]
    return "\n      ".join(
        [
            "    options:",
            "show_root_heading: false",
            "show_root_toc_entry: false",
            f"members: [{', '.join(public)}]",
        ]
    )


_NAMES = "The names are those of the command line. `a2d cost` uses an attack as defence, `a2d attack` for crafting."
_NO_PEER = "No other library that we compare with has this attack in this form ([the whole comparison](../peers.md))."


def _settings(names: Sequence[str]) -> str:
    """A table of the settings of attacks in every preset and role; equal ones share a row."""
    found: dict[tuple[int, str, str], list[str]] = {}
    for preset, both in PRESETS.items():
        for role in ("defence", "crafting"):
            makers: Mapping[str, Maker] = getattr(both, role)
            for place, name in enumerate(names):
                if name in makers:
                    (settings,) = settings_of({name: makers[name]()}).values()
                    said = {key: value for key, value in settings.items() if key != "kind" and value not in (None, False)}
                    found.setdefault((place, role, ", ".join(map(_setting, said.keys(), said.values()))), []).append(preset)
    rows = [f"| `{names[place]}` | {role} | {', '.join(presets)} | {text} |" for (place, role, text), presets in sorted(found.items())]
    return "\n".join(["| name | as | preset | settings |", "|---|---|---|---|", *rows])


def _setting(key: str, value: object) -> str:
    return key if value is True else f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"


def _peers(begins: Sequence[str], peers: str) -> str:
    """The rows of the comparison that begin so, with the rows of further peers below them."""
    data, head, rows, taken = "", "", [], False
    for line in peers.splitlines():
        if line.startswith("## "):
            data = line[3:]
        elif line.startswith("| attack"):
            head = f"| data {line}\n|---{'|---' * (line.count('|') - 1)}|"
        elif line.startswith("| "):
            first = line.split("|")[1].strip()
            taken = any(first == one or first.startswith((f"{one},", f"{one}-")) for one in begins) if first else taken
            rows += [f"| {data if first else ''} {line}"] * taken
    return "\n".join([head, *rows]) if rows else ""
