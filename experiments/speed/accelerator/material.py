"""Networks and images for the parts: pinned digits and LeNet-5's weights from the repository, and networks and images drawn at random."""

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from a2d_jax import presets
from a2d_jax.errors import BadInput
from a2d_jax.io.convert import read_arrays
from a2d_jax.io.datasets import load
from experiments.speed.accelerator.job import Job
from experiments.speed.networks import NETWORKS
from experiments.speed.works import FITTED, LENET5, Work, first, lenet5_arrays, mixed

OFFICIAL = LENET5.with_name("official_lenet5.npz")


def by_kind(path: Any) -> dict[str, np.ndarray]:
    """Benign and crafted images of a golden file."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if file[name].ndim == 4}


def digits(count: int) -> tuple[np.ndarray, str]:
    """MNIST test digits where they are found, else the pinned ones, shifted by up to two pixels and paler each time; and their name."""
    try:
        return first(load("mnist", "test"), count), "MNIST"
    except BadInput:
        with np.load(LENET5, allow_pickle=False) as file:
            pinned = file["digits"].astype(np.float32) / 255
        rounds = np.arange(count) // len(pinned)
        again = [np.roll(pinned[n % len(pinned)], (r % 5 - 2, r // 5 % 5 - 2), (0, 1)) * (1 - r % 7 / 20) for n, r in enumerate(rounds)]
        return np.stack(again).astype(np.float32), "made from 16 digits"


def drawn_images(count: int, size: int) -> np.ndarray:
    """Patches of colour, `count size size 3`."""
    coarse = np.random.default_rng(0).uniform(0.1, 0.9, (count, 8, 8, 3)).astype(np.float32)
    return coarse.repeat(size // 8, 1).repeat(size // 8, 2)


def drawn_weights(network: str) -> dict[str, np.ndarray]:
    """Weights in PyTorch's names and layouts: variance 2 over fan-in, batch norm near 1 and 0."""
    inner = NETWORKS[network].torch()
    return {name: _drawn(name, tuple(array.shape)) for name, array in inner.state_dict().items() if array.ndim}


def _drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) > 1:
        return (generator.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
    if name.endswith(("running_var", "weight")):
        return generator.uniform(0.5, 1.5, shape).astype(np.float32)
    return (0.1 * generator.standard_normal(shape)).astype(np.float32)


def empty(_: Any, x: jax.Array) -> jax.Array:
    """A network that is no work: ten pixels are the logits `n 10` of images `n h w c`."""
    return x.reshape(len(x), -1)[:, 390:400]


def lenet5(attack: str, count: int) -> Work:
    """Costs of digits, half of them crafted, on the real LeNet-5."""
    x, origin = digits(count + FITTED)
    work = Work("", "lenet5", lenet5_arrays(), x[:count], x[count:], _attack("mnist", attack))
    return work._replace(title=f"LeNet-5, {attack.upper()}, {count} digits ({origin}), half crafted", x=mixed(work, "mnist"))


def resnet20_arrays(job: Job) -> dict[str, np.ndarray]:
    """ResNet-20's weights: those of the job's checkpoint, or drawn ones."""
    return drawn_weights("cifar_resnet20") if job.checkpoint is None else dict(read_arrays(Path(job.checkpoint)))


def resnet20(job: Job, count: int) -> Work:
    """BIM costs on ResNet-20: real weights and images where there are any."""
    try:
        x, origin = first(load("cifar10", "test"), count + FITTED), "CIFAR-10"
    except BadInput:
        x, origin = drawn_images(count + FITTED, 32), "drawn"
    weights = "drawn" if job.checkpoint is None else "real"
    work = Work("", "cifar_resnet20", resnet20_arrays(job), x[:count], x[count:], _attack("cifar10", "bim"))
    title = f"ResNet-20 ({weights} weights), BIM, {count} images ({origin}), half crafted"
    return work._replace(title=title, x=mixed(work, "cifar10"))


def of_photographs(network: str, count: int, steps: int) -> Work:
    """BIM costs of drawn images of 224 px on a network for ImageNet with drawn weights."""
    x = drawn_images(count + 20, 224)
    attack = replace(_attack("imagenet", "bim"), max_steps=steps)
    title = f"{network} (drawn weights), BIM, {count} drawn images of 224 px"
    return Work(title, network, drawn_weights(network), x[:count], x[count:], attack)


def _attack(preset: str, name: str) -> Any:
    return presets.make(preset, "defence", name)
