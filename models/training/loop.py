"""Training as pure functions: a recipe makes an optimizer, and a step turns a state into the next one.

Everything random derives from the seed and the step: the order of an epoch from the seed and the epoch, dropout from the keys in the state.
So only the state needs to be saved: a training that continues from it reaches the same weights, bit for bit.

Batches go through one jitted call each. A compiled loop over batches (`lax.scan`) would be seven times slower on CPU, where XLA
brings convolutions into its fast layout only outside of loops.
"""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from a2d_jax.classifiers import from_function
from a2d_jax.drivers import run
from a2d_jax.errors import BadInput
from a2d_jax.hardware import devices
from a2d_jax.io.checkpoints import import_factory
from a2d_jax.types import Attack, Example
from models.training.recipes import Recipe

AUGMENTED_BY = 4  # pixels that a random crop may move an image to each side

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


def make_module(classifier: str, seed: int) -> nnx.Module:
    """The module of a factory, with first weights drawn by the seed if the factory takes `rngs`."""
    factory = import_factory(classifier)
    devices()
    try:
        module = factory(rngs=nnx.Rngs(seed)) if "rngs" in inspect.signature(factory).parameters else factory()
    except Exception as error:  # the user's own function, which may raise anything
        raise BadInput(f"expected {classifier} to make a network, got {type(error).__name__}: {error}; check the factory") from error
    if not isinstance(module, nnx.Module):
        raise BadInput(f"expected {classifier} to make a Flax NNX module, got a {type(module).__name__}; write the network in NNX")
    return module


def prepare(module: nnx.Module, recipe: Recipe, *, per_epoch: int, seed: int, adversary: Attack | None = None) -> tuple[Trainer, State]:
    """Functions that train a module, and the state to begin with.

    Args:
      module: with its first weights.
      recipe: how to train.
      per_epoch: steps of an epoch.
      seed: of augmentation and random starts.
      adversary: train on adversarial images alone, made by this attack.
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
        if adversary is None:
            return x
        classifier = from_function(lambda variables, x: nnx.merge(in_evaluation, *variables)(x), (params, rest))
        examples = Example(x, label, jax.random.split(key, len(x)))
        return jax.vmap(lambda example: run(adversary, classifier, example).x_adv)(examples)

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


def augment(x: Array, key: Array) -> Array:
    """Move every image `n h w c` by up to 4 pixels to each side, what comes in being black, and mirror every other one."""
    crop_key, flip_key = jax.random.split(key)
    n, *shape = x.shape
    border = ((0, 0), (AUGMENTED_BY, AUGMENTED_BY), (AUGMENTED_BY, AUGMENTED_BY), (0, 0))
    corner = jax.random.randint(crop_key, (n, 2), 0, 2 * AUGMENTED_BY + 1)
    x = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], jnp.zeros_like(at[0])), shape))(jnp.pad(x, border), corner)
    return jnp.where(jax.random.bernoulli(flip_key, shape=(n, 1, 1, 1)), x[:, :, ::-1], x)


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
