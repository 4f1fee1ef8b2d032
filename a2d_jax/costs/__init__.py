"""From images to verdicts: images and a classifier become examples, attacks give their costs, a detector judges the costs.

All callers measure with one function, `work`, which does what a ledger is missing. `costs` and `Defense` keep their units in memory, the
commands in a run folder.
"""

from a2d_jax.costs.defense import Arrays, Defense, FittedDefense, Verdicts, costs
from a2d_jax.costs.groups import in_groups
from a2d_jax.costs.inputs import examples, fingerprints, predictions
from a2d_jax.costs.judging import Judged, bounded, judge_images, judged, stopped, stops_of
from a2d_jax.costs.measured import Measured, Told, measure, measured, nothing, told
from a2d_jax.costs.measuring import CHANGED, NOT_FINITE, ImageSet, NothingUsable, Plan, planned, predict, work
from a2d_jax.costs.notes import Seen
from a2d_jax.costs.stored import read_defense
from a2d_jax.costs.units import PREDICT, Ledger, Memory, Unit, joined
from a2d_jax.inputs import class_count
from a2d_jax.io.parts import Cut

__all__ = [
    "CHANGED",
    "NOT_FINITE",
    "PREDICT",
    "Arrays",
    "Cut",
    "Defense",
    "FittedDefense",
    "ImageSet",
    "Judged",
    "Ledger",
    "Measured",
    "Memory",
    "NothingUsable",
    "Plan",
    "Seen",
    "Told",
    "Unit",
    "Verdicts",
    "bounded",
    "class_count",
    "costs",
    "examples",
    "fingerprints",
    "in_groups",
    "joined",
    "judge_images",
    "judged",
    "measure",
    "measured",
    "nothing",
    "planned",
    "predict",
    "predictions",
    "read_defense",
    "stopped",
    "stops_of",
    "told",
    "work",
]
