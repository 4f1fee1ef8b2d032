"""Support vector machine, decision tree and random forest on the vector of costs.

scikit-learn fits them. The fitted values are kept as plain arrays and evaluated by our own jitted code, so that a detector is stored
without pickle and judges without scikit-learn. Settings are scikit-learn's defaults, as in the paper: RBF kernel, C = 1, gamma = 1 /
(columns * variance); fully grown Gini trees, 100 of them in the forest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from a2d_jax.detectors.base import Detector, Fitted, Scores, read_both, read_table, rowwise
from a2d_jax.detectors.storage import from_fields
from a2d_jax.errors import require
from a2d_jax.types import STATIC


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SVM(Detector):
    """Settings of the support vector machine; needs benign and adversarial costs.

    Attributes:
      c: weight of training errors.
    """

    name = "svm"
    needs_adversarial = True

    c: float = field(default=1.0, metadata=STATIC)

    def fit(self, benign: ArrayLike, adversarial: ArrayLike | None = None, *, labels: ArrayLike | None = None) -> "FittedSVM":
        """Fit `sklearn.svm.SVC`. Raises `BadInput` without adversarial costs."""
        costs, labels = read_both(benign, adversarial)
        gamma = 1 / (costs.shape[1] * (float(costs.var()) or 1.0))
        model: Any = SVC(C=self.c, gamma=gamma).fit(costs, labels)
        return FittedSVM(model.support_vectors_, model.dual_coef_[0], float(model.intercept_[0]), gamma)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FittedSVM(Fitted):
    """sum_i weights_i exp(-gamma ||cost - support_i||^2) + intercept; adversarial iff above 0.

    Attributes:
      support: support vectors, `m columns`.
      weights: their signed dual coefficients.
      intercept: constant of the sum.
      gamma: inverse squared width of the kernel.
    """

    kind = "svm"

    support: Float[np.ndarray, "m columns"]
    weights: Float[np.ndarray, " m"]
    intercept: float
    gamma: float

    @property
    def columns(self) -> int:
        """Columns of the support vectors."""
        return self.support.shape[1]

    @property
    def threshold(self) -> float:
        """0: the separating surface, itself benign (scikit-learn counts a row exactly on it as adversarial)."""
        return 0.0

    def score(self, x: ArrayLike, *, labels: ArrayLike | None = None, index: ArrayLike | None = None) -> Scores:
        """Signed value of the decision function."""
        return _decision(self, read_table(x, self.columns))


@rowwise
def _decision(fitted: FittedSVM, query: Float[Array, " columns"]) -> Float[Array, ""]:
    return jnp.dot(fitted.weights, jnp.exp(-fitted.gamma * jnp.sum((fitted.support - query[None]) ** 2, axis=1))) + fitted.intercept


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tree(Detector):
    """Settings of the decision tree; needs benign and adversarial costs.

    Attributes:
      seed: decides between equally good splits.
    """

    name = "tree"
    needs_adversarial = True

    seed: int = field(default=0, metadata=STATIC)

    def fit(self, benign: ArrayLike, adversarial: ArrayLike | None = None, *, labels: ArrayLike | None = None) -> "FittedTrees":
        """Fit `sklearn.tree.DecisionTreeClassifier`. Raises `BadInput` without adversarial costs."""
        costs, labels = read_both(benign, adversarial)
        model: Any = DecisionTreeClassifier(random_state=self.seed).fit(costs, labels)
        return _read_trees([model.tree_], costs.shape[1])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Forest(Detector):
    """Settings of the random forest; needs benign and adversarial costs.

    Attributes:
      trees: trees that are averaged.
      seed: of the resampled training sets and the features tried at each split.
    """

    name = "forest"
    needs_adversarial = True

    trees: int = field(default=100, metadata=STATIC)
    seed: int = field(default=0, metadata=STATIC)

    def __post_init__(self) -> None:
        require(self.trees >= 1, "at least 1 tree", self.trees, "scikit-learn's default is 100")

    def fit(self, benign: ArrayLike, adversarial: ArrayLike | None = None, *, labels: ArrayLike | None = None) -> "FittedTrees":
        """Fit `sklearn.ensemble.RandomForestClassifier`. Raises `BadInput` without adversarial costs."""
        costs, labels = read_both(benign, adversarial)
        model: Any = RandomForestClassifier(self.trees, random_state=self.seed).fit(costs, labels)
        return _read_trees([tree.tree_ for tree in model.estimators_], costs.shape[1])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FittedTrees(Fitted):
    """One tree or many, padded to the same number of nodes; node 0 is the root.

    Attributes:
      feature: column that each node looks at, `trees nodes`.
      split: a row goes left iff its cost is at most this.
      left: child on the left; -1 at a leaf.
      right: child on the right; -1 at a leaf.
      share: share of adversarial training rows in each node.
      columns: of the table.
    """

    kind = "trees"

    feature: Int[np.ndarray, "trees nodes"]
    split: Float[np.ndarray, "trees nodes"]
    left: Int[np.ndarray, "trees nodes"]
    right: Int[np.ndarray, "trees nodes"]
    share: Float[np.ndarray, "trees nodes"]
    columns: int = field(metadata=STATIC)

    @property
    def threshold(self) -> float:
        """Half: an even split is benign."""
        return 0.5

    def score(self, x: ArrayLike, *, labels: ArrayLike | None = None, index: ArrayLike | None = None) -> Scores:
        """Share of adversarial training rows in the leaf reached, averaged over trees.

        Rounded to twelve digits: sums of thirds and sixths that should tie with the threshold then do, in whatever order they are added.
        """
        return np.round(_mean_share(self, read_table(x, self.columns)), 12)

    @classmethod
    def restore(cls, of: str, params: Mapping[str, Any], plugins: Sequence[str]) -> "FittedTrees":
        """From its fields; files of before this version call the columns `attacks`."""
        return from_fields(cls, {"columns" if name == "attacks" else name: value for name, value in params.items()})


def _read_trees(trees: Sequence[Any], columns: int) -> FittedTrees:
    nodes = max(tree.node_count for tree in trees)

    def padded(values: Sequence[np.ndarray], fill: float) -> np.ndarray:
        return np.stack([np.pad(value, (0, nodes - len(value)), constant_values=fill) for value in values])

    return FittedTrees(
        feature=padded([np.maximum(tree.feature, 0) for tree in trees], 0),  # leaves carry -2; they look at nothing
        split=padded([tree.threshold for tree in trees], 0),
        left=padded([tree.children_left for tree in trees], -1),
        right=padded([tree.children_right for tree in trees], -1),
        share=padded([tree.value[:, 0, 1] / tree.value[:, 0].sum(axis=1) for tree in trees], 0),
        columns=columns,
    )


@rowwise
def _mean_share(fitted: FittedTrees, query: Float[Array, " columns"]) -> Float[Array, ""]:
    trees = jax.tree.map(jnp.asarray, (fitted.feature, fitted.split, fitted.left, fitted.right, fitted.share))
    row = query.astype(jnp.float32).astype(float)  # as scikit-learn reads the rows it judges

    def leaf_share(tree: tuple[Array, ...]) -> Array:
        feature, split, left, right, share = tree

        def descend(node: Array) -> Array:
            return jnp.where(row[feature[node]] <= split[node], left[node], right[node])

        return share[jax.lax.while_loop(lambda node: left[node] >= 0, descend, jnp.zeros((), left.dtype))]

    return jnp.mean(jax.vmap(leaf_share)(trees))
