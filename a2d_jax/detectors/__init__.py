"""Detectors: they read tables of numbers, such as costs of attacks, and give scores and verdicts. They know no attack, image or name."""

from a2d_jax.detectors.base import Detector, Fitted, FittedDetector, whole_detector
from a2d_jax.detectors.conformal import Conformal, FittedConformal
from a2d_jax.detectors.knn import KNN, FittedKNN
from a2d_jax.detectors.learned import SVM, FittedSVM, FittedTrees, Forest, Tree
from a2d_jax.detectors.registry import by_name, maker
from a2d_jax.detectors.shift import Shift, shift
from a2d_jax.detectors.storage import from_params, to_params
from a2d_jax.detectors.vote import FittedVote, Vote
from a2d_jax.detectors.zscore import FittedReleased, FittedZScore, ZScore

__all__ = [
    "KNN",
    "SVM",
    "Conformal",
    "Detector",
    "Fitted",
    "FittedConformal",
    "FittedDetector",
    "FittedKNN",
    "FittedReleased",
    "FittedSVM",
    "FittedTrees",
    "FittedVote",
    "FittedZScore",
    "Forest",
    "Shift",
    "Tree",
    "Vote",
    "ZScore",
    "by_name",
    "from_params",
    "maker",
    "shift",
    "to_params",
    "whole_detector",
]
