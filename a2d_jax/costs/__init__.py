"""From images to verdicts: images and a classifier become examples, attacks give their costs, a detector judges the costs.

All callers measure costs with one function, `measure`, which takes a set that may be larger than memory. `costs` and `Defense` call it
with arrays, the commands with files.
"""

from a2d_jax.costs.defense import Arrays, Defense, FittedDefense, Verdicts, costs
from a2d_jax.costs.inputs import examples, fingerprints, predictions
from a2d_jax.costs.judging import Judged, bounded, judge_images
from a2d_jax.costs.measuring import Measured, Predicted, measure, predicted
from a2d_jax.costs.notes import Seen
from a2d_jax.costs.stored import read_defense
from a2d_jax.inputs import class_count

__all__ = [
    "Arrays",
    "Defense",
    "FittedDefense",
    "Judged",
    "Measured",
    "Predicted",
    "Seen",
    "Verdicts",
    "bounded",
    "class_count",
    "costs",
    "examples",
    "fingerprints",
    "judge_images",
    "measure",
    "predicted",
    "predictions",
    "read_defense",
]
