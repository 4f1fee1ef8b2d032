"""Maker of cw_margin.npz: the C&W of Wang et al. (arXiv:1812.05793) on LeNet-5, by a literal loop in PyTorch, one digit at a time.

    python make_cw_margin.py MNIST_TEST_IMAGES

It needs torch and numpy; nothing of a2d_jax. The loss has the terms of the original; terms that are plain numbers there are detached here.
Stored per digit: the first of 400 candidates that is misclassified (-1 for none), and the twentieth candidate as pixels. All is in float64:
in float32 the ranking of rivals decides between near ties, and Adam amplifies the rounding of small gradients.
"""

import pathlib
import sys

import numpy as np
import torch
from lenet5_torch import LeNet5

HERE = pathlib.Path(__file__).parent
MEAN, STD, C, RATE, STEPS, EARLY, COUNT = 0.1307, 0.3081, 0.6, 1e-3, 400, 20, 8


def craft(network, x):
    """Number of the first misclassified candidate and the twentieth one itself, for one digit `1 28 28` in [0, 1]."""
    normalised = (x - MEAN) / STD
    label = int(network(x[None]).argmax())
    w = torch.zeros_like(x, requires_grad=True)
    optimizer, first = torch.optim.Adam([w], lr=RATE), -1
    for step in range(STEPS):
        candidate = torch.tanh(normalised + w) / 2
        logits = network((candidate * STD + MEAN)[None])[0]  # the network normalises again, back to the candidate
        if first < 0 and int(logits.argmax()) != label:
            first = step
        if step == EARLY - 1:
            early = candidate.detach() * STD + MEAN
        distance = ((candidate - torch.tanh(normalised) / 2) ** 2).sum().detach()
        rival = torch.cat([logits[:label], logits[label + 1 :]]).max()
        gap = logits[label].detach() - rival
        loss = distance + C * (gap if gap.item() >= 0 else 0 * gap)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return first, early.numpy()


def main(images):
    """Write the golden file."""
    weights = np.load(HERE / "lenet5_mnist.npz", allow_pickle=False)
    arrays = {name: weights[name] for name in weights.files if name.startswith(("conv", "fc"))}
    network = LeNet5(arrays, torch.float64).eval()
    digits = np.frombuffer(pathlib.Path(images).read_bytes(), np.uint8, offset=16).reshape(-1, 1, 28, 28)[:COUNT]
    first, early = zip(*(craft(network, torch.tensor(digit / 255)) for digit in digits), strict=True)
    early = np.stack(early).transpose(0, 2, 3, 1)
    np.savez_compressed(HERE / "cw_margin.npz", first=np.array(first), early=early, torch_version=str(torch.__version__))


if __name__ == "__main__":
    main(*sys.argv[1:])
