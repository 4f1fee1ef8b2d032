"""The network and images that are attacked, in both frameworks, and the definition of an outcome."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from a2d_jax import costs, drivers
from a2d_jax.io.datasets import load
from a2d_jax.types import Attack, Classifier
from experiments.speed.networks import flax_classifier, torch_module

if TYPE_CHECKING:
    import torch


class Outcome(NamedTuple):
    """Of one run over all images."""

    success: np.ndarray  # `n`
    distance: np.ndarray  # `n`, in the attack's norm; infinite without success

    @property
    def rate(self) -> float:
        return float(self.success.mean())

    @property
    def median(self) -> float:
        """Failures count as infinitely far, so that who fails on hard images does not look nearer."""
        return float(np.median(self.distance))


@dataclass(frozen=True)
class Subject:
    """A trained network in Flax and in PyTorch, and images that both classify right."""

    classifier: Classifier
    module: "torch.nn.Module"  # takes images `n c h w`
    x: np.ndarray  # `n h w c`, float32 in [0, 1]
    label: np.ndarray  # `n`

    def of(self, pixels: np.ndarray) -> "Subject":
        """The same network and other images, as bytes `n h w c`, with the classes that it gives them."""
        x = pixels.astype(np.float32) / 255
        return replace(self, x=x, label=costs.predictions(self.classifier, x)[0])

    @property
    def target(self) -> np.ndarray:
        """Another class for every image, for targeted attacks."""
        return (self.label + 1 + np.arange(len(self.label)) % 9) % 10

    def goal(self, attack: Attack) -> np.ndarray:
        """The class to reach or to leave."""
        return self.target if getattr(attack, "targeted", False) else self.label

    def torch_x(self) -> "torch.Tensor":
        import torch

        return torch.from_numpy(np.ascontiguousarray(self.x.transpose(0, 3, 1, 2)))

    def torch_goal(self, attack: Attack) -> "torch.Tensor":
        import torch

        return torch.from_numpy(self.goal(attack).astype(np.int64))

    def judged(self, attack: Attack, x_adv: "torch.Tensor") -> Outcome:
        """A peer's images, by the network in PyTorch, in which they were made: some lie on the boundary but for rounding."""
        import torch

        with torch.no_grad():
            predicted = self.module(x_adv).argmax(1).numpy()
        goal = self.goal(attack)
        success = predicted == goal if getattr(attack, "targeted", False) else predicted != goal
        delta = (x_adv - self.torch_x()).numpy().reshape(len(goal), -1).astype(np.float64)
        return Outcome(success, np.where(success, _length(delta, attack.norm), np.inf))

    def ours(self, attack: Attack, seed: int) -> Outcome:
        """The same for an attack of this project, through `drivers.attack`."""
        result = drivers.attack(attack, self.classifier, costs.examples(self.classifier, self.x, self.goal(attack), seed=seed))
        return Outcome(np.asarray(result.success), np.where(result.success, result.distance, np.inf))


def subject(network: str, arrays: Any, data: str, n: int) -> Subject:
    """The first `n` test images that a network classifies right.

    Args:
      network: of `experiments.speed.networks.NETWORKS`.
      arrays: its weights, in the names and layouts of PyTorch.
      data: a data set by name.
      n: how many images.
    """
    classifier = flax_classifier(network, arrays)
    pieces = list(replace(load(data, "test"), count=n + n // 4 + 4).pieces())  # a quarter more, for those that it gets wrong
    x, label = (np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("x", "label"))
    right = np.flatnonzero(costs.predictions(classifier, x)[0] == label)[:n]
    return Subject(classifier, torch_module(network, arrays), x[right], label[right].astype(np.int32))


def _length(delta: np.ndarray, norm: str) -> np.ndarray:
    match norm:
        case "linf":
            return np.abs(delta).max(1)
        case "l2":
            return np.linalg.norm(delta, axis=1)
        case "rms":
            return np.sqrt((delta**2).mean(1))
        case _:
            return (delta != 0).sum(1).astype(np.float64)
