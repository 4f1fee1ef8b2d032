"""Maker of gradient_attacks.npz: results of other implementations of the gradient attacks on the first MNIST test digits.

    python make_gradient_attacks.py MNIST_TEST_IMAGES

It needs torch, foolbox 3.3.4, adversarial-robustness-toolbox 1.20.1 and LeNet-5 in lenet5_mnist.npz in this folder; nothing of a2d_jax.

- BIM-b: Foolbox's LinfPGD without random start, which makes all its steps.
- GradientSign: Foolbox's FGSM tests which lengths succeed; the two passes over them are those of Foolbox 1.8.
- JSMA by pairs: ART's SaliencyMapMethod on softmax probabilities, and a literal search over all pairs in float64.
- JSMA by single scalars and BIM with binary search: literal one-image loops in float64.
"""

import pathlib
import sys

import foolbox
import numpy as np
import torch
from art.attacks.evasion import SaliencyMapMethod
from art.estimators.classification import PyTorchClassifier
from lenet5_torch import LeNet5
from torch.nn import functional

HERE = pathlib.Path(__file__).parent
COUNT = 24  # digits


class Softmax(torch.nn.Module):
    """Probabilities of a network."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return torch.softmax(self.network(x), 1)


def jacobian(function, x):
    """Derivatives `k n` of a function of one flat image."""
    return torch.autograd.functional.jacobian(function, x).numpy()


def gradient_sign(fool, x, label, epsilon, lengths):
    """Shortest length that succeeds (0 for none) and lengths tried, per image."""
    attack, inputs, truth = foolbox.attacks.LinfFastGradientAttack(), torch.tensor(x), torch.tensor(label)

    def hits(values):
        return attack(fool, inputs, truth, epsilons=list(values))[2].numpy()

    first = epsilon * np.arange(1, lengths + 1) / lengths
    grid = hits(first)
    found, tried = [], []
    for i in range(len(x)):
        best, count, longest = 0.0, 0, first[-1]
        for nth, value in enumerate(first):
            count += 1
            if grid[nth, i]:
                best = longest = value
                break
        if not best or nth < 20:
            second = longest * np.arange(1, 21) / 20
            for value, hit in zip(second, hits(second)[:, i], strict=True):
                count += 1
                if hit:
                    best = value
                    break
        found.append(best)
        tried.append(count)
    return np.array(found), np.array(tried)


def jsma_pairs(network, x, target, theta=1.0, max_steps=39):
    """All pairs, as CleverHans 2 searches them; for one flat image in float64."""
    x, steps = x.copy(), 0
    domain = set(np.flatnonzero(x < 1))

    def probabilities(flat):
        return torch.softmax(network(flat.reshape(1, 1, 28, 28)), 1)[0]

    while steps < max_steps and len(domain) > 1 and int(probabilities(torch.tensor(x)).argmax()) != target:
        rows = jacobian(probabilities, torch.tensor(x))
        alpha, beta = rows[target], rows.sum(0) - rows[target]
        outside = np.array([i not in domain for i in range(len(x))])
        alpha[outside], beta[outside] = -np.abs(alpha).max(), np.abs(beta).max()
        a, b = alpha[:, None] + alpha[None], beta[:, None] + beta[None]
        score = np.where((a > 0) & (b < 0), -a * b, 0)
        np.fill_diagonal(score, 0)
        p, q = np.unravel_index(score.argmax(), score.shape)
        for i in {int(p), int(q)}:
            x[i] = min(1, x[i] + theta)
        domain -= {int(p), int(q)}
        steps += 1
    return x, steps, int(probabilities(torch.tensor(x)).argmax()) == target


def jsma_single(network, x, target, theta=0.3081, max_steps=94):
    """One scalar per update, each at most once, within the bounds; for one flat image in float64."""
    x, steps = x.copy(), 0
    free = np.ones(len(x), bool)

    def logits(flat):
        return network(flat.reshape(1, 1, 28, 28))[0]

    while steps < max_steps and int(logits(torch.tensor(x)).argmax()) != target:
        rows = jacobian(logits, torch.tensor(x))
        alpha, beta = rows[target], rows.sum(0) - rows[target]
        score = np.maximum(alpha, 0) * np.abs(np.minimum(beta, 0)) * (free & (x < 1))
        best = int(score.argmax())
        x[best] = min(1, x[best] + theta)
        free[best] = False
        steps += 1
    return x, steps, int(logits(torch.tensor(x)).argmax()) == target


def bim_search(network, x, label, kind, epsilon=0.3, step_size=0.05, run_steps=10):
    """BIM with 20 growing and 20 bisected radii; for one image in float64: distance of the closest success, updates."""
    ratio, best, updates = step_size / epsilon, np.inf, 0

    def length(v):
        return np.abs(v).max() if kind == "linf" else np.sqrt(np.mean(v**2))

    def succeeds(radius):
        nonlocal best, updates
        point = x.copy()
        for _ in range(run_steps):
            leaf = torch.tensor(point, requires_grad=True)
            functional.cross_entropy(network(leaf[None]), torch.tensor([label])).backward()
            g = leaf.grad.numpy()
            delta = point + ratio * radius * (np.sign(g) if kind == "linf" else g / length(g)) - x
            delta = delta.clip(-radius, radius) if kind == "linf" else delta * min(1, radius / max(1e-12, length(delta)))
            point = (x + delta).clip(0, 1)
            updates += 1
            if int(network(torch.tensor(point)[None]).argmax()) != label:
                best = min(best, length(point - x))
                return True
        return False

    radius = epsilon
    for _ in range(20):
        if succeeds(radius):
            break
        radius *= 1.5
    else:
        return best, updates
    bad, good = 0.0, radius
    for _ in range(20):
        radius = (good + bad) / 2
        if succeeds(radius):
            good = radius
        else:
            bad = radius
    return best, updates


def main(images):
    """Write the golden file."""
    weights = np.load(HERE / "lenet5_mnist.npz", allow_pickle=False)
    arrays = {name: weights[name] for name in weights.files if name.startswith(("conv", "fc"))}
    digits = np.frombuffer(pathlib.Path(images).read_bytes(), np.uint8, offset=16).reshape(-1, 28, 28, 1)[:COUNT]
    x = digits.astype(np.float32).transpose(0, 3, 1, 2) / 255
    network, exact = LeNet5(arrays).eval(), LeNet5(arrays, torch.float64).eval()
    label = network(torch.tensor(x)).argmax(1).numpy()
    target = (label + 1 + np.arange(COUNT) % 9) % 10
    out = {"digits": digits, "label": label, "target": target}

    fool = foolbox.PyTorchModel(network, bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(abs_stepsize=0.01, steps=50, random_start=False)
    _, clipped, out["bim_b_success"] = (t.numpy() for t in attack(fool, torch.tensor(x), torch.tensor(label), epsilons=0.1))
    out["bim_b_steps_of_255"] = np.rint((clipped - x) * 255).astype(np.int8).transpose(0, 2, 3, 1)

    out["gradient_sign_length"], out["gradient_sign_tried"] = gradient_sign(fool, x, label, 1.0, 1000)
    out["gradient_sign_one_length"], out["gradient_sign_one_tried"] = gradient_sign(fool, x, label, 0.3, 1)

    estimator = PyTorchClassifier(Softmax(network), torch.nn.NLLLoss(), (1, 28, 28), 10, clip_values=(0.0, 1.0))
    method = SaliencyMapMethod(estimator, theta=1.0, gamma=77.5 / 784, batch_size=1, verbose=False)  # 39 updates at most
    by_art = method.generate(x, y=np.eye(10, dtype=np.float32)[target])
    out["pairs_art_changed"] = np.packbits((by_art != x).reshape(COUNT, -1), axis=1)
    out["pairs_art_success"] = network(torch.tensor(by_art)).argmax(1).numpy() == target

    flat = (digits.astype(np.float64) / 255).astype(np.float32).astype(np.float64).reshape(COUNT, -1)
    for name, function in (("pairs", jsma_pairs), ("single", jsma_single)):
        results = [function(exact, image, t) for image, t in zip(flat, target, strict=True)]
        out[f"{name}_changed"] = np.packbits([after != before for (after, _, _), before in zip(results, flat, strict=True)], axis=1)
        out[f"{name}_steps"] = np.array([steps for _, steps, _ in results])
        out[f"{name}_success"] = np.array([success for _, _, success in results])

    for kind in ("linf", "rms"):
        results = [bim_search(exact, image.reshape(1, 28, 28), int(y), kind) for image, y in zip(flat, label, strict=True)]
        out[f"search_{kind}_distance"], out[f"search_{kind}_updates"] = (np.array(column) for column in zip(*results, strict=True))
    np.savez_compressed(HERE / "gradient_attacks.npz", **out)


if __name__ == "__main__":
    main(*sys.argv[1:])
