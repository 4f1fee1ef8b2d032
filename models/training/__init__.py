"""Training: recipes, the loop as pure functions of a state, and the command (`python -m models.train`)."""

from models.training.loop import Batch, State, Trainer, augment, fit, make_module, prepare, trained
from models.training.reading import good, shuffled, whole
from models.training.recipes import PGD_SETTINGS, RECIPES, Recipe, climbing

__all__ = [
    "PGD_SETTINGS",
    "RECIPES",
    "Batch",
    "Recipe",
    "State",
    "Trainer",
    "augment",
    "climbing",
    "fit",
    "good",
    "make_module",
    "prepare",
    "shuffled",
    "trained",
    "whole",
]
