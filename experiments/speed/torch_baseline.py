"""Attack costs of BIM, BIM2 and JSMA in PyTorch: the baseline for our speed, written to be fast.

There are two loops over the same step. The first takes one image at a time, as the released A2D code does. The second has a batch of lanes:
every image stops by itself, returns its cost and makes room for the next image of a queue. Weights are frozen, gradients are those of the
input only, the box around an image is computed once, JSMA writes one scalar per image, and finished lanes are dropped when the queue is
empty.

Costs are counted as in `a2d_jax`: updates at success, `max_steps + 1` for a failure, and the start is judged too.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Look = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(x `n c h w`, class `n`) -> gradient of the cross entropy to x, and logits `n k`."""


class BIM(NamedTuple):
    """Steps that raise the cross entropy of an image's own class; settings in pixel units."""

    epsilon: float
    step_size: float
    max_steps: int
    norm: str = "linf"  # or "rms", which is BIM2

    def aim(self, logits: Tensor) -> Tensor:
        """The classes `n` whose cross entropy is followed."""
        return logits.argmax(1)

    def success(self, predicted: Tensor, aim: Tensor) -> Tensor:
        """Whether images `n` are adversarial."""
        return predicted != aim

    def memory(self, x: Tensor) -> tuple[Tensor, ...]:
        """Smallest and largest point of the ball that are images; for `rms` the middle of the ball."""
        return (x,) if self.norm == "rms" else ((x - self.epsilon).clamp_(min=0), (x + self.epsilon).clamp_(max=1))

    def move(self, x_adv: Tensor, gradient: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """The next point, and which images `n` are stuck: none."""
        stuck = torch.zeros(len(x_adv), dtype=torch.bool, device=x_adv.device)
        if self.norm != "rms":
            return torch.clamp(x_adv.add(gradient.sign(), alpha=self.step_size), *memory), stuck
        (x,) = memory
        unit = gradient / gradient.abs().amax((1, 2, 3), keepdim=True).clamp_(min=1e-38)  # first, so that squares do not underflow
        change = x_adv + unit * (self.step_size / _rms(unit).clamp_(min=1e-30)) - x
        return (x + change * (self.epsilon / _rms(change).clamp_(min=1e-30)).clamp_(max=1)).clamp_(0, 1), stuck


class JSMA(NamedTuple):
    """Changes of one scalar at a time that lower the cross entropy of the second best class; settings in pixel units."""

    theta: float
    max_steps: int
    max_changes: int

    def aim(self, logits: Tensor) -> Tensor:
        """The classes `n` to reach."""
        return logits.scatter(1, logits.argmax(1, keepdim=True), -torch.inf).argmax(1)

    def success(self, predicted: Tensor, aim: Tensor) -> Tensor:
        """Whether images `n` are where they should be."""
        return predicted == aim

    def memory(self, x: Tensor) -> tuple[Tensor, ...]:
        """The image, how far each scalar was moved in steps of theta, and how often."""
        x = x.flatten(1)
        return x, torch.zeros_like(x), torch.zeros_like(x, dtype=torch.uint8)

    def move(self, x_adv: Tensor, gradient: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """The next point, and which images `n` have nothing left to change.

        A scalar is `x + moves * theta`, rounded as ours is (`a2d_jax.attacks.jsma.moved`): a sum would retire others.
        """
        (x, moves, changes), now = memory, x_adv.flatten(1)
        unretired = (changes == 0) | (changes < self.max_changes) & (now > 0) & (now < 1)
        saliency, best = torch.where(unretired, gradient.flatten(1), 0).max(1, keepdim=True)
        change, coarse = -saliency.sign(), round(self.theta * 1024) / 1024
        moves.scatter_add_(1, best, change)
        changes.scatter_add_(1, best, (change != 0).to(torch.uint8))
        count = moves.gather(1, best)
        value = ((x.gather(1, best) + count * coarse) + count * (self.theta - coarse)).clamp_(0, 1)
        stuck = change == 0
        return now.scatter(1, best, torch.where(stuck, now.gather(1, best), value)).view_as(x_adv), stuck[:, 0]


Attack = BIM | JSMA


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


def device() -> torch.device:
    """The accelerator that PyTorch sees, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_torch(x: np.ndarray) -> Tensor:
    """Images `n h w c` as `n c h w`, on `device()`."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1))).to(device())


@torch.no_grad()
def predictions(module: nn.Module, x: Tensor) -> Tensor:
    """Predicted classes `n`."""
    return torch.cat([module(part).argmax(1) for part in x.split(256)])


@torch.no_grad()
def aims(module: nn.Module, x: Tensor, attack: Attack) -> Tensor:
    """The classes `n` whose cross entropy an attack follows."""
    return torch.cat([attack.aim(module(part)) for part in x.split(256)])


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


def captured(look: Look, lanes: int) -> Look:
    """The same look, replayed as one CUDA graph while all lanes are full: one launch instead of one for each kernel.

    What is handed out is overwritten by the next look.
    """
    kept: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor, tuple[Tensor, Tensor]]] = {}

    def capture(x: Tensor, label: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor, tuple[Tensor, Tensor]]:
        held, own, graph = x.clone(), label.clone(), torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # cuDNN chooses its kernels before they are captured
            for _ in range(3):
                look(held, own)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(graph):
            out = look(held, own)
        return graph, held, own, out

    def replay(x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        if len(x) != lanes:
            return look(x, label)
        if x.shape not in kept:
            kept[x.shape] = capture(x, label)
        graph, held, own, out = kept[x.shape]
        held.copy_(x)
        own.copy_(label)
        graph.replay()
        return out

    return replay


def one_by_one(module: nn.Module, x: Tensor, aim: Tensor, attack: Attack) -> np.ndarray:
    """Costs `n` of images `n c h w`, one after the other; the last look at an image needs no gradient and takes none."""
    costs = np.full(len(x), attack.max_steps + 1)
    for n in range(len(x)):
        x_adv, own = x[n : n + 1], aim[n : n + 1]
        memory = attack.memory(x_adv)
        for iteration in range(attack.max_steps + 1):
            x_adv = x_adv.detach().requires_grad_()
            logits = module(x_adv)
            if attack.success(logits.argmax(1), own):
                costs[n] = iteration
                break
            if iteration < attack.max_steps:
                (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, own), x_adv)
                x_adv, stuck = attack.move(x_adv.detach(), gradient, memory)
                if stuck:
                    break
    return costs


def queue(look: Look, x: Tensor, aim: Tensor, attack: Attack, *, lanes: int) -> np.ndarray:
    """Costs `n` of images `n c h w`, `lanes` at a time: a finished one is replaced by the next, or its lane is dropped."""
    costs = torch.full((len(x),), attack.max_steps + 1, device=x.device)
    all_memory = attack.memory(x)
    taken = min(lanes, len(x))
    position, iterations = torch.arange(taken, device=x.device), torch.zeros(taken, dtype=torch.int64, device=x.device)
    x_adv, own = x[:taken].clone(), aim[:taken].clone()
    memory = tuple(part[:taken].clone() for part in all_memory)
    while len(position):
        gradient, logits = look(x_adv, own)
        success = attack.success(logits.argmax(1), own)
        x_adv, stuck = attack.move(x_adv, gradient, memory)  # of a lane that is done: about to be overwritten
        done = success | stuck | (iterations >= attack.max_steps)
        if done.any():
            costs[position[success]] = iterations[success]
        iterations += 1
        if not done.any():
            continue
        free = done.nonzero()[:, 0]
        following = torch.arange(taken, min(taken + len(free), len(x)), device=x.device)
        taken += len(following)
        refilled, dropped = free[: len(following)], free[len(following) :]
        for lane, waiting in zip((x_adv, own, *memory), (x, aim, *all_memory), strict=True):
            lane[refilled] = waiting[following]
        position[refilled], iterations[refilled] = following, 0
        if len(dropped):
            keep = torch.ones_like(done).index_fill_(0, dropped, False)
            x_adv, own, memory = x_adv[keep], own[keep], tuple(part[keep] for part in memory)
            position, iterations = position[keep], iterations[keep]
    return costs.cpu().numpy()


def _rms(x: Tensor) -> Tensor:
    return x.square().mean((1, 2, 3), keepdim=True).sqrt_()
