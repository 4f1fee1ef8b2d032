"""How a job works in parts: it opens its run folder, does what is missing there, and puts the result together."""

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from a2d_jax import process, supervision
from a2d_jax.console import Done
from a2d_jax.costs import PREDICT, Cut, NothingUsable, Plan, nothing
from a2d_jax.errors import BadInput
from a2d_jax.io.files import refuse_existing
from a2d_jax.io.source import ImageSource
from a2d_jax.io.tables import PREDICTED, table_writer, without
from a2d_jax.jobs.spec import PartsSpec
from a2d_jax.scale.quarantine import forget
from a2d_jax.scale.runs import RECORDS, Kind, Run, is_folder, open_run, part_size, run_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

IDENTITY = (
    *("versions", "counts", "weights_sha256", "classifier", "images_sha256", "photographs", "background", "shape"),
    *("precision", "preset", "seed", "stretch", "target", "labels", "attacks", "norms", "bounds", "columns", "detector_sha256"),
    *("targets", "clever"),
)
"""What a table records and on which its numbers depend: jobs that differ in it cannot share a folder."""


def refuse_output(spec: PartsSpec) -> None:
    """Refuse an output that cannot or must not be written, before the work.

    Raises:
      BadInput: as `refuse_existing`; or a share, or a number of images in a part, that is none.
    """
    share_of(spec)
    if spec.part is not None and spec.part < 1:
        raise BadInput(f"expected at least 1 image in a part, got {spec.part}; leave it out to take the default")
    if not is_folder(spec.out):
        refuse_existing(spec.out, spec.force, "--force", inputs=spec.inputs())
    elif not spec.out.is_dir():
        refuse_existing(spec.out, False, "--force", inputs=spec.inputs(), card=RECORDS)


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


@contextmanager
def opened(
    spec: PartsSpec, source: ImageSource, meta: Mapping[str, Any], kinds: Mapping[str, Kind], *, size: int | None = None
) -> Generator[Run]:
    """The run folder of a job, for as long as the job works.

    If the block fails before anything is done, or because no image can be used, the folder is removed.

    Args:
      spec: the job.
      source: its images.
      meta: what its result records; that part of it on which numbers depend identifies the job.
      kinds: its measurements.
      size: images of a part; default by the size of the set.

    Raises:
      BadInput: the folder of another job.
    """
    identity = {name: meta[name] for name in IDENTITY if name in meta}
    cut = Cut(len(source), spec.part or size or part_size(len(source), source.piece_size))
    job = {"job": spec.as_json(), "result": str(spec.out)}
    anew = not supervision.goes_on()
    run = open_run(run_folder(spec.out), identity, cut, kinds, share=share_of(spec), restart=spec.restart and anew, job=job)
    process.unfinished.add(run.folder)
    if spec.retry_failed and anew:
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
        if not run.folder.exists() or not run.left:
            process.unfinished.discard(run.folder)


def _retry(run: Run) -> None:
    """Discard the parts in which an image has an error."""
    for part in run.own:
        there = [name for name in run.kinds if part in run.done(name)]
        if any(error is not None for name in there for error in run.read(name, part).columns["error"]):
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
        yield there
        if there and not is_folder(spec.out):
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


def unfinished(spec: PartsSpec, run: Run, source: ImageSource, notes: Sequence[str] = ()) -> Done:
    """What a job tells whose share is done, and those of others are not."""
    if not run.folder.exists():
        return Done({"out": str(spec.out), "images": len(source)}, notes=[*notes, f"another process has written {spec.out}"])
    k, n = run.share
    summary = {"parts": str(run.folder), "images": run.cut.length(run.own), "share": f"{k}/{n}", "units missing": run.left}
    return Done(summary, notes=[*notes, f"share {k} of {n} is done; other shares are not: {spec.out} is complete when they are"])


@contextmanager
def result(spec: PartsSpec, schema: Any, meta: Mapping[str, Any]) -> Generator[Callable[[Mapping[str, Any]], None]]:
    """Write the result as one file; a result that is a folder is there already."""
    if is_folder(spec.out):
        yield lambda _: None
    else:
        with table_writer(spec.out, schema, meta, spec.force) as write:
            yield write
