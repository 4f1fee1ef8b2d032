"""The paper, table by table: makes tables and figures, resumable, and writes a page.

    python -m experiments.paper [ITEM ...] [--size tiny|small|cpu|full] [--checkpoints DIR] [--photographs DIR] [--authors DIR] [--out DIR]

ITEM is a table or figure, such as `table2` or `figure6`; without one, all are made. Networks, sets of images, costs and scores are shared
by all items and made once, in OUT/SIZE (`experiments.paper.sets` and `study` list the files); after a kill the same command goes on.
OUT/SIZE also gets `index.html`, the page with all items that are made, and each table as CSV. MNIST and CIFAR-10 are looked for under
`A2D_DATA`, weights in the folder of checkpoints; what is not there is trained, named with its public source, or replaced by a small LeNet
for scikit-learn's digits. What is missing is told before the work begins.

The page is also written as `paper.md`. It has all items that were made at this size, those of earlier commands too.

Run time: see the sizes (`experiments.paper.sizes`). Expected: the tables of docs/paper.md, which name the machine, the date and the time.
"""

import platform
import sys
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from rich.console import Console

from a2d_jax.console import run as run_command
from a2d_jax.drivers.loops import MIN_WIDTH
from a2d_jax.errors import BadInput, require
from a2d_jax.io.files import atomic
from a2d_jax.io.provenance import versions
from a2d_jax.scale.steps import on_the_way, open_steps
from experiments.pages import page
from experiments.pages.blocks import Block, Made
from experiments.paper.items import NAMES, item
from experiments.paper.networks import ROLES, Places, find
from experiments.paper.settings import craftings
from experiments.paper.sizes import SIZES
from experiments.paper.study import Study
from experiments.work import Work, cores

TITLE = "The paper's tables and figures, beside its published numbers"


@dataclass(frozen=True)
class Settings:
    """Make the paper's tables and figures. After an interruption the same command goes on."""

    items: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Tables and figures, such as table2 figure6; default all."""
    size: str = "small"
    """tiny (a test on scikit-learn's digits, minutes), small (about an hour), cpu (what the documents show, hours) or full (the paper's
    numbers of images)."""
    out: Path = Path("paper-output")
    """Folder for everything; each size has a folder of its own in it."""
    checkpoints: Path | None = None
    """Folder of checkpoints as their authors published them. Without it networks are trained, or their rows are left out."""
    photographs: Path | None = None
    """Folder of photographs named `CLASS_anything.jpg`, with the number of an ImageNet class. Without it digits stand in."""
    authors: Path | None = None
    """Folder with the `Adv_mnist_*.npy` of the paper's authors, such as their C&W digits: more sets for Table 2."""
    seed: int = 0
    """Seed of everything random."""
    lanes: int | None = None
    """Images that each device works on at the same time."""
    restart: bool = False
    """Remove what is there of this size, and begin anew."""


def main(settings: Settings, console: Console) -> list[Made]:
    """Make what is missing, write the page, return the items.

    Raises:
      BadInput: an unknown item or size, a seed or lanes that cannot be, a folder of something else, weights or data that cannot be read,
        or others than those with which the folder began.
    """
    if settings.size not in SIZES:
        raise BadInput(f"expected a size among {', '.join(SIZES)}, got {settings.size!r}; pass one of them")
    if unknown := [name for name in settings.items if name not in NAMES]:
        raise BadInput(f"expected tables and figures among {', '.join(NAMES)}, got {', '.join(unknown)}; pass some of them")
    require(settings.seed >= 0, "a --seed of at least 0", settings.seed, "choose another")
    enough = settings.lanes is None or settings.lanes >= MIN_WIDTH
    require(enough, f"at least {MIN_WIDTH} --lanes", settings.lanes, "leave it out to take the default")
    names = [name for name in NAMES if name in settings.items] or list(NAMES)
    study = opened(settings, names, console)
    for subject in study.subjects.values():
        study.begin(subject)  # else a damaged file would be found after hours
    made: list[Made] = []
    for name in NAMES:
        there = study.work.steps.done(_step(name))
        if name in names or there:  # the page keeps what earlier commands have made
            made.append(_made(study, name))
            if not there:  # the page can be read meanwhile; it draws all figures
                with on_the_way():
                    page.write(study.folder, TITLE, made, lead(study), facts(settings))
            console.print(f"{name}: {study.folder / 'index.html'}", highlight=False, soft_wrap=True)
    page.write(study.folder, TITLE, made, lead(study), facts(settings))
    text = page.markdown(TITLE, made, lead(study), facts(settings))
    with atomic(study.folder / "paper.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return made


def _made(study: Study, name: str) -> Made:
    """An item, and the seconds of the command that made it first."""
    one = item(name)
    without = [f"{ROLES[role].title}: {study.missing[role]}" for role in one.roles if role in study.missing]
    blocks: list[Block] = []

    def work() -> dict[str, Any]:
        blocks.extend(one.make(study) if len(without) < len(one.roles) else ())
        return {}

    done = study.work.steps.done(_step(name))
    seconds = study.work.steps.once(_step(name), work)["seconds"]
    if done:
        work()
    return Made(name, one.title, blocks, seconds, [*without, *one.lacks(study)])


def _step(name: str) -> str:
    return f"item {name}"


def opened(settings: Settings, names: list[str], console: Console) -> Study:
    """The protocol with the networks that these items need; what is missing is told at once."""
    sets = {where: {name: asdict(how) for name, how in sets.items()} for where, sets in craftings().items()}
    identity = {"size": settings.size, "seed": settings.seed, "numbers": asdict(SIZES[settings.size]), "sets": sets, "versions": versions()}
    places = Places(settings.checkpoints, settings.photographs, settings.authors)
    steps = open_steps(settings.out / settings.size, identity, settings.restart)
    names = [name for name in NAMES if name in names or steps.done(_step(name))]
    roles = [role for role in ROLES if any(role in item(name).roles for name in names)]
    subjects, missing = find(roles, places, settings.size == "tiny")
    for role in roles:
        console.print(
            f"{ROLES[role].title}: {_said(subjects[role]) if role in subjects else missing[role]}", highlight=False, soft_wrap=True
        )
    size = SIZES[settings.size]
    console.print(f"{settings.size}: about {size.time} for all items", highlight=False)
    study = Study(Work(steps, console), size, subjects, missing, places, settings.seed, settings.lanes)
    if lost := sorted({ROLES[role].network for role in roles if study.lost(role)}):
        raise BadInput(
            f"expected the weights and data of {', '.join(lost)}, with which {study.folder} began, got none; pass --checkpoints, "
            "--photographs and A2D_DATA as before, or choose another --out"
        )
    for name in names:
        for line in item(name).lacks(study):
            console.print(f"{name}: {line}", highlight=False, soft_wrap=True)
    if study.given and all(not study.others(subject) for subject in subjects.values()):
        raise BadInput("expected Env1 MNIST among the networks for the authors' digits, got none; name table2, or leave --authors out")
    return study


def _said(subject) -> str:
    if subject.stands_in:
        return "a small LeNet on scikit-learn's digits stands in"
    if subject.source is None:
        return f"{subject.network} will be trained"
    why = ROLES[subject.role].why
    return subject.network + (f" ({why})" if why else "")


def lead(study: Study) -> list[str]:
    """What stands in for what, for the first lines of the page."""
    standing = [subject for subject in study.subjects.values() if subject.stands_in]
    lines = [
        f"{subject.title}: {ROLES[role].why}." for role, subject in study.subjects.items() if not subject.stands_in and ROLES[role].why
    ]
    if standing:
        lines.append(f"A small LeNet for digits of 8 x 8 pixels stands in for {', '.join(ROLES[one.role].title for one in standing)}.")
    return lines


def facts(settings: Settings) -> dict[str, str]:
    """Where and when."""
    devices = [one for one in jax.devices() if one.platform != "cpu"]
    machine = ", ".join([f"{cores()} cores ({platform.machine()})", *(f"{len(devices)} x {one.device_kind}" for one in devices[:1])])
    return {"size": settings.size, "date": date.today().isoformat(), "machine": machine, "JAX": jax.__version__}


def run(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command("experiments.paper", lambda: main(tyro.cli(Settings, prog="python -m experiments.paper", args=arguments), Console()))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", cores())  # as the command line does
    sys.exit(run())
