"""The recipe of each network, from its paper, and the attack of adversarial training for each data set."""

from dataclasses import dataclass
from typing import Literal

from a2d_jax.attacks import PGD


@dataclass(frozen=True)
class Recipe:
    """How to train a network.

    Attributes:
      optimizer: by name; Adadelta with rho 0.95.
      learning_rate: at the start.
      schedule: the learning rate stays, falls to zero as a cosine, or is divided by ten after half and after three quarters.
      momentum: of SGD.
      weight_decay: this times the weight is added to its gradient.
      decayed: attributes of the module whose weights decay; none named is all.
      epochs: passes over the training images; the images that do not fill a last batch are left out, others each time.
      batch_size: images per step.
      augment: crop at random from the image with a border of 4 black pixels, and mirror every other image.
    """

    optimizer: Literal["adadelta", "adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine", "steps"] = "constant"
    momentum: float = 0.0
    weight_decay: float = 0.0
    decayed: tuple[str, ...] = ()
    epochs: int = 20
    batch_size: int = 128
    augment: bool = False


_CIFAR_RESNET = Recipe("sgd", 0.1, "steps", momentum=0.9, weight_decay=1e-4, epochs=164, augment=True)

RECIPES = {
    # Feinman et al., arXiv 1703.00410; the decay of the ConvNet is the gradient of its penalty, 0.01 times the sum of squares
    "models.lenet:lenet_env1": Recipe("adadelta", 1.0, epochs=10),
    "models.convnet:convnet12": Recipe("adadelta", 1.0, weight_decay=0.02, decayed=("fc1", "fc2"), epochs=60),
    # Wang et al., arXiv 1812.05793, who tell the epochs of the substitute alone
    "models.lenet:lenet5": Recipe("sgd", 0.01, momentum=0.5, batch_size=64, epochs=20),
    "models.substitute:substitute_mnist": Recipe("sgd", 0.01, momentum=0.5, batch_size=64, epochs=10),
    "models.googlenet:googlenet_cifar10": Recipe("sgd", 0.01, momentum=0.5, weight_decay=5e-4, epochs=100, augment=True),
    # He et al., arXiv 1512.03385: 64,000 steps
    **{f"models.resnet:cifar_resnet{n}": _CIFAR_RESNET for n in (20, 32, 44, 56, 110)},
    # Madry et al., arXiv 1706.06083: 100,000 and 80,000 steps; meant for adversarial training
    "models.madry:madry_mnist": Recipe("adam", 1e-4, epochs=83, batch_size=50),
    "models.madry:madry_cifar10": Recipe("sgd", 0.1, "steps", momentum=0.9, weight_decay=2e-4, epochs=205, augment=True),
    "models.lenet:lenet_digits": Recipe("adam", 2e-3, "cosine", epochs=20, batch_size=64),
}
"""What is not given on the command line, by factory; other networks get `Recipe()`."""


PGD_SETTINGS = {
    "mnist": {"epsilon": 0.3, "step_size": 0.01, "updates": 40},
    "cifar10": {"epsilon": 8 / 255, "step_size": 2 / 255, "updates": 10},
}
"""What `climbing` takes in the two challenges of Madry et al., by data set."""


def climbing(epsilon: float, step_size: float, updates: int) -> PGD:
    """PGD for adversarial training: from a random start, without an early stop, in the maximum norm.

    A network should learn from the worst image in reach, not from the nearest, so the attack goes on after success.

    Args:
      epsilon: radius of the ball, in pixel units.
      step_size: length of one update, same units.
      updates: how many, the jump to the start not counted.

    Source: Madry et al., arXiv 1706.06083.
    """
    return PGD(epsilon, step_size, updates + 1, restart_every=updates + 1, early_stop=False)  # the jump is an update there
