"""The folder of a training: its settings, its metrics, its state, and in the end its weights."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from flax import nnx
from orbax.checkpoint import v1 as ocp

from a2d_jax.errors import BadInput
from a2d_jax.io.checkpoints import CARD, WEIGHTS, save
from a2d_jax.io.files import atomic_folder
from a2d_jax.io.provenance import versions
from models.training.loop import State

SETTINGS, METRICS, STATE, FINAL = "training.json", "metrics.jsonl", "state", "final"


def states(out: Path) -> ocp.training.Checkpointer:
    """Where states are kept, the newest alone."""
    newest = ocp.training.preservation_policies.LatestN(1)
    return ocp.training.Checkpointer(str((out / STATE).absolute()), preservation_policy=newest, cleanup_tmp_directories=True)


def goes_on(out: Path, wanted: dict[str, Any], force: bool) -> bool:
    """Whether a training with these settings is there to go on from.

    Raises:
      BadInput: something else is there.
    """
    file = out / SETTINGS
    if out.exists() and not file.is_file():
        raise BadInput(f"expected a new output or that of a training, got {out}, which has no {SETTINGS}; choose another name")
    if force or not out.exists():
        return False
    found = json.loads(file.read_text())
    other = [name for name in wanted.keys() | found.keys() - {"versions"} if found.get(name) != wanted.get(name)]
    if other:
        theirs, ours = (", ".join(f"{name} {it.get(name)}" for name in sorted(other)) for it in (found, wanted))
        raise BadInput(f"expected the settings of the training in {out} ({theirs}), got {ours}; pass --force to start anew")
    return True


def begin(out: Path, wanted: dict[str, Any]) -> None:
    """Make the folder with its settings, whole or not at all, in the place of another training."""
    with atomic_folder(out) as temporary:
        (temporary / SETTINGS).write_text(json.dumps(wanted | {"versions": versions()}, indent=2) + "\n")


def resumed(out: Path, kept: ocp.training.Checkpointer, fresh: State) -> tuple[State, float]:
    """The last state, and when training would have begun without interruption; lines of epochs that will be made again are dropped."""
    found: dict[str, Any] = {"state": fresh, "seconds": 0.0}
    if kept.latest is not None:
        try:
            found = kept.load(None, found)
        except Exception as error:  # a damaged checkpoint raises whatever the damage leads to
            reason = str(error).partition("\n")[0]
            raise BadInput(f"expected a state to go on from in {out / STATE}, got {reason}; pass --force to start anew") from error
    path = out / METRICS
    if path.is_file():
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(line for line in lines if json.loads(line)["step"] <= int(found["state"].step)))
        temporary.replace(path)
    return found["state"], time.perf_counter() - found["seconds"]


def finish(out: Path, module: nnx.Module, classifier: str) -> None:
    """Write the weights, the card last: the folder is a checkpoint when it is whole."""
    final = out / FINAL
    for leftover in (final, out / WEIGHTS):
        shutil.rmtree(leftover, ignore_errors=True)
    save(module, final, factory=classifier)
    (final / WEIGHTS).rename(out / WEIGHTS)
    (final / CARD).rename(out / CARD)
    final.rmdir()
    shutil.rmtree(out / STATE)
