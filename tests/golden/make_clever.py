"""Maker of clever.npz: CLEVER scores and slopes of LeNet-5 by the Adversarial Robustness Toolbox.

    python make_clever.py

It needs torch, adversarial-robustness-toolbox 1.20.1, and LeNet-5 with its digits in lenet5_mnist.npz in this folder; nothing of a2d_jax.

ART draws its maxima from a pool and starts the fit at shape 1; from there the optimiser often ends close to the largest maximum. Therefore
the file also contains single slopes at points of ART's own sampler, and the maxima behind each score.
"""

import pathlib

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from art.metrics import metrics
from art.utils import random_sphere
from lenet5_torch import LeNet5

HERE = pathlib.Path(__file__).parent
DIGITS, SEEDS, BATCHES, SAMPLES, POOL, RADIUS = 4, 6, 40, 64, 20, 5.0


def slopes(network, x, label, target, norm, dual):
    """Dual norms of the gradient of the margin at 500 points of ART's sampler, clipped to [0, 1]."""
    points = x + random_sphere(nb_points=500, nb_dims=x.size, radius=RADIUS if norm == 2 else 0.3, norm=norm).reshape(-1, *x.shape)
    points = torch.tensor(np.clip(points, 0, 1), dtype=torch.float32, requires_grad=True)
    logits = network(points)
    (gradient,) = torch.autograd.grad((logits[:, label] - logits[:, target]).sum(), points)
    return np.linalg.norm(gradient.numpy().reshape(len(points), -1), ord=dual, axis=1)


def main() -> None:
    golden = np.load(HERE / "lenet5_mnist.npz", allow_pickle=False)
    network = LeNet5({name: golden[name] for name in golden.files if name.startswith(("conv", "fc"))})
    digits = golden["digits"][:DIGITS].transpose(0, 3, 1, 2).astype(np.float32) / 255
    art = PyTorchClassifier(network, torch.nn.CrossEntropyLoss(), (1, 28, 28), 10, clip_values=(0.0, 1.0))
    logits = art.predict(digits)
    order = np.argsort(-logits, axis=1, kind="stable")
    kept = []
    fit = metrics.weibull_min.fit
    metrics.weibull_min.fit = lambda data, *rest, **named: (kept.append(-data), fit(data, *rest, **named))[1]
    score = np.zeros((DIGITS, SEEDS))
    settings = {"nb_batches": BATCHES, "batch_size": SAMPLES, "radius": RADIUS, "norm": 2, "pool_factor": POOL}
    for i in range(DIGITS):
        for seed in range(SEEDS):
            np.random.seed(seed)  # noqa: NPY002 (ART draws from the global state)
            score[i, seed] = metrics.clever_t(art, digits[i], order[i, 1], **settings)
        print(score[i], kept[-1].max(), logits[i, order[i, 0]] - logits[i, order[i, 1]])
    maxima = np.array(kept).reshape(DIGITS, SEEDS, BATCHES)
    np.random.seed(0)  # noqa: NPY002
    untargeted = metrics.clever_u(art, digits[0], **settings, verbose=False)
    drawn = {
        name: np.array([slopes(network, digits[i], order[i, 0], order[i, 1], norm, dual) for i in range(DIGITS)], np.float32)
        for name, norm, dual in (("slopes_l2", 2, 2), ("slopes_linf", np.inf, 1))
    }
    np.savez_compressed(HERE / "clever.npz", logits=logits, score=score, maxima=maxima.astype(np.float32), untargeted=untargeted, **drawn)


if __name__ == "__main__":
    main()
