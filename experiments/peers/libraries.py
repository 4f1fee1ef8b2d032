"""The attacks of other libraries. Each is a function of our attack (it uses the same settings), a subject and a seed.

Importing this file imports none of the libraries.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from a2d_jax.types import Attack
from experiments.peers.subject import Outcome, Subject

Peer = Callable[[Attack, Subject, int], Outcome]
"""(our attack, subject, seed) -> outcome."""

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"


def foolbox(make: Callable[[Any, Any], Any], epsilon: Callable[[Any], float | None] = lambda attack: None) -> Peer:
    """Foolbox 3.3.4.

    Args:
      make: `(foolbox.attacks, our attack) -> its attack`.
      epsilon: the radius, from our attack; default None, the nearest that it finds.
    """

    def peer(attack: Attack, subject: Subject, seed: int) -> Outcome:
        import foolbox

        _seed(seed)
        model = foolbox.PyTorchModel(subject.module, bounds=(0, 1), device="cpu")
        criterion = foolbox.criteria.Misclassification(subject.torch_goal(attack))
        _, clipped, _ = make(foolbox.attacks, attack)(model, subject.torch_x(), criterion, epsilons=epsilon(attack))
        return subject.judged(attack, clipped)

    return peer


def foolbox_shortest(make: Callable[[Any, Any], Any], radii: Sequence[float]) -> Peer:
    """Foolbox's attack within every one of several radii: for each image its nearest success."""

    def peer(attack: Attack, subject: Subject, seed: int) -> Outcome:
        each = [foolbox(make, lambda _, radius=radius: radius)(attack, subject, seed) for radius in radii]
        distance = np.min([outcome.distance for outcome in each], axis=0)
        return Outcome(np.isfinite(distance), distance)

    return peer


def torchattacks(make: Callable[[Any, Any, Any, int], Any]) -> Peer:
    """torchattacks 3.5.1; `make(torchattacks, module, our attack, seed)`."""

    def peer(attack: Attack, subject: Subject, seed: int) -> Outcome:
        import torchattacks as library

        _seed(seed)
        x_adv = make(library, subject.module, attack, seed)(subject.torch_x(), subject.torch_goal(attack))
        return subject.judged(attack, x_adv.detach())

    return peer


def art(make: Callable[[Any, Any, Any], Any], *, probabilities: bool = False) -> Peer:
    """The Adversarial Robustness Toolbox 1.20.1.

    Args:
      make: `(art.attacks.evasion, estimator, our attack) -> its attack`.
      probabilities: show it softmax probabilities instead of logits.
    """

    def peer(attack: Attack, subject: Subject, seed: int) -> Outcome:
        import torch
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        _seed(seed)
        module = torch.nn.Sequential(subject.module, torch.nn.Softmax(1)) if probabilities else subject.module
        x = subject.torch_x()
        estimator = PyTorchClassifier(module, torch.nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, clip_values=(0, 1), device_type="cpu")
        one_hot = np.eye(10, dtype=np.float32)[subject.goal(attack)]
        return subject.judged(attack, torch.from_numpy(make(evasion, estimator, attack).generate(x.numpy(), one_hot)))

    return peer


def pinned(file: str, read: Callable[[Any, int], Outcome]) -> Peer:
    """What a loop that no library has made of the images of a golden file; `read(file, seed)`."""

    def peer(attack: Attack, subject: Subject, seed: int) -> Outcome:
        with np.load(GOLDEN / file, allow_pickle=False) as values:
            return read(values, seed)

    return peer


def _seed(seed: int) -> None:
    import torch

    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (ART and torchattacks draw from NumPy's global state)
