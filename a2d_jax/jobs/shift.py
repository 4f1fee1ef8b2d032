"""The job that tests whether benign traffic has shifted away from the images that a detector was calibrated on."""

from typing import Any

import numpy as np

from a2d_jax.console import Done, Report, silent
from a2d_jax.detectors import shift as test_of_shift
from a2d_jax.io.files import refuse_existing
from a2d_jax.jobs.drawing import refuse_without_extra, write_figure
from a2d_jax.jobs.spec import ShiftSpec
from a2d_jax.jobs.tables import left_out, meet, read_table, shared_columns


def shift(spec: ShiftSpec, report: Report = silent) -> Done:
    """Compare the costs of fresh benign images with those of the calibration, attack by attack."""
    if spec.figure is not None:
        refuse_existing(spec.figure, spec.force, "--force", inputs=spec.inputs())
        refuse_without_extra()
    table, new = read_table(spec.benign, spec), read_table(spec.new, spec)
    columns = shared_columns(spec.attacks, table, spec.benign, new, spec.new)
    meeting = table.meeting + new.meeting + meet(columns, [table.origin, new.origin], spec)
    pixels = table.fingerprint is not None and new.fingerprint is not None
    keys = {"old_index": table.key, "new_index": new.key} if pixels else {}  # places in two sets say nothing of each other
    how: dict[str, Any] = {**keys, "level": spec.level, "significance": spec.significance, "seed": spec.seed}
    found = dict(zip(map(str, columns), test_of_shift(table.select(columns), new.select(columns), **how), strict=True))
    shifted = [name for name, one in found.items() if one.shifted]
    notes = meeting.notes + left_out(table, new)
    if pixels and (both := len(np.intersect1d(table.key, new.key))):
        notes.append(f"{both} of the new images are among the old ones, which hides a shift; measure fresh ones")
    if shifted:
        notes.append(
            f"new images differ from those of the calibration in {', '.join(shifted)}; see docs/shift.md on how to calibrate again"
        )
    if spec.figure is not None:
        from a2d_jax.report import shift_figure  # here: it needs an extra

        write_figure(spec.figure, spec.force, shift_figure({name: one.p_values for name, one in found.items()}, spec.level))
    rows = [
        {
            "attack": name,
            "statistic": one.statistic,
            "p_value": one.p_value,
            "holm_p_value": one.adjusted,
            "shifted": one.shifted,
            "new_are": "lower" if one.lower else "higher",
            "flagged": one.flagged,
            "flagged_low": one.flagged_low,
            "flagged_high": one.flagged_high,
        }
        for name, one in found.items()
    ]
    counts = {"benign": str(spec.benign), "benign images": len(table.index), "new": str(spec.new), "new images": len(new.index)}
    drawn = {} if spec.figure is None else {"figure": str(spec.figure)}
    return Done({**counts, "level": spec.level, **drawn, **meeting.as_meta, "shifted": bool(shifted), "tests": rows}, notes=notes)
