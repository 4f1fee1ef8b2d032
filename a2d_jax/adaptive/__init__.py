"""The attacker who knows the detector: the cost as a differentiable function, a guarded classifier, audits of what attackers achieve."""

from a2d_jax.adaptive.audit import Audit, Curve, Point, audit, operating_point
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
from a2d_jax.adaptive.smooth_cost import Implicit, Linearised, SmoothCost, Survival

__all__ = [
    "Audit",
    "Curve",
    "Evade",
    "Evolution",
    "Finding",
    "Guard",
    "Implicit",
    "Linearised",
    "Point",
    "SmoothCost",
    "Survival",
    "audit",
    "binarisation",
    "guarded",
    "incomplete_optimisation",
    "is_guarded",
    "operating_point",
    "silent_success",
    "swept",
    "transfer_failure",
    "twice_the_steps",
    "unaltered",
    "unavailable_gradients",
    "unconstrained_attack_failure",
    "unstable_predictions",
    "watch",
]
