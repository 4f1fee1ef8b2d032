"""What an attacker achieves who knows the detector: curves, tables and a page.

    python -m experiments.adaptive [NETWORK ...] [--size tiny|small|cpu|full] [--checkpoints DIR] [--photographs DIR] [--out DIR]

NETWORK is one of `CIFAR-AT`, `CIFAR`, `MNIST-AT`, `MNIST`, `MagNet`, `LeNet-5`, `ResNet-20`, `Lite0`; without one, all that are there. For
each, benign images fit the detectors (cost of BIM, Newton one- and two-sided, K-NN, with MagNet). Images that the network classifies right
are attacked by every attacker of `experiments.adaptive.attackers` at each radius. What fools is judged by all detectors. OUT/SIZE gets
`index.html`, `adaptive.md`, tables as CSV, and each audit as JSON. Every run of an attacker is a step: after a kill the same command goes
on.

`tiny` needs nothing but the checkout: a small LeNet for scikit-learn's digits stands in for every network.

Run time: see `experiments.adaptive.study`. Expected: the tables of docs/adaptive.md, which name the machine and the date.
"""

import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from rich.console import Console

from a2d_jax.adaptive import Audit
from a2d_jax.console import run as run_command
from a2d_jax.errors import BadInput, require
from a2d_jax.io.files import atomic
from a2d_jax.io.provenance import versions
from a2d_jax.scale.steps import on_the_way, open_steps
from experiments.adaptive import features, hard_label, tables
from experiments.adaptive.checks import findings
from experiments.adaptive.detectors import COST
from experiments.adaptive.study import SIZES, Study
from experiments.adaptive.subjects import SUBJECTS, TINY, Ball, missing, opened
from experiments.pages import page
from experiments.pages.blocks import Block, Made
from experiments.work import Work, cores

TITLE = "The attacker who knows the detector"
LEAD = (
    "Joint success: an image is misclassified and the detector accepts it. Thresholds were fixed on held-out benign images before any "
    "attack. Each attack is judged by the real detector, never by what it differentiated.",
)


@dataclass(frozen=True)
class Settings:
    """Attack detectors with what an attacker knows. After an interruption the same command goes on."""

    networks: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Networks, such as CIFAR-AT; default all that are there."""
    size: str = "small"
    """tiny (digits, a minute or two), small (an hour or two), cpu (what the documents show) or full (for accelerators)."""
    checkpoints: Path | None = None
    """Folder of checkpoints as their authors published them."""
    photographs: Path | None = None
    """Folder of photographs named `CLASS_anything.jpg`."""
    out: Path = Path("adaptive-output")
    """Folder for everything; each size has a folder of its own in it."""
    seed: int = 0
    """Seed of everything random."""
    lanes: int | None = None
    """Images that each device works on at the same time."""
    restart: bool = False
    """Remove what is there of this size, and begin anew."""


def main(settings: Settings, console: Console) -> list[Made]:
    """Attack what is missing, write the page, return its items.

    Raises:
      BadInput: an unknown network or size, or weights and data that cannot be read.
    """
    known = {"digits": TINY} if settings.size == "tiny" else dict(SUBJECTS)
    require(settings.size in SIZES, f"a size among {', '.join(SIZES)}", settings.size, "pass one of them")
    if unknown := [name for name in settings.networks if name not in known]:
        raise BadInput(f"expected networks among {', '.join(known)}, got {', '.join(unknown)}; pass some of them")
    names = list(settings.networks or known)
    absent = {name: why for name in names if (why := missing(known[name], settings.checkpoints, settings.photographs))}
    if settings.networks and absent:
        raise BadInput(f"expected the weights and data of {', '.join(absent)}, got: {'; '.join(absent.values())}; pass --checkpoints")
    size = SIZES[settings.size]
    identity = {"size": size._asdict(), "seed": settings.seed, "versions": versions()}
    steps = open_steps(settings.out / settings.size, identity, settings.restart)
    console.print(f"{settings.size}: about {size.time} for all networks", highlight=False)
    made: list[Made] = []
    for name in names:
        if name in absent:
            console.print(f"{name} is left out: {absent[name]}", highlight=False)
            continue
        work = Work(steps, console)
        network = opened(name, known[name], work, settings.checkpoints, settings.photographs)
        with on_the_way():
            made.append(_made(Study(work, name, known[name], network, size, settings.seed, settings.lanes)))
            _write(steps.folder, made, absent, settings)  # the page can be read meanwhile
    if made:
        _write(steps.folder, made, absent, settings)
    return made


def _made(study: Study) -> Made:
    """Everything about one network."""
    blocks: list[Block] = []
    audits: dict[tuple[Ball, str], Audit] = {}
    for norm in study.subject.budgets:
        for detector in study.detectors:
            audits[norm, detector.name] = study.audited(norm, detector)
        mine = {name: made for (of, name), made in audits.items() if of == norm}
        blocks += tables.joint(study, norm, audits[norm, COST])
        blocks.append(tables.across(study, norm, mine))
        blocks.append(tables.checks(study, norm, [*audits[norm, COST].findings, *findings(study, norm, study.chosen(norm))]))
    blocks += hard_label.blocks(study)
    blocks += features.blocks(study)
    asked = tables.targets(study, audits)
    why = f": {study.subject.why}" if study.subject.why else ""
    spent = sum(one["seconds"] for step, one in study.work.steps.facts().items() if step.startswith(f"{study.name}/"))
    name = "".join(letter for letter in study.name.lower() if letter.isalnum())
    return Made(name, f"{study.name}{why}", [*([asked] if asked else []), *blocks], spent)


def _write(folder: Path, made: list[Made], absent: dict[str, str], settings: Settings) -> None:
    lead = [*LEAD, *(f"{name} is left out: {why}." for name, why in absent.items())]
    facts: dict[str, Any] = {"size": settings.size, "date": date.today().isoformat(), "machine": f"{cores()} cores", "JAX": jax.__version__}
    page.write(folder, TITLE, made, lead, facts)
    with atomic(folder / "adaptive.md") as temporary:
        temporary.write_text(page.markdown(TITLE, made, lead, facts), encoding="utf-8")


def run(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    command = "experiments.adaptive"
    return run_command(command, lambda: main(tyro.cli(Settings, prog=f"python -m {command}", args=arguments), Console()))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", cores())  # as the command line does
    sys.exit(run())
