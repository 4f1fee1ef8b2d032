"""The jobs behind the commands: each reads, computes, writes, and returns a summary in a few numbers.

A job is a frozen spec (`a2d_jax.jobs.spec`) and a function that takes it, so that a script can call it as the command line does:
`jobs.cost(CostSpec(classifier=..., images=..., out=...))`. Outputs are refused before the work starts and appear complete at its end. A row
that cannot be used contains its error, and the other rows are done. If no row can be used, the whole job fails.

Jobs are loaded when they are first used, so that specs and help texts do not wait for JAX.
"""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from a2d_jax.console import Done, Report
from a2d_jax.jobs.spec import (
    AttackSpec,
    CleverSpec,
    ConvertSpec,
    CostSpec,
    DetectSpec,
    EvaluateSpec,
    FitSpec,
    InfoSpec,
    PartsSpec,
    PredictSpec,
    ReportSpec,
    ShiftSpec,
    Spec,
    StatusSpec,
)

if TYPE_CHECKING:
    from a2d_jax.jobs.about import info
    from a2d_jax.jobs.convert import convert
    from a2d_jax.jobs.detection import detect, evaluate, fit
    from a2d_jax.jobs.images import attack, cost, predict
    from a2d_jax.jobs.large import Job
    from a2d_jax.jobs.progress import status
    from a2d_jax.jobs.report import report
    from a2d_jax.jobs.robustness import clever
    from a2d_jax.jobs.shift import shift

__all__ = [
    "AttackSpec",
    "CleverSpec",
    "ConvertSpec",
    "CostSpec",
    "DetectSpec",
    "Done",
    "EvaluateSpec",
    "FitSpec",
    "InfoSpec",
    "PredictSpec",
    "Report",
    "ReportSpec",
    "ShiftSpec",
    "Spec",
    "StatusSpec",
    "attack",
    "clever",
    "convert",
    "cost",
    "detect",
    "evaluate",
    "fit",
    "info",
    "predict",
    "report",
    "run",
    "shift",
    "status",
]
_HOME = {
    "info": "about",
    "convert": "convert",
    **dict.fromkeys(("detect", "evaluate", "fit"), "detection"),
    **dict.fromkeys(("attack", "cost", "predict"), "images"),
    "clever": "robustness",
    "report": "report",
    "shift": "shift",
    "status": "progress",
}


def run(spec: Spec, report: Report) -> Done:
    """Do the job that a spec describes."""
    return _job(name_of(spec))(spec, report)


def prepared(spec: PartsSpec, report: Report) -> "Job":
    """The job in parts that a spec describes, ready to work."""
    return _job(name_of(spec)).prepare(spec, report)


def spec_of(name: str, values: Mapping[str, Any]) -> Any:
    """The spec of the job with this name, from what `as_json` gave."""
    return globals()[f"{name.capitalize()}Spec"].of_json(values)


def name_of(spec: Spec) -> str:
    """The name of the job that a spec describes."""
    return type(spec).__name__.removesuffix("Spec").lower()


def _job(name: str) -> Any:
    """The function of a job. It takes the place of a module of its name, which Python puts here when it is loaded."""
    found = globals()[name] = getattr(importlib.import_module(f"a2d_jax.jobs.{_HOME[name]}"), name)
    return found


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'a2d_jax.jobs' has no attribute {name!r}")
    return _job(name)
