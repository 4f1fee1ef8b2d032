"""Maker of lbfgs.npz: SciPy's L-BFGS-B on the objective of the L-BFGS attack, on the first MNIST test digits.

    python make_lbfgs.py MNIST_TEST_IMAGES

It needs torch, scipy and the packages of make_gradient_attacks.py; nothing of a2d_jax. The network is evaluated in float64, one
image at a time. Settings are those of Foolbox 1.8 (memory 15, 150 iterations, objective times 1e10, c doubled from 2e-5 until
the end point is the target, then bisected to a width of 1e-5). Stored per digit: the L2 distance of the closest image of the target
class among all evaluations, the L2 distance of the last end point of the target class, the number of evaluations, and, for fixed constants,
the value of the unscaled objective at SciPy's minimiser.
"""

import pathlib
import sys

import numpy as np
import torch
from lenet5_torch import LeNet5
from make_gradient_attacks import COUNT
from scipy.optimize import fmin_l_bfgs_b
from torch.nn import functional

HERE = pathlib.Path(__file__).parent
CONSTANTS = (0.02, 0.1, 0.5)


class Problem:
    """One digit and its second best class; counts evaluations and keeps the closest image of that class."""

    def __init__(self, network, x):
        self.network, self.x = network, x
        self.target = int(self.logits(torch.tensor(x)).argsort()[-2])
        self.evaluations, self.closest = 0, np.inf

    def logits(self, flat):
        return self.network(flat.reshape(1, 1, 28, 28))[0]

    def objective(self, z, constant):
        leaf = torch.tensor(z, requires_grad=True)
        logits = self.logits(leaf)
        value = ((leaf - torch.tensor(self.x)) ** 2).mean() + constant * functional.cross_entropy(logits[None], torch.tensor([self.target]))
        value.backward()
        self.evaluations += 1
        if int(logits.argmax()) == self.target:
            self.closest = min(self.closest, float(np.linalg.norm(z - self.x)))
        return 1e10 * value.item(), 1e10 * leaf.grad.numpy()

    def minimise(self, constant):
        """SciPy's end point, whether it is classified as the target, and its value."""
        z, value, _ = fmin_l_bfgs_b(self.objective, self.x, args=(constant,), bounds=[(0, 1)] * len(self.x), m=15, maxiter=150)
        return z, int(self.logits(torch.tensor(z)).argmax()) == self.target, value / 1e10

    def attack(self, tolerance=1e-5):
        """Distance of the last end point that is the target."""
        constant, end = tolerance, np.inf
        for _ in range(30):
            constant *= 2
            z, hit, _ = self.minimise(constant)
            if hit:
                break
        else:
            return end
        low, high, end = 0.0, constant, float(np.linalg.norm(z - self.x))
        while high - low >= tolerance:
            constant = (low + high) / 2
            z, hit, _ = self.minimise(constant)
            if hit:
                high, end = constant, float(np.linalg.norm(z - self.x))
            else:
                low = constant
        return end


def main(images):
    """Write the golden file."""
    weights = np.load(HERE / "lenet5_mnist.npz", allow_pickle=False)
    network = LeNet5({name: weights[name] for name in weights.files if name.startswith(("conv", "fc"))}, torch.float64).eval()
    digits = np.frombuffer(pathlib.Path(images).read_bytes(), np.uint8, offset=16).reshape(-1, 784)[:COUNT]
    flat = (digits.astype(np.float32) / 255).astype(np.float64)
    problems = [Problem(network, image) for image in flat]
    values = np.array([[problem.minimise(constant)[2] for constant in CONSTANTS] for problem in problems])
    for problem in problems:
        problem.evaluations, problem.closest = 0, np.inf
    ends = np.array([problem.attack() for problem in problems])
    np.savez_compressed(
        HERE / "lbfgs.npz",
        constants=np.array(CONSTANTS),
        values=values,
        distance=ends,
        closest=np.array([problem.closest for problem in problems]),
        evaluations=np.array([problem.evaluations for problem in problems]),
        target=np.array([problem.target for problem in problems]),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
