"""BL2: local intrinsic dimensionality at every layer, joined by a logistic regression.

The local intrinsic dimensionality (LID) says how fast the number of neighbours of a point grows with the radius around it. It is estimated
from the distances v_1 <= ... <= v_k to the k nearest points of a minibatch of benign images:

    LID = -k / sum_i ln(v_i / v_k)

at each layer: the image, every layer that the network names, and the softmax of the logits (13 and 26 features for the two networks of the
paper's first environment). Adversarial images lie off the manifold of benign ones, and their LID is larger in the deep layers. Negatives of
the regression are benign images and noisy versions of them, positives are adversarial images.

Source: Ma et al., "Characterizing adversarial subspaces using local intrinsic dimensionality", arXiv 1801.02613, and their code. Differs:
`LID.fit` compares all images with one minibatch of the network's training images, which the fitted detector keeps, so that a score depends
on the image alone. In the published protocol (`as_published`) the images are compared with a minibatch of the benign images that they were
made of, without the nearest one: to score an image one must have its original and 99 others. Estimates are cut off at 1000, since k equal
distances give infinity.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float
from sklearn.preprocessing import MinMaxScaler

from a2d_jax import inputs
from a2d_jax.errors import BadInput, require
from a2d_jax.types import Classifier
from experiments.baselines.activations import Activations, activations_of, in_batches, inside
from experiments.baselines.base import both
from experiments.baselines.noise import Noise, check_noise, noisy
from experiments.baselines.regression import FittedRegression, regression

LARGEST = 1000.0  # estimate
NEAREST = 1e-10  # smallest ratio of distances: a neighbour in the same place says that the dimension is low, not that it is 0
TRAINED_ON = 0.8  # share of the published split


def lid(distances: Float[Any, "*n m"], k: int) -> Float[np.ndarray, "*n"]:
    """Maximum likelihood estimate of the local intrinsic dimensionality from distances to other points, the point itself left out.

    Args:
      distances: to at least `k` points, in any order and unit.
      k: number of neighbours used.

    Returns:
      Estimates from 0 (k points in the same place) to 1000.

    Raises:
      BadInput: fewer than `k` distances, or `k` below 2.
    """
    v = np.asarray(distances, np.float64)
    require(k >= 2, "at least 2 neighbours", k, "correct k")
    require(v.ndim > 0 and v.shape[-1] >= k, f"distances to at least {k} points", v.shape, "give more points or a smaller k")
    v = np.sort(v, axis=-1)[..., :k]
    radius = v[..., -1:]
    logs = np.log(np.maximum(v / np.where(radius > 0, radius, 1), NEAREST)).sum(-1)
    return np.where(radius[..., 0] > 0, np.minimum(-k / np.minimum(logs, -k / LARGEST), LARGEST), 0.0)


@dataclass(frozen=True, eq=False)
class LID:
    """Settings of BL2, with its network and training images.

    Attributes:
      classifier: of a Flax NNX module with a method `activations`, see `experiments.baselines.activations`.
      x: training images of the network, in [0, 1], of which a minibatch is drawn.
      k: number of neighbours.
      minibatch: number of benign images among which neighbours are sought.
      noise: of the noisy negatives, see `experiments.baselines.noise`.
      seed: seed of the minibatch and of noise.
    """

    classifier: Classifier
    x: Float[Any, "t h w c"]
    k: int = 20
    minibatch: int = 100
    noise: Noise = "distance"
    seed: int = 0

    def __post_init__(self):
        require(self.k >= 2, "at least 2 neighbours", self.k, "correct k")
        require(self.minibatch > self.k, f"a minibatch of more than k = {self.k} images", self.minibatch, "correct it")
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
          BadInput: images of another shape, outside [0, 1] or NaN, too few of them, or no adversarial ones.
        """
        x, x_adv = both(benign, adversarial, np.shape(self.x)[1:])
        x_noisy = noisy(x, x_adv, self.noise if noise is None else noise, self.seed)
        negative, positive = np.concatenate([self.features(x), self.features(x_noisy)]), self.features(x_adv)
        return FittedRegression(self, regression(MinMaxScaler().fit(np.concatenate([negative, positive])), negative, positive))

    @cached_property
    def reference(self) -> "OrderedDict[str, np.ndarray]":
        """Activations of the minibatch with which all images are compared."""
        x = inputs.images(self.x)
        require(len(x) >= self.minibatch, f"at least {self.minibatch} training images", len(x), "give more, or a smaller minibatch")
        return self.outputs(x[np.random.default_rng(self.seed).permutation(len(x))[: self.minibatch]])

    def outputs(self, x: Float[np.ndarray, "n h w c"]) -> "OrderedDict[str, np.ndarray]":
        """What every layer gives, each `n d`."""
        return inside(activations_of(self.classifier), x, of=_every)

    def features(self, x: Float[Any, "n h w c"]) -> Float[np.ndarray, "n layers"]:
        """LID of images at every layer, by the k nearest images of the minibatch; the image itself, if it is among them, is left out.

        Raises:
          BadInput: images that cannot be used.
        """
        x = inputs.images(x, np.shape(self.x)[1:])
        distances = in_batches(partial(_distances, activations_of(self.classifier), self.reference), x)
        itself = distances[:, :1] == 0  # of the pixels, the first layer
        return lid(np.where(itself, np.inf, distances), self.k)


def _every(named: "OrderedDict[str, Array]") -> "OrderedDict[str, Array]":
    *_, logits = named.values()
    return OrderedDict((name, array.ravel()) for name, array in (named | {"softmax": jax.nn.softmax(logits)}).items())


@jax.jit
def _distances(activations: Activations, reference: Any, x: Float[Array, "n h w c"]) -> Float[Array, "n layers m"]:
    """Euclidean distances of images to a minibatch at every layer, from differences: products would lose those of near neighbours."""
    outputs = jax.vmap(lambda image: _every(activations(image)))(x)

    def one(own: Any) -> Array:
        return jnp.stack(
            [jnp.sqrt(((there - here[None]) ** 2).sum(-1)) for here, there in zip(own.values(), reference.values(), strict=True)]
        )

    return jax.lax.map(one, outputs)


def as_published(
    detector: LID, benign: Float[Any, "n h w c"], adversarial: Float[Any, "n h w c"], *, noise: Noise | None = None
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """Scores under the published protocol, of the last images, which the regression did not learn from.

    Benign image i, its noisy and its adversarial version are compared with the minibatch of benign images that image i belongs to; the
    nearest of these, for the benign image itself, is left out. Minibatches follow the order of the images; the last one may be smaller, and
    is left out if it has not even three images. The first 100 * floor(0.008 n) images of each kind fit the regression; the scaling is
    fitted to all.

    Args:
      detector: settings; its training images are not looked at.
      benign: images that the network classifies correctly.
      adversarial: an adversarial image of each.
      noise: of the noisy negatives; default that of the settings.

    Returns:
      Scores of the negatives, benign and noisy, and of the positives, which are not in the training share.

    Raises:
      BadInput: as `LID.fit`, or not pairs of images, or fewer than leave something on both sides of the split.
    """
    x, x_adv = both(benign, adversarial, np.shape(detector.x)[1:])
    if len(x) != len(x_adv):
        raise BadInput(f"expected one adversarial image for each benign one, got {len(x_adv)} for {len(x)}; give pairs, in one order")
    whole = len(x) - len(x) % detector.minibatch
    n = len(x) if len(x) - whole > 2 else whole
    cut = published_split(n)
    x, x_adv = x[:n], x_adv[:n]
    x_noisy = noisy(x, x_adv, detector.noise if noise is None else noise, detector.seed)
    plain, noised, positive = _within_minibatches(detector, (x, x_noisy, x_adv))
    scaler = MinMaxScaler().fit(np.concatenate([plain, noised, positive]))
    fitted = regression(scaler, np.concatenate([plain[:cut], noised[:cut]]), positive[:cut])
    return fitted.score(np.concatenate([plain[cut:], noised[cut:]])), fitted.score(positive[cut:])


def published_split(n: int) -> int:
    """How many of n images of each kind, the first ones, fit the regression: hundreds, at most four in five.

    Raises:
      BadInput: so few images that there is no hundred, or none is left.
    """
    cut = int(TRAINED_ON * n / 100 + 1e-9) * 100
    require(0 < cut < n, "at least 125 pairs of images, of which the first hundreds fit the regression", n, "give more images")
    return cut


def _within_minibatches(detector: LID, sets: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """LID of every set against the minibatches of the first one, the nearest neighbour left out."""
    activations = activations_of(detector.classifier)
    features: list[list[np.ndarray]] = [[] for _ in sets]
    for begin in range(0, len(sets[0]), detector.minibatch):
        rows = np.arange(begin, min(begin + detector.minibatch, len(sets[0])))
        filled = np.minimum(np.arange(begin, begin + detector.minibatch), rows[-1])  # one shape, one program
        reference = detector.outputs(sets[0][filled])
        for made, images in zip(features, sets, strict=True):
            distances = in_batches(partial(_distances, activations, reference), images[rows])[..., : len(rows)]
            made.append(lid(np.sort(distances, axis=-1)[..., 1:], min(detector.k, len(rows) - 1)))
    return [np.concatenate(made) for made in features]
