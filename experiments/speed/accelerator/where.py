"""The parts of the run time: an iteration of the loop without a network, refills, the host, transfers, the card's peak; and a profile."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from a2d_jax import classifiers, costs, drivers
from a2d_jax.attacks import PGD, bim
from a2d_jax.types import Classifier
from experiments.speed.accelerator.job import Job
from experiments.speed.accelerator.material import digits, drawn_images, drawn_weights, empty
from experiments.speed.networks import flax_classifier
from experiments.speed.works import lenet5_arrays

FLAGS = {
    "as XLA has it": "",
    "the loop in a command buffer": "--xla_gpu_enable_command_buffer=+WHILE",
    "no command buffers": "--xla_gpu_enable_command_buffer=",
}
"""How XLA runs a loop on a GPU: by default it asks the card before every trip whether there is another one."""
STEPS = 300


def where(job: Job) -> None:
    """What a step is spent on."""
    _card(job)
    for name, flags in FLAGS.items():
        if job.tiny and flags:
            continue
        if job.fits(f"a trip, {name}", 1 if job.tiny else 15):
            _trips(job, name, flags)
    if job.fits("refills", 1 if job.tiny else 10):
        _refills(job)
    if job.fits("profile", 1 if job.tiny else 15):
        _profile(job)


def run(attack: PGD, classifier: Classifier, x: np.ndarray, lanes: int) -> tuple[float, Any]:
    """Seconds of a job on one device once it is compiled, and what its lanes did."""
    examples = costs.examples(classifier, x)

    def once(steps: int) -> tuple[float, Any]:
        shorter = replace(attack, max_steps=steps)
        stream = drivers.stream(shorter, classifier, [examples], lanes=lanes, devices=jax.devices()[:1], keep_x_adv=False)
        begin = time.perf_counter()
        for _ in stream:
            pass
        return time.perf_counter() - begin, stream.stats

    steps = int(attack.max_steps)
    once(min(3, steps))
    return min((once(steps) for _ in range(2)), key=lambda each: each[0])


def trips(tiny: bool) -> dict[str, float]:
    """Microseconds a trip: without a network by lanes, then with LeNet-5. The answer of a process of its own."""
    attack, found = bim(1e-6, 1e-9, 20 if tiny else STEPS), {}
    for lanes in (4,) if tiny else (256, 4096):
        networks = {"empty network": classifiers.from_function(empty, ()), "LeNet-5": flax_classifier("lenet5", lenet5_arrays())}
        for name, classifier in list(networks.items())[: 1 if tiny else None]:
            seconds, stats = run(attack, classifier, digits(lanes)[0], lanes)
            found[f"{name}, {lanes} lanes"] = seconds / (stats.lane_steps / lanes) * 1e6
    return found


def _trips(job: Job, name: str, flags: str) -> None:
    environment = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(), "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    command = [sys.executable, "-m", "experiments.speed.accelerator.where", str(int(job.tiny))]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment, timeout=job.left())
    except subprocess.TimeoutExpired:
        job.tell(f"a trip, {name}", "stopped: its time was over", stopped=True)
        return
    if done.returncode:
        job.tell(f"a trip, {name}", f"does not run here (exit code {done.returncode}, {flags})", flags=flags)
        return
    found = json.loads(done.stdout.splitlines()[-1])
    job.tell(f"a trip of the loop, {name}", ", ".join(f"{what}: {us:.1f} us" for what, us in found.items()), **found)


def _card(job: Job) -> None:
    """What the card and its host can do at all."""
    size, megabytes = (256, 4) if job.tiny else (8192, 256)
    matrix = jnp.asarray(np.random.default_rng(0).standard_normal((size, size), np.float32))
    rates = {}
    for name, precision in (("float32", "highest"), ("TF32", "tensorfloat32"), ("bfloat16", None)):
        dtype = jnp.bfloat16 if precision is None else jnp.float32
        operand = matrix.astype(dtype)
        product = jax.jit(lambda a, precision=precision: jax.lax.dot(a, a, precision=precision))
        rates[name] = 2 * size**3 / best(lambda operand=operand, product=product: product(operand)) / 1e12
    images = np.zeros((megabytes, 1 << 18), np.float32)
    up = megabytes / 1024 / best(lambda: jax.device_put(images, jax.devices()[0]))
    small = jax.jit(lambda n: n + 1)
    trip = best(lambda: np.asarray(small(np.int32(1))), 50) * 1e6
    said = ", ".join(f"{name} {rate:.1f} TFLOP/s" for name, rate in rates.items())
    said = f"products of {size}: {said}; to the card {up:.1f} GiB/s; to it and back {trip:.0f} us"
    job.tell("the card", said, rates=rates, up=up, trip=trip)
    if job.tiny:
        return
    if not job.fits("share of the peak", 20):
        return
    for network, lanes, x in (
        ("lenet5", 4096, digits(16)[0]),
        ("cifar_resnet20", 1024, drawn_images(16, 32)),
        ("resnet50", 128, drawn_images(16, 224)),
    ):
        _share(job, network, lanes, np.resize(x, (lanes, *x.shape[1:])), rates)


def _share(job: Job, network: str, lanes: int, x: np.ndarray, rates: dict[str, float]) -> None:
    """Operations of the bare gradient as XLA counts them, by its time, over the rate of a large product in the same precision."""
    classifier = flax_classifier(network, lenet5_arrays() if network == "lenet5" else drawn_weights(network))

    def loss(x: Any) -> Any:
        return jnp.sum(jax.nn.logsumexp(jax.vmap(classifier)(x), axis=1))

    for name, precision in (("float32", "highest"), ("TF32", "tensorfloat32")):
        with jax.default_matmul_precision(precision):
            lowered = jax.jit(jax.grad(loss)).lower(x)
        counted, compiled = (
            lowered.cost_analysis(),
            lowered.compile(),
        )  # a compiled convolution is a call of cuDNN, which XLA counts as none
        operations = float((counted[0] if isinstance(counted, list) else counted or {}).get("flops", 0))
        on_card = jax.device_put(x)
        seconds = best(lambda compiled=compiled, on_card=on_card: compiled(on_card))
        rate, mebibytes = operations / seconds / 1e12, compiled.memory_analysis().temp_size_in_bytes / 2**20
        job.tell(
            f"bare gradient, {network}, {name}, {lanes} images",
            f"{seconds / lanes * 1e6:.2f} us an image, {rate:.2f} TFLOP/s, {rate / rates[name]:.1%} of the product, {mebibytes:.0f} MiB",
            microseconds=seconds / lanes * 1e6,
            tflops=rate,
        )


def best(call: Callable[[], Any], rounds: int = 5) -> float:
    """Seconds of a call, the first left out, least of some."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _refills(job: Job) -> None:
    """Images that leave after their first look: nearly all of their time is the refill."""
    lanes = 4 if job.tiny else 256
    x, classifier = digits(8 * lanes)[0], classifiers.from_function(empty, ())
    seconds, stats = run(bim(1e-6, 1e-9, 0), classifier, x, lanes)
    us = seconds / len(x) * 1e6
    said = f"{us:.2f} us an image, transfer and host included ({lanes} lanes, no network, one look each)"
    job.tell("refills", said, microseconds=us, steps=stats.lane_steps)


def _profile(job: Job) -> None:
    """A trace of LeNet-5 to look at later."""
    lanes = 4 if job.tiny else 256
    classifier = classifiers.from_function(empty, ()) if job.tiny else flax_classifier("lenet5", lenet5_arrays())
    x = digits(2 * lanes)[0]
    attack = bim(0.3, 6e-4, 20 if job.tiny else 100)
    run(attack, classifier, x, lanes)
    folder = Path(job.out) / "profile"
    with jax.profiler.trace(str(folder)):
        seconds, _ = run(attack, classifier, x, lanes)
    said = f"{folder.name}/, of LeNet-5, BIM, {lanes} lanes; XLA switches command buffers off while it is traced"
    job.tell("profile", said, seconds=seconds)


if __name__ == "__main__":
    print(json.dumps(trips(sys.argv[1] == "1")))
