"""The `a2d` command: dataclasses in, exit codes out.

Exit codes: 0 done; 1 bad input, said in one line; 2 wrong usage of the command line; 3 some rows failed and carry their error
while the rest is done; 130 interrupted. What is computed lies in `a2d_jax.jobs`, which is imported only when a command runs.
"""

import inspect
import json
import logging
import os
import sys
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from a2d_jax.errors import BadInput
from a2d_jax.io.files import cache_folder

if TYPE_CHECKING:
    from a2d_jax.jobs import Report


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command takes."""

    seed: int = 0
    """Seed of everything random: the same seed gives the same result. Commands that draw nothing accept and ignore it."""
    json: bool = False
    """Print the result as JSON on stdout, and nothing else there."""
    no_progress: bool = False
    """Hide the progress bars on stderr; they are never shown where stderr is no terminal."""


@dataclass(frozen=True, kw_only=True)
class Output(Options):
    """Commands that write a file."""

    out: Path
    """What to write. It appears whole at the end, or not at all."""
    force: bool = False
    """Replace the output if it exists."""


@dataclass(frozen=True, kw_only=True)
class Images(Output):
    """Commands that run a classifier on images."""

    classifier: str
    """Import string `module:factory` of a function without arguments that gives a Flax module or an a2d_jax Classifier. Modules of
    the current directory can be imported."""
    checkpoint: Path | None = None
    """Orbax folder with the weights, as `a2d convert` writes it; without it the factory's own weights are used."""
    images: Path
    """Folder of image files (labels from a file labels.csv or from sub-folders named by class number or class name), .npz (key x,
    optional y), .npy, IDX, CIFAR-10 binary or .parquet; uint8, or floating point in [0, 1]; n h w c. Photographs of another size are
    resized and cropped if the classifier says how."""
    limit: int | None = None
    """Take the first images only."""
    precision: str = "float32"
    """float32, or bfloat16: faster on accelerators, with costs of its own. A detector takes costs of one precision only."""


@dataclass(frozen=True, kw_only=True)
class Settings(Images):
    """Commands that run attacks."""

    preset: str = "mnist"
    """Settings of all attacks: mnist, cifar10 or imagenet (`a2d info` prints them)."""
    max_steps: int | None = None
    """Updates per image at most, instead of the preset's, for every attack named; all must have this setting."""
    epsilon: float | None = None
    """Radius of the ball around the image, instead of the preset's, for one attack: largest change of a pixel for fgsm and bim, root mean
    square change for bim2, pixels being in [0, 1]."""
    step_size: float | None = None
    """Length of one update, instead of the preset's, for one attack and in its units: those of epsilon for bim, tanh space for cw."""
    lanes: int | Literal["auto"] | None = None
    """Images in work at a time on each device; more need more memory. Results do not depend on it. auto tries some numbers before the first
    job of its kind, which takes seconds to minutes, and remembers the fastest."""


@dataclass(frozen=True, kw_only=True)
class Convert(Output):
    """Turn a PyTorch, Keras or safetensors checkpoint into the Orbax folder that the other commands read.

    The file is read as data: nothing in it is executed.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """Checkpoint file."""
    classifier: str
    """Import string `module:factory` of the Flax module that takes the weights."""
    class_names: Path | None = None
    """Text file with the names of the classes in their order, one a line; default the names that the module itself has, if any."""


@dataclass(frozen=True, kw_only=True)
class Predict(Images):
    """Classify images: a table of index, id, label (the predicted class), probability (in [0, 1]) and error."""


@dataclass(frozen=True, kw_only=True)
class Attack(Settings):
    """Craft adversarial images from images: an npz with x (in [0, 1]), y, success, index and error.

    Attacks leave the label y of the image where the set has labels, else the class the classifier predicts.
    """

    attack: str
    """Attack by name, such as fgsm, bim, jsma or dba, with settings instead of the preset's behind colons: pgd:restarts=5:norm=l2
    (`a2d info` lists attacks and their settings)."""
    stretch: bool = False
    """Write each image as an 8-bit file whose writer stretches it to its own range would hold it: darkest pixel 0, brightest 1. Success is
    then that the image as written leaves the label."""


@dataclass(frozen=True, kw_only=True)
class Cost(Settings):
    """Measure how many steps each attack needs against each image: a long table, one row per image and attack.

    Costs are counted in updates; a failure within the budget costs one more than the budget (`censored`). Attacks leave the class
    that the classifier predicts, whatever the image's true label.
    """

    attacks: str = "bim,bim2,jsma,dba"
    """Attacks by name, separated by commas, each with settings instead of the preset's behind colons: bim,dba:mse_threshold=0.01
    (`a2d info` lists attacks and their settings)."""


@dataclass(frozen=True, kw_only=True)
class Clever(Images):
    """Estimate how far each image is, at least, from another class: CLEVER scores, a long table with a row per image and target.

    N_b times the steepest slope of the margin among N_s random points around the image is found; the end point of the distribution
    fitted to these maxima divides the margin. That is N_b * N_s gradients per image and target, ten times a `cost` and more.
    """

    targets: str = "target-2"
    """Separated by commas: target-2 and so on (the class of the second largest logit), least-likely, or untargeted: the lowest over
    all other classes, each of which needs a gradient of its own."""
    radius: float = 5.0
    """R: radius of the ball around the image, in the units of the norm, pixels being in [0, 1]. No score is larger."""
    norm: str = "l2"
    """l2 or linf: in which the distance is measured."""
    batches: int = 500
    """N_b: maxima to which the distribution is fitted."""
    samples: int = 1024
    """N_s: points among which each maximum is found."""
    lanes: int | None = None
    """Points in work at a time on each device; results do not depend on it."""


@dataclass(frozen=True, kw_only=True)
class Fit(Output):
    """Fit a detector to costs of benign images and, for detectors that learn from both kinds, of adversarial ones."""

    benign: Path
    """Costs of benign images, from `a2d cost`."""
    adversarial: tuple[Path, ...] = ()
    """Costs of adversarial images, one or more tables; detectors that learn from both kinds, such as knn, need them."""
    detector: str
    """Detector by name, such as zscore, vote, knn or conformal (`a2d info` lists all)."""
    attacks: Annotated[str | None, tyro.conf.arg(aliases=["--attack"])] = None
    """Read the costs of these attacks only, separated by commas. zscore reads one: by default the first of the table."""
    h: float | None = None
    """zscore, vote: costs more than -h standard deviations below the benign mean are adversarial; default -1.281552,
    nominally one false alarm in ten."""
    k: int | None = None
    """vote: benign voices that make an image benign, default 2; knn: neighbours that vote, default 100."""
    level: float | None = None
    """conformal: rate of false alarms on fresh benign images, in (0, 1), default 0.1."""
    two_sided: bool = False
    """conformal: unusually high costs are suspicious too."""
    per_class: bool = False
    """conformal: calibrate within each predicted class."""
    as_released: bool = False
    """zscore, vote: the threshold of the authors' released code, for comparison."""


@dataclass(frozen=True, kw_only=True)
class Detect(Output):
    """Judge images by a fitted detector: a table of index, id, label, score (higher is more adversarial), adversarial and error.

    Give either their costs, or the classifier and the images: then the attacks of the detector run with the settings and in the
    precision it was fitted with, and stop where the verdict is certain.
    """

    detector: Path
    """Detector from `a2d fit`."""
    costs: Path | None = None
    """Costs of the images, from `a2d cost` with the settings the detector was fitted with."""
    classifier: str | None = None
    """Import string `module:factory`, as for `a2d cost`."""
    checkpoint: Path | None = None
    """Orbax folder with the weights."""
    images: Path | None = None
    """Images, as for `a2d cost`."""
    limit: int | None = None
    """Take the first images only."""
    no_bound: bool = False
    """Do not stop an attack at the cost from which the verdict is benign whatever follows; verdicts are the same."""
    lanes: int | Literal["auto"] | None = None
    """Images in work at a time on each device, or auto, as for `a2d cost`; results do not depend on it."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(Options):
    """Tell how well the costs of each attack separate benign from adversarial images, for each adversarial set.

    AUROC with its 95 % interval, average precision, share of false alarms when 95 % are caught, and shares caught at 1 % and 5 %
    false alarms. Low costs are suspicious. A set is named by its file.
    """

    benign: Path
    """Costs of benign images, from `a2d cost`."""
    adversarial: tuple[Path, ...]
    """Costs of adversarial images, one or more tables."""


@dataclass(frozen=True, kw_only=True)
class Info(Options):
    """Print versions, devices, the settings of every preset, and the names of attacks and detectors."""


Command = Convert | Predict | Attack | Cost | Clever | Fit | Detect | Annotated[Evaluate, tyro.conf.subcommand("eval")] | Info


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; wrong usage exits with 2 by itself."""
    try:
        command = tyro.cli(
            Command,  # pyright: ignore[reportArgumentType] (a union is a form that tyro takes)
            prog="a2d",
            description="Detect adversarial images by what it costs to attack them.",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries; ours are errors or notes of the result
            return _run(command)
    except (BadInput, OSError) as error:
        print(f"a2d: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("a2d: interrupted; no output was written", file=sys.stderr)
        return 130


def _run(command: Any) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's start-up lines
    # On a CPU one device for each core: small batches leave cores idle otherwise (docs/performance.md). Accelerators do not mind.
    os.environ.setdefault(
        "JAX_NUM_CPU_DEVICES", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    )
    # Compiled programs are kept for the next command: most of a short one would be spent compiling. An empty value turns this off.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    for library in ("absl", "jax"):
        logging.getLogger(library).setLevel(logging.ERROR)
    from a2d_jax import jobs  # here, so that help and usage errors do not wait for JAX

    job = getattr(jobs, type(command).__name__.lower())
    with _progress(not command.no_progress) as report:
        fields = vars(command) | {"report": report}
        done: jobs.Done = job(**{name: fields[name] for name in inspect.signature(job).parameters})
    for note in done.notes:
        print(f"a2d: {note}", file=sys.stderr)
    if command.json:
        print(json.dumps(done.summary))
    else:
        _show(done.summary)
    if done.failed:
        print(f"a2d: {done.failed} rows failed and carry their error", file=sys.stderr)
    return 3 if done.failed else 0


@contextmanager
def _progress(wanted: bool) -> Generator["Report"]:
    """A callback `(what, done, total)` that moves one bar per `what` on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not (wanted and sys.stderr.isatty())) as progress:
        bars: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done)

        yield report


def _show(summary: Mapping[str, Any]) -> None:
    """Lists of records as tables, the rest as lines."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    for name, value in summary.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold underline")
            for column, cell in value[0].items():
                table.add_column(column.replace("_", " "), justify="left" if isinstance(cell, str) else "right", overflow="fold")
            for record in value:
                table.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in record.values()))
            console.print(table)
        else:
            print(f"{name}: {value}")


if __name__ == "__main__":
    sys.exit(main())
