"""K-NN on the attack cost: adversarial if most of the k nearest training costs are.

Distances are Euclidean, on raw costs. With several attacks the features are not scaled (the paper's ensemble), so attacks with large costs
decide most. Costs are integers, and many of them tie. Points at the k-th distance share the remaining votes (decision note 0010), so that
the result does not depend on the order of the training set.

Source: Zhao et al., "Attack as Defense", ISSTA 2021, section 4.1. Differs: in the tie rule, which the paper leaves open.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from a2d_jax.detectors.base import Detector, Fitted, Scores, read_both, read_table, rowwise
from a2d_jax.errors import BadInput, require
from a2d_jax.types import STATIC


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KNN(Detector):
    """Settings of the K-NN detector; reads any number of columns, needs benign and adversarial costs.

    Attributes:
      k: neighbours that vote.
    """

    name = "knn"
    needs_adversarial = True

    k: int = field(default=100, metadata=STATIC)

    def __post_init__(self) -> None:
        require(self.k >= 1, "k of at least 1", self.k, "the paper uses 100")

    def fit(self, benign: ArrayLike, adversarial: ArrayLike | None = None, *, labels: ArrayLike | None = None) -> "FittedKNN":
        """Keep the training costs.

        Raises:
          BadInput: no adversarial costs, or fewer than k rows in all.
        """
        costs, labels = read_both(benign, adversarial)
        if len(costs) < self.k:
            raise BadInput(f"expected at least k = {self.k} training rows, got {len(costs)}; give more images or a smaller k")
        return FittedKNN(costs, labels, self.k)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FittedKNN(Fitted):
    """The training set.

    Attributes:
      costs: training rows, `n columns`.
      adversarial: which of them are adversarial.
      k: neighbours that vote.
    """

    kind = "knn"

    costs: Float[np.ndarray, "n columns"]
    adversarial: Bool[np.ndarray, " n"]
    k: int = field(metadata=STATIC)

    @property
    def columns(self) -> int:
        """Columns of the training costs."""
        return self.costs.shape[1]

    @property
    def threshold(self) -> float:
        """Half of the votes: 50:50 is benign."""
        return 0.5

    def score(self, x: ArrayLike, *, labels: ArrayLike | None = None, index: ArrayLike | None = None) -> Scores:
        """Share of the k votes that is adversarial."""
        return _share(self, read_table(x, self.columns))


@rowwise
def _share(fitted: FittedKNN, query: Float[Array, " columns"]) -> Float[Array, ""]:
    """Differences are squared as they are, not through a matrix product: squares of integer costs are exact, and so are ties."""
    distance = jnp.sum((fitted.costs - query[None]) ** 2, axis=1)
    farthest = -jax.lax.top_k(-distance, fitted.k)[0][-1]
    nearer, level = distance < farthest, distance == farthest
    left = (fitted.k - jnp.sum(nearer)) * jnp.sum(level & fitted.adversarial)  # votes left times voters there: whole, divided last
    return (jnp.sum(nearer & fitted.adversarial).astype(float) + left / jnp.sum(level)) / fitted.k
