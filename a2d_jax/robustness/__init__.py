"""Robustness scores of inputs that need no attack. Files here import only from the lowest layer of the package."""

from a2d_jax.robustness.clever import Clever, CleverScores, clever_scores, mean_interval

__all__ = ["Clever", "CleverScores", "clever_scores", "mean_interval"]
