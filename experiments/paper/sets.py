"""Networks and sets of images that all tables and figures share, each made once.

    OUT/networks/NAME/         weights, for the command line
    OUT/SETS/SPLIT-pool.npz    images that the network classifies correctly: x, y
    OUT/SETS/SPLIT-benign.npz  the first of them
    OUT/SETS/SPLIT-SET.npz     adversarial images: x, y, success, index (position in the pool, or -1)

SETS is a section of `settings.toml`, SPLIT is `test` (images that are judged) or `fit` (images that detectors learn from).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from rich.console import Console

from a2d_jax import costs, jobs
from a2d_jax.errors import BadInput, require
from a2d_jax.io import checkpoints
from a2d_jax.io.datasets import load
from a2d_jax.io.provenance import weights_digest
from a2d_jax.io.source import content_digest
from a2d_jax.types import Classifier
from experiments import archives
from experiments.paper import authors, confident, crafting
from experiments.paper.networks import ROLES, Places, Subject
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
POOL = 40
"""Images of the pool for each image wanted: crafting that often fails needs many."""
SLOW = "cw", "lbfgs", "lsa"
"""Attacks that need hundreds of queries for every image."""


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


@dataclass(frozen=True)
class Sets:
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
            folder = self.work.once(f"networks/{subject.network}", jobs.ConvertSpec, source=source, classifier=factory)
        name = f"weights of {subject.network}"
        self.same(name, name, "weights_sha256", weights_digest(checkpoints.load(factory, folder).classifier))
        return folder

    def _trained(self, subject: Subject) -> Path:
        folder = self.folder / f"networks/{subject.network}"

        def work() -> dict[str, Any]:
            folder.parent.mkdir(parents=True, exist_ok=True)
            train(Args(classifier=subject.facts.factory, data=subject.facts.data, out=folder, seed=self.seed), self.console)
            return {}

        self.work.steps.once(f"train {subject.network}", work)
        return folder

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
        name = f"{subject.sets}/{split}-pool.npz"

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
        path = f"{subject.sets}/{split}-{slug(name)}.npz"

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


def slug(name: str) -> str:
    """The name of a set in the names of files."""
    return "".join(letter for letter in name.lower() if letter.isalnum() or letter in "-_")
