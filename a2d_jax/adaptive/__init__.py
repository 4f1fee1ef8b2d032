"""The attacker who knows the detector: the cost as a differentiable function, a guarded classifier, audits of what attackers achieve."""

from a2d_jax.adaptive.ascent import CostAscent
from a2d_jax.adaptive.attackers import ATTACKERS, Attacker, confident, cost_ascent, margin_ascent
from a2d_jax.adaptive.audit import audit, operating_point
from a2d_jax.adaptive.audited import Audit, Curve, Point
from a2d_jax.adaptive.binarisation import binarisation, unaltered
from a2d_jax.adaptive.evolution import Evolution
from a2d_jax.adaptive.guarded import Evade, Guard, guarded, is_guarded
from a2d_jax.adaptive.indicators import (
    Finding,
    incomplete_optimisation,
    silent_success,
    swept,
    transfer_failure,
    twice_the_steps,
    unavailable_gradients,
    unconstrained_attack_failure,
    unstable_predictions,
    watch,
)
from a2d_jax.adaptive.measured import COSTS
from a2d_jax.adaptive.paper_loss import PaperLoss
from a2d_jax.adaptive.smooth_cost import Implicit, Linearised, SmoothCost, Survival
from a2d_jax.adaptive.starts import donors, transplanted

__all__ = [
    "ATTACKERS",
    "COSTS",
    "Attacker",
    "Audit",
    "CostAscent",
    "Curve",
    "Evade",
    "Evolution",
    "Finding",
    "Guard",
    "Implicit",
    "Linearised",
    "PaperLoss",
    "Point",
    "SmoothCost",
    "Survival",
    "audit",
    "binarisation",
    "confident",
    "cost_ascent",
    "donors",
    "guarded",
    "incomplete_optimisation",
    "is_guarded",
    "margin_ascent",
    "operating_point",
    "silent_success",
    "swept",
    "transfer_failure",
    "transplanted",
    "twice_the_steps",
    "unaltered",
    "unavailable_gradients",
    "unconstrained_attack_failure",
    "unstable_predictions",
    "watch",
]
