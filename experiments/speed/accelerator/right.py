"""Costs on the card compared with those on the CPU, for the same pinned images, in three precisions and with many numbers of lanes."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from a2d_jax import classifiers, costs, drivers, metrics, presets
from experiments.speed.accelerator.job import Job
from experiments.speed.accelerator.material import OFFICIAL, by_kind, digits, drawn_images, resnet20_arrays
from experiments.speed.networks import flax_classifier
from experiments.speed.report import machine as versions
from experiments.speed.works import crafted_by_fgsm, lenet5_arrays

PRECISIONS = {"float32 as it stands": "highest", "TF32": "tensorfloat32", "bfloat16": "highest"}
"""Names, and how float32 is multiplied; in bfloat16 weights and images are short to begin with."""
LANES = (64, 256, 1024, 8192)


def machine(job: Job) -> None:
    """Where all this is measured."""
    found = versions()
    kept = {name: found[name] for name in ("date", "device", "cores", "python")} | found["versions"]
    job.tell("all", ", ".join(f"{name} {value}" for name, value in kept.items() if value), **kept)


def right(job: Job) -> None:
    """Share of equal costs, largest difference, AUROC; then lanes."""
    subjects = [("LeNet-5", "lenet5", lenet5_arrays(), by_kind(OFFICIAL), "mnist", ("bim", "jsma"))]
    if job.checkpoint is not None and job.golden is not None:
        subjects.append(("ResNet-20", "cifar_resnet20", resnet20_arrays(job), by_kind(job.golden), "cifar10", ("bim",)))
    else:
        x, arrays = drawn_images(60, 32), resnet20_arrays(job)
        kinds = {"benign": x, "fgsm": crafted_by_fgsm("cifar_resnet20", arrays, x, "cifar10")}
        subjects.append(("ResNet-20, drawn weights and images", "cifar_resnet20", arrays, kinds, "cifar10", ("bim",)))
    for title, network, arrays, kinds, preset, attacks in subjects:
        for name in attacks[: 1 if job.tiny else None]:
            attack: Any = presets.make(preset, "defence", name)
            if job.tiny:
                kinds, attack = {kind: kinds[kind][:3] for kind in ("benign", "fgsm")}, replace(attack, max_steps=60)
            _compare(job, f"{title}, {name.upper()}", network, arrays, kinds, attack)
    if not job.tiny:
        _lanes(job)


def _compare(job: Job, title: str, network: str, arrays: Any, kinds: dict[str, np.ndarray], attack: Any) -> None:
    x, sizes = np.concatenate(list(kinds.values())), [len(images) for images in kinds.values()]
    ends = np.cumsum(sizes)[:-1]
    if not job.fits(title, 1 if job.tiny else 20):
        return
    reference = counted(network, arrays, x, attack, jax.devices("cpu")[0])
    for name, multiplied in PRECISIONS.items():
        if (job.tiny and name != "float32 as it stands") or not job.fits(f"{title}, {name}", 1 if job.tiny else 10):
            continue
        with jax.default_matmul_precision(multiplied):
            found = counted(network, arrays, x, attack, jax.devices()[0], short=name == "bfloat16")
        gap = np.abs(found - reference)
        areas = {
            kind: (_area(found, part, ends), _area(reference, part, ends)) for part, kind in enumerate(kinds) if part and kind != "benign"
        }
        crafted = gap[sizes[0] :]
        equal = f"{np.mean(gap == 0):.1%} of {len(gap)} equal ({np.mean(crafted == 0):.1%} of the crafted), largest gap {gap.max()}"
        job.tell(
            f"{title}, {name}, beside the CPU",
            f"{equal}; AUROC, CPU's: " + ", ".join(f"{kind} {ours:.3f}, {theirs:.3f}" for kind, (ours, theirs) in areas.items()),
            equal=float(np.mean(gap == 0)),
            equal_of_crafted=float(np.mean(crafted == 0)),
            largest=int(gap.max()),
            auroc=areas,
        )


def counted(
    network: str, arrays: Any, x: np.ndarray, attack: Any, device: Any, *, short: bool = False, lanes: int | None = None
) -> np.ndarray:
    """Costs `n` on one device, which also names the labels."""
    with jax.default_device(device):
        classifier = flax_classifier(network, arrays)
        classifier = classifiers.in_bfloat16(classifier) if short else classifier
        examples = costs.examples(classifier, x)
        found = np.zeros(len(x), int)
        for part in drivers.stream(attack, classifier, [examples], lanes=lanes, devices=[device], keep_x_adv=False):
            found[part.index] = part.result.cost
    return found


def _area(found: np.ndarray, part: int, ends: np.ndarray) -> float:
    """AUROC of the costs of one kind against the first, which is benign."""
    parts = np.split(found, ends)
    return metrics.auroc(-parts[0], -parts[part])


def _lanes(job: Job) -> None:
    """Whether the number of lanes changes a cost."""
    attack: Any = presets.make("mnist", "defence", "bim")
    x, origin = digits(8192)
    found: dict[int, np.ndarray] = {}
    for lanes in LANES:
        if not job.fits(f"LeNet-5, BIM, {lanes} lanes", 15):
            continue
        with jax.default_matmul_precision("highest"):
            found[lanes] = counted("lenet5", lenet5_arrays(), x, attack, jax.devices()[0], lanes=lanes)
        fewest = next(iter(found))
        gap = np.abs(found[lanes] - found[fewest])
        job.tell(
            f"LeNet-5, BIM, {len(x)} digits ({origin}), {lanes} lanes beside {fewest}",
            f"{np.mean(gap == 0):.2%} equal, largest gap {gap.max()}",
            lanes=lanes,
            equal=float(np.mean(gap == 0)),
            largest=int(gap.max()),
        )
