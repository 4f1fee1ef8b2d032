"""The cost from which a verdict is benign whatever follows, so that the attack may stop there.

Source: Zhao et al., "Attack as Defense", ISSTA 2021, section 4.3 (upper bound on the iterations).
"""

from collections.abc import Callable, Sequence

import numpy as np

from a2d_jax.detectors.base import FittedDetector, Verdicts
from a2d_jax.detectors.conformal import FittedConformal
from a2d_jax.detectors.vote import FittedVote
from a2d_jax.errors import BadInput


def bounds(fitted: FittedDetector, max_costs: Sequence[int]) -> tuple[int | None, ...]:
    """For each attack the smallest integer cost from which on every cost has the same verdict, benign.

    A cost c may then be replaced by min(c, bound) without changing a verdict. Found by asking for the verdict on every cost from 0 to
    the largest, which is exact for any detector of one attack, monotone or not. A vote asks its members, whose verdicts stay the same
    one by one. A conformal detector is asked for the jitter and the predicted class that suspect most, for both are unknown.

    Args:
      fitted: any fitted detector.
      max_costs: largest cost that each attack can have: max_steps + 1, that of an attack that failed.

    Returns:
      A bound for each attack, or None: the largest cost is itself suspicious (a two-sided detector), or the detector reads several
      attacks jointly.

    Raises:
      BadInput: not one largest cost for each attack.
    """
    if len(max_costs) != fitted.attacks:
        raise BadInput(f"expected {fitted.attacks} largest cost(s), got {len(max_costs)}; give one for each attack of the detector")
    if isinstance(fitted, FittedVote):
        return tuple(_bound(member.predict, most) for member, most in zip(fitted.members, max_costs, strict=True))
    if fitted.attacks > 1:
        return (None,) * fitted.attacks
    suspects = fitted.may_flag if isinstance(fitted, FittedConformal) else fitted.predict
    return (_bound(suspects, max_costs[0]),)


def _bound(suspects: Callable[[np.ndarray], Verdicts], max_cost: int) -> int | None:
    flagged = np.flatnonzero(suspects(np.arange(max_cost + 1)))
    bound = int(flagged[-1]) + 1 if len(flagged) else 0
    return bound if bound <= max_cost else None
