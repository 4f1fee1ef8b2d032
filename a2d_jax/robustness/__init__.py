"""Robustness scores of inputs that need no attack. Knows the ground floor only."""

from a2d_jax.robustness.clever import Clever, CleverScores, clever_scores, mean_interval

__all__ = ["Clever", "CleverScores", "clever_scores", "mean_interval"]
