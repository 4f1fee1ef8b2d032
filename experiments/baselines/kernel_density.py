"""BL1: kernel density of the last hidden layer and Bayesian uncertainty, joined by a logistic regression.

An adversarial image lies far from the training images of its predicted class (low density K), and networks that dropout draws from the same
weights disagree about it (high uncertainty U). K is the logarithm of a Gaussian kernel density at the image's last hidden activations, from
those of the training images of the predicted class. U is the variance of the softmax outputs over passes with dropout on, averaged over
the classes. Negatives of the regression are benign images and noisy versions of them, positives are adversarial images.

Source: Feinman et al., "Detecting adversarial samples from artifacts", arXiv 1703.00410, and their code. Differs: the random numbers of a
pass derive from the image, so that its score does not depend on its batch; the score is the log odds, which has the order of the published
probability without its ties at 0 and 1; penalties are chosen with five folds; densities are exact, which scikit-learn's default is not far
from the data.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float, Int
from sklearn.neighbors import KernelDensity as ClassDensity
from sklearn.preprocessing import StandardScaler

from a2d_jax import costs, inputs
from a2d_jax.errors import BadInput, InputWarning, require
from a2d_jax.types import Classifier
from experiments.baselines.activations import activations_of, in_batches, inside, passes_of, stochastic
from experiments.baselines.base import both
from experiments.baselines.noise import Noise, check_noise, noisy
from experiments.baselines.regression import FittedRegression, Regression, regression

Variant = Literal["all", "positives", "first"]
"""Which scores are ranked: all; all negatives and the first positives; the first benign, noisy and adversarial images."""


@dataclass(frozen=True, eq=False)
class KernelDensity:
    """Settings of BL1, with its network and training images. Activations of the training images are computed once, when first needed.

    Attributes:
      classifier: of a Flax NNX module with a method `activations`, see `experiments.baselines.activations`.
      x: training images of the network, in [0, 1].
      label: their classes.
      bandwidth: standard deviation of the kernel, in units of the activations; 1.20 for MNIST, 0.26 for CIFAR-10 in the paper.
      passes: number of passes with dropout on.
      noise: of the noisy negatives, see `experiments.baselines.noise`.
      layer: name of the activation; default the one before the logits. Dropout is off there.
      seed: seed of noise and dropout.
    """

    classifier: Classifier
    x: Float[Any, "t h w c"]
    label: Int[Any, " t"]
    bandwidth: float = 1.2
    passes: int = 50
    noise: Noise = "distance"
    layer: str | None = None
    seed: int = 0

    def __post_init__(self):
        require(self.bandwidth > 0, "a positive bandwidth", self.bandwidth, "correct it")
        require(self.passes >= 2, "at least 2 passes", self.passes, "correct it")
        check_noise(self.noise)

    def fit(
        self, benign: Float[Any, "n h w c"], adversarial: Float[Any, "m h w c"] | None = None, *, noise: Noise | None = None
    ) -> FittedRegression:
        """Learn from benign images, noisy versions of them made here, and adversarial images.

        Args:
          benign: images in [0, 1] that the network classifies correctly.
          adversarial: crafted images; for noise of equal distance or size one made of each benign image, in their order.
          noise: of this fit; default that of the settings.

        Raises:
          BadInput: images of another shape, outside [0, 1] or NaN, too few of them, no adversarial ones, or no training images of a
            predicted class.

        Warns:
          InputWarning: the network has no dropout, so that its uncertainty is 0 and the density alone decides.
        """
        return FittedRegression(self, _regression(*_rows(self, benign, adversarial, noise)))

    @cached_property
    def densities(self) -> dict[int, ClassDensity]:
        """The kernel density of each class."""
        x = inputs.images(self.x)
        label = inputs.labels(self.label, len(x), inputs.class_count(self.classifier, x.shape[1:], "the training images"))
        hidden = self._hidden(x)
        # One leaf compares an image with every training image. Trees of several leaves, the default, lose the tails: for 6000 points in
        # 512 dimensions at bandwidth 0.26 their logarithms are off by up to 2000 (scikit-learn 1.9).
        return {int(k): ClassDensity(bandwidth=self.bandwidth, leaf_size=len(x)).fit(hidden[label == k]) for k in np.unique(label)}

    def features(self, x: Float[Any, "n h w c"]) -> Float[np.ndarray, "n 2"]:
        """Density K (logarithm) and uncertainty U of images.

        Raises:
          BadInput: images that cannot be used, or one of a predicted class without training images.
        """
        seen = costs.examples(self.classifier, inputs.images(x, np.shape(self.x)[1:]), seed=self.seed)
        hidden, density = self._hidden(seen.x), np.empty(len(seen.x))
        for k in np.unique(seen.label):
            if k not in self.densities:
                raise BadInput(f"expected training images of every predicted class, got none of class {k}; give some of each class")
            density[seen.label == k] = self.densities[int(k)].score_samples(hidden[seen.label == k])
        return np.column_stack([density, self._uncertainty(seen)])

    def _hidden(self, x: np.ndarray) -> Float[np.ndarray, "n d"]:
        return inside(activations_of(self.classifier), x, of=_Layer(self.layer))

    def _uncertainty(self, seen: Any) -> Float[np.ndarray, " n"]:
        passes = passes_of(self.classifier)
        if passes is None:
            return np.zeros(len(seen.x))
        keys = np.asarray(jax.random.key_data(seen.key))
        return in_batches(partial(_variance, passes, self.passes), seen.x, keys)


@dataclass(frozen=True)
class _Layer:
    """One activation, flat. Equal for equal names, so that a second call compiles nothing."""

    name: str | None

    def __call__(self, named: Any) -> Any:
        name = list(named)[-2] if self.name is None else self.name
        if name not in named:
            raise BadInput(f"expected the name of a layer, one of {', '.join(named)}, got {name!r}; correct it")
        return named[name].ravel()


@partial(jax.jit, static_argnums=1)
def _variance(passes: Any, count: int, x: Any, key: Any) -> Any:
    return jax.nn.softmax(stochastic(passes, x, key, count)).var(1).mean(-1)


def as_published(
    detector: KernelDensity,
    benign: Float[Any, "n h w c"],
    adversarial: Float[Any, "n h w c"],
    *,
    noise: Noise | None = None,
    variant: Variant = "first",
    first: int = 1000,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """Scores under the published protocol: of the images that the detector was fitted to. The AUROC of these is not that of new images.

    Args:
      detector: settings.
      benign: images that the network classifies correctly.
      adversarial: an adversarial image of each.
      noise: of the noisy negatives; default that of the settings.
      variant: which of the scores are ranked; the released code prints all three.
      first: how many are the first.

    Returns:
      Scores of the negatives, benign and noisy, and of the positives.

    Raises:
      BadInput: as `KernelDensity.fit`.
    """
    require(variant in ("all", "positives", "first"), "one of all, positives, first", variant, "correct it")
    rows = _rows(detector, benign, adversarial, noise)
    plain, noised, positive = map(_regression(*rows).score, rows)
    if variant == "first":
        plain, noised = plain[:first], noised[:first]
    return np.concatenate([plain, noised]), positive if variant == "all" else positive[:first]


def _rows(detector: KernelDensity, benign: Any, adversarial: Any, noise: Noise | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of benign, noisy and adversarial images."""
    x, x_adv = both(benign, adversarial, np.shape(detector.x)[1:])
    if passes_of(detector.classifier) is None:
        said = "the network has no dropout: the uncertainty of every image is 0, and the kernel density alone decides"
        warnings.warn(said, InputWarning, stacklevel=3)
    x_noisy = noisy(x, x_adv, detector.noise if noise is None else noise, detector.seed)
    return detector.features(x), detector.features(x_noisy), detector.features(x_adv)


def _regression(plain: np.ndarray, noised: np.ndarray, positive: np.ndarray) -> Regression:
    negative = np.concatenate([plain, noised])
    return regression(StandardScaler().fit(np.concatenate([negative, positive])), negative, positive)
