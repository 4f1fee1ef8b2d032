"""Detectors: costs of attacks in, scores and verdicts out. They know no attack, no image and no name."""

from a2d_jax.detectors.base import Detector, FittedDetector
from a2d_jax.detectors.bounds import bounds
from a2d_jax.detectors.conformal import Conformal, FittedConformal
from a2d_jax.detectors.knn import KNN, FittedKNN
from a2d_jax.detectors.learned import SVM, FittedSVM, FittedTrees, Forest, Tree
from a2d_jax.detectors.storage import from_params, to_params
from a2d_jax.detectors.vote import FittedVote, Vote
from a2d_jax.detectors.zscore import FittedReleased, FittedZScore, ZScore

__all__ = [
    "KNN",
    "SVM",
    "Conformal",
    "Detector",
    "FittedConformal",
    "FittedDetector",
    "FittedKNN",
    "FittedReleased",
    "FittedSVM",
    "FittedTrees",
    "FittedVote",
    "FittedZScore",
    "Forest",
    "Tree",
    "Vote",
    "ZScore",
    "bounds",
    "from_params",
    "to_params",
]
