"""What somebody did on this network that they should not: for `edge peers` and the log. Bounded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Report", "Reports"]

_log = logging.getLogger("edge.fleet")

# Different ones that are kept.
_MOST = 32


@dataclass(slots=True)
class Report:
    """`what` happened at `where`, so many times. Moments: the loop's clock."""

    where: str
    what: str
    first: float
    last: float
    count: int = 1


class Reports:
    """The latest of each kind, the latest last. `now`: the loop's clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._found: dict[tuple[str, str], Report] = {}
        self._logged = 0.0

    def add(self, where: str, what: str) -> None:
        """`where` is ours or checked; `what` as well: nothing of a stranger's is in them raw."""
        now = self._now()
        known = self._found.pop((where, what), None)
        if known is None:
            known = Report(where, what, now, now, 0)
            self._say(known, now)
        known.last, known.count = now, known.count + 1
        self._found[where, what] = known
        while len(self._found) > _MOST:
            del self._found[next(iter(self._found))]

    def latest(self) -> Sequence[Report]:
        return tuple(reversed(self._found.values()))

    def _say(self, report: Report, now: float) -> None:
        """A stranger may come from many addresses: not a line for each."""
        if now - self._logged < 1.0 and len(self._found) > 4:
            return
        self._logged = now
        _log.warning("%s: %s", report.where, report.what)
