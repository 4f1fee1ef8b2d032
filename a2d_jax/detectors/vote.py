"""k of n: one Z-score detector per column; benign if at least k of the n say benign.

k = n catches the most attacks, k = 1 gives the fewest false alarms. Source: Zhao et al., "Attack as Defense", ISSTA 2021, section 4.2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from a2d_jax.detectors.base import Bounds, Detector, Fitted, FittedDetector, Radii, Scores, check_max_costs, read_table
from a2d_jax.detectors.storage import from_params, to_params
from a2d_jax.detectors.zscore import ZScore
from a2d_jax.errors import BadInput, require
from a2d_jax.types import STATIC


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Vote(Detector):
    """Settings of the k-of-n detector; reads n columns and needs benign costs only.

    Attributes:
      k: number of benign votes that make an image benign; the paper uses 2 (of 4).
      member: settings of each member.
    """

    name = "vote"

    k: int = field(default=2, metadata=STATIC)
    member: ZScore = field(default_factory=ZScore)

    def __post_init__(self) -> None:
        require(self.k >= 1, "k of at least 1", self.k, "the paper uses 2")

    @classmethod
    def with_settings(
        cls, k: int = 2, h: float = ZScore.h, normality: float = ZScore.normality, as_released: bool = ZScore.as_released
    ) -> "Vote":
        """A vote of Z-scores with these settings."""
        return cls(k, ZScore(h, normality, as_released))

    def fit(self, benign: ArrayLike, adversarial: ArrayLike | None = None, *, labels: ArrayLike | None = None) -> "FittedVote":
        """Fit one member per column; `adversarial` and `labels` are not looked at.

        Raises:
          BadInput: fewer than k columns, or what a member refuses.
        """
        costs = read_table(benign, role="benign costs")
        if costs.shape[1] < self.k:
            raise BadInput(f"expected costs of at least k = {self.k} columns, got {costs.shape[1]}; give more columns or a smaller k")
        return FittedVote(tuple(self.member.fit(column) for column in costs.T), self.k)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FittedVote(Fitted):
    """The fitted members, one per column, in their order.

    Attributes:
      members: single detectors, all of one kind.
      k: benign voices that make an image benign.
    """

    kind = "vote-of-"

    members: tuple[FittedDetector, ...]
    k: int = field(metadata=STATIC)

    @property
    def columns(self) -> int:
        """One per member."""
        return len(self.members)

    @property
    def threshold(self) -> float:
        """0: scores are relative to the members' own thresholds."""
        return 0.0

    def score(self, x: ArrayLike, *, labels: ArrayLike | None = None, index: ArrayLike | None = None) -> Scores:
        """The k-th smallest excess of a member's score over its threshold: above 0 iff fewer than k members say benign."""
        columns = zip(self.members, read_table(x, self.columns).T, strict=True)
        excess = [member.score(column, labels=labels, index=index) - member.threshold for member, column in columns]
        return np.sort(np.stack(excess, axis=1), axis=1)[:, self.k - 1]

    def bounds(self, max_costs: Sequence[int | None]) -> Bounds:
        """Those of the members, whose verdicts stay the same one by one."""
        check_max_costs(max_costs, self.columns)
        return tuple(bound for member, most in zip(self.members, max_costs, strict=True) for bound in member.bounds([most]))

    def radii(self, farthest: Sequence[float | None]) -> Radii:
        """Those of the members."""
        check_max_costs(farthest, self.columns)
        return tuple(radius for member, most in zip(self.members, farthest, strict=True) for radius in member.radii([most]))

    def store(self) -> tuple[str, dict[str, Any]]:
        """The kind of the members; each of their parameters as an array, one entry per member, beside the vote's own k."""
        kinds, params = zip(*map(to_params, self.members), strict=True)
        require(len(set(kinds)) == 1, "members of one kind", ", ".join(kinds), "fit all members with the same settings")
        return kinds[0], {"k": self.k} | {name: np.array([member[name] for member in params]) for name in params[0]}

    @classmethod
    def restore(cls, of: str, params: Mapping[str, Any], plugins: Sequence[str]) -> "FittedVote":
        """Inverse of `store`."""
        columns = {name: np.asarray(column).tolist() for name, column in params.items() if name != "k"}
        lengths = {len(column) if np.ndim(column) else 0 for column in columns.values()}
        if "k" not in params or len(lengths) != 1 or 0 in lengths:
            raise BadInput(
                "expected k and one value for each member of a vote, got none or columns of different lengths; fit the detector again"
            )
        members = (from_params(of, {name: column[i] for name, column in columns.items()}, plugins) for i in range(lengths.pop()))
        return cls(tuple(members), int(params["k"]))
