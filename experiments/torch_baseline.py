"""The attack cost of BIM and BIM2 in PyTorch: the peers that our speed is measured against, written to be fast.

Two loops over the same step: one image at a time, as the released A2D code goes, and a batch of lanes in which every image
stops by itself, hands in its cost and makes room for the next one of a queue. Weights are frozen, gradients are those of the
input only, the box around an image is computed once, and when the queue is empty finished lanes are dropped.

Counting is that of `a2d_jax`: updates at success, `max_steps + 1` for a failure, the start judged too.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Look = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(x `n c h w`, label `n`) -> gradient of the cross entropy to x, and logits `n k`."""


class BIM(NamedTuple):
    """Settings of the attack, in pixel units."""

    epsilon: float
    step_size: float
    max_steps: int
    norm: str = "linf"  # or "rms", which is BIM2


class LeNet5(nn.Module):
    """The network of `models.lenet:lenet5`, for images `n 1 28 28`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images in [0, 1]."""
        x = (x - 0.1307) / 0.3081
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.relu(self.fc1(x.flatten(1)))
        return self.fc3(functional.relu(self.fc2(x)))


def to_torch(x: np.ndarray) -> Tensor:
    """Images `n h w c` as `n c h w`."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


@torch.no_grad()
def predictions(module: nn.Module, x: Tensor) -> Tensor:
    """Predicted classes `n`."""
    return torch.cat([module(part).argmax(1) for part in x.split(256)])


def look_with(module: nn.Module, *, compiled: bool = False) -> Look:
    """One forward and one backward pass through `module`, or what torch.compile makes of them."""

    def loss(x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        logits = module(x)
        return functional.cross_entropy(logits, label, reduction="sum"), logits

    def look(x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        value, logits = loss(x, label)
        return torch.autograd.grad(value, x)[0], logits.detach()

    return torch.compile(torch.func.grad(loss, has_aux=True), dynamic=True) if compiled else look


def one_by_one(module: nn.Module, x: Tensor, label: Tensor, attack: BIM) -> np.ndarray:
    """Costs `n` of images `n c h w`, one after the other; the last look at an image needs no gradient and takes none."""
    costs = np.full(len(x), attack.max_steps + 1)
    for n in range(len(x)):
        x_adv, own = x[n : n + 1], label[n : n + 1]
        low, high = _box(x_adv, attack)
        for iteration in range(attack.max_steps + 1):
            x_adv = x_adv.detach().requires_grad_()
            logits = module(x_adv)
            if logits.argmax() != own:
                costs[n] = iteration
                break
            if iteration < attack.max_steps:
                (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, own), x_adv)
                x_adv = _move(x_adv.detach(), gradient, low, high, attack)
    return costs


def queue(look: Look, x: Tensor, label: Tensor, attack: BIM, *, lanes: int) -> np.ndarray:
    """Costs `n` of images `n c h w`, `lanes` at a time: a finished one is replaced by the next, or its lane is dropped."""
    costs = torch.full((len(x),), attack.max_steps + 1)
    low, high = _box(x, attack)
    taken = min(lanes, len(x))
    position, iterations = torch.arange(taken), torch.zeros(taken, dtype=torch.int64)
    x_adv, own, lane_low, lane_high = x[:taken].clone(), label[:taken].clone(), low[:taken].clone(), high[:taken].clone()
    while len(position):
        gradient, logits = look(x_adv, own)
        success = logits.argmax(1) != own
        done = success | (iterations >= attack.max_steps)
        if done.any():
            costs[position[success]] = iterations[success]
        x_adv = _move(x_adv, gradient, lane_low, lane_high, attack)  # of a lane that is done: about to be overwritten
        iterations += 1
        if not done.any():
            continue
        free = done.nonzero()[:, 0]
        following = torch.arange(taken, min(taken + len(free), len(x)))
        taken += len(following)
        refilled, dropped = free[: len(following)], free[len(following) :]
        for lane, waiting in ((x_adv, x), (own, label), (lane_low, low), (lane_high, high)):
            lane[refilled] = waiting[following]
        position[refilled], iterations[refilled] = following, 0
        if len(dropped):
            keep = torch.ones_like(done).index_fill_(0, dropped, False)
            x_adv, own, lane_low, lane_high = x_adv[keep], own[keep], lane_low[keep], lane_high[keep]
            position, iterations = position[keep], iterations[keep]
    return costs.numpy()


def _box(x: Tensor, attack: BIM) -> tuple[Tensor, Tensor]:
    """Smallest and largest point of the ball that are images; for `rms` the middle of the ball, twice."""
    if attack.norm == "rms":
        return x, x
    return (x - attack.epsilon).clamp_(min=0), (x + attack.epsilon).clamp_(max=1)


def _move(x_adv: Tensor, gradient: Tensor, low: Tensor, high: Tensor, attack: BIM) -> Tensor:
    if attack.norm == "rms":
        unit = gradient / gradient.abs().amax((1, 2, 3), keepdim=True).clamp_(min=1e-38)  # first, so that squares do not underflow
        change = x_adv + unit * (attack.step_size / _rms(unit).clamp_(min=1e-30)) - low
        return (low + change * (attack.epsilon / _rms(change).clamp_(min=1e-30)).clamp_(max=1)).clamp_(0, 1)
    return torch.clamp(x_adv.add(gradient.sign(), alpha=attack.step_size), low, high)


def _rms(x: Tensor) -> Tensor:
    return x.square().mean((1, 2, 3), keepdim=True).sqrt_()
