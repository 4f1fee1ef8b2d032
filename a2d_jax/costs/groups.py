"""Groups of parts: of a set in a store, so many parts at a time that their bytes fit into the cache of this machine.

All measurements of a group run before the next one begins, so that each byte crosses the network once, not once for every attack. Lanes
drain at the border of a group, and nowhere else. Any other set is one group.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from a2d_jax import console
from a2d_jax.console import Report
from a2d_jax.costs.units import Cut, Ledger, Unit
from a2d_jax.io.here import Fetching

P = TypeVar("P", bound=Any)


@dataclass(frozen=True)
class Group:
    """Some parts of a ledger.

    Attributes:
      ledger: with all parts.
      parts: those of the group.
    """

    ledger: Ledger
    parts: frozenset[int]

    @property
    def cut(self) -> Cut:
        """The parts of the whole set."""
        return self.ledger.cut

    def missing(self, measurement: str) -> list[int]:
        """See `Ledger`."""
        return [part for part in self.ledger.missing(measurement) if part in self.parts]

    def commit(self, measurement: str, part: int, unit: Unit) -> None:
        """See `Ledger`."""
        self.ledger.commit(measurement, part, unit)

    def read(self, measurement: str, part: int) -> Unit:
        """See `Ledger`."""
        return self.ledger.read(measurement, part)

    def facts(self, measurement: str, part: int) -> Mapping[str, Any]:
        """See `Ledger`."""
        return self.ledger.facts(measurement, part)


def in_groups(plan: P, ledger: Ledger, measurements: list[str]) -> Iterator[tuple[P, Ledger]]:
    """A plan and a ledger for each group of parts of which a measurement is missing.

    Args:
      plan: with a `source` and a `report`, which is told of all groups together.
      ledger: where units are kept.
      measurements: all that will be done.
    """
    fetching = getattr(plan.source, "fetching", None)
    if fetching is None:
        yield plan, ledger
        return
    parts = sorted({part for name in measurements for part in ledger.missing(name)})
    groups = grouped(parts, ledger.cut, fetching)
    if len(groups) < 2:
        yield plan, ledger
        return
    most = max(_bytes(group, ledger.cut, fetching) for group in groups)
    if most > 2 * fetching.room:
        console.note(
            f"the files of some images take {most / 1e9:.3g} GB, and the cache has {2 * fetching.room / 1e9:.3g}: "
            "they are fetched for every attack; set A2D_CACHE_GB to more"
        )
    left = ledger.cut.length(parts)
    report = _Together(plan.report)
    for group in groups:
        here = ledger.cut.length(group)
        left -= here
        report.begin(1 + left / here)
        yield replace(plan, report=report), Group(ledger, frozenset(group))


def grouped(parts: list[int], cut: Cut, fetching: Fetching) -> list[list[int]]:
    """Cut parts into groups whose files fit into the room together; a part that does not fit alone is a group.

    Args:
      parts: numbers in ascending order.
      cut: their places in the set.
      fetching: the files of the set.
    """
    before = np.concatenate([[0], np.cumsum(fetching.sizes)])
    groups: list[list[int]] = []
    behind = used = 0  # number of the file behind the last one of the group, and bytes of its files
    for part in parts:
        first, last = _files(part, cut, fetching)
        more = int(before[last] - before[max(first, behind)])
        if not groups or used + more > fetching.room:
            groups.append([])
            used, more = 0, int(before[last] - before[first])
        groups[-1].append(part)
        used, behind = used + more, last
    return groups


def _files(part: int, cut: Cut, fetching: Fetching) -> tuple[int, int]:
    """The files of a part: the first, and one behind the last."""
    begin, end = cut.span(part)
    return int(np.searchsorted(fetching.ends, begin, "right")), int(np.searchsorted(fetching.ends, end - 1, "right")) + 1


def _bytes(parts: list[int], cut: Cut, fetching: Fetching) -> int:
    """Bytes of the files of neighbouring parts."""
    return int(fetching.sizes[_files(parts[0], cut, fetching)[0] : _files(parts[-1], cut, fetching)[1]].sum())


class _Together:
    """Reports the progress of all groups together. How much later groups have to do is estimated by the images in them."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._rest = 1.0  # images of this group and of those after it, of those in this group
        self._done: dict[str, tuple[int, int]] = {}
        self._before: dict[str, tuple[int, int]] = {}

    def begin(self, rest: float) -> None:
        self._before, self._rest = dict(self._done), rest

    def __call__(self, what: str, done: int, total: int) -> None:
        before, total_before = self._before.get(what, (0, 0))
        self._done[what] = before + done, total_before + total
        self._report(what, before + done, total_before + round(total * self._rest))
