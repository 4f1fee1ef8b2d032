"""Newton's crossing compared with the cost of BIM: do two gradients rank images as well as five hundred?

    python -m experiments.newton --checkpoints DIR [--photographs DIR] [--network NAME ...] [--size full|tiny] [--out DIR]

For each network it takes benign test images and others crafted by six attacks. It gives all of them four scores, low = adversarial: the
crossing of Newton, the cost of BIM with the preset's 500 updates, the margin (no gradient), and the margin divided by the length of its
gradient (one gradient). It reports the AUROC, the shares caught at 1 and 5 % false alarms, paired bootstrap intervals of the difference
between Newton and BIM, and the updates on benign images. It also times both as detectors (conformal at 5 %, one-sided) in images per
second, in turn in one process, with their bounds and without.

When a network is done, its `NAME.json` and its raw scores `NAME.npz` are in `--out`, and it is not measured again: an interruption costs at
most one network. The table of all finished networks goes to `--out`/table.md. Networks without a checkpoint are named and left out.
`--size tiny` trains a small LeNet on scikit-learn's digits and takes seconds.

The folder of checkpoints contains the files that `NETWORKS` names. Expected: the tables of docs/newton.md, which name the machine and the
time.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import tyro
from flax import nnx
from jax import Array
from rich.console import Console
from scipy.stats import spearmanr

from a2d_jax import attacks, costs, drivers, metrics, norms, presets
from a2d_jax.classifiers import from_nnx
from a2d_jax.console import run
from a2d_jax.costs.judging import judge_images, read_columns
from a2d_jax.detectors import Conformal
from a2d_jax.errors import BadInput
from a2d_jax.io.checkpoints import import_factory
from a2d_jax.io.checkpoints import load as load_checkpoint
from a2d_jax.io.convert import read_arrays, to_module
from a2d_jax.io.datasets import load
from a2d_jax.io.files import atomic
from a2d_jax.losses import look, margin
from a2d_jax.measurements import Column
from a2d_jax.types import Attack, Classifier
from experiments import demo
from experiments.work import cores
from models.table import LITE0, lite0_checkpoint, photographs
from models.training import whole

BENIGN = "benign"
READ = (Column("newton", "crossing"), Column("bim", "cost"), Column("bim", "crossing"))
SEEDED = "PGD-40"  # a set of three equal parts, one for each seed
SCORES = ("newton", "BIM", "BIM, crossing", "one gradient", "margin")
LEVEL = 0.05  # of false alarms
RESAMPLES = 2000
LEAST = 96  # images on which BIM is timed
BATCH = 64  # images of which margins are taken at a time
CHUNK = 100  # images crafted at a time


class Network(NamedTuple):
    """A network, where its weights are, and what it is for."""

    factory: str
    checkpoint: str  # in the folder of checkpoints
    data: str
    preset: str


NETWORKS: Mapping[str, Network] = {
    "LeNet-5": Network("models.lenet:lenet5", "lenet5_mnist.pkl", "mnist", "mnist"),
    "MNIST": Network("models.advertorch:advertorch_mnist", "mnist_lenet5_clntrained.pt", "mnist", "mnist"),
    "MNIST-AT": Network("models.advertorch:advertorch_mnist", "mnist_lenet5_advtrained.pt", "mnist", "mnist"),
    "CIFAR": Network("models.projected:projected_resnet20", "resnet20.pth", "cifar10", "cifar10"),
    "CIFAR-AT": Network("models.projected:projected_resnet20", "resnet20_pgd.pth", "cifar10", "cifar10"),
    "ResNet-20": Network("models.resnet:cifar_resnet20", "resnet20-12fca82f.th", "cifar10", "cifar10"),
    "LeNet-Env1": Network("models.lenet:lenet_env1", "env1/lenet_env1", "mnist", "mnist"),
    "ConvNet-Env1": Network("models.convnet:convnet12", "env1/convnet12", "cifar10", "cifar10"),
    "Lite0": Network("models.efficientnet:efficientnet_lite0", LITE0, "photographs", "imagenet"),
}
DIGITS = Network("models.lenet:lenet_digits", "", "digits", "mnist")
SLOW = ("photographs",)  # data on which the attacks of many gradients craft nothing


class Sizes(NamedTuple):
    """Numbers of images, and of images that a device works on at the same time."""

    benign: int
    crafted: int  # of each set, as far as attacks succeed
    updates: int  # of BIM, about, while it is timed
    lanes: int | None = None


SIZES: Mapping[str, Sizes] = {"full": Sizes(1000, 300, 10_000), "tiny": Sizes(60, 20, 4_000)}


@dataclass(frozen=True)
class Settings:
    """Compare Newton with BIM, one network after the other."""

    checkpoints: Path = Path("checkpoints")
    """Folder of checkpoints as their authors published them."""
    photographs: Path | None = None
    """Folder of photographs named `CLASS_anything.jpg`."""
    network: tuple[str, ...] = ()
    """Networks to measure; default all."""
    size: Literal["full", "tiny"] = "full"
    """Size of the experiment; `tiny` is one small network on digits."""
    benign: int | None = None
    """Number of benign images; default 1,000."""
    crafted: int | None = None
    """Number of images in each crafted set; default 300."""
    lanes: int | None = None
    """Number of images that each device works on at the same time. It changes the time, not the results (8 for a ResNet-20 on a CPU)."""
    out: Path = Path("newton-output")
    """Folder for the results."""


def main(settings: Settings) -> str:
    """Measure what is missing, print and return the table."""
    console = Console()
    networks = {"digits": DIGITS} if settings.size == "tiny" else dict(NETWORKS)
    for name in settings.network:
        if name not in networks:
            raise BadInput(f"expected a network among {', '.join(networks)}, got {name}; pass one of them")
    usual = SIZES[settings.size]
    sizes = usual._replace(benign=settings.benign or usual.benign, crafted=settings.crafted or usual.crafted, lanes=settings.lanes)
    settings.out.mkdir(parents=True, exist_ok=True)
    for name in settings.network or networks:
        if (settings.out / f"{name}.json").exists():
            continue
        try:
            classifier, x, label = opened(networks[name], settings, console)
        except BadInput as error:
            console.print(f"{name} is left out: {error}", highlight=False)
            continue
        console.print(f"{name} ...", highlight=False)
        found, raw = measured(classifier, x, label, networks[name], sizes, lambda said: console.print(said, highlight=False))
        np.savez(settings.out / f"{name}.npz", **raw)
        with atomic(settings.out / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(found, indent=1))
    done = {name: json.loads(path.read_text()) for name in networks if (path := settings.out / f"{name}.json").exists()}
    text = "\n".join(table(done, {name: dict(np.load(settings.out / f"{name}.npz")) for name in done}))
    (settings.out / "table.md").write_text(text + "\n")
    print(text)
    return text


def opened(network: Network, settings: Settings, console: Console) -> tuple[Classifier, np.ndarray, np.ndarray]:
    """A classifier with its weights, and the test images it is right about."""
    if network.data == "digits":
        classifier = demo.train(*whole(load("digits", "train")), 0, console)
    else:
        path = lite0_checkpoint() if network.checkpoint == LITE0 else settings.checkpoints / network.checkpoint
        if path is None or not path.exists():
            raise BadInput(f"expected {network.checkpoint} in {settings.checkpoints}, got nothing there; pass --checkpoints")
        if path.is_dir():
            classifier = load_checkpoint(network.factory, path).classifier
        else:
            classifier = from_nnx(to_module(read_arrays(path), nnx.eval_shape(import_factory(network.factory))))
    if network.data != "photographs":
        x, label = whole(load(network.data, "test"))
    elif settings.photographs is None:
        raise BadInput("expected photographs for this network, got none; pass --photographs")
    else:
        x, label = photographs(settings.photographs)
    right = costs.predictions(classifier, x)[0] == label
    console.print(f"right about {right.sum()} of {len(x)} images", highlight=False)
    return classifier, x[right], label[right]


def crafting(network: Network) -> dict[str, tuple[Attack, ...]]:
    """Attacks that make the sets; of a random one each seed makes its share."""

    def preset(name: str) -> Any:
        return presets.make(network.preset, "crafting", name)

    radius = {"epsilon": 0.15} if network.data == "digits" else {}
    sets: dict[str, tuple[Attack, ...]] = {
        "FGSM": (replace(preset("fgsm"), **radius, **({"step_size": 0.15} if radius else {})),),
        "BIM": (preset("bim"),),
        "DeepFool": (preset("deepfool"),),
    }
    if network.data not in SLOW:
        epsilon, step = (0.3, 0.01) if network.preset == "mnist" else (8 / 255, 2 / 255)
        sets |= {
            "BIM, full budget": (preset("bim_b"),),
            "FMN-L2": (preset("fmn_l2"),),
            SEEDED: (replace(attacks.pgd(epsilon, step, 40), early_stop=False),) * 3,
        }
    return sets


def craft(
    classifier: Classifier,
    x: np.ndarray,
    label: np.ndarray,
    sets: Mapping[str, tuple[Attack, ...]],
    sizes: Sizes,
    say: Callable[[str], None],
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Successes of every attack, at most `sizes.crafted`, and how many images were tried for them."""
    made, tried = {}, {}
    for name, seeds in sets.items():
        begin, found, at = time.perf_counter(), [], 0
        for seed, attack in enumerate(seeds):
            wanted = sum(map(len, found)) + sizes.crafted // len(seeds)
            while at < len(x) and sum(map(len, found)) < wanted:
                rows = slice(at, at + CHUNK)
                examples = costs.examples(classifier, x[rows], label[rows], seed=seed)
                result = drivers.attack(attack, classifier, examples, lanes=sizes.lanes)
                successes = np.asarray(result.x_adv)[np.asarray(result.success)]
                found.append(successes[: wanted - sum(map(len, found))])
                at += CHUNK
        at = min(at, len(x))
        made[name], tried[name] = np.concatenate(found), at
        say(f"  {name}: {len(made[name])} of {at} tried, {time.perf_counter() - begin:.0f} s")
        if not len(made[name]):
            del made[name]
    return made, tried


def measured(
    classifier: Classifier, x: np.ndarray, label: np.ndarray, network: Network, sizes: Sizes, say: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All numbers of one network, and its raw scores by set (`n scores`, and the updates of both attacks)."""
    begin, count = time.perf_counter(), min(sizes.benign, len(x) // 2)
    made, tried = craft(classifier, x[count:], label[count:], crafting(network), sizes, say)
    images = costs.Arrays(np.concatenate([x[:count], *made.values()]))
    defence = {name: presets.make(network.preset, "defence", name) for name in ("newton", "bim")}
    found = costs.measure(classifier, images, defence, lanes=sizes.lanes)
    say(f"  measured, {time.perf_counter() - begin:.0f} s")
    one, nothing = gradients(classifier, images.x, found.label, defence["newton"].norm)
    everything = np.column_stack([read_columns(found, defence, READ, images.shape), one, nothing])
    updates = np.column_stack([found.results[name].iterations for name in defence])
    ends = np.cumsum([count, *map(len, made.values())])[:-1]
    scores = dict(zip([BENIGN, *made], np.split(everything, ends), strict=True))
    work = dict(zip([BENIGN, *made], np.split(updates, ends), strict=True))
    kept = found.results["bim"].censored[:count]
    benign = scores[BENIGN]
    result = {
        "date": date.today().isoformat(),
        "benign": count,
        "updates": work[BENIGN].mean(0).tolist(),
        "censored": [float(found.results[name].censored[:count].mean()) for name in defence],
        "rank correlation": float(spearmanr(benign[~kept, 0], benign[~kept, 1])[0]),
        "sets": {name: compared(benign, there, work[name], tried[name]) for name, there in scores.items() if name != BENIGN},
        "speed": speed(
            classifier, x[:count], max(LEAST, int(sizes.updates / work[BENIGN][:, 1].mean())), defence, benign, sizes.lanes, say
        ),
        "machine": f"{cores()} cores, JAX {jax.__version__}",
        "seconds": time.perf_counter() - begin,
    }
    return result, {name: np.column_stack([scores[name], work[name]]) for name in scores}


def gradients(classifier: Classifier, x: np.ndarray, label: np.ndarray, norm: Any) -> tuple[np.ndarray, np.ndarray]:
    """The margin over the dual length of its gradient, and the margin."""

    @jax.jit
    def both(x: Array, label: Array) -> tuple[Array, Array]:
        def of(x: Array, label: Array) -> tuple[Array, Array]:
            logits, gradient = look(classifier, lambda z: margin(z, label), x)
            return margin(logits, label) / (gradient * norms.steepest(gradient, norm)).sum(), margin(logits, label)

        return jax.vmap(of)(x, label)

    short = -len(x) % BATCH
    x, label = np.concatenate([x, x[:1].repeat(short, 0)]), np.concatenate([label, label[:1].repeat(short)]).astype(np.int32)
    pieces = [both(x[at : at + BATCH], label[at : at + BATCH]) for at in range(0, len(x), BATCH)]
    first, second = (np.nan_to_num(np.concatenate(column)[: len(x) - short], nan=0, posinf=1e9) for column in zip(*pieces, strict=True))
    return first, second


def compared(benign: np.ndarray, crafted: np.ndarray, work: np.ndarray, tried: int) -> dict[str, Any]:
    """How well each score tells a set from benign images, and the difference between the first two."""
    rows = {}
    for column, name in enumerate(SCORES):
        low, high = -benign[:, column], -crafted[:, column]
        rows[name] = [metrics.auroc(low, high), metrics.tpr_at_fpr(low, high, 0.01), metrics.tpr_at_fpr(low, high, 0.05)]
    return {
        "images": len(crafted),
        "tried": tried,
        "updates": work.mean(0).tolist(),
        "scores": rows,
        "difference": difference(benign[:, :2], crafted[:, :2]),
    }


def difference(benign: np.ndarray, crafted: np.ndarray, seed: int = 0) -> list[float]:
    """AUROC of the first column less that of the second, and its 95 % interval: the same images are drawn for both."""
    wins = [(np.sign(benign[:, None, column] - crafted[None, :, column]) + 1) / 2 for column in (0, 1)]
    each = wins[0] - wins[1]  # of every pair; the AUROC is its mean
    draw = np.random.default_rng(seed)
    rows, columns = each.shape
    drawn = [
        draw.multinomial(rows, np.full(rows, 1 / rows)) @ each @ draw.multinomial(columns, np.full(columns, 1 / columns)) / each.size
        for _ in range(RESAMPLES)
    ]
    return [float(each.mean()), *map(float, np.percentile(drawn, [2.5, 97.5]))]


def speed(
    classifier: Classifier,
    x: np.ndarray,
    few: int,
    defence: Mapping[str, Attack],
    benign: np.ndarray,
    lanes: int | None,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Benign images a second of each detector in this process, with its bound and without; BIM judges the first `few` of them."""
    found = {}
    for place, column in enumerate(READ[:2]):
        attack: Any = defence[column.measurement]
        fitted = Conformal(LEVEL).fit(benign[:, place])
        images = costs.Arrays(x[:few] if column.measurement == "bim" else x)
        for bound in (False, True):
            for number in (min(int(attack.max_steps), 8), int(attack.max_steps)):  # the first round compiles
                begin = time.perf_counter()
                short: Any = {column.measurement: replace(attack, max_steps=number)}
                judged = judge_images(classifier, images, short, (column,), fitted, bound=bound, lanes=lanes)
                seconds = time.perf_counter() - begin
            found[f"{column.measurement}{', bound' if bound else ''}"] = len(images) / seconds
            say(f"  {column.measurement}, stopped at {judged.stops[0] if bound else None}: {len(images) / seconds:.1f} images a second")
    return found


def either_end(benign: np.ndarray, crafted: np.ndarray) -> float:
    """Share of the crafted images that lie among the lowest or the highest benign ones, half of `LEVEL` each."""
    below, above = (np.mean(sign * benign[:, None] < sign * crafted[None], axis=0) for sign in (1, -1))
    return float(np.mean(np.minimum(below, above) < LEVEL / 2))


def table(done: Mapping[str, Mapping[str, Any]], raw: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    """What was found, as Markdown."""
    lines = ["| network, date | benign | updates, newton / BIM | rho | censored | mean AUROC, newton / BIM / one / margin |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, one in done.items():
        rho = f"{one['rank correlation']:.3f}"
        means = [np.mean([found["scores"][score][0] for found in one["sets"].values()]) for score in ("newton", "BIM", *SCORES[3:])]
        lines += [
            f"| {name}, {one['date']} | {one['benign']} | {one['updates'][0]:.2f} / {one['updates'][1]:.1f} | {rho} | "
            f"{one['censored'][0]:.1%} / {one['censored'][1]:.1%} | {' / '.join(f'{mean:.3f}' for mean in means)} |"
        ]
    lines += [
        "",
        "| network | set (of tried) | AUROC newton | BIM | difference [95 %] | one | margin | caught at 1 %, newton / BIM | at 5 % | "
        "newton, 5 % at both ends |",
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|---|"]
    for name, one in done.items():
        for kind, found in one["sets"].items():
            ours, theirs = found["scores"]["newton"], found["scores"]["BIM"]
            one_gradient, nothing = (found["scores"][score][0] for score in SCORES[3:])
            both = either_end(raw[name][BENIGN][:, 0], raw[name][kind][:, 0])
            middle, low, high = found["difference"]
            lines += [
                f"| {name} | {kind} {found['images']} ({found['tried']}) | {ours[0]:.3f} | {theirs[0]:.3f} | "
                f"{middle:+.3f} [{low:+.3f}, {high:+.3f}] | {one_gradient:.3f} | {nothing:.3f} | "
                f"{ours[1]:.2f} / {theirs[1]:.2f} | {ours[2]:.2f} / {theirs[2]:.2f} | {both:.2f} |"
            ]
    lines += ["", f"| network | {SEEDED}: AUROC newton / BIM with seed 0 | 1 | 2 |", "|---|---|---|---|"]
    for name in done:
        if SEEDED in raw[name]:
            thirds = np.array_split(raw[name][SEEDED], 3)
            areas = [[metrics.auroc(-raw[name][BENIGN][:, column], -third[:, column]) for column in (0, 1)] for third in thirds]
            lines += [f"| {name} | {' | '.join(f'{ours:.3f} / {theirs:.3f}' for ours, theirs in areas)} |"]
    lines += [
        "",
        "| network | newton, images a second | BIM | times | newton with bound | BIM with bound | times |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in done.items():
        ours, theirs, bounded, stopped = (one["speed"][key] for key in ("newton", "bim", "newton, bound", "bim, bound"))
        lines += [f"| {name} | {ours:.0f} | {theirs:.1f} | {ours / theirs:.1f} | {bounded:.0f} | {stopped:.1f} | {bounded / stopped:.1f} |"]
    return lines


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", cores())  # as the command line does
    sys.exit(run("experiments.newton", lambda: main(tyro.cli(Settings))))
