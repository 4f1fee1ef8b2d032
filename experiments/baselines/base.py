"""The contract of detectors that read images: fit on images, score images. `a2d_jax.Defense` fulfils it."""

from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from a2d_jax import inputs
from a2d_jax.errors import BadInput


class FittedImageDetector(Protocol):
    """A detector that judges images."""

    def score(self, x: Float[Any, "n h w c"]) -> Float[np.ndarray, " n"]:
        """How adversarial each image looks: higher is more adversarial. The score of an image does not depend on the others.

        Raises:
          BadInput: no images, or images of another shape or type, outside [0, 1] or NaN.
        """
        ...


class ImageDetector(Protocol):
    """Settings of a detector that reads images, with its network; not yet fitted."""

    def fit(self, benign: Float[Any, "n h w c"], adversarial: Float[Any, "m h w c"] | None = None) -> FittedImageDetector:
        """Learn from benign images and, for detectors that use them, from adversarial ones.

        Args:
          benign: images in [0, 1] that the network classifies correctly.
          adversarial: crafted images; not looked at by a detector that learns from benign images alone.

        Raises:
          BadInput: what cannot be fitted.
        """
        ...


def both(
    benign: Float[Any, "n h w c"], adversarial: Float[Any, "m h w c"] | None, shape: tuple[int, ...]
) -> tuple[Float[np.ndarray, "n h w c"], Float[np.ndarray, "m h w c"]]:
    """Benign and adversarial images of one shape, checked, for detectors that learn from both.

    Raises:
      BadInput: images that cannot be used, or no adversarial ones.
    """
    if adversarial is None:
        raise BadInput("expected adversarial images beside the benign ones, got none; give some, this detector learns from both")
    h, w, c = shape
    return inputs.images(benign, (h, w, c)), inputs.images(adversarial, (h, w, c))
