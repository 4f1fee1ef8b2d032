"""Contestants in their own processes. They receive requests as lines of JSON and run in turn, one at a time."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import jax
import numpy as np

from experiments.speed.contestants import CONTESTANTS, PRECISION, Counted, Variant
from experiments.speed.works import Work, read, save

WARM_UP = 3  # updates: enough to compile everything
HOPELESS = 3  # a variant that warms up so many times slower than the best so far is not tried
TRIAL = 100  # updates at most when variants are tried: enough to tell them apart, a third of what the work takes


class Run(NamedTuple):
    """One timed run of a variant."""

    variant: str
    seconds: float
    cpu_seconds: float  # of all threads
    counted: Counted

    @property
    def pace(self) -> float:
        """Seconds per step."""
        return self.seconds / self.counted.steps


class Measured(NamedTuple):
    """All that was measured of a contestant."""

    warm_up: float  # seconds from the start of its process to its first result of its best variant
    tried: list[Run]  # every variant that is not hopeless, once, with the budget of a trial
    runs: list[Run]  # the best variant, in turn with the other contestants


def measure(names: Sequence[str], work: Work, repeats: int, quick: bool, say: Any) -> dict[str, Measured]:
    """Let contestants do a work: all their variants once on a small budget, then the best one of each `repeats` times, taking turns."""
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "work.npz"
        save(work, path)
        processes = {name: stack.enter_context(Process(name, path, quick)) for name in names}
        tried, warm_up, best = {}, {}, {}
        for name, process in processes.items():
            process.start()
            first = process.ask("variants")
            tried[name], seconds = [], {}
            for variant in first["variants"]:
                seconds[variant] = process.ask("warm", variant)["seconds"]
                warm = read_run(process.ask("warm", variant))
                if tried[name] and warm.pace > HOPELESS * min(run.pace for run in tried[name]):
                    say(f"{CONTESTANTS[name].title}, {variant}: {warm.pace * 1e6:.0f} us per step, left out")
                    continue
                tried[name].append(read_run(process.ask("try", variant)))
                say(f"{CONTESTANTS[name].title}, {variant}: {tried[name][-1].pace * 1e6:.0f} us per step")
            best[name] = min(tried[name], key=lambda run: run.pace).variant
            warm_up[name] = first["seconds"] + seconds[best[name]]
        runs: dict[str, list[Run]] = {name: [] for name in names}
        for number in range(repeats):
            for name, process in processes.items():
                runs[name].append(read_run(process.ask("run", best[name])))
                say(f"round {number + 1} of {repeats}, {CONTESTANTS[name].title}: {runs[name][-1].seconds:.2f} s")
    return {name: Measured(warm_up[name], tried[name], runs[name]) for name in names}


def on_this_device() -> dict[str, str]:
    """What a process needs in its environment to share an accelerator, and to multiply float32 there as it stands unless told otherwise."""
    if jax.default_backend() == "cpu":
        return {}
    return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", PRECISION: os.environ.get(PRECISION, "highest")}


class Process:
    """A contestant behind a pair of pipes. It starts when told, so that no two prepare at once."""

    def __init__(self, name: str, work: Path, quick: bool) -> None:
        self._name, self._arguments = name, [name, str(work), str(int(quick))]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Process":
        return self

    def start(self) -> None:
        """Start it."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments.speed.processes", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | on_this_device() | dict(CONTESTANTS[self._name].environment),
        )

    def ask(self, *question: str) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        assert self._process is not None, "start it first"
        questions, answers = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        questions.write(json.dumps(question) + "\n")
        questions.flush()
        answer = answers.readline()
        if not answer:
            raise RuntimeError(f"the process of {self._name} ended; its last words are above")
        return json.loads(answer)

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.communicate()  # closes its input, which ends it


def read_run(answer: dict[str, Any]) -> Run:
    """A run as the other end told it."""
    counted = answer["counted"] | {"costs": np.array(answer["counted"]["costs"])}
    return Run(answer["variant"], answer["seconds"], answer["cpu_seconds"], Counted(**counted))


def serve(questions: Iterable[str], answers: IO[str], name: str, path: str, quick: str) -> None:
    """The other end: answer lines of JSON by lines of JSON until there are no more."""
    begin = time.perf_counter()
    work = read(Path(path))
    variants = CONTESTANTS[name].prepare(work, quick == "1")
    most = int(work.attack.max_steps)
    for line in questions:
        match json.loads(line):
            case ["variants"]:
                answer: dict[str, Any] = {"variants": list(variants), "seconds": time.perf_counter() - begin}
            case ["warm", variant]:
                answer = _timed(variant, variants[variant], WARM_UP)
            case ["try", variant]:
                answer = _timed(variant, variants[variant], min(TRIAL, most))
            case ["run", variant]:
                answer = _timed(variant, variants[variant], most)
        print(json.dumps(answer), file=answers, flush=True)


def _timed(name: str, variant: Variant, max_steps: int) -> dict[str, Any]:
    cpu, begin = time.process_time(), time.perf_counter()
    counted = variant(max_steps)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {"variant": name, "seconds": seconds, "cpu_seconds": cpu, "counted": vars(counted) | {"costs": counted.costs.tolist()}}


if __name__ == "__main__":
    to_parent, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    serve(sys.stdin, to_parent, *sys.argv[1:])
