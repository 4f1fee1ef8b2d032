"""How a job works in parts: it opens its run folder, does what is missing there, and puts the result together."""

import functools
import os
import secrets
import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from a2d_jax import process, supervision
from a2d_jax.console import Done, Report, silent
from a2d_jax.costs import PREDICT, Cut, NothingUsable, Plan, nothing
from a2d_jax.errors import BadInput
from a2d_jax.io.files import refuse_existing
from a2d_jax.io.parts import RECORDS
from a2d_jax.io.source import ImageSource
from a2d_jax.io.store import DISK, Appeared, store_of
from a2d_jax.io.tables import PREDICTED, table_writer, without
from a2d_jax.io.urls import Url
from a2d_jax.jobs.elsewhere import Elsewhere
from a2d_jax.jobs.progress import slowest
from a2d_jax.jobs.spec import Folder, PartsSpec
from a2d_jax.scale.engines import Engine, engine
from a2d_jax.scale.quarantine import forget, guarded
from a2d_jax.scale.runs import Kind, Run, open_run, part_size, run_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

IDENTITY = (
    *("classifier", "precision", "preset", "seed", "stretch", "target", "labels", "attacks", "norms", "bounds", "columns"),
    *("targets", "clever", "shape", "photographs", "background", "weights_sha256", "images_sha256", "detector_sha256"),
    *("counts", "versions"),
)
"""What a table records and on which its numbers depend: jobs that differ in it cannot share a folder."""

S = TypeVar("S", bound=PartsSpec)


@dataclass(frozen=True)
class Job:
    """A job that is ready to work in parts.

    Attributes:
      spec: its settings.
      plan: what it measures.
      source: its images.
      meta: what its result records; that part of it on which numbers depend identifies the job.
      kinds: its measurements.
      do: does what a run folder is missing of a plan.
      end: puts the result together when nothing is missing.
      size: images of a part; default by the size of the set.
      notes: choices made on the user's behalf.
    """

    spec: PartsSpec
    plan: Plan
    source: ImageSource
    meta: Mapping[str, Any]
    kinds: Mapping[str, Kind]
    do: Callable[[Plan, Run], None]
    end: Callable[[Run], Done]
    size: int | None = None
    notes: Sequence[str] = ()

    def work(self, run: Run) -> None:
        """Do what a run folder is missing. An image that would end the process is left out, if the folder is on a disk, which has locks."""
        source = guarded(self.source, run) if store_of(run.folder) is DISK else self.source
        self.do(replace(self.plan, source=source), run)


class in_parts(Generic[S]):
    """Make a job of a function that prepares one: the job does what is missing in its run folder and puts the result together.

    Attributes:
      prepare: the function. It may also do all by itself.
    """

    def __init__(self, prepare: Callable[[S, Report], Job | Done]) -> None:
        self.prepare = prepare
        functools.update_wrapper(self, prepare)

    def __call__(self, spec: S, report: Report = silent) -> Done:
        job = self.prepare(spec, report)
        if isinstance(job, Done):
            return job
        with opened(job) as run:
            engine_of(spec)(run, job.work, Elsewhere.of(spec), report)
            with finishing(spec, run) as complete:
                if complete:
                    done, work = job.end(run), work_of(run)
                    return replace(done, summary={**done.summary, **work})
            return unfinished(job, run)


def opened_again(job: Job) -> Run:
    """The run folder of a job that another process has begun.

    Raises:
      BadInput: this process does not see it, or has other weights, images or versions.
    """
    folder = folder_of(job.spec)
    if not store_of(folder).is_dir(folder / RECORDS):
        where = folder if isinstance(folder, Url) else folder.resolve()
        raise BadInput(
            f"expected the folder {where} on all machines, got none on {socket.gethostname()}; choose an --out that all machines see"
        )
    return _opened(replace(job, spec=replace(job.spec, restart=False)))


def refuse_output(spec: PartsSpec) -> None:
    """Refuse an output that cannot or must not be written, before the work.

    Raises:
      BadInput: as `refuse_existing`; or a share, a number of images in a part, or an engine that is none.
    """
    share_of(spec)
    engine_of(spec)
    if spec.part is not None and spec.part < 1:
        raise BadInput(f"expected at least 1 image in a part, got {spec.part}; leave it out to take the default")
    if not is_folder(spec):
        refuse_existing(spec.out, spec.force, "--force", inputs=spec.inputs())
    elif not (isinstance(spec.out, Url) or spec.out.is_dir()):
        refuse_existing(spec.out, False, "--force", inputs=spec.inputs(), card=RECORDS)


def folder_of(spec: PartsSpec) -> Path:
    """The run folder of a job."""
    return spec.out if is_folder(spec) else run_folder(spec.out)


def is_folder(spec: PartsSpec) -> bool:
    """Whether the result is a folder of parts: its name ends with a slash, or such a folder is there."""
    return isinstance(spec.out, Folder) or store_of(spec.out).is_dir(spec.out / RECORDS)


def share_of(spec: PartsSpec) -> tuple[int, int]:
    """The share that a process does, and how many there are.

    Raises:
      BadInput: no such share.
    """
    if spec.share is None:
        return 1, 1
    k, _, n = spec.share.partition("/")
    if not (k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise BadInput(f"expected a share such as 3/16, the third of sixteen, got {spec.share}; count from 1")
    return int(k), int(n)


def engine_of(spec: PartsSpec) -> Engine:
    """The engine that does a job.

    Raises:
      BadInput: no such engine, or settings that it does not have.
    """
    return engine(spec.engine, address=spec.address, actors=spec.actors, cpus=spec.actor_cpus, gpus=spec.actor_gpus)


@contextmanager
def opened(job: Job) -> Generator[Run]:
    """The run folder of a job, for as long as the job works.

    If the block fails before anything is done, or because no image can be used, the folder is removed.

    Raises:
      BadInput: the folder of another job.
    """
    anew = not supervision.goes_on()
    run = _opened(job if anew else replace(job, spec=replace(job.spec, restart=False)))
    process.unfinished.add(run.folder)
    if job.spec.retry_failed and anew:
        _retry(run)
    supervision.begun()
    try:
        yield run
    except NothingUsable:
        run.remove()
        raise
    except BaseException:
        run.remove_empty()
        raise
    finally:
        with suppress(BadInput):  # a store that is away
            if not run.there or not run.left:
                process.unfinished.discard(run.folder)


def _opened(job: Job) -> Run:
    spec, source = job.spec, job.source
    identity = {name: job.meta[name] for name in IDENTITY if name in job.meta}
    cut = Cut(len(source), spec.part or job.size or part_size(len(source), source.piece_size))
    facts = {"job": spec.as_json(), "result": str(spec.out)}
    run = open_run(folder_of(spec), identity, cut, job.kinds, restart=spec.restart, job=facts)
    k, n = share_of(spec)
    if n == 1:
        return run
    parts = run.cut.parts
    if source.fetching is None:
        return replace(run, only=parts[k - 1 :: n])
    return replace(run, only=parts[len(parts) * (k - 1) // n : len(parts) * k // n])  # neighbours share files, which are fetched once


def _retry(run: Run) -> None:
    """Discard the parts in which an image has an error."""
    done = {name: run.done(name) for name in run.kinds}
    for part in run.own:
        images = run.cut.length([part])
        if any(part in there and run.facts(name, part)["good"] < images for name, there in done.items()):
            run.discard(part)
            forget(run, part)


def predictions(plan: Plan, **how: Any) -> dict[str, Kind]:
    """How the predictions of a job are kept."""
    absent = ([] if plan.source.labels else ["truth"]) + ([] if plan.target is not None else ["target"])
    return {PREDICT: Kind(without(PREDICTED, *absent), **how)}


@contextmanager
def finishing(spec: PartsSpec, run: Run) -> Generator[bool]:
    """One process at a time puts a result together; the parts of a result that is a file are removed afterwards.

    Yields:
      Whether there is anything to do: not if units are missing, or if another process has written the file meanwhile.
    """
    with _locked(run):
        there = not run.left
        as_file = there and not is_folder(spec)
        with _announced(spec, run) if as_file and isinstance(run.folder, Url) else nullcontext():
            yield there
            if as_file:
                run.remove()


@contextmanager
def _announced(spec: PartsSpec, run: Run) -> Generator[None]:
    """Several processes may put a result together in a store, which has no locks: the first one that is done has done it for all."""
    mine = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    folder, store = run.folder / RECORDS / "finishing", store_of(run.folder)
    store.create(folder / mine, b"")
    try:
        yield
    except BadInput as error:
        overtaken = not run.there or set(store.names(folder)) != {mine}
        if not (overtaken and store.is_file(spec.out)):
            store.remove(folder / mine)
            raise
        if isinstance(error, Appeared):
            store.remove(error.kept)
        run.remove()


@contextmanager
def _locked(run: Run) -> Generator[None]:
    try:
        lock = os.open(run.folder / RECORDS, os.O_RDONLY)
    except OSError:  # gone: another process has finished the job
        yield
        return
    try:
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def refuse_nothing(plan: Plan, run: Run, measurement: str, failed: int) -> None:
    """Refuse a result without a single image.

    Raises:
      NothingUsable: every image has an error.
    """
    if failed == run.cut.count:
        raise nothing(plan, next(error for error in run.read(measurement, 0).columns["error"] if error))


def work_of(run: Run) -> dict[str, Any]:
    """What a job tells at its end of where the time went, if it had several parts."""
    return {"work": slowest(run)} if len(run.cut.parts) > 1 else {}


def unfinished(job: Job, run: Run) -> Done:
    """What a job tells whose share is done, and those of others are not."""
    spec, notes = job.spec, job.notes
    if not run.there:
        return Done({"out": str(spec.out), "images": run.cut.count}, notes=[*notes, f"another process has written {spec.out}"])
    k, n = share_of(spec)
    summary = {"parts": str(run.folder), "images": run.cut.length(run.own), "share": f"{k}/{n}", "units missing": run.left}
    return Done(summary, notes=[*notes, f"share {k} of {n} is done; other shares are not: {spec.out} is complete when they are"])


@contextmanager
def result(spec: PartsSpec, schema: Any, meta: Mapping[str, Any]) -> Generator[Callable[[Mapping[str, Any]], None]]:
    """Write the result as one file; a result that is a folder is there already."""
    if is_folder(spec):
        yield lambda _: None
    else:
        with table_writer(spec.out, schema, meta, spec.force) as write:
            yield write
