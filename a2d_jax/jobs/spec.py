"""What each job is, as data: the command line reads these, jobs take them, and tables keep them as JSON.

Importing this file loads neither JAX nor anything that does, so that `a2d --help` answers at once.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

Lanes = int | Literal["auto"] | None


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What every job takes."""

    seed: int = 0
    """Seed of everything random: the same seed gives the same result. Commands that draw nothing accept and ignore it."""

    def __post_init__(self) -> None:
        for one in fields(self):  # a script may give paths as text
            if "Path" in str(one.type):
                object.__setattr__(self, one.name, _paths(getattr(self, one.name)))

    def as_json(self) -> dict[str, Any]:
        """The spec as JSON has it: paths as text, tuples as lists."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}

    def inputs(self) -> list[str | Path]:
        """Everything that may be the name of a file that the job reads."""
        values = [getattr(self, one.name) for one in fields(self) if one.name not in ("out", "figure")]
        return [one for value in values for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, str | Path)]


def _paths(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_paths(one) for one in value)
    return Path(value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True, kw_only=True)
class OutputSpec(Spec):
    """Jobs that write a file."""

    out: Path
    """What to write. It appears whole at the end, or not at all."""
    force: bool = False
    """Replace the output if it exists."""


@dataclass(frozen=True, kw_only=True)
class TablesSpec(Spec):
    """Jobs that bring tables together. A table is a parquet file, or a folder of such files: the parts of one table."""

    mixed_origins: bool = False
    """Let costs meet that were measured otherwise: by another network, with other settings, from images prepared otherwise. They are
    refused without this, and what differs is recorded with it."""


@dataclass(frozen=True, kw_only=True)
class ImagesSpec(OutputSpec):
    """Jobs that run a classifier on images."""

    classifier: str
    """Import string `module:factory` of a function without arguments that gives a Flax module or an a2d_jax Classifier. Modules of
    the current directory can be imported."""
    checkpoint: Path | None = None
    """Orbax folder with the weights, as `a2d convert` writes it; without it the factory's own weights are used."""
    images: Path
    """Folder of image files (labels from a file labels.csv or from sub-folders named by class number or class name), .npz (key x,
    optional y), .npy, IDX, CIFAR-10 binary or .parquet; uint8, or floating point in [0, 1]; n h w c. Photographs of another size are
    resized and cropped if the classifier says how."""
    background: str | None = None
    """Lay transparent pixels over this: a grey value from 0 (black) to 255 (white), a colour by its name, or #rrggbb. Without it an image
    with transparent pixels is an error of its row."""
    limit: int | None = None
    """Take the first images only."""
    precision: str = "float32"
    """float32, or bfloat16: faster on accelerators, with costs of its own. A detector takes costs of one precision only."""


@dataclass(frozen=True, kw_only=True)
class AttacksSpec(ImagesSpec):
    """Jobs that run attacks."""

    preset: str = "mnist"
    """Settings of all attacks: mnist, cifar10, imagenet (`a2d info` prints them), or a TOML file with settings of your own."""
    plugin: tuple[str, ...] = ()
    """Modules that a preset file may take attacks from, named here because a file imports nothing by itself."""
    target: str | None = None
    """Class that attacks with targeted=true shall reach: a class number, second (largest logit), least-likely, random, or labels (those
    of the set). Without targeted=true attacks leave a class and take no target."""
    max_steps: int | None = None
    """Updates per image at most, instead of the preset's, for every attack named; all must have this setting."""
    epsilon: float | None = None
    """Radius of the ball around the image, instead of the preset's, for one attack: largest change of a pixel for fgsm and bim, root mean
    square change for bim2, pixels being in [0, 1]."""
    step_size: float | None = None
    """Length of one update, instead of the preset's, for one attack and in its units: those of epsilon for bim, tanh space for cw."""
    lanes: Lanes = None
    """Images in work at a time on each device; more need more memory. Rounding lets it change a cost by 1, on at most 0.4 % of the images
    measured. auto tries some numbers before the first job of its kind, which takes seconds to minutes, and remembers the fastest."""


@dataclass(frozen=True, kw_only=True)
class ConvertSpec(OutputSpec):
    """Turn a checkpoint of PyTorch, Keras or safetensors, or an Orbax folder of a training, into the folder that the other commands read.

    The file is read as data: nothing in it is executed.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """Checkpoint file by any name, the *.index.json of a sharded one, or an Orbax folder."""
    classifier: str
    """Import string `module:factory` of the Flax module that takes the weights."""
    class_names: Path | None = None
    """Text file with the names of the classes in their order, one a line; default the names that the module itself has, if any."""
    key: str | None = None
    """Where in the checkpoint the weights lie, such as state_dict_ema; needed only if several networks in it fit the module."""
    leave_out: str | None = None
    """Names of tensors, separated by commas, that the module has no place for and does without."""
    check: tuple[Path, Path] | None = None
    """Images, as for `a2d predict`, and a .npy file with the logits (n k) that the original framework gives for them. Nothing is written
    unless the module gives the same logits."""


@dataclass(frozen=True, kw_only=True)
class PredictSpec(ImagesSpec):
    """Classify images: a table of index, id, label (the predicted class), probability (in [0, 1]) and error."""


@dataclass(frozen=True, kw_only=True)
class AttackSpec(AttacksSpec):
    """Craft adversarial images from images: an npz with x (in [0, 1]), y, success, index and error.

    Attacks leave the label y of the image where the set has labels, else the class the classifier predicts. Images that the
    classifier gets wrong to begin with need no attack: they count as successes, and the summary says how many there were.
    """

    attack: str
    """Attack by name, such as fgsm, bim, jsma or dba, or by import string module:name, with settings instead of the preset's behind
    colons: pgd:restarts=5:norm=l2 (`a2d info` lists attacks and their settings)."""
    stretch: bool = False
    """Write each image as an 8-bit file whose writer stretches it to its own range would hold it: darkest pixel 0, brightest 1. Success is
    then that the image as written leaves the label."""


@dataclass(frozen=True, kw_only=True)
class CostSpec(AttacksSpec):
    """Measure how many steps each attack needs against each image: a long table, one row per image and attack.

    Costs are counted in updates; a failure within the budget costs one more than the budget (`censored`). Attacks leave the class
    that the classifier predicts, whatever the image's true label, so that no cost is 0. Targeted attacks reach a class, which some images
    may have already.
    """

    attacks: str = "bim,bim2,jsma,dba"
    """Attacks by name or by import string module:name, separated by commas, each with settings instead of the preset's behind colons:
    bim,dba:mse_threshold=0.01,my.module:MyAttack:epsilon=0.1 (`a2d info` lists attacks and their settings)."""


@dataclass(frozen=True, kw_only=True)
class CleverSpec(ImagesSpec):
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
class FitSpec(OutputSpec, TablesSpec):
    """Fit a detector to costs of benign images and, for detectors that learn from both kinds, of adversarial ones."""

    benign: Path
    """Costs of benign images, from `a2d cost`, or scores from `a2d clever`: a parquet file, or a folder of such files."""
    adversarial: tuple[Path, ...] = ()
    """Costs of adversarial images, one or more files or folders; knn, svm, tree and forest need them."""
    detector: str
    """Detector by name: zscore, vote, knn, svm, tree, forest or conformal, or by import string module:name, with settings behind
    colons: knn:k=50."""
    attacks: Annotated[str | None, tyro.conf.arg(aliases=["--attack"])] = None
    """Read these only, separated by commas: attacks, whose cost is read, or other numbers of theirs, such as fmn.distance,
    bim.forward_queries or clever:target-2.score. zscore reads one: by default the first of the table."""
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
class DetectSpec(OutputSpec, TablesSpec):
    """Judge images by a fitted detector: a table of index, id, label, score (higher is more adversarial), adversarial and error.

    Give either their costs, or the classifier and the images: then the attacks of the detector run with the settings and in the
    precision it was fitted with, and stop where the verdict is certain.
    """

    detector: Path
    """Detector from `a2d fit`."""
    costs: Path | None = None
    """Costs of the images, from `a2d cost` with the settings the detector was fitted with: a file, or a folder of files."""
    classifier: str | None = None
    """Import string `module:factory`, as for `a2d cost`."""
    checkpoint: Path | None = None
    """Orbax folder with the weights."""
    images: Path | None = None
    """Images, as for `a2d cost`."""
    background: str | None = None
    """What transparent pixels are laid over, as for `a2d cost`; default what was chosen for the images that the detector was fitted to."""
    limit: int | None = None
    """Take the first images only."""
    plugin: tuple[str, ...] = ()
    """Modules that the detector may take its own class and its attacks from, named here because a file imports nothing by itself."""
    no_bound: bool = False
    """Do not stop an attack at the cost from which the verdict is benign whatever follows; verdicts are the same."""
    lanes: Lanes = None
    """Images in work at a time on each device, or auto, as for `a2d cost`."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSpec(TablesSpec):
    """Tell how well the costs of each attack separate benign from adversarial images, for each adversarial set.

    AUROC with its 95 % interval, average precision, share of false alarms when 95 % are caught, and shares caught at 1 % and 5 %
    false alarms. Low costs are suspicious. A set is named by its file.
    """

    benign: Path
    """Costs of benign images, from `a2d cost`: a parquet file, or a folder of such files."""
    adversarial: tuple[Path, ...]
    """Costs of adversarial images, one or more files or folders; each is a set of its own."""
    attacks: Annotated[str | None, tyro.conf.arg(aliases=["--attack"])] = None
    """Read these only, separated by commas: attacks, whose cost is read, or other numbers such as fmn.distance; default the cost of every
    attack that all tables have."""


@dataclass(frozen=True, kw_only=True)
class ShiftSpec(TablesSpec):
    """Test whether fresh benign images still look like those that a detector was calibrated on.

    For every attack: a two-sample test of Kolmogorov and Smirnov on conformal p-values, corrected over attacks by Holm's method, and the
    share of new images that a conformal detector at the level would flag, with its 95 % interval. docs/shift.md says what to do next.
    """

    benign: Path
    """Costs of the benign images that the detector was fitted to, from `a2d cost`: a parquet file, or a folder of such files."""
    new: Path
    """Costs of fresh images that are believed to be benign, measured in the same way: a file or a folder."""
    attacks: Annotated[str | None, tyro.conf.arg(aliases=["--attack"])] = None
    """Test these only, separated by commas: attacks, whose cost is read, or other numbers such as newton.crossing; default the cost of
    every attack that both tables have."""
    level: float = 0.05
    """Rate of false alarms of the detector, in (0, 1)."""
    significance: float = 0.05
    """Chance of a warning if nothing has shifted, in (0, 1)."""
    figure: Path | None = None
    """Draw the p-values of the new images to this PNG file; needs the extra a2d-jax[report]."""
    force: bool = False
    """Replace the figure if it exists."""


@dataclass(frozen=True, kw_only=True)
class InfoSpec(Spec):
    """Print versions, devices, the settings of every preset, and the names of attacks and detectors."""
