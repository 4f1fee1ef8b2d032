"""Checks of `stream` beyond a comparison of times: the limit, traces, start, growth, processes and memory.

python -m experiments.speed.checks NAME WORK.npz IMAGES        prints one line of JSON, in a process of its own
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from a2d_jax import costs, drivers
from a2d_jax.attacks import JSMA
from a2d_jax.losses import cross_entropy, look
from a2d_jax.types import Classifier, Example
from experiments.speed.networks import flax_classifier, our_lanes
from experiments.speed.processes import on_this_device
from experiments.speed.works import Work, read, save

PIECE = 250  # images made at a time in the memory check
SHORT = 10  # updates in the memory check: memory does not depend on the budget, time does
BUDGET = 100  # updates in the checks of growth and of processes, likewise
LIMIT_STEPS = 30  # updates beside the bare gradient, likewise
FEW = 64  # images of a quick run, in which growth is not looked at over 16,000


def limit(work: Work, images: int) -> dict[str, Any]:
    """Microseconds per image of the bare jitted gradient by batch size, and per step of `stream` by lanes, taking turns on one device.

    No attack on this machine takes less per step than the bare gradient at its best batch size.
    """
    classifier = flax_classifier(work.network, work.arrays)
    label, _ = costs.predictions(classifier, work.x)
    lanes = [n for n in our_lanes(work.network)[:2] if 2 * n <= images] or [2]
    sizes = [n for n in sorted({2 * max(lanes), 4 * max(lanes), *lanes}) if n <= images]
    attack = replace(work.attack, max_steps=LIMIT_STEPS)
    examples = costs.examples(classifier, work.x[: 2 * max(lanes)])
    batches = {n: (jnp.asarray(work.x[:n]), jnp.asarray(label[:n])) for n in sizes}

    @jax.jit
    def bare(classifier: Classifier, x: Any, label: Any) -> Any:
        return jax.vmap(lambda x, label: look(classifier, lambda logits: cross_entropy(logits, label), x))(x, label)

    def gradients(size: int) -> int:
        calls = max(8 * max(lanes) // size, 4)
        for _ in range(calls):
            out = bare(classifier, *batches[size])
        jax.block_until_ready(out)
        return calls * size

    def steps(width: int) -> int:
        stream = drivers.stream(attack, classifier, [examples], lanes=width, devices=jax.local_devices()[:1], keep_x_adv=False)
        list(stream)
        return stream.stats.useful_steps

    runs = [(kind, function, n) for kind, function, ns in (("gradient", gradients, sizes), ("step", steps, lanes)) for n in ns]
    found: dict[str, dict[str, list[float]]] = {"gradient": {}, "step": {}}
    for number in range(5):  # the first compiles
        for kind, function, n in runs:
            begin = time.perf_counter()
            done = function(n)
            if number:
                found[kind].setdefault(str(n), []).append((time.perf_counter() - begin) / done * 1e6)
    medians = {kind: {n: float(np.median(each)) for n, each in rounds.items()} for kind, rounds in found.items()}
    best, step = (min(medians[kind].values()) for kind in ("gradient", "step"))
    return {"microseconds": medians["gradient"], "best": best, "steps": medians["step"], "step": step, "ratio": step / best}


def traces(work: Work, images: int) -> dict[str, Any]:
    """How often the network is traced by a first job, and how often more by a job with other settings and other weights.

    Two lanes, the fewest: more lanes would shrink at the end, and each width is a program.
    """
    classifier, count = flax_classifier(work.network, work.arrays), 0
    inner = classifier.apply

    def apply(variables: Any, x: Any) -> Any:
        nonlocal count
        count += 1
        return inner(variables, x)

    examples = costs.examples(classifier, work.x[:16])
    attack = replace(work.attack, max_steps=3)
    list(drivers.stream(attack, Classifier(classifier.variables, apply), [examples], lanes=2))
    first = count
    other = Classifier(jax.tree.map(lambda leaf: leaf * 0.9, classifier.variables), apply)
    settings = {"max_changes": 5} if isinstance(attack, JSMA) else {"epsilon": 0.2, "step_size": 1e-3}
    list(drivers.stream(replace(attack, max_steps=5, **settings), other, [examples], lanes=2))
    return {"first": first, "more": count - first}


def growth(work: Work, images: int) -> dict[str, Any]:
    """Microseconds per step of jobs of growing size, taking turns; LeNet-5 up to 16,000 images, which arrive in pieces."""
    sizes = [1000, 4000, 16000] if work.network == "lenet5" and images > FEW else [images // 4, images]
    classifier = flax_classifier(work.network, work.arrays)
    rounds: dict[int, list[float]] = {n: [] for n in sizes}
    for number in range(3):
        attack = replace(work.attack, max_steps=BUDGET if number else 1)  # the first round compiles
        for n in sizes:
            begin = time.perf_counter()
            stream = drivers.stream(attack, classifier, _pieces(classifier, work.x, n), keep_x_adv=False)
            list(stream)
            if number:
                rounds[n].append((time.perf_counter() - begin) / stream.stats.useful_steps * 1e6)
    paces = [float(np.median(each)) for each in rounds.values()]
    return {"images": sizes, "microseconds": paces, "ratio": paces[-1] / paces[0]}


def part(work: Work, code: int) -> None:
    """A share of the images on a core of its own, for `processes`; `code` is ten times the number of shares, plus which one."""
    parts, which = divmod(code, 10)
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[which]})  # before JAX starts its threads
    classifier = flax_classifier(work.network, work.arrays)
    examples = costs.examples(classifier, np.array_split(work.x, parts)[which])
    for steps, told in ((3, "ready"), (BUDGET, "done")):
        list(drivers.stream(replace(work.attack, max_steps=steps), classifier, [examples], keep_x_adv=False))
        print(told, flush=True)
        sys.stdin.readline()


def first_costs(work: Work, images: int) -> None:
    """Costs of some images and nothing else, for `start`."""
    classifier = flax_classifier(work.network, work.arrays)
    costs.costs(classifier, work.x[:images], {"attack": replace(work.attack, max_steps=3)})


def peak(work: Work, images: int) -> float:
    """Peak memory in megabytes after `images` images, made piece by piece, have gone through `stream`."""
    classifier = flax_classifier(work.network, work.arrays)
    pieces = _pieces(classifier, work.x, images)
    finished = sum(len(one.index) for one in drivers.stream(replace(work.attack, max_steps=SHORT), classifier, pieces, keep_x_adv=False))
    if finished != images:
        raise RuntimeError(f"expected {images} results, got {finished}")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _pieces(classifier: Classifier, x: np.ndarray, images: int) -> Iterator[Example]:
    """As many images as wanted, a piece at a time: the given ones, each round shifted by a column more."""
    for begin in range(0, images, PIECE):
        piece = np.roll(np.resize(x, (min(PIECE, images - begin), *x.shape[1:])), begin // PIECE, axis=2)
        yield costs.examples(classifier, piece, index=np.arange(begin, begin + len(piece)))


def start(path: Path) -> dict[str, Any]:
    """Seconds from the start of a process to the costs of 16 images, with an empty and with a full cache of compiled programs."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        kept = {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
        for _ in range(2):
            begin = time.perf_counter()
            ask("costs", path, 16, kept)
            seconds.append(time.perf_counter() - begin)
    return {"cold": seconds[0], "warm": seconds[1]}


def processes(path: Path, images: int) -> dict[str, Any]:
    """Images per second of one process on one core, and of two at once, each on a core of its own and half of the images."""
    paces = []
    for parts in (1, 2):
        children = [
            subprocess.Popen(_command("part", path, 10 * parts + which), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for which in range(parts)
        ]
        _wait(children)  # until all have compiled
        begin = time.perf_counter()
        _wait(children)
        paces.append(images / (time.perf_counter() - begin))
        for child in children:
            child.communicate("\n")
    return {"images_per_second": paces, "ratio": paces[1] / paces[0]}


def memory(path: Path, images: int) -> dict[str, Any]:
    """Peak memory of a job and of one ten times as long."""
    sizes = [images, 10 * images]
    peaks = [ask("peak", path, n) for n in sizes]
    return {"images": sizes, "megabytes": peaks, "ratio": peaks[1] / peaks[0]}


ASKED = {"limit": limit, "traces": traces, "growth": growth, "peak": peak, "costs": first_costs, "part": part}
"""What runs in a process of its own."""


def check(work: Work, memory_images: int, brief: bool) -> dict[str, Any]:
    """All checks, memory for the small network, whose images are quickly done; or the limit and the traces alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "work.npz"
        save(work, path)
        found = {name: ask(name, path, len(work.x)) for name in ("limit", "traces")}
        if brief:
            return found
        found |= {"growth": ask("growth", path, len(work.x)), "start": start(path)}
        if jax.default_backend() == "cpu" and hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1:
            found["processes"] = processes(path, len(work.x))
        if work.network == "lenet5":
            found["memory"] = memory(path, memory_images)
    return found


def _wait(children: Sequence[subprocess.Popen[str]]) -> None:
    """Let all go on, and wait for a line from each."""
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()


def _command(name: str, path: Path, number: int) -> list[str]:
    return [sys.executable, "-m", "experiments.speed.checks", name, str(path), str(number)]


def ask(name: str, path: Path, number: int, environment: Mapping[str, str] | None = None) -> Any:
    """The answer of a process."""
    done = subprocess.run(
        _command(name, path, number),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | on_this_device() | dict(environment or {}),
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    answer = ASKED[sys.argv[1]](read(Path(sys.argv[2])), int(sys.argv[3]))
    print(json.dumps(answer))
