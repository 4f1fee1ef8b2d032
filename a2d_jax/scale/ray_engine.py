"""The engine of many machines: actors of Ray open the job again and do groups of parts, scheduled by Ray Data.

Numbers of parts and paths travel, never pixels. The run folder knows what is done, so the engine survives what Ray does not: when machines
or processes die, it starts again over what is missing.

Source: Ray Data, `map_batches` over an actor pool (docs.ray.io). By default Ray retries a crash for ever and draws its own progress bars;
both are bounded here.
"""

import json
import logging
import os
import queue
import re
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

from a2d_jax import console
from a2d_jax.console import Report
from a2d_jax.costs.measuring import NothingUsable
from a2d_jax.errors import BadInput
from a2d_jax.imports import one_line
from a2d_jax.scale.runs import Run
from a2d_jax.scale.worker import BROKEN, REFUSED, Worker

GROUPS = 4
"""Groups of parts for each actor: more balance better at the end, fewer let lanes drain less often."""
ATTEMPTS = 3
"""Starts of the engine without a single unit done, after which it gives up."""
RETRIES = 1
"""How often Ray itself restarts an actor, and repeats a group, within one start."""
LOCAL_CPUS = 4
"""CPUs that a cluster of one machine claims at least: with two, Ray's own tasks can wait for those of actors for ever."""
STORE = 100 << 20
"""Bytes of the object store of a cluster of one machine: only numbers of parts pass through it."""
VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray would report to its makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray warns unless it is told
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # what dies is told in one line
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread that Ray left behind would start another cluster
}
"""What Ray reads when it starts."""
PATIENCE = 10.0
"""Seconds that a cluster may take to answer."""
TRIES = 3
"""How often Ray asks a cluster that has answered; it takes some seconds each time."""
POLL = 1.0
"""Seconds between two looks at the run folder, for the progress."""


@dataclass(frozen=True)
class Machine:
    """What a machine of the cluster offers."""

    cpus: int
    gpus: float


@dataclass(frozen=True)
class Pool:
    """The actors of a start.

    Attributes:
      actors: how many.
      cpus: cores that each reserves.
      gpus: GPUs that each reserves.
      devices: CPU devices that each computes on; None for one for each core.
    """

    actors: int
    cpus: int
    gpus: float
    devices: int | None


@dataclass(frozen=True)
class RayEngine:
    """See `a2d_jax.scale.engines.Engine`.

    Attributes:
      address: of a cluster: auto, or HOST:PORT; None starts a cluster of this machine alone.
      actors: processes that work at the same time; default one for each GPU, or for each machine if there are none.
      cpus: cores that each reserves; default by the number of actors on a machine.
      gpus: GPUs that each reserves; default 1 if the cluster has any.

    Raises:
      BadInput: Ray is not installed, or a number is too small.
    """

    address: str | None = None
    actors: int | None = None
    cpus: int | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        if find_spec("ray") is None:
            raise BadInput("expected Ray for --engine ray, got none installed; pip install 'a2d-jax[ray]'")
        if self.address not in (None, "auto") and not re.fullmatch(r"[^:/]+:\d{1,5}", self.address):
            raise BadInput(f"expected an address such as auto or HOST:PORT, got {self.address}; `ray status` shows that of a cluster")
        for flag, number, least in (("--actors", self.actors, 1), ("--actor-cpus", self.cpus, 1), ("--actor-gpus", self.gpus, 0)):
            if number is not None and number < least:
                raise BadInput(f"expected {flag} of at least {least}, got {number}; leave it out to take the default")

    def __call__(
        self, run: Run, do: Callable[[Run], None], elsewhere: Callable[[], Callable[[Sequence[int]], None]], report: Report
    ) -> None:
        """Do the work.

        Raises:
          BadInput: no such cluster; no machine has what an actor reserves; what the job raises on a machine; or the engine failed
            too often.
        """
        for name, value in VARIABLES.items():
            os.environ.setdefault(name, value)
        progress, fruitless = _Progress(run, report), 0
        while before := progress.left:
            with _listening() as heard, _cluster(self.address):
                why = self._start(run, elsewhere, progress, heard)
            left = progress.look()
            fruitless = 0 if left < before else fruitless + 1
            if fruitless == ATTEMPTS:
                raise BadInput(
                    f"expected the machines to finish the job, got {why} at {ATTEMPTS} starts without a unit done, and {left} units are "
                    "missing; the same command goes on"
                )
            if left:
                console.note(f"Ray failed ({why}); it starts again over the {left} units that are missing")

    def _start(self, run: Run, elsewhere: Callable[..., Any], progress: "_Progress", heard: Sequence[str]) -> str:
        """Do what is missing, once.

        Returns:
          Why it is not all there, if so.
        """
        pool = self.pool(_machines(), 1 if self.address else 0)
        parts = sorted({part for name in run.kinds for part in run.missing(name)})
        for end in _ends(_chunks(parts, pool.actors * GROUPS), elsewhere, pool, progress.look):
            if isinstance(end, Exception):
                return one_line(end)
            if end["end"] == REFUSED:
                kinds: dict[str, type[Exception]] = {"NothingUsable": NothingUsable, "OSError": OSError}
                raise kinds.get(end["kind"], BadInput)(end["why"])
            if end["end"] == BROKEN:
                raise RuntimeError(f"an actor of Ray ended by an error of the program:\n{end['why']}")
        return heard[-1] if heard else "units that are done do not appear in the folder"

    def pool(self, machines: Sequence[Machine], spread: int = 1) -> Pool:
        """The actors for some machines.

        Args:
          machines: that are alive.
          spread: 0 for a cluster of this machine alone, which claims more cores than there may be.

        Raises:
          BadInput: no machine has what an actor reserves.
        """
        gpus = self.gpus if self.gpus is not None else float(any(machine.gpus >= 1 for machine in machines))
        able = [machine for machine in machines if machine.cpus >= (self.cpus or 1) and machine.gpus >= gpus]
        if not able:
            most = max(machines, key=lambda machine: (machine.gpus, machine.cpus), default=Machine(0, 0))
            raise BadInput(
                f"expected a machine with {self.cpus or 1} CPUs and {gpus:g} GPUs for an actor, got at most {most.cpus} and {most.gpus:g}; "
                "lower --actor-cpus or --actor-gpus"
            )
        actors = self.actors or (sum(int(machine.gpus / gpus) for machine in able) if gpus else len(able))
        each = -(-actors // len(able))
        fewest = min(machine.cpus for machine in able)
        # so many that a machine takes no more than its actors
        cpus = self.cpus or (1 if gpus else max(1, min(fewest // (each + 1) + 1, fewest // each)))
        room = sum(min(machine.cpus // cpus, int(machine.gpus / gpus) if gpus else machine.cpus) for machine in able)
        cores = fewest if spread else os.cpu_count() or 1
        return Pool(min(actors, room), cpus, gpus, self.cpus or (None if each == 1 else max(1, cores // each)))


class _Progress:
    """What the run folder shows, while others work on it."""

    def __init__(self, run: Run, report: Report) -> None:
        self._run, self._report = run, report
        self._wanted = {name: run.missing(name) for name in run.kinds}
        self.left = sum(map(len, self._wanted.values()))

    def look(self) -> int:
        """Report what is done by now, and return the number of units that are not."""
        missing = {name: self._run.missing(name) if wanted else [] for name, wanted in self._wanted.items()}
        for name, wanted in self._wanted.items():
            if wanted:
                total = self._run.cut.length(wanted)
                self._report(name, total - self._run.cut.length(missing[name]), total)
        self.left = sum(map(len, missing.values()))
        return self.left


def _chunks(parts: Sequence[int], count: int) -> list[list[int]]:
    """Neighbouring parts together, in at most `count` groups."""
    size = -(-len(parts) // count)
    return [list(parts[begin : begin + size]) for begin in range(0, len(parts), size)]


def _machines() -> list[Machine]:
    import ray

    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Machine(int(one.get("CPU", 0)), float(one.get("GPU", 0))) for one in found]


@contextmanager
def _cluster(address: str | None) -> Generator[None]:
    """A connection to the cluster. A program that has connected to one already keeps its own."""
    import ray

    if ray.is_initialized():
        yield
        return
    how: dict[str, Any] = {"address": address, "ignore_reinit_error": True}
    if address is None:
        cpus = max(LOCAL_CPUS, os.cpu_count() or 1)
        how = {
            "address": "local",
            "num_cpus": cpus,
            "include_dashboard": False,
            "object_store_memory": STORE,
            "_node_ip_address": "127.0.0.1",
        }
    try:
        with _own_signals(), _mute():
            try:
                _answers(address)
                ray.init(**how, log_to_driver=False, logging_level=logging.CRITICAL)
            except (ConnectionError, ValueError, RuntimeError, AssertionError, OSError) as error:
                where = f"a Ray cluster at {address}" if address else "Ray to start on this machine"
                raise BadInput(f"expected {where}, got {one_line(error)}; check --address, and that `ray status` works here") from error
        # Ray prints to stdout what dies, where a command promises JSON
        with patch("ray._private.worker.print_to_stdstream", lambda *args, **how: None):
            yield
    finally:
        ray.shutdown()


def _answers(address: str | None) -> None:
    """Raise an OSError if nobody listens there, where Ray would try for many minutes."""
    if address not in (None, "auto"):
        host, _, port = address.partition(":")
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", str(TRIES))


@contextmanager
def _mute() -> Generator[None]:
    """Nothing is written to stderr: Ray's core says that it read its log level, on every start."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _own_signals() -> Generator[None]:
    """Signals are heard as before: Ray replaces their handlers when it starts."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _listening() -> Generator[list[str]]:
    """Errors that Ray Data logs, a line each, instead of printing them."""
    heard: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info and record.exc_info[1]
            heard.append(one_line(error) if isinstance(error, Exception) else " ".join(record.getMessage().split()))

    import_module("ray.data")  # sets its handlers when it is first imported
    logger, listener = logging.getLogger("ray.data"), Listener(logging.ERROR)
    before = list(logger.handlers)
    logger.handlers = [one for one in before if not isinstance(one, logging.StreamHandler)] + [listener]
    try:
        yield heard
    finally:
        logger.handlers = before


def _ends(
    groups: Sequence[Sequence[int]], elsewhere: Callable[..., Any], pool: Pool, waiting: Callable[[], object]
) -> Iterator[dict[str, Any] | Exception]:
    """How each group ended, in any order. A failure of the engine is an exception, and the last one."""
    ends: queue.Queue[dict[str, Any] | Exception | None] = queue.Queue()
    data = _dataset(groups, elsewhere, pool)

    def consume() -> None:
        try:
            for end in data.iter_rows():
                ends.put(end)
        except Exception as error:
            ends.put(error)
        ends.put(None)

    threading.Thread(target=consume, daemon=True).start()  # the main thread hears signals
    while True:
        with suppress(queue.Empty):
            end = ends.get(timeout=POLL)
            if end is None:
                return
            yield end
        waiting()


def _dataset(groups: Sequence[Sequence[int]], elsewhere: Callable[..., Any], pool: Pool) -> Any:
    import ray.data

    variables = {}
    if pool.devices is not None:
        variables["JAX_NUM_CPU_DEVICES"] = str(pool.devices)
    if 0 < pool.gpus < 1:
        variables["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # JAX would take most of the memory that another actor needs too
    before = ray.data.DataContext.get_current()
    context = before.copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.max_errored_blocks = -1  # what a machine does not finish is done by the next start; the others go on
    ray.data.DataContext._set_current(context)  # pyright: ignore[reportPrivateUsage] (a data set keeps the context that it was made in)
    try:
        rows = ray.data.from_items([{"parts": json.dumps(group)} for group in groups], override_num_blocks=len(groups))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the only way to bound retries will go, in Ray 2.64
            return rows.map_batches(
                Worker,
                fn_constructor_args=(elsewhere,),
                batch_size=1,
                batch_format="numpy",
                compute=ray.data.ActorPoolStrategy(size=min(pool.actors, len(groups)), max_tasks_in_flight_per_actor=1),
                num_cpus=pool.cpus,
                num_gpus=pool.gpus,
                max_restarts=RETRIES,
                max_task_retries=RETRIES,
                runtime_env={"env_vars": variables},
            )
    finally:
        ray.data.DataContext._set_current(before)  # pyright: ignore[reportPrivateUsage]
