"""The protocol that all tables and figures share: what is measured on the images of a set, each number made once.

    OUT/SETS/SPLIT-SET.ATTACK.parquet  costs
    OUT/SETS/SPLIT-SET.clever.parquet  CLEVER scores
    OUT/SETS/NAME.npz                  arrays of a step that is no job, such as the scores of a baseline
    OUT/.a2d/                          what OUT was begun with, and which steps are done (`a2d status OUT`)

`sets.py` has the images. Each file is a step: after a kill the same command goes on with the step that was interrupted, and a job goes on
within it. The protocol knows no table.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from a2d_jax import costs, drivers, jobs, presets
from a2d_jax.classifiers import predict_by
from a2d_jax.io.measurements import Measurements, read_measurements
from a2d_jax.measurements import Column
from a2d_jax.types import Attack, Classifier, Example
from experiments.paper.networks import DIGITS, Subject
from experiments.paper.sets import TEST, Sets, slug

CLEVER_TARGETS = ("untargeted", "target-2", "target-5", "least-likely")
BATCH = 64
"""Images whose logits are computed at a time."""
SLOWEST = "dba"
"""The attack that needs thousands of queries for every image."""
DIGITS_DEFENCE: Mapping[str, Mapping[str, Any]] = {
    "bim2": {"epsilon": 0.2, "step_size": 0.0004},  # the ball of MNIST is too small for one digit in four
    "dba": {"mse_threshold": 0.01, "max_steps": 300},
    "cw": {"max_steps": 500, "steps_per_constant": 100},
    "lbfgs": {"max_steps": 500},
}
"""Settings of attacks whose settings for MNIST do not suit 8 x 8 pixels (see `experiments.demo`)."""


class Measured(NamedTuple):
    """What an attack found on the images of a set.

    Attributes:
      cost: what a detector reads, `n`: the cost, of Newton the crossing. A low number is suspicious.
      numbers: all numbers of the table, by name, each `n`.
    """

    cost: np.ndarray
    numbers: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Study(Sets):
    """Networks, sets of images, and what is measured on them."""

    def leaves_out(self, subject: Subject, attack: str) -> bool:
        """Whether this size leaves an attack out."""
        return attack == SLOWEST and not self.size.of(self.size.slowest, subject.network)

    def _suited(self, subject: Subject, attack: str) -> dict[str, Any]:
        """Settings of an attack that are not those of the network's preset."""
        return dict(DIGITS_DEFENCE.get(attack, {})) if subject.network == DIGITS else {}

    def defence(self, subject: Subject, attack: str, **settings: Any) -> Attack:
        """An attack as `costs` makes it, with other settings."""
        return presets.make(subject.facts.preset, "defence", attack, **self._suited(subject, attack) | settings)

    def costs(self, subject: Subject, name: str, attack: str, split: str = TEST, *, bound: int | None = None) -> Measured:
        """What an attack costs on each image of a set; of few images for DBA.

        Args:
          subject: the network.
          name: of the set.
          attack: of the presets, for defence.
          split: of the images.
          bound: updates after which the attack stops, as a detector stops it; default those of the preset.
        """
        images = self.file(subject, name, split)
        path = f"{subject.sets}/{split}-{slug(name)}.{attack}{'' if bound is None else f'-{bound}'}.parquet"
        few = self.size.of(self.size.slowest, subject.network) if attack == SLOWEST else None
        settings = self._suited(subject, attack) | ({} if bound is None else {"max_steps": bound})
        spec = ":".join([attack, *(f"{key}={value}" for key, value in settings.items())])
        how = {"images": images, "attacks": spec, "preset": subject.facts.preset, "limit": few}
        found = read_measurements(self.work.once(path, jobs.CostSpec, **self.network(subject), **how, seed=self.seed, lanes=self.lanes))
        (measured,) = found.names
        column = Column(measured, "crossing" if attack.startswith("newton") else "cost")
        numbers = {key: np.asarray(values) for key, values in found.numbers[measured].items()}
        return Measured(found.select([column])[:, 0].astype(np.float64), numbers)

    def alone(self, subject: Subject, name: str, title: str, attack: Attack, many: int | None = None) -> np.ndarray:
        """Seconds of an attack on each of the first images of a set, when nothing else is attacked: a batch of one, compiled before.

        Args:
          subject: the network.
          name: of the set.
          title: of the attack, for the name of the file.
          attack: the attack with its settings.
          many: images; default as the size says.
        """

        def work() -> dict[str, Any]:
            classifier, examples = self._first(subject, name, many)
            found: list[float] = []
            for place in (0, *range(len(examples.label))):  # the first one compiles
                one = jax.tree.map(lambda leaf, place=place: leaf[place : place + 1], examples)
                begin = time.perf_counter()
                drivers.attack(attack, classifier, one, driver="run", devices=jax.local_devices()[:1])
                found.append(time.perf_counter() - begin)
            return {"seconds": np.array(found[1:])}

        return self.arrays(subject, f"{TEST}-{slug(name)}.{slug(title)}-alone{'' if many is None else f'-{many}'}", work)["seconds"]

    def _first(self, subject: Subject, name: str, many: int | None = None) -> tuple[Classifier, Example]:
        """The classifier, and the first images of a set as an attack takes them; by default as many as are timed."""
        classifier, x = self.classifier(subject), self.pictures(subject, name).x
        return classifier, costs.examples(classifier, x[: self.size.timed if many is None else many], seed=self.seed)

    def together(self, subject: Subject, name: str, title: str, attack: Attack) -> float:
        """Seconds of an image when these images go through the stream together, compiled before."""

        def work() -> dict[str, Any]:
            classifier, examples = self._first(subject, name)
            drivers.warm(attack, classifier, examples.x.shape[1:], lanes=self.lanes)
            begin = time.perf_counter()
            drivers.attack(attack, classifier, examples, lanes=self.lanes)
            return {"seconds": np.array((time.perf_counter() - begin) / len(examples.label))}

        return float(self.arrays(subject, f"{TEST}-{slug(name)}.{slug(title)}-together", work)["seconds"])

    def margins(self, subject: Subject, name: str, split: str = TEST) -> np.ndarray:
        """The margin between the two largest logits of each image, which costs one forward pass. A low number is suspicious."""

        def work() -> dict[str, Any]:
            ranked = np.sort(predict_by(self.classifier(subject), self.pictures(subject, name, split).x, BATCH), axis=1)
            return {"margin": ranked[:, -1] - ranked[:, -2]}

        return self.arrays(subject, f"{split}-{slug(name)}.margin", work)["margin"]

    def clever(self, subject: Subject, name: str) -> Measurements:
        """CLEVER scores of the first images of a set, for all targets: the untargeted score needs every class anyway."""
        images, score = self.file(subject, name), self.size.score
        how = {"images": images, "limit": self.size.clever, "seed": self.seed, "targets": ",".join(CLEVER_TARGETS)}
        ball = {"radius": score.radius, "norm": score.norm, "batches": score.batches, "samples": score.samples}
        path = f"{subject.sets}/{TEST}-{slug(name)}.clever.parquet"
        return read_measurements(self.work.once(path, jobs.CleverSpec, **self.network(subject), **how, **ball))

    def arrays(self, subject: Subject, name: str, work: Callable[[], Mapping[str, Any]]) -> Mapping[str, np.ndarray]:
        """Arrays of a step that is no job, computed unless they are there.

        Args:
          subject: whose folder they go to.
          name: of the step, which must say all that they depend on.
          work: computes them.
        """
        return self.work.arrays(f"{subject.sets}/{name}.npz", work)
