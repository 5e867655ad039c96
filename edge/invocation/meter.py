# cython: annotation_typing=False, binding=False
"""What is counted of a component's invocations. Written at each event, read now and then: numbers
and lists without locks, all of them the loop's.
"""

from __future__ import annotations

import asyncio
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Protocol

from edge.errors import GuestLimit, GuestTimeout, Overloaded, TooLarge

__all__ = ["BOUNDS", "OUTCOMES", "Histogram", "Meter", "Meters", "Place", "outcome_of"]

OUTCOMES = ("ok", "failed", "timeout", "limit", "too_large", "overloaded", "cancelled")
"""What becomes of an event.

    ok          handled
    failed      the guest trapped, gave no whole answer, said that it failed, or answered with 5xx,
                an event's with anything but 2xx
    timeout     it was ended at its deadline
    limit       it asked for more than a limit of its component
    too_large   the event is larger than its component takes
    overloaded  there was no room: it was not admitted
    cancelled   the client went away, or the node ended
"""

BOUNDS = (
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05,
    0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Seconds up to which the buckets of a histogram go; there is one more, without a bound."""


class Place(Protocol):
    """Where invocations of a component run: its sandboxes, of one version."""

    @property
    def in_flight(self) -> int: ...

    @property
    def queued(self) -> int: ...

    @property
    def kept(self) -> int: ...


class Histogram:
    """How many took how long. `counts`: of each bucket alone."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds


class Meter:
    """One component, in all versions of its application since the node began. `outcomes`: how many
    of each, `ok` apart; `latency`: of those that ran, from admission to their end; `waits`: how
    long those of them waited for admission that were not admitted at once.
    """

    __slots__ = ("latency", "ok", "outcomes", "places", "told", "waits")

    def __init__(self) -> None:
        self.ok = 0
        self.outcomes = dict.fromkeys(OUTCOMES[1:], 0)
        self.latency = Histogram()
        self.waits = Histogram()
        self.places: weakref.WeakSet[Place] = weakref.WeakSet()
        # Called once, when something is counted: who tells others of it needs no timer before.
        self.told: Callable[[], None] | None = None

    def succeeded(self, began: float, waited: float) -> None:
        """An invocation ended that was admitted at `began`, of the monotonic clock, after
        `waited` seconds.
        """
        took = monotonic() - began
        self.ok += 1
        # As `latency.add`, without the call: each event pays for it.
        latency = self.latency
        latency.sum += took
        latency.counts[bisect_left(BOUNDS, took)] += 1
        if waited:
            self.waits.add(waited)
        if self.told is not None:
            self._tell()

    def failed(self, began: float, waited: float, error: BaseException | None) -> None:
        """… which did not go well. None: the guest said so itself."""
        outcome = "failed" if error is None else outcome_of(error)
        self.outcomes[outcome] += 1
        if outcome != "overloaded":  # it did not run
            self.latency.add(monotonic() - began)
            if waited:
                self.waits.add(waited)
        if self.told is not None:
            self._tell()

    def refused(self, error: BaseException) -> None:
        """An event was not run."""
        self.outcomes[outcome_of(error)] += 1

    def _tell(self) -> None:
        told, self.told = self.told, None
        if told is not None:
            told()


class Meters:
    """Those of a node, by application and component."""

    def __init__(self) -> None:
        self._all: dict[tuple[str, str], Meter] = {}
        self._told: Callable[[], None] | None = None

    def __iter__(self) -> Iterator[tuple[str, str, Meter]]:
        return ((*names, meter) for names, meter in sorted(self._all.items()))

    def of(self, application: str, component: str) -> Meter:
        """The same one for every version."""
        meter = self._all.get((application, component))
        if meter is None:
            meter = self._all[application, component] = Meter()
            meter.told = self._told
        return meter

    def tell(self, once: Callable[[], None]) -> None:
        """Calls it when the next invocation of any component ends, at most once for each."""
        self._told = once
        for meter in self._all.values():
            meter.told = once

    def drop(self, application: str) -> None:
        """It is gone from the node."""
        for names in [names for names in self._all if names[0] == application]:
            del self._all[names]


def outcome_of(error: BaseException) -> str:
    """Which of the OUTCOMES an error is."""
    match error:
        case Overloaded():
            return "overloaded"
        case GuestTimeout():
            return "timeout"
        case GuestLimit():
            return "limit"
        case TooLarge():
            return "too_large"
        # A connection that broke: of the client, an error of the guest's own says that it is.
        case asyncio.CancelledError() | OSError():
            return "cancelled"
        case Exception():
            return "failed"
    return "cancelled"
