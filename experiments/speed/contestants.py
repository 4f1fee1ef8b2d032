"""The contestants of the benchmark. Each prepares variants of itself (lanes, layouts, threads); its fastest variant counts.

Each runs in its own process and imports its framework there: importing this file imports neither PyTorch nor Flax.
"""

import importlib.util
import operator
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from a2d_jax.attacks import JSMA, PGD
from experiments.speed.networks import ACCELERATOR_LANES, NETWORKS, flax_classifier, our_lanes, torch_module
from experiments.speed.works import Work

ONE_BY_ONE = 16  # images for the loop over single images, which is scaled to the others by its number of steps
NOT_COMPILED = {"efficientnet_lite0"}  # `torch.compile` had not finished after 13 minutes of two cores; on the others it is slower anyway
BATCHES = 2  # of the largest size for peers that make every step, whose time is scaled to the others by the number of images
PRECISION = "JAX_DEFAULT_MATMUL_PRECISION"
"""Of JAX, and taken for PyTorch too: `tensorfloat32` lets both multiply with fewer bits on a GPU."""


@dataclass(frozen=True)
class Counted:
    """The costs of the first images of a work, and the steps they took."""

    costs: np.ndarray  # `n`
    max_steps: int  # of the attack that was run: shorter than that of the work where a detector allows it
    lane_steps: int | None = None  # steps executed, idle lanes included, where this is known
    counts: bool = True  # a peer that does not count has costs 0 for success and `max_steps + 1` for failure

    @property
    def steps(self) -> int:
        """Looks at images that were not done, one more than the updates; of a peer that does not count, all its steps."""
        return int(np.sum(np.minimum(self.costs, self.max_steps) + 1)) if self.counts else len(self.costs) * self.max_steps


Variant = Callable[[int], Counted]
"""A run with a budget of updates; a short one compiles everything that a long one needs."""


@dataclass(frozen=True)
class Contestant:
    """A way to do a work."""

    title: str
    prepare: Callable[[Work, bool], Mapping[str, Variant]]  # (work, quick: fewer variants) -> variants by name
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: str | None = None  # a module that not everybody has installed
    for_cpu: bool = False  # says nothing on an accelerator

    def takes(self, work: Work) -> bool:
        """What it needs is there, and it does the attack: peers have BIM, not BIM2 in root mean squares, and not this JSMA."""
        here = not self.for_cpu or jax.default_backend() == "cpu"
        return here and (self.needs is None or (importlib.util.find_spec(self.needs) is not None and work.attack.norm == "linf"))


def torch_one_by_one(work: Work, quick: bool) -> dict[str, Variant]:
    """The released code's way: on one thread and on two, for one image is little to share."""
    from experiments.speed import torch_baseline as baseline

    module = torch_module(work.network, work.arrays).to(baseline.device())
    x = baseline.to_torch(work.x[:ONE_BY_ONE])
    aim = baseline.aims(module, x, _settings(work, 0))

    def variant(way: str) -> Variant:
        def run(max_steps: int) -> Counted:
            _take(way)
            return Counted(baseline.one_by_one(module, x, aim, _settings(work, max_steps)), max_steps)

        return run

    return {way: variant(way) for way in _ways()[: 1 if quick else None]}


def torch_queue(work: Work, quick: bool) -> dict[str, Variant]:
    """The strongest PyTorch baseline: several lane counts, threads and layouts, and torch.compile."""
    import torch

    from experiments.speed import torch_baseline as baseline

    plain, last = (torch_module(work.network, work.arrays).to(baseline.device()) for _ in range(2))
    last = last.to(memory_format=torch.channels_last)
    x = baseline.to_torch(work.x)
    aim = baseline.aims(plain, x, _settings(work, 0))

    def variant(look: Any, lanes: int, way: str) -> Variant:
        def run(max_steps: int) -> Counted:
            _take(way)
            return _all_useful(baseline.queue(look, x, aim, _settings(work, max_steps), lanes=lanes), max_steps)

        return run

    best, *others = _torch_lanes(work)
    *fewer, all_of_it = _ways()
    settings = [*((best, way) for way in fewer), (best, all_of_it), *((n, all_of_it) for n in others if not quick)]
    variants = {f"channels last, {n} lanes, {way}": variant(baseline.look_with(last), n, way) for n, way in settings}
    if x.is_cuda:
        for n in (best, *others)[:2]:
            look = baseline.look_with(last)
            variants[f"CUDA graph, channels last, {n} lanes"] = variant(baseline.captured(look, min(n, len(x))), n, all_of_it)
    if not quick:
        variants[f"channels first, {best} lanes, {all_of_it}"] = variant(baseline.look_with(plain), best, all_of_it)
        if work.network not in NOT_COMPILED:
            variants[f"torch.compile, {best} lanes, {all_of_it}"] = variant(baseline.look_with(plain, compiled=True), best, all_of_it)
    return variants


def foolbox(work: Work, quick: bool) -> dict[str, Variant]:
    """Foolbox 3: every step for every image."""
    import foolbox

    def attack(module: Any, x: Any, label: Any, max_steps: int) -> Any:
        classifier = foolbox.PyTorchModel(module, bounds=(0, 1), device=x.device)
        step = float(work.attack.step_size)
        made = foolbox.attacks.LinfBasicIterativeAttack(abs_stepsize=step, steps=max_steps, random_start=False)
        return made(classifier, x, label, epsilons=float(work.attack.epsilon))[1]

    return _peer(work, quick, attack)


def torchattacks(work: Work, quick: bool) -> dict[str, Variant]:
    """torchattacks: likewise."""
    import torchattacks

    def attack(module: Any, x: Any, label: Any, max_steps: int) -> Any:
        return torchattacks.BIM(module, float(work.attack.epsilon), float(work.attack.step_size), max_steps)(x, label)

    return _peer(work, quick, attack)


def art(work: Work, quick: bool) -> dict[str, Variant]:
    """The Adversarial Robustness Toolbox: likewise."""
    import torch
    from art.attacks.evasion import BasicIterativeMethod
    from art.estimators.classification import PyTorchClassifier

    def attack(module: Any, x: Any, label: Any, max_steps: int) -> Any:
        classifier = PyTorchClassifier(
            module,
            torch.nn.CrossEntropyLoss(),
            tuple(x.shape[1:]),
            NETWORKS[work.network].classes,
            clip_values=(0, 1),
            device_type="gpu" if x.is_cuda else "cpu",
        )
        epsilon, step = float(work.attack.epsilon), float(work.attack.step_size)
        made = BasicIterativeMethod(classifier, epsilon, step, max_steps, batch_size=len(x), verbose=False)
        return torch.from_numpy(made.generate(x.cpu().numpy(), label.cpu().numpy())).to(x.device)

    return _peer(work, quick, attack)


def _peer(work: Work, quick: bool, attack: Callable[[Any, Any, Any, int], Any]) -> dict[str, Variant]:
    """Batches through an attack `(module, x, label, max_steps) -> x_adv`, in PyTorch's fast layout."""
    import torch

    from experiments.speed import torch_baseline as baseline

    module = torch_module(work.network, work.arrays).to(baseline.device(), memory_format=torch.channels_last)
    sizes = _torch_lanes(work)[: 1 if quick else 2]
    x = baseline.to_torch(work.x[: BATCHES * max(sizes)])
    label = baseline.predictions(module, x)

    def variant(size: int) -> Variant:
        def run(max_steps: int) -> Counted:
            _take(_ways()[-1])
            parts = [attack(module, *part, max_steps) for part in zip(x.split(size), label.split(size), strict=True)]
            changed = (baseline.predictions(module, torch.cat(parts)) != label).cpu().numpy()
            return Counted(np.where(changed, 0, max_steps + 1), max_steps, len(x) * max_steps, counts=False)

        return run

    return {f"batches of {n}": variant(n) for n in sizes}


def jax_run(work: Work, quick: bool) -> dict[str, Variant]:
    """Lock-step batches: each runs until its slowest image is done."""
    from a2d_jax import costs, drivers

    classifier = flax_classifier(work.network, work.arrays)
    examples = costs.examples(classifier, work.x)

    def variant(size: int) -> Variant:
        def run(max_steps: int) -> Counted:
            attack = replace(work.attack, max_steps=max_steps)
            parts = [jax.tree.map(operator.itemgetter(slice(i, i + size)), examples) for i in range(0, len(work.x), size)]
            results = [drivers.attack(attack, classifier, part, driver="run") for part in parts]
            waited = sum(len(result.iterations) * (int(result.iterations.max()) + 1) for result in results)
            return Counted(np.concatenate([result.cost for result in results]), max_steps, waited)

        return run

    return {f"{n} at a time": variant(n) for n in our_lanes(work.network)[: 1 if quick else 2]}


def jax_stream(work: Work, quick: bool) -> dict[str, Variant]:
    """Lanes refilled from a queue."""
    return _stream(work, quick, None)


def jax_stream_bounded(work: Work, quick: bool) -> dict[str, Variant]:
    """The same, stopped where a Z-score detector, fitted to the costs of other benign images, has its verdict."""
    from a2d_jax import costs, detectors

    costs_of_others = costs.costs(flax_classifier(work.network, work.arrays), work.fitted, {"attack": work.attack})[0]
    fitted = detectors.ZScore().fit(costs_of_others)
    (bound,) = fitted.bounds([int(work.attack.max_steps) + 1])
    return _stream(work, quick, costs.bounded({"attack": work.attack}, [bound])["attack"].max_steps)


CONTESTANTS: dict[str, Contestant] = {
    "torch-one": Contestant("PyTorch, one image at a time", torch_one_by_one),
    "torch-queue": Contestant("PyTorch, strongest: batched, queue", torch_queue),
    "foolbox": Contestant("Foolbox 3, batched, every step", foolbox, needs="foolbox"),
    "torchattacks": Contestant("torchattacks, batched, every step", torchattacks, needs="torchattacks"),
    "art": Contestant("ART, batched, every step", art, needs="art"),
    "run": Contestant("ours, run (lock-step)", jax_run),
    "stream": Contestant("ours, stream", jax_stream),
    "stream-2": Contestant("ours, stream, 2 host devices", jax_stream, {"JAX_NUM_CPU_DEVICES": "2"}, for_cpu=True),
    "stream-bound": Contestant("ours, stream with the Z-score's bound", jax_stream_bounded),
}
"""Contestants by name. A new one (another library, another network) is a row here and a function above."""


def _torch_lanes(work: Work) -> tuple[int, ...]:
    from experiments.speed import torch_baseline as baseline

    return NETWORKS[work.network].torch_lanes if baseline.device().type == "cpu" else ACCELERATOR_LANES


def _ways() -> list[str]:
    """Where PyTorch computes, the fullest use of it last."""
    from experiments.speed import torch_baseline as baseline

    return ["threads 1", "threads 2"] if baseline.device().type == "cpu" else [baseline.device().type]


def _take(way: str) -> None:
    """Compute there, in float32 as it stands unless told otherwise: convolutions too would use fewer bits on a GPU."""
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = os.environ.get(PRECISION) == "tensorfloat32"
    if way.startswith("threads "):
        torch.set_num_threads(int(way.removeprefix("threads ")))


def _stream(work: Work, quick: bool, most: int | None) -> dict[str, Variant]:
    from a2d_jax import costs, drivers

    classifier = flax_classifier(work.network, work.arrays)
    examples = costs.examples(classifier, work.x)

    def variant(lanes: int) -> Variant:
        def run(max_steps: int) -> Counted:
            max_steps = max_steps if most is None else min(max_steps, most)
            attack = replace(work.attack, max_steps=max_steps)
            stream = drivers.stream(attack, classifier, [examples], lanes=lanes, keep_x_adv=False)
            found = np.zeros(len(work.x), int)
            for part in stream:
                found[part.index] = part.result.cost
            return Counted(found, max_steps, stream.stats.lane_steps)

        return run

    return {f"{n} lanes": variant(n) for n in our_lanes(work.network)[: 2 if quick else None]}


def _settings(work: Work, max_steps: int) -> Any:
    """The attack of a work in PyTorch."""
    from experiments.speed import torch_baseline as baseline

    match work.attack:
        case PGD(epsilon=epsilon, step_size=step_size, norm=norm):
            return baseline.BIM(float(epsilon), float(step_size), max_steps, norm)
        case JSMA(theta=theta, max_changes=max_changes):
            return baseline.JSMA(theta, max_steps, int(max_changes))


def _all_useful(costs: np.ndarray, max_steps: int) -> Counted:
    """Of a loop that keeps no lane that has nothing to do."""
    counted = Counted(costs, max_steps)
    return replace(counted, lane_steps=counted.steps)
