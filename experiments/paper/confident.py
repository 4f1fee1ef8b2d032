"""Targeted C&W with confidence: the attacks on pairs of an image and a target that Table 4, Figures 7 to 9 and the grids show.

The attack is that of MagNet's adversary (Carlini and Wagner, "MagNet and 'Efficient defenses ...' are not robust", arXiv:1711.08478): 4
constants from 1 on, learning rate 0.01. The size of the run sets how many updates each constant has. The attack succeeds if the target
leads by the confidence kappa. The images of one kappa are a set like any other, named `kappa 5`. Costs and CLEVER scores are measured on
it by its name. It has an image for each pair, also where the attack failed.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from a2d_jax import jobs
from a2d_jax.errors import BadInput
from a2d_jax.io.class_names import CIFAR10_CLASSES
from experiments import archives
from experiments.paper.crafting import Crafted
from experiments.paper.networks import Subject

if TYPE_CHECKING:
    from experiments.paper.sets import Sets

PREFIX = "kappa "
CLASSES = 10
CONSTANTS = 4
SHOWN = ((4, 0), (0, 3))
"""Pairs that single figures show; they come first, so that every size has them."""
KAPPAS = (0, 5, 10, 15, 20)
"""Confidences of the paper's figures."""
MNIST_CAP, CIFAR10_CAP = 8.4, 1.6
"""Largest L2 distance of an attack that counts: 0.3 sqrt(784), and about 0.03 sqrt(3072)."""


class Pairs(NamedTuple):
    """Images and the classes that they shall be taken for.

    Attributes:
      x: the first image of each source class that the network classifies correctly, once for each target, `n h w c`.
      source: its class, `n`.
      target: the class to reach, `n`.
      index: position of the image in the pool, `n`.
    """

    x: Float[np.ndarray, "n h w c"]
    source: Int[np.ndarray, " n"]
    target: Int[np.ndarray, " n"]
    index: Int[np.ndarray, " n"]

    def place(self, source: int, target: int) -> int:
        """The place of a pair."""
        return int(np.flatnonzero((self.source == source) & (self.target == target))[0])


class Attacked(NamedTuple):
    """What the attack made of the pairs.

    Attributes:
      pairs: the images and their targets.
      x_adv: the nearest image that leads by the confidence; where there is none, the last that was judged. `n h w c`.
      reached: the target leads by the confidence, `n`.
      distance: true L2 distance in pixels of [0, 1], `n`.
    """

    pairs: Pairs
    x_adv: Float[np.ndarray, "n h w c"]
    reached: Bool[np.ndarray, " n"]
    distance: Float[np.ndarray, " n"]


def named(kappa: int) -> str:
    """The name of the set with a confidence."""
    return f"{PREFIX}{kappa}"


def confidence(name: str) -> int | None:
    """The confidence of a set; None if it is another kind of set."""
    return int(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None


def told(sets: "Sets") -> str:
    """How the images were made, in sentences for a note."""
    return (
        f"Targeted C&W with {CONSTANTS} constants of at most {sets.size.confidence_steps} updates (the paper's setting has 10000) attacks "
        "the first image of each class that is classified correctly, with other classes as targets."
    )


def class_name(subject: Subject, label: int) -> str:
    """What a class is called."""
    return CIFAR10_CLASSES[label] if subject.facts.data == "cifar10" else str(label)


def order() -> list[tuple[int, int]]:
    """All pairs of a source and another target: those that are shown, then one target for every source, then the next."""
    every = [(source, (source + step) % CLASSES) for step in range(1, CLASSES) for source in range(CLASSES)]
    return [*SHOWN, *(pair for pair in every if pair not in SHOWN)]


def firsts(sets: "Sets", subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """The first test image of each class that the network classifies correctly, by class, and their positions in the pool.

    Raises:
      BadInput: a class of which no image is classified correctly.
    """
    pool = archives.read(sets.pool(subject))
    x, label = pool["x"], pool["y"]
    if lacks := sorted(set(range(CLASSES)) - set(label.tolist())):
        raise BadInput(f"expected an image of each class that {subject.network} classifies correctly, got none of {lacks}; train it longer")
    index = np.array([int(np.argmax(label == one)) for one in range(CLASSES)])
    return x[index], index


def pairs(sets: "Sets", subject: Subject) -> Pairs:
    """As many pairs as the size says."""
    x, index = firsts(sets, subject)
    source, target = np.array(order()[: sets.size.of(sets.size.pairs, subject.network)], np.int64).T
    return Pairs(x[source], source, target, index[source])


def craft(sets: "Sets", subject: Subject, kappa: int, name: str) -> Crafted:
    """Attack the pairs.

    Args:
      sets: the networks and images of the run.
      subject: the network.
      kappa: confidence in logits.
      name: of the files, without what follows.
    """
    aimed = pairs(sets, subject)
    images = sets.folder / f"{name}.originals.npz"
    archives.write(images, x=aimed.x, y=aimed.target)
    each = sets.size.confidence_steps
    settings = {"form": "carlini", "targeted": "true", "confidence": kappa, "constants": CONSTANTS, "first_constant": 1, "step_size": 0.01}
    settings |= {"steps_per_constant": each, "max_steps": CONSTANTS * each}
    attack = ":".join(["cw", *(f"{key}={value}" for key, value in settings.items())])
    how = {"preset": subject.facts.preset, "target": "labels", "seed": sets.seed, "lanes": sets.lanes}
    made = sets.work.once(f"{name}.attacked.npz", jobs.AttackSpec, **sets.network(subject), images=images, attack=attack, **how)
    found = archives.read(made)
    return Crafted(found["x"], aimed.source, found["success"], aimed.index, len(aimed.x))


def attacked(sets: "Sets", subject: Subject, kappa: int) -> Attacked:
    """The pairs, and what the attack made of them."""
    aimed = pairs(sets, subject)
    found = archives.read(sets.file(subject, named(kappa)))
    x_adv, reached = found["x"], found["success"]
    distance = np.sqrt(np.sum((x_adv.astype(np.float64) - aimed.x) ** 2, axis=(1, 2, 3)))
    return Attacked(aimed, x_adv, reached, distance)


def gets_through(found: Attacked, cap: float, *flagged: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Which attacks count: the target is reached, the image is within the cap, and no detector flags it."""
    return found.reached & (found.distance <= cap) & ~np.any([np.zeros_like(found.reached), *flagged], axis=0)
