"""What a stopwatch beside peers does not show: the limit, traces, growth and memory of `stream`.

python -m experiments.benchmark.checks NAME WORK.npz IMAGES        prints one line of JSON, in a process of its own
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from a2d_jax import costs, drivers
from a2d_jax.losses import cross_entropy, look
from a2d_jax.types import Classifier, Example
from experiments.benchmark.networks import NETWORKS, flax_classifier
from experiments.benchmark.works import Work, read, save

PIECE = 250  # images made at a time in the memory check
SHORT = 10  # updates in the memory check: memory does not depend on the budget, time does
BUDGET = 100  # updates in the check of growth, likewise


def limit(work: Work, images: int) -> dict[str, Any]:
    """Microseconds per image of the bare jitted gradient, by batch size: no attack on this machine takes less per step."""
    classifier = flax_classifier(work.network, work.arrays)
    label, _ = costs.predictions(classifier, work.x)

    @jax.jit
    def bare(classifier: Classifier, x: Any, label: Any) -> Any:
        return jax.vmap(lambda x, label: look(classifier, lambda logits: cross_entropy(logits, label), x))(x, label)

    found: dict[str, float] = {}
    for size in sorted({2 * max(NETWORKS[work.network].lanes), 4 * max(NETWORKS[work.network].lanes), *NETWORKS[work.network].lanes}):
        if size > len(label):
            break
        x, own = jnp.asarray(work.x[:size]), jnp.asarray(label[:size])
        jax.block_until_ready(bare(classifier, x, own))
        calls = max(8 * max(NETWORKS[work.network].lanes) // size, 4)
        rounds = []
        for _ in range(5):
            begin = time.perf_counter()
            for _ in range(calls):
                out = bare(classifier, x, own)
            jax.block_until_ready(out)
            rounds.append((time.perf_counter() - begin) / calls / size)
        found[str(size)] = float(np.median(rounds)) * 1e6
    return {"microseconds": found, "best": min(found.values())}


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
    list(drivers.stream(replace(attack, epsilon=0.2, step_size=1e-3, max_steps=5), other, [examples], lanes=2))
    return {"first": first, "more": count - first}


def growth(work: Work, images: int) -> dict[str, Any]:
    """Seconds per step of a job and of one with four times the images, taking turns."""
    images = min(images // 4, 512)
    classifier = flax_classifier(work.network, work.arrays)
    jobs = {n: costs.examples(classifier, work.x[:n]) for n in (images, 4 * images)}
    rounds: dict[int, list[float]] = {n: [] for n in jobs}
    for number in range(3):
        for n, examples in jobs.items():
            attack = replace(work.attack, max_steps=BUDGET if number else 3)
            begin = time.perf_counter()
            stream = drivers.stream(attack, classifier, [examples], keep_x_adv=False)
            list(stream)
            if number:
                rounds[n].append((time.perf_counter() - begin) / stream.stats.useful_steps)
    small, large = (float(np.median(seconds)) for seconds in rounds.values())
    return {"images": list(jobs), "microseconds": [small * 1e6, large * 1e6], "ratio": large / small}


def peak(work: Work, images: int) -> float:
    """Peak memory in megabytes after `images` images, made piece by piece, have gone through `stream`."""
    classifier, digits = flax_classifier(work.network, work.arrays), work.x

    def pieces() -> Iterator[Example]:
        for begin in range(0, images, PIECE):
            x = np.roll(np.resize(digits, (min(PIECE, images - begin), *digits.shape[1:])), begin // PIECE, axis=2)
            yield costs.examples(classifier, x, index=np.arange(begin, begin + len(x)))

    finished = sum(
        len(part.index) for part in drivers.stream(replace(work.attack, max_steps=SHORT), classifier, pieces(), keep_x_adv=False)
    )
    if finished != images:
        raise RuntimeError(f"expected {images} results, got {finished}")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


CHECKS = {"limit": limit, "traces": traces, "growth": growth, "peak": peak}


def check(work: Work, memory_images: int) -> dict[str, Any]:
    """All checks, each in a process of its own; memory for the small network, whose images are quickly done."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "work.npz"
        save(work, path)
        found = {name: _ask(name, path, len(work.x)) for name in ("limit", "traces", "growth")}
        if work.network == "lenet5":
            sizes = [memory_images, 10 * memory_images]
            peaks = [_ask("peak", path, n) for n in sizes]
            found["memory"] = {"images": sizes, "megabytes": peaks, "ratio": peaks[1] / peaks[0]}
    return found


def _ask(name: str, path: Path, images: int) -> Any:
    command = [sys.executable, "-m", "experiments.benchmark.checks", name, str(path), str(images)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    print(json.dumps(CHECKS[sys.argv[1]](read(Path(sys.argv[2])), int(sys.argv[3]))))
