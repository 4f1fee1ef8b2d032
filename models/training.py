"""Training as pure functions: a recipe makes an optimizer, a state goes in, the state one step later comes out.

Everything random follows from the seed and the step (the order of an epoch from the seed and the epoch, dropout from the keys that
the state carries), so that a state is all there is to save: who goes on from it reaches the same weights, bit for bit.

Batches go through one jitted call each. A compiled loop over batches (`lax.scan`) would be seven times slower on CPU, where XLA
brings convolutions into its fast layout only outside of loops.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

AUGMENTED_BY = 4  # pixels that a random crop may move an image to each side


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


@dataclass(frozen=True)
class Pgd:
    """Projected gradient ascent on the cross entropy in the maximum norm, from a random start, without an early stop.

    Source: Madry et al., arXiv 1706.06083. Unlike `a2d_jax.attacks.PGD`, which counts what an image costs, it goes on after success:
    a network should learn from the worst image in reach, not from the nearest.

    Attributes:
      epsilon: radius of the ball, in pixel units.
      step_size: length of one update, same units.
      updates: how many.
    """

    epsilon: float
    step_size: float
    updates: int


PGD = {"mnist": Pgd(0.3, 0.01, 40), "cifar10": Pgd(8 / 255, 2 / 255, 10)}
"""Settings of the two challenges, by data set."""


Batch = tuple[np.ndarray, np.ndarray]
"""Images `n h w c` and labels `n`."""


class State(NamedTuple):
    """Everything that training carries from step to step."""

    step: Array  # steps made
    params: Any  # what the optimizer moves
    rest: Any  # batch statistics and the keys of dropout
    memory: Any  # of the optimizer
    loss: Array  # sum over the epoch's steps so far
    right: Array  # images of the epoch so far that were classified right, as they were trained on


class Trainer(NamedTuple):
    """What `prepare` makes of a module and a recipe."""

    update: Callable[[State, Any, Any], State]  # (state, x, label) -> the state one step later; the old one is gone
    right: Callable[[State, Any, Any], Array]  # how many images a state classifies right
    robust: Callable[[State, Any, Any], Array]  # how many under attack
    rate: optax.Schedule  # learning rate of a step
    per_epoch: int  # steps
    epochs: int


def prepare(module: nnx.Module, recipe: Recipe, *, per_epoch: int, seed: int, pgd: Pgd | None = None) -> tuple[Trainer, State]:
    """Functions that train a module, and the state to begin with.

    Args:
      module: with its first weights.
      recipe: how to train.
      per_epoch: steps of an epoch.
      seed: of augmentation and random starts.
      pgd: train on adversarial images alone, made by this attack.
    """
    module.eval()
    in_evaluation = nnx.graphdef(module)
    module.train()
    in_training, params, rest = nnx.split(module, nnx.Param, ...)
    rate = _schedule(recipe, recipe.epochs * per_epoch)
    optimizer = _optimizer(recipe, rate)
    seeded = jax.random.key(seed)

    def attacked(params: Any, rest: Any, x: Array, label: Array, key: Array) -> Array:
        """Adversarial images for the network in evaluation, as its users will meet it."""
        return ascend(lambda x: _losses(nnx.merge(in_evaluation, params, rest)(x), label).sum(), x, key, pgd) if pgd else x

    @partial(jax.jit, donate_argnums=0)
    def update(state: State, x: Array, label: Array) -> State:
        crop_key, start_key = jax.random.split(jax.random.fold_in(seeded, state.step))
        if recipe.augment:
            x = augment(x, crop_key)
        x = attacked(state.params, state.rest, x, label, start_key)

        def loss(params: Any) -> tuple[Array, tuple[Any, Array]]:
            network = nnx.merge(in_training, params, state.rest, copy=True)  # its keys count inside of the gradient
            logits = network(x)
            return _losses(logits, label).mean(), (nnx.split(network, nnx.Param, ...)[2], logits)

        (value, (rest, logits)), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        change, memory = optimizer.update(gradient, state.memory, state.params)
        goes_on = state.step % per_epoch != 0
        return State(
            step=state.step + 1,
            params=optax.apply_updates(state.params, change),
            rest=rest,
            memory=memory,
            loss=jnp.where(goes_on, state.loss, 0) + value,
            right=jnp.where(goes_on, state.right, 0) + _right(logits, label),
        )

    @jax.jit
    def right(state: State, x: Array, label: Array) -> Array:
        return _right(nnx.merge(in_evaluation, state.params, state.rest)(x), label)

    @jax.jit
    def robust(state: State, x: Array, label: Array) -> Array:
        x = attacked(state.params, state.rest, x, label, seeded)
        return _right(nnx.merge(in_evaluation, state.params, state.rest)(x), label)

    def zero() -> Array:
        return jnp.zeros((), jnp.int32)  # each its own buffer, which `update` gives away

    state = State(zero(), params, rest, optimizer.init(params), jnp.zeros(()), zero())
    return Trainer(update, right, robust, rate, per_epoch, recipe.epochs), state


def trained(module: nnx.Module, state: State) -> nnx.Module:
    """The module with the weights of a state, in evaluation mode."""
    nnx.update(module, state.params, state.rest)
    module.eval()
    return module


def fit(trainer: Trainer, state: State, batches: Callable[[int], Iterator[Batch]]) -> Iterator[State]:
    """The state after every step; each is valid until the next is asked for.

    Args:
      trainer: from `prepare`.
      state: to begin with, or one saved in the middle.
      batches: images and labels of an epoch (by number) in the order of that epoch.
    """
    begun, skipped = divmod(int(state.step), trainer.per_epoch)
    for epoch in range(begun, trainer.epochs):
        for x, label in islice(batches(epoch), skipped if epoch == begun else 0, None):
            state = trainer.update(state, x, label)
            yield state


def shuffled(x: np.ndarray, label: np.ndarray, size: int, seed: tuple[int, ...]) -> Iterator[Batch]:
    """All images once in random order, `size` at a time; those that do not fill a batch are left out."""
    order = np.random.default_rng(seed).permutation(len(x))
    for rows in order[: len(x) // size * size].reshape(-1, size):
        yield x[rows], label[rows]


def augment(x: Array, key: Array) -> Array:
    """Move every image `n h w c` by up to 4 pixels to each side, what comes in being black, and mirror every other one."""
    crop_key, flip_key = jax.random.split(key)
    n, *shape = x.shape
    border = ((0, 0), (AUGMENTED_BY, AUGMENTED_BY), (AUGMENTED_BY, AUGMENTED_BY), (0, 0))
    corner = jax.random.randint(crop_key, (n, 2), 0, 2 * AUGMENTED_BY + 1)
    x = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], jnp.zeros_like(at[0])), shape))(jnp.pad(x, border), corner)
    return jnp.where(jax.random.bernoulli(flip_key, shape=(n, 1, 1, 1)), x[:, :, ::-1], x)


def ascend(loss: Callable[[Array], Array], x: Array, key: Array, pgd: Pgd) -> Array:
    """Images near `x` where `loss`, a sum over images, is large; see `Pgd`."""

    def update(_: int, x_adv: Array) -> Array:
        moved = x_adv + pgd.step_size * jnp.sign(jax.grad(loss)(x_adv))
        return jnp.clip(jnp.clip(moved, x - pgd.epsilon, x + pgd.epsilon), 0, 1)

    start = jnp.clip(x + jax.random.uniform(key, x.shape, x.dtype, -pgd.epsilon, pgd.epsilon), 0, 1)
    return jax.lax.fori_loop(0, pgd.updates, update, start)


def _schedule(recipe: Recipe, steps: int) -> optax.Schedule:
    match recipe.schedule:
        case "constant":
            return optax.constant_schedule(recipe.learning_rate)
        case "cosine":
            return optax.cosine_decay_schedule(recipe.learning_rate, steps)
        case "steps":
            return optax.piecewise_constant_schedule(recipe.learning_rate, {steps // 2: 0.1, steps * 3 // 4: 0.1})


def _optimizer(recipe: Recipe, rate: optax.Schedule) -> optax.GradientTransformation:
    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: not recipe.decayed or path[0].key in recipe.decayed, params)

    moving = {
        "adadelta": lambda: optax.adadelta(rate, rho=0.95),
        "adam": lambda: optax.adam(rate),
        "sgd": lambda: optax.sgd(rate, recipe.momentum or None),
    }
    return optax.chain(optax.add_decayed_weights(recipe.weight_decay, mask), moving[recipe.optimizer]())


def _losses(logits: Array, label: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def _right(logits: Array, label: Array) -> Array:
    return (logits.argmax(-1) == label).sum(dtype=jnp.int32)
