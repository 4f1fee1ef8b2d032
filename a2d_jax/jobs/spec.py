"""The settings of each job as data: the command line reads them, jobs take them, and tables keep them as JSON.

Importing this file does not load JAX, so that `a2d --help` answers at once.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from a2d_jax.io.urls import Url, as_path

Lanes = int | Literal["auto"] | None


class Folder(type(Path())):
    """The path of an output that was given with a slash at its end: a folder of parts."""


class UrlFolder(Url, Folder):
    """The same in a store."""


def output_path(text: str) -> Path:
    """A path as typed; a slash at its end makes it a folder."""
    path = as_path(text)
    if not text.endswith(("/", os.sep)):
        return path
    return UrlFolder(path) if isinstance(path, Url) else Folder(path)


_OUTPUT = PrimitiveConstructorSpec(
    nargs=1,
    metavar="PATH",
    instance_from_str=lambda texts: output_path(texts[0]),
    is_instance=lambda value: isinstance(value, Path),
    str_from_instance=lambda path: [_plain(path)],
)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Settings of every job."""

    seed: int = 0
    """Seed of everything random: the same seed gives the same result. Commands without randomness ignore it."""

    def __post_init__(self) -> None:
        for one in fields(self):  # a script may give paths as text
            if "Path" in str(one.type):
                object.__setattr__(self, one.name, _paths(getattr(self, one.name)))

    def as_json(self) -> dict[str, Any]:
        """The spec as JSON: paths become text, tuples become lists."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Self:
        """The spec that `as_json` gave."""
        given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**given)

    def inputs(self) -> list[str | Path]:
        """All values that may name a file that the job reads."""
        values = [getattr(self, one.name) for one in fields(self) if one.name not in ("out", "figure", "share", "engine", "address")]
        return [one for value in values for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, str | Path)]


def _paths(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_paths(one) for one in value)
    if isinstance(value, Path) and not isinstance(value, Folder):
        return as_path(value)
    return output_path(value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Folder):
        return f"{value}{'/' if isinstance(value, Url) else os.sep}"
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True, kw_only=True)
class OutputSpec(Spec):
    """Jobs that write a file."""

    out: Path
    """File or folder to write. It appears complete at the end, or not at all."""
    force: bool = False
    """Replace the output if it exists."""


@dataclass(frozen=True, kw_only=True)
class TablesSpec(Spec):
    """Jobs that read tables. A table is a parquet file, or a folder of parquet files that are parts of one table, also by URL."""

    mixed_origins: bool = False
    """Accept costs that were measured in different ways: with different networks, attack settings or image preparation. Without this
    switch such costs are refused. With it the output records the differences."""


@dataclass(frozen=True, kw_only=True)
class PartsSpec(OutputSpec):
    """Jobs that may be large: they work in parts, and the same command goes on after an interruption."""

    out: Annotated[Path, _OUTPUT]
    """File to write, or a folder if it ends with a slash. A folder keeps the result in parts, as parquet files. A file appears complete at
    the end; until then the finished parts are in a folder beside it, OUT.run. The same command goes on where an earlier one ended. A URL,
    such as s3://bucket/costs/, is possible too."""
    restart: bool = False
    """Begin anew, and remove the parts that an earlier command has finished."""
    part: int | None = None
    """Images of a part. An interruption costs the work on the parts that are not finished. The default is 8 to 4096, by the size of the
    set and of its images."""
    share: str | None = None
    """Do one share of the parts, such as 3/16: the third of sixteen. The shares may run at the same time on any machines that see the
    folder. The one that finds all parts done writes the result, and so does the same command without this option."""
    engine: Literal["local", "ray"] = "local"
    """What does the work: all devices of this machine, or a cluster of machines with Ray. ray needs the extra a2d-jax[ray]."""
    address: str | None = None
    """ray: the cluster, as auto or HOST:PORT. auto finds the one that runs on this machine. Without it the command starts a cluster of this
    machine alone, which ends with the command."""
    actors: int | None = None
    """ray: number of processes that work at the same time. The default is one for each GPU, or one for each machine if there are none."""
    actor_cpus: int | None = None
    """ray: CPU cores that each process reserves and computes on. The default shares the cores of a machine among its processes."""
    actor_gpus: float | None = None
    """ray: GPUs that each process reserves and computes on; 0.5 puts two processes on one GPU. The default is 1 if there are any."""
    retry_failed: bool = False
    """Do those parts again in which an image has an error. This works while the parts are there: for a folder, or before the end."""


@dataclass(frozen=True, kw_only=True)
class ImagesSpec(PartsSpec):
    """Jobs that run a classifier on images."""

    classifier: str
    """Import string `module:factory`. The factory is a function without arguments that returns a Flax module or an a2d_jax Classifier.
    Modules in the current directory can be imported."""
    checkpoint: Path | None = None
    """Orbax folder with the weights, as `a2d convert` writes it. Without it the factory's own weights are used."""
    images: Path
    """Folder of image files, or one file: .npz (key x, optional y), .npy, IDX, CIFAR-10, CIFAR-100, .parquet or .tar (WebDataset). A folder
    of .parquet or .tar files, or of TensorFlow Datasets, is one set; so is what a pattern in quotes names: 'folder/train-*.parquet'. It may
    be a URL, such as s3://bucket/set. Pixels are uint8, or floating point in [0, 1]; arrays are n h w c. A folder of image files gives
    labels by a file labels.csv, or by sub-folders named by class number or class name. Photographs of another size are resized and cropped
    if the classifier says how."""
    background: str | None = None
    """Colour to put behind transparent pixels: a grey value from 0 (black) to 255 (white), a colour name, or #rrggbb. Without it an image
    with transparent pixels gets an error in its row."""
    limit: int | None = None
    """Number of images to use, counted from the first one; default all."""
    precision: str = "float32"
    """float32 or bfloat16. bfloat16 is faster on accelerators and gives other costs. A detector takes costs of one precision only."""


@dataclass(frozen=True, kw_only=True)
class AttacksSpec(ImagesSpec):
    """Jobs that run attacks."""

    preset: str = "mnist"
    """Settings of all attacks: mnist, cifar10, imagenet (`a2d info` prints them), or a TOML file with your own settings."""
    plugin: tuple[str, ...] = ()
    """Modules whose attacks a preset file may use. A preset file alone never imports a module."""
    target: str | None = None
    """Class that targeted attacks (targeted=true) try to reach: a class number, second (the second largest logit), least-likely, random, or
    labels (the labels of the images). Untargeted attacks take no target."""
    max_steps: int | None = None
    """Largest number of updates per image. It replaces the preset's value for every attack named, but not one that an attack's own text
    gives, such as bim:max_steps=100. Each attack must have this setting."""
    epsilon: float | None = None
    """Radius of the ball around the image. It replaces the preset's value and needs exactly one attack. Its unit is the largest change of a
    pixel for fgsm and bim, and the root mean square change for bim2, with pixels in [0, 1]."""
    step_size: float | None = None
    """Length of one update. It replaces the preset's value and needs exactly one attack. Its unit is that of epsilon for bim, and tanh
    space for cw."""
    lanes: Lanes = None
    """Number of images that each device works on at the same time. More lanes need more memory. By rounding, the number of lanes can change
    a cost by 1; this happened for at most 0.4 % of the images measured. auto tries some numbers before the first job of its kind, which
    takes seconds to minutes, and remembers the fastest."""


@dataclass(frozen=True, kw_only=True)
class ConvertSpec(OutputSpec):
    """Convert a checkpoint into the folder that the other commands read.

    The checkpoint is a PyTorch, Keras or safetensors file, or an Orbax folder from a training. It is read as data: nothing in it is
    executed.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """Checkpoint file with any name, the *.index.json of a sharded checkpoint, or an Orbax folder."""
    classifier: str
    """Import string `module:factory` of the Flax module that takes the weights."""
    class_names: Path | None = None
    """Text file with the class names in order, one per line. By default the names come from the module, if it has any."""
    key: str | None = None
    """Key of the weights in the checkpoint, such as state_dict_ema. It is needed only if several networks in the file fit the module."""
    leave_out: str | None = None
    """Names of tensors to ignore, separated by commas: tensors of the checkpoint that the module does not have."""
    check: tuple[Path, Path] | None = None
    """Images, as for `a2d predict`, and a .npy file with the logits (n k) of the original framework for these images. The output is written
    only if the module gives the same logits."""


@dataclass(frozen=True, kw_only=True)
class PredictSpec(ImagesSpec):
    """Classify images.

    The output is a table of index, id, label (the predicted class), probability (in [0, 1]) and error.
    """


@dataclass(frozen=True, kw_only=True)
class AttackSpec(AttacksSpec):
    """Craft adversarial images from images.

    The output is an npz file with x (in [0, 1]), y, success, index and error. An untargeted attack succeeds when the prediction is no
    longer y. y is the label of the image, or the predicted class if the set has no labels. Images that are misclassified before the attack
    need no attack. They count as successes, and the summary gives their number.
    """

    attack: str
    """Attack by name, such as fgsm, bim, jsma or dba, or by import string module:name. Settings after colons replace the preset's:
    pgd:restarts=5:norm=l2. `a2d info` lists attacks and their settings."""
    stretch: bool = False
    """Stretch each image to its own range (darkest pixel 0, brightest pixel 1) and round it to 8 bits. Success then means that the image as
    written is misclassified."""


@dataclass(frozen=True, kw_only=True)
class CostSpec(AttacksSpec):
    """Measure how many steps each attack needs against each image.

    The output is a long table with one row per image and attack. A cost is a number of updates. An attack that fails within its budget
    costs one more than the budget (`censored`). Untargeted attacks start from the predicted class, not from the true label, so that no cost
    is 0. Targeted attacks try to reach a class; an image that is predicted as this class already costs 0.
    """

    attacks: str = "bim,bim2,jsma,dba"
    """Attacks by name or by import string module:name, separated by commas. Settings after colons replace the preset's:
    bim,dba:mse_threshold=0.01,my.module:MyAttack:epsilon=0.1. `a2d info` lists attacks and their settings."""


@dataclass(frozen=True, kw_only=True)
class CleverSpec(ImagesSpec):
    """Estimate the smallest distance from each image to another class (CLEVER scores).

    The output is a long table with one row per image and target. CLEVER finds the steepest slope of the margin among N_s random points
    around the image, N_b times, and fits a distribution to these maxima. The score is the margin divided by the end point of the
    distribution. This takes N_b * N_s gradients per image and target, at least ten times as long as `a2d cost`.
    """

    targets: str = "target-2"
    """Targets, separated by commas: target-2 (the class with the second largest logit), target-3 and so on, least-likely, or untargeted.
    untargeted is the lowest score over all other classes and needs a gradient for each of them."""
    radius: float = 5.0
    """R: radius of the ball around the image, in units of the norm, with pixels in [0, 1]. It is also the largest possible score."""
    norm: str = "l2"
    """Norm of the distance: l2 or linf."""
    batches: int = 500
    """N_b: number of maxima for the fit of the distribution."""
    samples: int = 1024
    """N_s: number of random points for each maximum."""
    lanes: int | None = None
    """Number of points that each device works on at the same time. Results do not depend on it."""


@dataclass(frozen=True, kw_only=True)
class FitSpec(OutputSpec, TablesSpec):
    """Fit a detector to the costs of benign images. Detectors that learn from both kinds need costs of adversarial images too."""

    benign: Path
    """Costs of benign images, from `a2d cost`, or scores from `a2d clever`: a parquet file, or a folder of such files."""
    adversarial: tuple[Path, ...] = ()
    """Costs of adversarial images: one or more files or folders. knn, svm, tree and forest need them."""
    detector: str
    """Detector by name (zscore, vote, knn, svm, tree, forest or conformal) or by import string module:name. Settings follow after colons:
    knn:k=50."""
    attacks: Annotated[str | None, tyro.conf.arg(aliases=["--attack"])] = None
    """Use only these columns, separated by commas. The name of an attack means its cost. Other numbers are named like fmn.distance,
    bim.forward_queries or clever:target-2.score. zscore uses one column, by default the first of the table."""
    h: float | None = None
    """zscore, vote: a cost is adversarial if its z-score is below h. The default -1.281552 nominally gives one false alarm in ten."""
    k: int | None = None
    """vote: number of benign votes that make an image benign, default 2. knn: number of neighbours that vote, default 100."""
    level: float | None = None
    """conformal: rate of false alarms on fresh benign images, in (0, 1), default 0.1."""
    two_sided: bool = False
    """conformal: treat unusually high costs as suspicious too."""
    per_class: bool = False
    """conformal: calibrate each predicted class by itself."""
    as_released: bool = False
    """zscore, vote: use the threshold of the authors' released code, for comparison."""


@dataclass(frozen=True, kw_only=True)
class DetectSpec(PartsSpec, TablesSpec):
    """Judge images with a fitted detector.

    The output is a table of index, id, label, score (higher is more adversarial), adversarial and error. Give either the costs of the
    images, or the classifier and the images. In the second case the attacks of the detector run with the settings and the precision that it
    was fitted with, and stop as soon as the verdict is certain.
    """

    detector: Path
    """Detector from `a2d fit`."""
    costs: Path | None = None
    """Costs of the images, a file or a folder of files, from `a2d cost` with the settings that the detector was fitted with."""
    classifier: str | None = None
    """Import string `module:factory`, as for `a2d cost`."""
    checkpoint: Path | None = None
    """Orbax folder with the weights."""
    images: Path | None = None
    """Images, as for `a2d cost`."""
    background: str | None = None
    """Colour to put behind transparent pixels, as for `a2d cost`. The default is the colour chosen for the images that the detector was
    fitted to."""
    limit: int | None = None
    """Number of images to use, counted from the first one; default all."""
    plugin: tuple[str, ...] = ()
    """Modules whose detector class and attacks the detector file may use. A detector file alone never imports a module."""
    no_bound: bool = False
    """Run each attack to its end. By default an attack stops as soon as the verdict must be benign. The verdicts are the same."""
    lanes: Lanes = None
    """Number of images that each device works on at the same time, or auto, as for `a2d cost`."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSpec(TablesSpec):
    """Measure how well the costs of each attack separate benign images from each adversarial set.

    The table shows the AUROC with its 95 % interval, the average precision, the share of false alarms when 95 % are caught, and the shares
    caught at 1 % and 5 % false alarms. Low costs are suspicious. A set is named by its file.
    """

    benign: Path
    """Costs of benign images, from `a2d cost`: a parquet file, or a folder of such files."""
    adversarial: tuple[Path, ...]
    """Costs of adversarial images: one or more files or folders. Each is a set of its own."""
    attacks: Annotated[str | None, tyro.conf.arg(aliases=["--attack"])] = None
    """Use only these columns, separated by commas. The name of an attack means its cost; other numbers are named like fmn.distance. The
    default is the cost of every attack that all tables have."""
    out: Path | None = None
    """Draw the distributions and the ROC curves into this .png or .svg file. This needs the extra a2d-jax[report]."""
    force: bool = False
    """Replace the figure if it exists."""


@dataclass(frozen=True, kw_only=True)
class ReportSpec(OutputSpec, TablesSpec):
    """Write a page of HTML that shows how a detector does on your images.

    Give either the costs of benign and adversarial images with a detector, or verdicts from `a2d detect` on images whose truth nobody
    knows. The page needs no other file. It has the distributions with the detector's threshold, and the settings. With a truth it also has
    ROC curves, the AUROC, rates at thresholds and by class; without one, the share flagged over time and the most suspicious images. This
    needs the extra a2d-jax[report].
    """

    benign: Path | None = None
    """Costs of benign images, from `a2d cost`: a parquet file, or a folder of such files."""
    adversarial: tuple[Path, ...] = ()
    """Costs of adversarial images: one or more files or folders. Each is a set of its own, named by its file."""
    detector: Path | None = None
    """Detector from `a2d fit`. With verdicts it is not needed; it tells the exact threshold."""
    verdicts: Path | None = None
    """Verdicts from `a2d detect`: a parquet file, or a folder of such files."""
    time: str | None = None
    """verdicts: column with the time of each image, as timestamps or as texts like 2026-11-27T08:30. The default is the column time; a
    table without it is shown along the index."""
    images: tuple[Path, ...] = ()
    """Images of the tables, to show some of them: one or more folders or files, as for `a2d cost`, or a folder of .npz and .npy files. An
    image is found by its pixels where the table records them, and by its name otherwise."""
    plugin: tuple[str, ...] = ()
    """Modules whose detector class the detector file may use. A detector file alone never imports a module."""


@dataclass(frozen=True, kw_only=True)
class ShiftSpec(TablesSpec):
    """Test whether fresh benign images still look like those that a detector was calibrated on.

    For every attack, a two-sample Kolmogorov-Smirnov test compares conformal p-values; Holm's method corrects for the number of attacks.
    The table also shows the share of new images that a conformal detector at the level would flag, with its 95 % interval. docs/shift.md
    says what to do next.
    """

    benign: Path
    """Costs of the benign images that the detector was fitted to, from `a2d cost`: a parquet file, or a folder of such files."""
    new: Path
    """Costs of fresh images that are believed to be benign, measured in the same way: a file or a folder."""
    attacks: Annotated[str | None, tyro.conf.arg(aliases=["--attack"])] = None
    """Test only these columns, separated by commas. The name of an attack means its cost; other numbers are named like newton.crossing. The
    default is the cost of every attack that both tables have."""
    level: float = 0.05
    """Rate of false alarms of the detector, in (0, 1)."""
    significance: float = 0.05
    """Chance of a warning if nothing has shifted, in (0, 1)."""
    figure: Path | None = None
    """Draw the p-values of the new images into this PNG file. This needs the extra a2d-jax[report]."""
    force: bool = False
    """Replace the figure if it exists."""


@dataclass(frozen=True, kw_only=True)
class StatusSpec(Spec):
    """Show how far a job is that works in parts, also while it runs, on this or on other machines."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The output of the job, or the folder of its parts."""


@dataclass(frozen=True, kw_only=True)
class InfoSpec(Spec):
    """Print versions, devices, the settings of every preset, and the names of attacks and detectors."""
