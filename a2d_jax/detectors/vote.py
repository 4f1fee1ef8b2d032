"""k of n: one Z-score detector per attack; benign if at least k of the n say benign.

k = n catches most, k = 1 raises the fewest false alarms. Source: Zhao et al., "Attack as Defense", ISSTA 2021, section 4.2.
"""

from dataclasses import dataclass, field

import jax
import numpy as np
from numpy.typing import ArrayLike

from a2d_jax.detectors.base import Scores, Verdicts, read_costs
from a2d_jax.detectors.zscore import FittedReleased, FittedZScore, ZScore
from a2d_jax.errors import BadInput, require
from a2d_jax.types import STATIC


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Vote:
    """Settings of the k-of-n detector; reads n attacks and needs benign costs only.

    Attributes:
      k: benign voices that make an image benign; the paper uses 2 (of 4).
      member: settings of every single detector.
    """

    k: int = field(default=2, metadata=STATIC)
    member: ZScore = field(default_factory=ZScore)

    def __post_init__(self) -> None:
        require(self.k >= 1, "k of at least 1", self.k, "the paper uses 2")

    def fit(self, benign: ArrayLike, adversarial: ArrayLike | None = None) -> "FittedVote":
        """Fit one member per column; `adversarial` is not looked at.

        Raises:
          BadInput: fewer than k attacks, or what a member refuses.
        """
        costs = read_costs(benign, role="benign costs")
        if costs.shape[1] < self.k:
            raise BadInput(f"expected costs of at least k = {self.k} attacks, got {costs.shape[1]}; give more attacks or a smaller k")
        return FittedVote(tuple(self.member.fit(column) for column in costs.T), self.k)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FittedVote:
    """The fitted members, one per attack, in the order of the columns.

    Attributes:
      members: single detectors.
      k: benign voices that make an image benign.
    """

    members: tuple[FittedZScore | FittedReleased, ...]
    k: int = field(metadata=STATIC)

    @property
    def attacks(self) -> int:
        """One per member."""
        return len(self.members)

    @property
    def threshold(self) -> float:
        """0: scores are relative to the members' own thresholds."""
        return 0.0

    def score(self, costs: ArrayLike) -> Scores:
        """The k-th smallest excess of a member's score over its threshold: above 0 iff fewer than k members say benign."""
        table = read_costs(costs, self.attacks)
        excess = [member.score(column) - member.threshold for member, column in zip(self.members, table.T, strict=True)]
        return np.sort(np.stack(excess, axis=1), axis=1)[:, self.k - 1]

    def predict(self, costs: ArrayLike) -> Verdicts:
        """Fewer than k members say benign."""
        return self.score(costs) > self.threshold
