"""MagNet's detectors: autoencoders trained on benign images move adversarial images further than benign ones.

The mark of an image x is the mean of |x - AE(x)|^p over its pixels. Each detector is an autoencoder with a power p and a threshold: the
m-th largest of the marks of n benign images that were not trained on, with m = floor(drop rate * n). An image is flagged if one of its
marks is at least the threshold. The reformer is the first autoencoder, whose output is classified in place of the image.

For MNIST the authors take two autoencoders (`models.magnet`), p = 2 for the first and 1 for the second, the first 5000 training images, and
a drop rate of 0.001 for each detector.

Source: Meng and Chen, "MagNet: a two-pronged defense against adversarial examples", arXiv:1705.09064; reference behaviour its authors'
`worker.py`. Differs: none for MNIST; the detectors by divergence of softmax outputs, which they use on CIFAR-10, are not here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Bool, Float

from a2d_jax import inputs
from a2d_jax.classifiers import from_nnx, predict_by
from a2d_jax.errors import BadInput, require

BATCH = 64  # images


@dataclass(frozen=True)
class MagNet:
    """Detect adversarial images by how far autoencoders move them.

    Attributes:
      autoencoders: trained Flax NNX modules, images `n h w c` in [0, 1] to images of the same shape.
      powers: p of each.
      drop_rate: share of benign images that each detector flags.
    """

    autoencoders: Sequence[nnx.Module]
    powers: Sequence[float] = (2, 1)
    drop_rate: float = 0.001

    def __post_init__(self):
        count, powers = len(self.autoencoders), tuple(self.powers)
        require(0 < count == len(powers), "a power for each autoencoder", f"{count} and {len(powers)}", "give both")
        require(all(p > 0 for p in powers), "powers above 0", powers, "the authors take 2 and 1")
        require(0 < self.drop_rate <= 1, "a drop rate above 0 and at most 1", self.drop_rate, "the authors take 0.001")

    def fit(self, benign: Float[Any, "n h w c"], adversarial: Float[Any, "m h w c"] | None = None) -> "FittedMagNet":
        """Find the thresholds.

        Args:
          benign: images in [0, 1] that the autoencoders were not trained on.
          adversarial: not looked at.

        Raises:
          BadInput: images that do not fit the autoencoders, too few of them for the drop rate, or an autoencoder that changes nothing.
        """
        marks = _marks(self, benign)
        dropped = math.floor(round(self.drop_rate * len(marks), 9))
        if dropped < 1:
            raise BadInput(
                f"expected at least {math.ceil(1 / self.drop_rate)} images for a drop rate of {self.drop_rate}, got {len(marks)}; "
                "give more, or a larger rate"
            )
        thresholds = np.sort(marks, axis=0)[-dropped]
        if not (thresholds > 0).all():
            raise BadInput("expected autoencoders that change benign images, got one that does not; check its weights")
        return FittedMagNet(self, thresholds)


@dataclass(frozen=True)
class FittedMagNet:
    """MagNet's detectors with their thresholds.

    Attributes:
      settings: what was fitted.
      thresholds: of the marks of each autoencoder.
    """

    settings: MagNet
    thresholds: Float[np.ndarray, " detectors"]

    def marks(self, x: Float[Any, "n h w c"]) -> Float[np.ndarray, "n detectors"]:
        """How far each autoencoder moves each image.

        Raises:
          BadInput: no images, or images of another shape or type, outside [0, 1] or NaN.
        """
        return _marks(self.settings, x)

    def score(self, x: Float[Any, "n h w c"]) -> Float[np.ndarray, " n"]:
        """The largest mark in units of its threshold. An image is flagged exactly if this is at least 1.

        Raises:
          BadInput: as `marks`.
        """
        return (self.marks(x) / self.thresholds).max(1)

    def predict(self, x: Float[Any, "n h w c"]) -> Bool[np.ndarray, " n"]:
        """True for each image that a detector flags.

        Raises:
          BadInput: as `marks`.
        """
        return self.score(x) >= 1


def reconstructed(autoencoder: nnx.Module, x: Float[Any, "n h w c"]) -> Float[np.ndarray, "n h w c"]:
    """Images behind an autoencoder, as MagNet's reformer gives them to the classifier.

    Raises:
      BadInput: no images in [0, 1], or an autoencoder that gives no finite images of the same shape.
    """
    x = inputs.images(x)
    what = type(autoencoder).__name__
    try:
        moved = predict_by(from_nnx(autoencoder), x, BATCH)
    except (TypeError, ValueError) as error:  # a module says in its own way that images do not fit
        raise BadInput(f"expected images that {what} takes, got {x.shape[1:]}; give images of its shape") from error
    require(moved.shape == x.shape, f"images {x.shape[1:]} from {what}", moved.shape[1:], "give an autoencoder of this shape")
    require(bool(np.isfinite(moved).all()), f"finite images from {what}", "NaN or infinity", "check its weights")
    return moved


def _marks(settings: MagNet, x: Float[Any, "n h w c"]) -> Float[np.ndarray, "n detectors"]:
    """Means in float64, so that a tie with the threshold is the same image and no rounding."""
    x = inputs.images(x)
    gaps = (np.abs(x.astype(np.float64) - reconstructed(module, x)) for module in settings.autoencoders)
    return np.stack([(gap**power).mean((1, 2, 3)) for gap, power in zip(gaps, settings.powers, strict=True)], axis=1)
