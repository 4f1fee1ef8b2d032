"""The job behind `a2d status`, and what a job tells of its time: from the files of its folder alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from a2d_jax.console import Done, Report, silent
from a2d_jax.errors import BadInput
from a2d_jax.io.parts import JOB, RECORDS, Cut, measurement_folder, read_job, unit_path, units
from a2d_jax.io.store import store_of
from a2d_jax.jobs.spec import StatusSpec
from a2d_jax.scale.runs import Run, run_folder, units_facts
from a2d_jax.scale.steps import Steps


def status(spec: StatusSpec, report: Report = silent) -> Done:
    """What is done and missing of each measurement, in how many seconds, and by which machines; or which steps are done.

    Raises:
      BadInput: no folder of a job.
    """
    folder = _folder(spec.run)
    job = read_job(folder)
    if "count" not in job:
        told = Steps(folder).facts().items()
        steps = [{"step": name, **{key: facts[key] for key in ("seconds", "machine", "time")}} for name, facts in told]
        return Done({"run": str(folder), "steps": steps})
    cut = Cut(job["count"], job["size"])
    rows: list[dict[str, Any]] = []
    machines: dict[str, str] = {}
    for name, kept in job["measurements"].items():
        here = measurement_folder(folder, name, kept)
        done = sorted(units(here))
        facts = units_facts([unit_path(here, part) for part in done])
        machines |= {one["machine"]: max(one["time"], machines.get(one["machine"], "")) for one in facts}
        rows.append({"measurement": name, **of_units(facts, cut, done)})
    missing = sum(row["parts missing"] for row in rows)
    last = [{"machine": name, "last unit": when} for name, when in sorted(machines.items())]
    summary = {"run": str(folder), "result": job.get("result"), "images": cut.count, "images of a part": cut.size, "units missing": missing}
    return Done({**summary, "measurements": rows, **({"machines": last} if last else {})})


def _folder(path: Path) -> Path:
    for folder in (path, run_folder(path)):
        if store_of(folder).is_file(folder / RECORDS / JOB):
            return folder
    if store_of(path).is_file(path):
        raise BadInput(f"expected a job that is not finished, got {path}, which is complete; its parts are gone")
    raise BadInput(f"expected the output of a job that works in parts, got {path}, where none does; check the path")


def of_units(facts: Sequence[Mapping[str, Any]], cut: Cut, done: Sequence[int]) -> dict[str, Any]:
    """What the units of a measurement say together."""
    images, seconds = cut.length(done), sum(one.get("seconds", 0) for one in facts)
    steps = sum(one.get("lane_steps", 0) for one in facts)
    return {
        "parts done": len(done),
        "parts missing": len(cut.parts) - len(done),
        "images done": images,
        "images with an error": images - sum(one.get("good", 0) for one in facts),
        "seconds": seconds,
        "images a second": images / seconds if seconds else None,
        "useful lane fraction": sum(one.get("useful_steps", 0) for one in facts) / steps if steps else None,
    }


def slowest(run: Run) -> list[dict[str, Any]]:
    """Where the time of a job went, by measurement, and which part took longest."""
    rows: list[dict[str, Any]] = []
    for name in run.kinds:
        facts = run.all_facts(name)
        seconds = [one.get("seconds", 0.0) for one in facts]
        if not any(seconds):
            continue
        part = max(run.cut.parts, key=seconds.__getitem__)
        begin, end = run.cut.span(part)
        whole = of_units(facts, run.cut, list(run.cut.parts))
        told = {"seconds": whole["seconds"], "images a second": whole["images a second"]}
        rows.append({"measurement": name, **told, "slowest part": f"{begin} to {end - 1}", "of the seconds": seconds[part] / sum(seconds)})
    return rows
