"""The fastest number of lanes, tried as by `a2d cost --lanes auto`; and adversarial training if time is left."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from a2d_jax import classifiers, costs, drivers, presets
from a2d_jax.errors import BadInput
from a2d_jax.io.convert import read_arrays
from a2d_jax.io.datasets import load
from experiments.speed.accelerator.job import Job
from experiments.speed.accelerator.material import digits, drawn_images, drawn_weights, empty
from experiments.speed.networks import flax_classifier
from experiments.speed.works import lenet5_arrays

SECONDS = 60  # in which the knee should be found


def lanes(job: Job) -> None:
    """Lanes chosen, time of a step by lanes, seconds it took, memory at the peak."""
    resnet20 = drawn_weights("cifar_resnet20") if job.checkpoint is None else read_arrays(Path(job.checkpoint))
    for title, network, arrays, x, preset in (
        ("LeNet-5, BIM", "lenet5", lenet5_arrays(), digits(64)[0], "mnist"),
        ("ResNet-20, BIM", "cifar_resnet20", resnet20, drawn_images(64, 32), "cifar10"),
    )[: 1 if job.tiny else None]:
        if not job.fits(title, 1 if job.tiny else 15):
            continue
        attack: Any = replace(presets.make(preset, "defence", "bim"), max_steps=2 if job.tiny else 500)  # pyright: ignore
        classifier = classifiers.from_function(empty, ()) if job.tiny else flax_classifier(network, arrays)
        with jax.default_matmul_precision("highest"):
            begin = time.perf_counter()
            found = drivers.calibrate(attack, classifier, costs.examples(classifier, x), devices=jax.devices()[:1], keep_x_adv=False)
            seconds = time.perf_counter() - begin
        memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**20
        job.tell(
            title,
            f"{found.lanes} lanes after {seconds:.0f} s ({'within' if seconds <= SECONDS else 'beyond'} {SECONDS}); us a step: "
            + ", ".join(f"{n}: {us:.2f}" for n, us in found.microseconds.items())
            + (f"; at most {memory:.0f} MiB" if memory else ""),
            lanes=found.lanes,
            seconds=seconds,
            microseconds=found.microseconds,
            peak_mebibytes=memory,
        )


def training(job: Job) -> None:
    """CIFAR-10 under PGD, as many epochs as there is time for; scikit-learn's digits on a CPU."""
    options = ["--classifier", "models.resnet:cifar_resnet20", "--data", "cifar10", "--adversarial", "pgd"]
    if job.tiny:
        options = ["--classifier", "models.lenet:lenet_digits", "--data", "digits", "--epochs", "1"]
    else:
        try:
            load("cifar10", "train")
        except BadInput as error:
            job.tell("CIFAR-10", f"left out: {error}", skipped=True)
            return
    if not job.fits("training", 1 if job.tiny else 20):
        return
    out = Path(job.out) / "trained"
    command = [sys.executable, "-m", "models.train", *options, "--out", str(out), "--force"]
    begin = time.perf_counter()
    try:
        subprocess.run(command, check=True, timeout=max(job.left() - 5, 1))
        ended = "done"
    except subprocess.TimeoutExpired:
        ended = "its time was over"
    file = out / "metrics.jsonl"
    epochs = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    seconds = time.perf_counter() - begin
    last = ", ".join(f"{name} {value}" for name, value in epochs[-1].items()) if epochs else "none whole"
    said = f"{len(epochs)} epochs in {seconds:.0f} s ({ended}), start and compilation included; the last: {last}"
    job.tell(" ".join(options), said, epochs=epochs)
