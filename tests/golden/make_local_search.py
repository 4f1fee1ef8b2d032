"""Maker of local_search.npz: the rounds of a literal loop of the local search on MNIST digits near the boundary of LeNet-5.

    python make_local_search.py MNIST_TEST_IMAGES

It needs torch, numpy and the packages of make_gradient_attacks.py; nothing of a2d_jax. No current library has this attack: the
loop is that of Foolbox 1.8 as specified (r 1.5, p 10, d 5, t 5), one image at a time. It attacks those 24 of the first 1000 test digits
that have the closest two best logits, over 40 rounds, with five seeds. Stored are the digits, the rounds to success (41: none) and the
forward queries.
"""

import pathlib
import sys

import numpy as np
import torch
from lenet5_torch import LeNet5
from make_gradient_attacks import COUNT

HERE = pathlib.Path(__file__).parent
ROUNDS, SEEDS = 40, 5


def local_search(probabilities, x, label, rng):
    """Rounds to success and forward queries, for one image `h w` in [0, 1]."""
    height, width = x.shape
    grey = x - 0.5
    at = rng.permutation(height * width)[: min(height * width // 10, 128)]
    pixels = list(zip(at // width, at % width, strict=True))
    queries = 1
    for nth in range(1, ROUNDS + 1):
        pixels = [pixels[i] for i in rng.permutation(len(pixels))[:128]]
        probes = np.repeat(grey[None], len(pixels), axis=0)
        for probe, (row, column) in zip(probes, pixels, strict=True):
            probe[row, column] = 10 * np.sign(probe[row, column])
        scores = probabilities(probes + 0.5)[:, label]
        best = [pixels[i] for i in np.argsort(scores, kind="stable")[:5]]
        for row, column in best:
            value = 1.5 * grey[row, column]
            grey[row, column] = value + 1 if value < -0.5 else value - 1 if value > 0.5 else value
        queries += len(pixels) + 1
        if probabilities(grey[None] + 0.5)[0].argmax() != label:
            return nth, queries
        near = {(row + i, column + j) for row, column in best for i in range(-5, 6) for j in range(-5, 6)}
        pixels = sorted((row, column) for row, column in near if 0 <= row < height and 0 <= column < width)
    return ROUNDS + 1, queries


def main(images):
    """Write the golden file."""
    weights = np.load(HERE / "lenet5_mnist.npz", allow_pickle=False)
    network = LeNet5({name: weights[name] for name in weights.files if name.startswith(("conv", "fc"))}).eval()

    def logits(x):
        with torch.no_grad():
            return network(torch.tensor(x[:, None], dtype=torch.float32))

    digits = np.frombuffer(pathlib.Path(images).read_bytes(), np.uint8, offset=16).reshape(-1, 28, 28)[:1000]
    x = digits.astype(np.float32) / 255
    best = logits(x).topk(2).values
    nearest = np.argsort((best[:, 0] - best[:, 1]).numpy())[:COUNT]
    label = logits(x[nearest]).argmax(1).numpy()
    runs = [
        [
            local_search(lambda z: torch.softmax(logits(z), 1).numpy(), x[i], y, np.random.default_rng(seed))
            for i, y in zip(nearest, label, strict=True)
        ]
        for seed in range(SEEDS)
    ]
    rounds, queries = np.moveaxis(np.array(runs), 2, 0)
    np.savez_compressed(HERE / "local_search.npz", digits=digits[nearest][..., None], rounds=rounds, queries=queries)
    print("success", (rounds <= ROUNDS).mean(1), "median rounds", np.median(rounds, 1), "queries", np.median(queries, 1))


if __name__ == "__main__":
    main(*sys.argv[1:])
