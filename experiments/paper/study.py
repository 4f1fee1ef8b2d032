"""The protocol that all tables and figures share: networks, sets of images, measurements, scores, each made once.

    OUT/networks/NAME/                 weights, for the command line
    OUT/SETS/SPLIT-pool.npz            images that the network classifies correctly: x, y
    OUT/SETS/SPLIT-benign.npz          the first of them
    OUT/SETS/SPLIT-SET.npz             adversarial images: x, y, success, index (position in the pool, or -1)
    OUT/SETS/SPLIT-SET.ATTACK.parquet  costs
    OUT/SETS/SPLIT-SET.clever.parquet  CLEVER scores
    OUT/SETS/NAME.npz                  arrays of a step that is no job, such as the scores of a baseline
    OUT/.a2d/                          what OUT was begun with, and which steps are done (`a2d status OUT`)

SETS is a section of `settings.toml`, SPLIT is `test` (images that are judged) or `fit` (images that detectors learn from). Each file is a
step: after a kill the same command goes on with the step that was interrupted, and a job goes on within it. The protocol knows no table.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from rich.console import Console

from a2d_jax import costs, drivers, jobs, presets
from a2d_jax.classifiers import predict_by
from a2d_jax.errors import BadInput, require
from a2d_jax.io import checkpoints
from a2d_jax.io.datasets import load
from a2d_jax.io.measurements import Measurements, read_measurements
from a2d_jax.io.provenance import weights_digest
from a2d_jax.io.source import content_digest
from a2d_jax.measurements import Column
from a2d_jax.types import Attack, Classifier, Example
from experiments import archives
from experiments.paper import authors, confident, crafting
from experiments.paper.networks import DIGITS, ROLES, Places, Subject
from experiments.paper.settings import Crafting, craftings
from experiments.paper.sizes import Size
from experiments.work import Work
from models.table import photographs
from models.training import whole
from models.training.command import main as train
from models.training.settings import Args

T = TypeVar("T")
BENIGN = "benign"
TEST, FIT = "test", "fit"
CLEVER_TARGETS = ("untargeted", "target-2", "target-5", "least-likely")
BATCH = 64
"""Images whose logits are computed at a time."""
POOL = 40
"""Images of the pool for each image wanted: crafting that often fails needs many."""
SLOW, SLOWEST = ("cw", "lbfgs", "lsa"), "dba"
"""Attacks that need hundreds of queries for every image, and one that needs up to a hundred thousand."""
DIGITS_DEFENCE: Mapping[str, Mapping[str, Any]] = {
    "bim2": {"epsilon": 0.2, "step_size": 0.0004},  # the ball of MNIST is too small for one digit in four
    "dba": {"mse_threshold": 0.01, "max_steps": 300},
    "cw": {"max_steps": 500, "steps_per_constant": 100},
    "lbfgs": {"max_steps": 500},
}
"""Settings of attacks whose settings for MNIST do not suit 8 x 8 pixels (see `experiments.demo`)."""


class Pictures(NamedTuple):
    """Images of a set.

    Attributes:
      x: `n h w c` in [0, 1].
      label: their true classes.
      index: position in the pool of the image that each was made from; -1 if it is not known.
    """

    x: np.ndarray
    label: np.ndarray
    index: np.ndarray


class Measured(NamedTuple):
    """What an attack found on the images of a set.

    Attributes:
      cost: what a detector reads, `n`: the cost, of Newton the crossing. A low number is suspicious.
      numbers: all numbers of the table, by name, each `n`.
    """

    cost: np.ndarray
    numbers: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Study:
    """The folder of a run, its size and its networks.

    Attributes:
      work: the folder, and where progress is told.
      size: numbers of images.
      subjects: the networks that are there, by role.
      missing: why others are not, by role.
      places: where weights and data are looked for.
      seed: of everything random.
      lanes: images that each device works on at the same time.
    """

    work: Work
    size: Size
    subjects: Mapping[str, Subject]
    missing: Mapping[str, str]
    places: Places
    seed: int = 0
    lanes: int | None = None
    memory: dict[str, Any] = field(default_factory=dict, repr=False)
    """What is expensive to make and needed again, by name."""

    @property
    def folder(self) -> Path:
        """Where everything is."""
        return self.work.steps.folder

    @property
    def console(self) -> Console:
        """Where progress is told."""
        return self.work.console

    @cached_property
    def given(self) -> Mapping[str, Path]:
        """Files with sets that the paper's authors crafted, by name of the set.

        Raises:
          BadInput: files of something else, or others than those with which the folder began.
        """
        found = authors.files(self.places.authors)
        for name, path in found.items():
            self.same(f"file of {name}", path.name, "sha256", content_digest(path))
        return found

    def same(self, step: str, what: str, key: str, digest: str) -> None:
        """Remember what the folder began with, for its numbers depend on it.

        Args:
          step: that remembers it.
          what: it is, such as a file.
          key: of the digest, among what the step tells.
          digest: of what is there now.

        Raises:
          BadInput: the folder began with another.
        """
        if self.work.steps.once(step, lambda: {key: digest})[key] != digest:
            raise BadInput(f"expected the {what} with which {self.folder} began, got something else; choose another --out")

    @cached_property
    def settings(self) -> Mapping[str, Mapping[str, Crafting]]:
        """How the sets are crafted."""
        return craftings()

    # Networks

    def here(self, roles: Mapping[str, T]) -> list[tuple[Subject, T]]:
        """The networks of these roles that are there, each with what belongs to its role."""
        return [(self.subjects[role], one) for role, one in roles.items() if role in self.subjects]

    def begin(self, subject: Subject) -> None:
        """Read what the numbers of a network depend on: its weights, unless they are trained here, and its test images.

        Raises:
          BadInput: a damaged file, or another than that with which the folder began.
        """
        if subject.source is not None:
            self._weights(subject)
        data = subject.facts.data
        self.once(f"images of {data}", lambda: self.same(f"images of {data}", f"images of {data}", "sha256", self._digest(subject)))

    def _digest(self, subject: Subject) -> str:
        hashed = hashlib.sha256()
        for array in self.everything(subject, TEST):
            hashed.update(np.ascontiguousarray(array))
        return hashed.hexdigest()

    def lost(self, role: str) -> bool:
        """Whether the folder has numbers of the role's network, but its weights or data are not there now."""
        network, there = ROLES[role].network, self.subjects.get(role)
        done = self.work.steps.done
        return done(f"weights of {network}") and (
            there is None or there.network != network or (there.source is None and not done(f"train {network}"))
        )

    def network(self, subject: Subject) -> dict[str, Any]:
        """The classifier as jobs take it: factory and checkpoint."""
        return {"classifier": subject.facts.factory, "checkpoint": self._weights(subject)}

    def classifier(self, subject: Subject) -> Classifier:
        """The classifier."""
        weights = self._weights(subject)
        return self.once(f"classifier {subject.network}", lambda: checkpoints.load(subject.facts.factory, weights).classifier)

    def _weights(self, subject: Subject) -> Path:
        """A folder with its weights: published, converted or trained."""
        return self.once(f"weights of {subject.network}", lambda: self._open(subject))

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What is made at its first use and kept in memory."""
        if name not in self.memory:
            self.memory[name] = make()
        return self.memory[name]

    def _open(self, subject: Subject) -> Path:
        source, factory = subject.source, subject.facts.factory
        if source is None:
            folder = self._trained(subject)
        elif source.is_dir():
            folder = source
        else:
            self.same(f"file of {subject.network}", source.name, "sha256", content_digest(source))  # it is converted once
            folder = self.work.once(self._place(f"networks/{subject.network}"), jobs.ConvertSpec, source=source, classifier=factory)
        name = f"weights of {subject.network}"
        self.same(name, name, "weights_sha256", weights_digest(checkpoints.load(factory, folder).classifier))
        return folder

    def _trained(self, subject: Subject) -> Path:
        folder = self.folder / self._place(f"networks/{subject.network}")

        def work() -> dict[str, Any]:
            train(Args(classifier=subject.facts.factory, data=subject.facts.data, out=folder, seed=self.seed), self.console)
            return {}

        self.work.steps.once(f"train {subject.network}", work)
        return folder

    def _place(self, name: str) -> str:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        return name

    # Images

    def images(self, subject: Subject, name: str = BENIGN, split: str = TEST) -> int:
        """Benign images, or images of a set: few if crafting one takes thousands of gradients, or if detectors only learn from them."""
        how = self.settings.get(subject.sets, {}).get(name)
        slow = how is not None and how.attack.partition(":")[0] in SLOW
        many = self.size.of(self.size.slow if slow else self.size.images, subject.network)
        return many if split == TEST else min(many, self.size.learning)

    def sets(self, subject: Subject) -> Mapping[str, Crafting]:
        """Its sets of adversarial images, without those that a single figure needs, and without those that this size leaves out."""
        return {name: one for name, one in self.settings[subject.sets].items() if not one.extra and self.images(subject, name)}

    def left_out(self, subject: Subject) -> Sequence[str]:
        """Sets that this size leaves out."""
        return [name for name in self.settings[subject.sets] if not self.images(subject, name)]

    def others(self, subject: Subject) -> Sequence[str]:
        """Its sets that the paper's authors crafted; only MNIST's first network has any."""
        return list(self.given) if subject.sets == "env1-mnist" else []

    def file(self, subject: Subject, name: str, split: str = TEST) -> Path:
        """The file of a set, crafted unless it is there."""
        return self._benign(subject, split) if name == BENIGN else self._crafted(subject, name, split)

    def pictures(self, subject: Subject, name: str, split: str = TEST) -> Pictures:
        """The images of a set, crafted unless they are there."""
        found = archives.read(self.file(subject, name, split))
        return Pictures(found["x"], found["y"], found.get("index", np.arange(len(found["x"]))))

    def pairs(self, subject: Subject, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The originals of a crafted set, and the set, in one order.

        Raises:
          BadInput: a set that does not say which images it was made from.
        """
        made = self.pictures(subject, name)
        require(bool((made.index >= 0).all()), "a set that says which images it was made from", name, "take another")
        return archives.read(self.pool(subject))["x"][made.index], made.x

    def training(self, subject: Subject, many: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels that baselines learn from; the first ones of the training set.

        Args:
          subject: the network.
          many: how many; default as the size says.

        Raises:
          BadInput: the data set has no training images.
        """
        if subject.facts.data == "photographs":
            raise BadInput("expected training images for a baseline, got the photographs, which are too few; leave it out")
        x, label = whole(load(subject.facts.data, "train"))
        many = self.size.of(self.size.training, subject.network) if many is None else many
        return x[:many], label[:many]

    def pool(self, subject: Subject, split: str = TEST) -> Path:
        """Images that the network classifies correctly, in the order of the data set."""
        name = self._place(f"{subject.sets}/{split}-pool.npz")

        def work() -> dict[str, Any]:
            x, label = self.everything(subject, split)
            many = min(len(x), POOL * self.images(subject, split=split))
            right = costs.predictions(self.classifier(subject), x[:many])[0] == label[:many]
            archives.write(self.folder / name, x=x[:many][right], y=label[:many][right].astype(np.int64))
            return {"images": many, "right": int(right.sum())}

        self.work.steps.once(name, work)
        return self.folder / name

    def everything(self, subject: Subject, split: str) -> tuple[np.ndarray, np.ndarray]:
        """All images of a split and their labels, right or wrong.

        Raises:
          BadInput: the data are not on this machine.
        """
        if subject.facts.data != "photographs":
            return whole(load(subject.facts.data, "test" if split == TEST else "train"))
        if self.places.photographs is None:
            raise BadInput("expected photographs for this network, got none; pass --photographs")
        x, label = photographs(self.places.photographs)
        mine = np.sort(np.array_split(np.random.default_rng(self.seed).permutation(len(x)), 2)[split == TEST])
        return x[mine], label[mine]

    def _benign(self, subject: Subject, split: str) -> Path:
        name = f"{subject.sets}/{split}-{BENIGN}.npz"

        def work() -> dict[str, Any]:
            pool, many = archives.read(self.pool(subject, split)), self.images(subject, split=split)
            archives.write(self.folder / name, x=pool["x"][:many], y=pool["y"][:many])
            return {}

        self.work.steps.once(name, work)
        return self.folder / name

    def _crafted(self, subject: Subject, name: str, split: str) -> Path:
        path = self._place(f"{subject.sets}/{split}-{slug(name)}.npz")

        def work() -> dict[str, Any]:
            made = self._made(subject, name, split, path.removesuffix(".npz"))
            if not len(made.x):
                raise BadInput(f"expected at least one image of {name} that fools {subject.network}, got none; choose a larger --size")
            archives.write(self.folder / path, x=made.x, y=made.label, success=made.success, index=made.index)
            return {"images": len(made.x), "tried": made.tried, "fool the network": int(made.success.sum())}

        self.work.steps.once(path, work)
        return self.folder / path

    def _made(self, subject: Subject, name: str, split: str, path: str) -> crafting.Crafted:
        if name in self.given:
            return authors.read(self.given[name], *self.everything(subject, TEST), self.images(subject))
        if (kappa := confident.confidence(name)) is not None:
            return confident.craft(self, subject, kappa, path)
        return crafting.craft(self, subject, self.settings[subject.sets][name], self.images(subject, name, split), split, path)

    # Measurements

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


def slug(name: str) -> str:
    """The name of a set in the names of files."""
    return "".join(letter for letter in name.lower() if letter.isalnum() or letter in "-_")
