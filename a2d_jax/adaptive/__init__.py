"""The attacker who knows the detector: the cost of an attack as a differentiable function."""

from a2d_jax.adaptive.evolution import Evolution
from a2d_jax.adaptive.smooth_cost import Implicit, Linearised, SmoothCost, Survival

__all__ = ["Evolution", "Implicit", "Linearised", "SmoothCost", "Survival"]
