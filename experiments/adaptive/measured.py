"""What detectors read of an image: costs of attacks, and the numbers that could see an image whose cost is high.

bim          updates of BIM (Linf), stopped at a bound above every threshold
newton       radius at which Newton leaves the class, Linf
newton_l2    the same in L2: the cost under a second norm
margin       largest logit minus the second
curvature    first linearised distance over the radius of Newton: 1 where the margin is linear
noise        mean change of the margin under eight draws of small noise, as a share of the margin
agrees       1 if Newton ends in the same class in both norms (the return class)
magnet       largest mark of MagNet's autoencoders, in units of the median of benign images; only with autoencoders
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from a2d_jax import costs, drivers, presets
from a2d_jax.adaptive import Linearised
from a2d_jax.attacks import Newton
from a2d_jax.classifiers import predict_by
from a2d_jax.losses import margin, prediction
from a2d_jax.types import Classifier
from experiments.adaptive.subjects import Opened

Numbers = Mapping[str, np.ndarray]
BATCH = 64
DRAWS, SPREAD = 8, 0.02
"""Of the noise: draws, and standard deviation in pixels."""
POWERS = (2, 1)
"""Of MagNet's two marks."""


def numbers(opened: Opened, x: np.ndarray, preset: str, bound: int | None = None, seed: int = 0) -> Numbers:
    """The numbers of images, each `n`.

    Args:
      opened: the network.
      x: images `n h w c`.
      preset: settings of the attacks.
      bound: updates after which BIM stops; default those of the preset.
      seed: of the noise.
    """
    classifier = opened.classifier
    examples = costs.examples(classifier, x)
    newton: Any = presets.make(preset, "defence", "newton")
    bim: Any = presets.make(preset, "defence", "bim")
    found = drivers.attack(newton, classifier, examples)
    other = drivers.attack(in_l2(newton, x.shape[1:]), classifier, examples)
    counted = drivers.attack(bim if bound is None else replace(bim, max_steps=bound), classifier, examples)
    first, lead = _slopes(classifier, x)
    away = [costs.predictions(classifier, np.asarray(result.x_adv))[0] for result in (found, other)]
    crossing = np.asarray(found.crossing, np.float64)
    numbers = {
        "bim": np.asarray(counted.cost, np.float64),
        "newton": crossing,
        "newton_l2": np.asarray(other.crossing, np.float64),
        "margin": lead,
        "curvature": first / np.maximum(crossing, 1e-9),
        "noise": _noise(classifier, x, lead, seed),
        "agrees": (away[0] == away[1]).astype(np.float64),
    }
    if opened.autoencoders:
        numbers["magnet"] = marks(opened, x)
    return numbers


def in_l2(newton: Newton, shape: tuple[int, ...]) -> Newton:
    """The same attack in L2, with a radius of the same root mean square."""
    return replace(newton, norm="l2", epsilon=float(newton.epsilon) * float(np.sqrt(np.prod(shape))))


def mark(autoencoder: Classifier, power: float, x: Array) -> Array:
    """How far an autoencoder moves one image."""
    return jnp.mean(jnp.abs(x - autoencoder(x)) ** power)


def marks(opened: Opened, x: np.ndarray) -> np.ndarray:
    """MagNet's marks `n 2` of images."""
    gaps = [np.abs(x.astype(np.float64) - predict_by(one, x, BATCH)) for one in opened.autoencoders]
    return np.stack([(gap**power).mean((1, 2, 3)) for gap, power in zip(gaps, POWERS, strict=True)], axis=1)


@jax.jit
def _of_slopes(classifier: Classifier, x: Array) -> tuple[Array, Array]:
    def of(x: Array) -> tuple[Array, Array]:
        logits = classifier(x)
        label = prediction(logits)
        return Linearised()(classifier, x, label), margin(logits, label)

    return jax.vmap(of)(x)


def _slopes(classifier: Classifier, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Linearised distance in Linf, and margin."""
    padded = np.concatenate([x, x[:1].repeat(-len(x) % BATCH, 0)])
    pieces = [_of_slopes(classifier, padded[at : at + BATCH]) for at in range(0, len(padded), BATCH)]
    distance, lead = (np.concatenate(column)[: len(x)].astype(np.float64) for column in zip(*pieces, strict=True))
    return distance, lead


def _noise(classifier: Classifier, x: np.ndarray, lead: np.ndarray, seed: int) -> np.ndarray:
    random, label = np.random.default_rng(seed), costs.predictions(classifier, x)[0]
    changes = np.zeros(len(x))
    for _ in range(DRAWS):
        near = np.clip(x + random.normal(0, SPREAD, x.shape).astype(x.dtype), 0, 1)
        changes += np.abs(leads(predict_by(classifier, near, BATCH).astype(np.float64), label) - lead)
    return changes / DRAWS / np.maximum(lead, 1e-9)


def sensitivity(classifier: Classifier, x: Array, label: Array) -> Array:
    """`noise` of one image as an attacker differentiates it: under draws of the attacker's own, for nobody knows the detector's."""
    draws = SPREAD * jax.random.normal(jax.random.key(0), (DRAWS, *x.shape), x.dtype)
    lead = margin(classifier(x), label)
    near = jax.vmap(lambda draw: margin(classifier(jnp.clip(x + draw, 0, 1)), label))(draws)
    return jnp.mean(jnp.abs(near - lead)) / jnp.maximum(lead, 1e-9)


def leads(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Margins of the labels; the classes are the last axis of the logits."""
    mine = np.arange(logits.shape[-1]) == label[..., None]
    return np.where(mine, logits, -np.inf).max(-1) - np.where(mine, -np.inf, logits).max(-1)


def column(numbers: Numbers, name: str) -> np.ndarray:
    """One number of each image: of several, the largest."""
    return numbers[name].max(1) if numbers[name].ndim == 2 else numbers[name]


def lengths(delta: np.ndarray, norm: str) -> np.ndarray:
    """Linf or L2 lengths `n` of differences `n h w c`."""
    flat = delta.reshape(len(delta), -1).astype(np.float64)
    return np.abs(flat).max(1) if norm == "linf" else np.sqrt((flat**2).sum(1))
