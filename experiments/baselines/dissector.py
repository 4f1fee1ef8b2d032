"""BL4: Dissector, which asks linear sub-models on inner layers how steadily the network comes to its prediction.

A sub-model is one linear layer with a softmax on the output of an inner layer, trained on the training images of the frozen network. For an
ordinary image ever more layers are ever surer of the final prediction y; for an adversarial one the inner layers say something else. The
validity of layer l with probabilities p is

    SV_l = p_y / (p_y + the largest p of another class)

(the second largest p if the layer predicts y, else the largest), and the network's own output is the last layer L. An image is as valid as
the weighted mean of SV_1 ... SV_L; weights w_l grow linearly (l), logarithmically (ln l) or exponentially (e^l) with the layer. The score
here is 1 less that mean, so that higher is more adversarial.

Source: Wang et al., "Dissector: Input validation for deep learning applications by crossing-layer dissection", ICSE 2020, and their code.
Differs: their training of the sub-models is not published; here it is Adam on the cross entropy with a cosine to zero. They have six layers
of ResNet-101, the maps of the first one pooled to 28 x 28: `layers` and `size` say the same for other networks.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Int

from a2d_jax import inputs
from a2d_jax.errors import BadInput, require
from a2d_jax.types import Classifier
from experiments.baselines.activations import Activations, activations_of, in_batches, inside

Growth = Literal["linear", "logarithmic", "exponential"]
GROWTHS = {"linear": lambda layer: layer, "logarithmic": np.log, "exponential": np.exp}

SubModels = dict[str, tuple[Array, Array]]
"""Kernel `d k` and bias `k` of each layer's sub-model."""


@dataclass(frozen=True, eq=False)
class Dissector:
    """Settings of BL4, with its network and training images. The sub-models are trained once, when first needed.

    Attributes:
      classifier: of a Flax NNX module with a method `activations`, see `experiments.baselines.activations`.
      x: training images of the network, in [0, 1]. The pooled outputs of the layers for all of them are kept in memory meanwhile.
      label: their classes.
      layers: names of the inner layers with a sub-model, in their order.
      size: maps that are higher or wider are averaged down to so many rows and columns.
      growth: of the weights with the layer.
      epochs: passes over the training images.
      learning_rate: of Adam, at the start.
      batch_size: images per step.
      weight_decay: half of it times the squared norm of each kernel is added to the loss.
      seed: of the order of the images.
    """

    classifier: Classifier
    x: Float[Any, "t h w c"]
    label: Int[Any, " t"]
    layers: tuple[str, ...]
    size: int = 28
    growth: Growth = "exponential"
    epochs: int = 10
    learning_rate: float = 1e-3
    batch_size: int = 128
    weight_decay: float = 0.0
    seed: int = 0

    def __post_init__(self):
        require(self.growth in GROWTHS, f"one of {', '.join(GROWTHS)}", self.growth, "correct growth")
        require(len(self.layers) > 0, "at least one inner layer", self.layers, "name some")
        for name in ("size", "epochs", "batch_size"):
            require(getattr(self, name) >= 1, f"{name} of at least 1", getattr(self, name), "correct it")

    def fit(self, benign: Float[Any, "n h w c"], adversarial: Float[Any, "m h w c"] | None = None) -> "FittedDissector":
        """Train the sub-models on the training images. Benign images are only checked, adversarial ones are not looked at.

        Raises:
          BadInput: images of another shape, outside [0, 1] or NaN, or the name of a layer that the network does not have.
        """
        inputs.images(benign, np.shape(self.x)[1:])
        return FittedDissector(self, self.submodels)

    @cached_property
    def submodels(self) -> SubModels:
        """A linear model on every layer, trained on the training images."""
        x = inputs.images(self.x)
        classes = inputs.class_count(self.classifier, x.shape[1:], "the training images")
        label = inputs.labels(self.label, len(x), classes).astype(np.int32)
        features = inside(activations_of(self.classifier), x, of=_Pooled(self.layers, self.size))
        size = min(self.batch_size, len(x))
        optimizer = optax.adam(optax.cosine_decay_schedule(self.learning_rate, self.epochs * (len(x) // size)))
        models: SubModels = {name: (jnp.zeros((rows.shape[1], classes)), jnp.zeros(classes)) for name, rows in features.items()}
        memory = optimizer.init(models)

        def loss(models: SubModels, rows: dict[str, Array], label: Array) -> Array:
            errors = [optax.softmax_cross_entropy_with_integer_labels(logits, label).mean() for logits in _logits(models, rows)]
            return sum(errors, jnp.zeros(())) + self.weight_decay / 2 * sum((kernel**2).sum() for kernel, _ in models.values())

        @partial(jax.jit, donate_argnums=(0, 1))
        def update(models: SubModels, memory: Any, rows: dict[str, Array], label: Array) -> tuple[SubModels, Any]:
            change, memory = optimizer.update(jax.grad(loss)(models, rows, label), memory)
            return optax.apply_updates(models, change), memory

        for epoch in range(self.epochs):
            order = np.random.default_rng((self.seed, epoch)).permutation(len(x))
            for begin in range(0, len(x) - size + 1, size):
                rows = order[begin : begin + size]
                models, memory = update(models, memory, {name: array[rows] for name, array in features.items()}, label[rows])
        return models


@dataclass(frozen=True, eq=False)
class FittedDissector:
    """A fitted BL4; see `Dissector`."""

    detector: Dissector
    submodels: SubModels

    def score(self, x: Float[Any, "n h w c"]) -> Float[np.ndarray, " n"]:
        """1 less the weighted validity of each image, from 0 to 1.

        Raises:
          BadInput: no images, or images of another shape or type, outside [0, 1] or NaN.
        """
        doubts = self.doubts(x)
        weights = GROWTHS[self.detector.growth](np.arange(1, doubts.shape[1] + 1))
        return (doubts * weights).sum(1) / weights.sum()

    def doubts(self, x: Float[Any, "n h w c"]) -> Float[np.ndarray, "n layers"]:
        """1 - SV_l of every layer with a sub-model, and of the network's own output.

        Raises:
          BadInput: as `score`.
        """
        x = inputs.images(x, np.shape(self.detector.x)[1:])
        pooled = _Pooled(self.detector.layers, self.detector.size)
        return in_batches(partial(_doubts, pooled, activations_of(self.detector.classifier), self.submodels), x).astype(np.float64)


@partial(jax.jit, static_argnums=0)
def _doubts(pooled: "_Pooled", activations: Activations, models: SubModels, x: Float[Array, "n h w c"]) -> Float[Array, "n layers"]:
    def rows(image: Array) -> tuple[Any, Array]:
        named = activations(image)
        return pooled(named), list(named.values())[-1]

    features, logits = jax.vmap(rows)(x)
    return jnp.stack([doubt(one, logits.argmax(-1)) for one in (*_logits(models, features), logits)], axis=-1)


def doubt(logits: Float[Array, "n k"], label: Int[Array, " n"]) -> Float[Array, " n"]:
    """1 - SV of a layer: p_o / (p_y + p_o) for the class y of `label` and the likeliest other class o, which is a sigmoid of logits."""
    own = jnp.arange(logits.shape[-1])[None] == label[:, None]
    return jax.nn.sigmoid(jnp.where(own, -jnp.inf, logits).max(-1) - jnp.where(own, logits, -jnp.inf).max(-1))


def _logits(models: SubModels, rows: dict[str, Array]) -> list[Float[Array, "n k"]]:
    return [rows[name] @ kernel + bias[None] for name, (kernel, bias) in models.items()]


@dataclass(frozen=True)
class _Pooled:
    """Pooled outputs of some layers, flat. Equal for equal settings, so that a second call compiles nothing."""

    layers: tuple[str, ...]
    size: int

    def __call__(self, named: "OrderedDict[str, Array]") -> "dict[str, Array]":
        if unknown := [name for name in self.layers if name not in named]:
            raise BadInput(f"expected names of layers, some of {', '.join(named)}, got {unknown[0]!r}; correct layers")
        return {name: adaptive_average(named[name], self.size).ravel() for name in self.layers}


def adaptive_average(x: Array, size: int) -> Array:
    """Average a map `h w c` down to at most `size` rows and columns, over parts that may overlap, as PyTorch does; others stay."""
    if x.ndim != 3:
        return x
    for axis in (0, 1):
        if (length := x.shape[axis]) > size:
            part, place = np.arange(size)[:, None], np.arange(length)[None]
            inside = (place >= part * length // size) & (place < -(-(part + 1) * length // size))
            x = jnp.moveaxis(jnp.tensordot(jnp.asarray(inside / inside.sum(1, keepdims=True), x.dtype), x, (1, axis)), 0, axis)
    return x
