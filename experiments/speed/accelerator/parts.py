"""The parts by name, each run in a process of its own: python -m experiments.speed.accelerator.parts JOB."""

import json
import sys
from collections.abc import Callable

from experiments.speed.accelerator.fast import fast
from experiments.speed.accelerator.job import Job
from experiments.speed.accelerator.lanes import lanes, training
from experiments.speed.accelerator.right import machine, right
from experiments.speed.accelerator.where import where

PARTS: dict[str, Callable[[Job], None]] = {
    "machine": machine,
    "right": right,
    "fast": fast,
    "where": where,
    "lanes": lanes,
    "training": training,
}

if __name__ == "__main__":
    job = Job(**json.loads(sys.argv[1]))
    PARTS[job.part](job)
