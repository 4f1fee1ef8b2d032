"""Noisy images: negatives as far from benign images as the adversarial ones are, for detectors that must not mistake noise for an attack.

Source: Feinman et al., "Detecting adversarial samples from artifacts", arXiv 1703.00410, and their code.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float

from a2d_jax.errors import BadInput, require

Noise = float | Literal["distance", "scalars"]
"""A standard deviation (change of a pixel, in [0, 1]); `distance`: Gaussian, as far (L2) as the adversarial image of the same benign image;
`scalars`: as many random scalars set to 1 as the adversarial image changes, for attacks that change few."""

CHANGED = 1e-3  # a scalar that differs by less was only rounded
HALVINGS = 40


def check_noise(noise: Noise) -> None:
    """Refuse what is no `Noise`.

    Raises:
      BadInput: neither a name nor a positive number.
    """
    number = isinstance(noise, int | float) and not isinstance(noise, bool) and noise > 0
    require(number or noise in ("distance", "scalars"), "noise as a positive standard deviation, distance or scalars", noise, "correct it")


def noisy(x: Float[np.ndarray, "n h w c"], x_adv: Float[np.ndarray, "n h w c"], noise: Noise, seed: int) -> Float[np.ndarray, "n h w c"]:
    """Noisy versions of benign images.

    Args:
      x: benign images.
      x_adv: for noise that is not a number, the adversarial image that was made of each of them.
      noise: kind of noise.
      seed: seed of the noise.

    Raises:
      BadInput: not one adversarial image for each benign one, for noise that needs it.
    """
    check_noise(noise)
    generator = np.random.default_rng(seed)
    if not isinstance(noise, str):
        return np.clip(x + noise * generator.standard_normal(x.shape, np.float32), 0, 1).astype(x.dtype)
    if x.shape != x_adv.shape:
        raise BadInput(
            f"expected one adversarial image for each benign one, in their order, got {len(x_adv)} for {len(x)}; "
            "give pairs, or the noise as a standard deviation"
        )
    return (_as_far if noise == "distance" else _as_many)(x, x_adv, generator).astype(x.dtype)


def _as_far(x: np.ndarray, x_adv: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Each image moves along its own draw until its distance, which clipping shortens, is that of the adversarial image."""
    drawn = generator.standard_normal(x.shape, np.float32)
    wanted = _distance(x_adv, x)
    low, high = np.zeros(len(x), np.float32), np.full(len(x), 1e3, np.float32)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        near = _distance(np.clip(x + middle[:, None, None, None] * drawn, 0, 1), x) < wanted
        low, high = np.where(near, middle, low), np.where(near, high, middle)
    return np.clip(x + low[:, None, None, None] * drawn, 0, 1)


def _distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(((x - y) ** 2).sum((1, 2, 3)))


def _as_many(x: np.ndarray, x_adv: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    made = x.copy().reshape(len(x), -1)
    changed = (np.abs(x_adv - x) > CHANGED).sum((1, 2, 3))
    for image, many in zip(made, changed, strict=True):
        dark = np.flatnonzero(image < 0.99)
        if len(dark):
            image[generator.choice(dark, many)] = 1  # with replacement, as the authors draw
    return made.reshape(x.shape)
