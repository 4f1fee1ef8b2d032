"""K-NN on the attack cost: adversarial if most of the k nearest training costs are.

Distances are Euclidean, on raw costs. With several attacks the features are not scaled (the paper's ensemble), so attacks with large costs
decide most. Costs are integers, and many of them tie. Points at the k-th distance share the remaining votes (decision note 0010), so that
the result does not depend on the order of the training set.

Source: Zhao et al., "Attack as Defense", ISSTA 2021, section 4.1. Differs: in the tie rule, which the paper leaves open.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy.spatial import KDTree

from a2d_jax.detectors.base import Detector, Fitted, Scores, read_both, read_table
from a2d_jax.detectors.storage import from_fields, rows_again, rows_once
from a2d_jax.errors import BadInput, require
from a2d_jax.measurements import same_rows
from a2d_jax.types import STATIC

_PIECE = 2**14  # rows judged at a time
_ROUNDING = 1e-12  # of the tree's own distances, as a share of them


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
        table = read_table(x, self.columns)
        _, first, which = np.unique(same_rows(*table.T), return_index=True, return_inverse=True)
        rows = table[first]
        pieces = [self._votes.share(rows[i : i + _PIECE], self.k) for i in range(0, len(rows), _PIECE)]
        return np.concatenate([np.empty(0), *pieces])[which]

    @functools.cached_property
    def _votes(self) -> "_Votes":
        costs = np.asarray(self.costs)
        _, first, which = np.unique(same_rows(*costs.T), return_index=True, return_inverse=True)
        rows = costs[first]
        voters = [np.bincount(which[of], minlength=len(rows)) for of in (slice(None), np.asarray(self.adversarial, bool))]
        return _Votes(KDTree(rows), rows, *voters)

    def store(self) -> tuple[str, dict[str, Any]]:
        """Training rows that are the same are stored once, with their number."""
        return "", rows_once({"costs": self.costs, "adversarial": self.adversarial}) | {"k": self.k}

    @classmethod
    def restore(cls, of: str, params: Mapping[str, Any], plugins: Sequence[str]) -> "FittedKNN":
        """Inverse of `store`, but for the order of the rows, which no vote depends on."""
        return from_fields(cls, rows_again(params, ("costs", "adversarial")))


class _Votes(NamedTuple):
    """The different training rows, each once, with the number of rows that are the same and of the adversarial ones among them."""

    tree: Any
    rows: Float[np.ndarray, "n columns"]
    same: Int[np.ndarray, " n"]
    adversarial: Int[np.ndarray, " n"]

    def share(self, query: Float[np.ndarray, "q columns"], k: int, near: int = 8) -> Scores:
        """Share of the k votes of each row; `near` different rows are looked at first, and more where these do not decide.

        Differences are squared as they are, not through a matrix product: squares of integer costs are exact, and so are ties.
        """
        near = min(near, len(self.rows))
        found = self.tree.query(query, k=np.arange(1, near + 1), workers=-1)[1]
        distance = ((self.rows[found] - query[:, None]) ** 2).sum(axis=2)
        order = np.argsort(distance, axis=1, kind="stable")
        found, distance = np.take_along_axis(found, order, 1), np.take_along_axis(distance, order, 1)
        same, adversarial = self.same[found], self.adversarial[found]
        enough = same.cumsum(axis=1) >= k
        farthest = np.take_along_axis(distance, enough.argmax(axis=1)[:, None], 1)
        nearer, level = distance < farthest, distance == farthest
        left = (k - (same * nearer).sum(axis=1)) * (adversarial * level).sum(axis=1)  # votes left times voters there: whole, divided last
        share = ((adversarial * nearer).sum(axis=1) + left / (same * level).sum(axis=1)) / k
        if near < len(self.rows):
            open_ = np.flatnonzero(~enough[:, -1] | (farthest[:, 0] >= distance[:, -1] * (1 - _ROUNDING)))  # others may lie as far
            if len(open_):
                share[open_] = self.share(query[open_], k, 4 * near)
        return share
