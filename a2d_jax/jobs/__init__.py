"""What each command does: read, compute, write, and tell in a few numbers what came out.

Every job is a plain function of paths and settings, so that a script can call it as the command line does. Outputs are
refused before the work starts and appear whole at its end. A row that cannot be used carries its error and the rest is done; if
no row can be used, that is an error of the whole job.
"""

from a2d_jax.jobs.about import convert, info
from a2d_jax.jobs.common import Done, Report
from a2d_jax.jobs.detection import detect, evaluate, fit
from a2d_jax.jobs.images import attack, cost, predict
from a2d_jax.jobs.robustness import clever

__all__ = ["Done", "Report", "attack", "clever", "convert", "cost", "detect", "evaluate", "fit", "info", "predict"]
