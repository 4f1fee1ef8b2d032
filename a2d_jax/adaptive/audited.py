"""What an audit found: thresholds, curves and checks, as plain data, a JSON file and a page of text."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a2d_jax.adaptive.indicators import Finding
from a2d_jax.errors import BadInput
from a2d_jax.io.files import atomic, refuse_existing

WORST = "worst case"
FORMAT = "a2d audit 1"


@dataclass(frozen=True)
class Point:
    """A threshold, fixed on benign images before any attack.

    Attributes:
      level: false-positive rate asked for.
      threshold: an image is flagged if its score is above it; None if there are too few benign images for this level: nothing is flagged.
      calibration: share of the benign images that it flags, from which it was taken.
      fpr: share of fresh benign images that it flags, with its 95 % interval; None without fresh images.
      rho: the radius that the threshold asks for; None where it is not known.
    """

    level: float
    threshold: float | None
    calibration: float
    fpr: tuple[float, float, float] | None = None
    rho: float | None = None


@dataclass(frozen=True)
class Curve:
    """Share of images that an attacker wins, for each budget.

    Attributes:
      attacker: its name; `WORST` is the best of all on each image.
      level: of the detector; None without a detector ("fooled").
      success: share of images.
      low: lower ends of the exact 95 % intervals.
      high: upper ends.
      ceiling: share that could be won at most, as far as the attackers show; None where `rho` is not known.
    """

    attacker: str
    level: float | None
    success: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    ceiling: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Audit:
    """All of it, as it is written to a file and read again.

    Attributes:
      name: of what was evaluated.
      images: how many were attacked.
      budgets: largest distances, rising.
      points: one for each level.
      curves: for each level and without a detector, each attacker's and the worst case's.
      findings: of the audit itself, and those that were added.
    """

    name: str
    images: int
    budgets: tuple[float, ...]
    points: tuple[Point, ...]
    curves: tuple[Curve, ...]
    findings: tuple[Finding, ...] = ()

    def add(self, *findings: Finding) -> "Audit":
        """The same audit with more findings."""
        return dataclasses.replace(self, findings=(*self.findings, *findings))

    def curve(self, attacker: str = WORST, level: float | None = None) -> Curve:
        """One curve.

        Raises:
          BadInput: there is none of this attacker and level.
        """
        for one in self.curves:
            if (one.attacker, one.level) == (attacker, level):
                return one
        known = ", ".join(dict.fromkeys(one.attacker for one in self.curves))
        levels = ", ".join(str(point.level) for point in self.points)
        raise BadInput(f"expected an attacker among {known} and a level among {levels} or None, got {attacker} at {level}; name one")

    @property
    def sound(self) -> bool:
        """No check fires."""
        return not any(finding.fires for finding in self.findings)

    def write(self, path: str | Path, force: bool = False) -> None:
        """Write a JSON file.

        Raises:
          BadInput: the file exists and `force` is false, or nothing can be written there.
        """
        refuse_existing(path, force, "force=True")
        with atomic(path, force) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1, allow_nan=False), encoding="utf-8")

    @classmethod
    def read(cls, path: str | Path) -> "Audit":
        """The audit of a file.

        Raises:
          BadInput: it is none, or of another version.
        """
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            if stored.pop("format") != FORMAT:
                raise KeyError("format")
            for key, kind in (("points", Point), ("curves", Curve), ("findings", Finding)):
                stored[key] = [kind(**_tuples(one)) for one in stored[key]]
            return cls(**_tuples(stored))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"expected an audit ({FORMAT}), got {path} ({type(error).__name__}: {error}); write one with Audit.write"
            ) from error

    def summary(self) -> str:
        """A page of plain text."""
        lines = [f"{self.name}: {self.images} images attacked.", "", *self._table(None, "Misclassified, with no detector:")]
        for point in self.points:
            lines += ["", *self._table(point.level, _headline(point))]
        lines += ["", "Checks:" if self.findings else "No checks."]
        for finding in self.findings:
            number = "nothing to measure" if finding.number is None else f"{finding.number:.3g}, allowed {finding.threshold:.3g}"
            lines.append(f"  {'FIRES ' if finding.fires else 'silent'} {finding.name} ({number}). {finding.sentence}")
        return "\n".join(lines) + "\n"

    def _table(self, level: float | None, title: str) -> list[str]:
        curves = [one for one in self.curves if one.level == level]
        worst = next(one for one in curves if one.attacker == WORST)
        others = [one for one in curves if one.attacker != WORST]
        head = ["budget", *(one.attacker for one in others), f"{WORST} [95 %]", *(["ceiling"] if worst.ceiling else [])]
        rows = [
            [
                f"{budget:.4g}",
                *(f"{one.success[k]:.3f}" for one in others),
                f"{worst.success[k]:.3f} [{worst.low[k]:.3f}, {worst.high[k]:.3f}]",
                *([f"{worst.ceiling[k]:.3f}"] if worst.ceiling else []),
            ]
            for k, budget in enumerate(self.budgets)
        ]
        widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
        return [title, *("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows])]


def _headline(point: Point) -> str:
    threshold = "nothing is flagged: too few benign images" if point.threshold is None else f"threshold {point.threshold:.5g}"
    fresh = "" if point.fpr is None else "; {:.1%} [{:.1%}, {:.1%}] of fresh benign images".format(*point.fpr)
    toll = "" if point.rho is None else f"; toll {point.rho:.4g}"
    flagged = f"flags {point.calibration:.1%} of the held-out benign images{fresh}"
    return f"Misclassified and accepted, at {point.level:.0%} false positives ({threshold}; {flagged}{toll}):"


def _tuples(stored: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
