"""Smooth costs: memory, time, and how well their gradients agree with finite differences.

    python -m experiments.smooth_cost --checkpoints DIR [--network NAME ...] [--images N] [--size full|tiny]

Each cost of `a2d_jax.adaptive` is computed on benign test images together with its gradient in the image, and beside them the unrolled BIM2
with 10, 100 and 500 steps. The script prints one table for each network:

    memory       of the compiled program for one image, in MiB, without weights, image and gradient (XLA's own account)
    time         milliseconds of one image, value and gradient
    rank         Spearman's correlation of the cost with the crossing of BIM with 500 updates
    agreement    cosine of the slopes along random directions, by the gradient and by central differences, in float64: the median and the
                 lowest tenth of the images; on images that are moved off the bounds by a grey level, where no two pixels are equal

Networks are those of `python -m experiments.newton`, whose folder of checkpoints is the same; `--size tiny` trains a small LeNet on
scikit-learn's digits. Run time: 4 minutes of processor time for LeNet-5. Expected: the table of docs/smooth_cost.md.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from scipy.stats import spearmanr

from a2d_jax import attacks, costs, drivers, presets
from a2d_jax.adaptive import Implicit, Linearised, SmoothCost, Survival
from a2d_jax.console import run
from a2d_jax.types import Classifier, Example
from experiments import newton
from experiments.work import cores

STEPS = (10, 100, 500)
LONG = 100  # updates of an attack, above which finite differences take too long
DIRECTIONS = 6  # of finite differences
FREE = 0.004  # share of a pixel by which images leave the bounds and their flat areas: there maxima tie, and no function has a derivative
APART = 1e-9  # of the two points of a difference from the image, in pixel units for each scalar
HEAD = ("| cost | norm | memory, MiB | time, ms | rank | agreement |", "|---|---|---|---|---|---|")
ROW = "| {} | {} | {:.2f} | {:.1f} | {} | {} |"


@dataclass(frozen=True)
class Settings:
    """Measure smooth costs on one network after the other."""

    checkpoints: Path = Path("checkpoints")
    """Folder of checkpoints as their authors published them."""
    network: tuple[str, ...] = ("LeNet-5",)
    """Networks to measure, see `experiments.newton`."""
    images: int = 6
    """Benign images of each network."""
    size: Literal["full", "tiny"] = "full"
    """Size of the experiment; `tiny` is one small network on digits."""


class Measured(NamedTuple):
    """A row of the table."""

    memory: float  # MiB
    milliseconds: float
    rank: float
    agreement: tuple[float, float] | None  # median and lowest tenth of the cosines


def costs_of(preset: str) -> dict[str, tuple[str, SmoothCost]]:
    """Norm and cost by name, with the radii of a preset."""
    radius, radius2 = (presets.make(preset, "defence", name).epsilon for name in ("newton", "newton_l2"))  # pyright: ignore[reportAttributeAccessIssue]
    found: dict[str, tuple[str, SmoothCost]] = {
        "Linearised": ("linf", Linearised()),
        "Survival": ("linf", Survival(2 * radius)),
        "Implicit, Newton": ("linf", Implicit(attacks.Newton(radius))),
    }
    found |= {f"Implicit, BIM {n}": ("linf", Implicit(attacks.bim(radius, radius / n, n))) for n in STEPS}
    found |= {
        "Linearised, L2": ("rms", Linearised("rms")),
        "Survival, L2": ("rms", Survival(2 * radius2, norm="rms")),
        "Survival, L2, straight": ("rms", Survival(2 * radius2, norm="rms", straight=True)),
        "Implicit, Newton, L2": ("rms", Implicit(attacks.Newton(radius2, norm="rms"))),
        "Implicit, BIM2 500": ("rms", Implicit(attacks.bim2(radius2, radius2 / 500, 500))),
    }
    return found | {f"unrolled BIM2 {n}": ("rms", Unrolled(radius2, n)) for n in STEPS}


class Unrolled(NamedTuple):
    """What was possible before: the steps at which the margin is positive, counted softly along an unrolled path."""

    epsilon: float
    steps: int

    def __call__(self, classifier: Classifier, x: Any, label: Any) -> Any:
        attack = attacks.bim2(self.epsilon, self.epsilon / self.steps, self.steps)
        _, margins = drivers.unroll(attack, classifier, Example(x, label, jax.random.key(0)))
        return jnp.sum(jax.nn.sigmoid(margins / (0.1 * jax.lax.stop_gradient(jnp.abs(margins[0]))))) * self.epsilon / self.steps


def main(settings: Settings) -> str:
    """Measure, print and return the tables."""
    console, lines = Console(stderr=True), list[str]()
    networks = {"digits": newton.DIGITS} if settings.size == "tiny" else {name: newton.NETWORKS[name] for name in settings.network}
    for name, network in networks.items():
        opened = newton.opened(network, newton.Settings(checkpoints=settings.checkpoints), console)
        classifier, x, label = opened[0], opened[1][: settings.images], opened[2][: settings.images]
        radius = presets.make(network.preset, "defence", "newton").epsilon  # pyright: ignore[reportAttributeAccessIssue]
        bim = attacks.bim(radius, radius / 500, 500)
        crossing = np.asarray(drivers.attack(bim, classifier, costs.examples(classifier, x)).crossing)
        lines += [f"{name}, {len(x)} images:", "", *HEAD]
        for kind, (norm, cost) in costs_of(network.preset).items():
            lines.append(row(kind, norm, measured(cost, classifier, x, label, crossing)))
            console.print(lines[-1], highlight=False)
        lines.append("")
    print(text := "\n".join(lines))
    return text


def row(kind: str, norm: str, found: Measured) -> str:
    """A line of the table."""
    agreement = "-" if found.agreement is None else "{:.4f}, {:.4f}".format(*found.agreement)
    return ROW.format(kind, norm, found.memory, found.milliseconds, f"{found.rank:.3f}", agreement)


def measured(cost: SmoothCost, classifier: Classifier, x: np.ndarray, label: np.ndarray, crossing: np.ndarray) -> Measured:
    """Memory, time, ranks and agreement of a cost."""
    labels = jnp.asarray(label, jnp.int32)
    both = jax.jit(jax.value_and_grad(cost, argnums=1)).lower(classifier, jnp.asarray(x[0]), labels[0]).compile()
    memory: Any = both.memory_analysis()
    jax.block_until_ready(both(classifier, jnp.asarray(x[0]), labels[0]))
    begin = time.perf_counter()
    values = [float(both(classifier, jnp.asarray(one), y)[0]) for one, y in zip(x, labels, strict=True)]
    seconds = time.perf_counter() - begin
    ranks: float = spearmanr(values, crossing).statistic  # pyright: ignore[reportAttributeAccessIssue]
    long = isinstance(cost, Unrolled) or (isinstance(cost, Implicit) and int(cost.attack.max_steps) > LONG)
    agreement = None if long else agreement_of(cost, classifier, x, label)
    return Measured(memory.temp_size_in_bytes / 2**20, seconds / len(x) * 1e3, ranks, agreement)


def agreement_of(cost: SmoothCost, classifier: Classifier, x: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Cosine of the slopes along random directions, by the gradient and by differences, in float64: median and lowest tenth."""
    noise, cosines = np.random.default_rng(0), list[float]()
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64) if jnp.issubdtype(w.dtype, jnp.floating) else w, classifier)
        # both points of every difference, one after the other: no neighbour keeps a lane waiting
        values = jax.jit(lambda points, y: jax.lax.map(lambda point: cost(exact, point, y), points))
        gradient = jax.jit(jax.grad(lambda x, y: cost(exact, x, y)))
        for one, y in zip(x.astype(np.float64), jnp.asarray(label, jnp.int32), strict=True):
            one = FREE + (1 - 2 * FREE) * one + noise.uniform(-FREE / 2, FREE / 2, one.shape)
            directions = noise.normal(size=(DIRECTIONS, *one.shape))
            up, down = (np.asarray(values(jnp.asarray(one + sign * APART * directions), y)) for sign in (1, -1))
            slopes = (up - down) / (2 * APART)
            found = np.tensordot(directions, np.asarray(gradient(jnp.asarray(one), y)), 3)
            lengths = np.linalg.norm(slopes) * np.linalg.norm(found)
            cosines.append(float(slopes @ found / lengths) if lengths else float(np.array_equal(slopes, found)))
    return float(np.median(cosines)), float(np.quantile(cosines, 0.1))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", cores())  # as the command line does
    sys.exit(run("experiments.smooth_cost", lambda: main(tyro.cli(Settings))))
