"""Maker of yardsticks.npz: results of Foolbox's FMN and torchattacks' APGD on the first MNIST test digits with LeNet-5.

    python make_yardsticks.py MNIST_TEST_IMAGES

It needs torch, foolbox 3.3.4, torchattacks 3.5.1 and the packages of make_gradient_attacks.py; nothing of a2d_jax. Stored per
digit: distances of Foolbox's FMN in both norms (Linf from two step sizes), distances of a literal one-image loop of the paper's L2 form in
float64 (Foolbox's L2 projection is the identity), and whether APGD with 50 steps succeeded, for several radii and three seeds.
"""

import pathlib
import sys

import foolbox
import numpy as np
import torch
import torchattacks
from lenet5_torch import LeNet5
from make_gradient_attacks import COUNT

HERE = pathlib.Path(__file__).parent
STEPS = 100
RADII = {"linf": (0.08, 0.11, 0.14), "l2": (1.0, 1.4, 1.8)}


def fmn_l2(network, x, label):
    """Algorithm 1 of arXiv:2102.12827 in L2 for one image; the smallest distance of a misclassified point."""
    delta, best, radius = np.zeros_like(x), np.inf, np.inf
    for k in range(STEPS):
        decay = (1 + np.cos(np.pi * k / STEPS)) / 2
        length, gamma = 0.01 + 0.99 * decay, 0.001 + 0.049 * decay
        leaf = torch.tensor(x + delta, requires_grad=True)
        logits = network(leaf[None])[0]
        others = torch.cat([logits[:label], logits[label + 1 :]])
        loss = logits[label] - others.max()
        loss.backward()
        gradient, size = leaf.grad.numpy(), np.linalg.norm(delta)
        if loss.item() < 0:
            best = min(best, size)
            radius = min(radius * (1 - gamma), best)
        elif np.isfinite(best):
            radius *= 1 + gamma
        else:
            radius = size + loss.item() / np.linalg.norm(gradient)
        delta = delta - length * gradient / np.linalg.norm(gradient)
        delta *= min(1, radius / np.linalg.norm(delta))
        delta = (x + delta).clip(0, 1) - x
    return best


def main(images):
    """Write the golden file."""
    weights = np.load(HERE / "lenet5_mnist.npz", allow_pickle=False)
    arrays = {name: weights[name] for name in weights.files if name.startswith(("conv", "fc"))}
    network, exact = LeNet5(arrays).eval(), LeNet5(arrays, torch.float64).eval()
    digits = np.frombuffer(pathlib.Path(images).read_bytes(), np.uint8, offset=16).reshape(-1, 1, 28, 28)[:COUNT]
    x = torch.tensor(digits.astype(np.float32) / 255)
    label = network(x).argmax(1)
    fool, out = foolbox.PyTorchModel(network, bounds=(0, 1)), {}

    def distance(attack, kind):
        _, found, success = attack(fool, x, label, epsilons=None)
        delta = (found - x).flatten(1)
        lengths = delta.abs().max(1).values if kind == "linf" else delta.norm(dim=1)
        return np.where(success.numpy(), lengths.numpy(), np.inf)

    for step in (1.0, 10.0):
        out[f"fmn_linf_{step:g}"] = distance(foolbox.attacks.LInfFMNAttack(steps=STEPS, max_stepsize=step), "linf")
    out["fmn_l2_foolbox"] = distance(foolbox.attacks.L2FMNAttack(steps=STEPS), "l2")
    flat = x.double().numpy()
    out["fmn_l2_paper"] = np.array([fmn_l2(exact, image, int(y)) for image, y in zip(flat, label, strict=True)])

    for norm, radii in RADII.items():
        out[f"apgd_{norm}_radii"] = np.array(radii)
        for loss in ("ce", "dlr"):
            hits = np.zeros((len(radii), 3, COUNT), bool)
            for r, radius in enumerate(radii):
                for seed in range(3):
                    kind = {"linf": "Linf", "l2": "L2"}[norm]
                    attack = torchattacks.APGD(network, norm=kind, eps=radius, steps=50, seed=seed, loss=loss)
                    hits[r, seed] = (network(attack(x, label)).argmax(1) != label).numpy()
            out[f"apgd_{norm}_{loss}"] = hits
    np.savez_compressed(HERE / "yardsticks.npz", **out)


if __name__ == "__main__":
    main(*sys.argv[1:])
