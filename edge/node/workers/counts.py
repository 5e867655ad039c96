"""What a worker counts becomes the node's: as JSON there, added to the same meters here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge.invocation.meter import Histogram, Meter, Meters

__all__ = ["Counts", "counted", "total"]


def total(figures: Sequence[Any]) -> Any:
    """The sums of figures of the same shape; what one of them does not know is not known."""
    first = figures[0]
    if isinstance(first, Mapping):
        return {key: total([one[key] for one in figures]) for key in first}
    if None in figures:
        return None
    found = sum(figures)
    return round(found, 3) if isinstance(found, float) else found


def counted(meters: Meters) -> list[list[Any]]:
    """What a worker has counted since it began: JSON, for `Counts`."""
    return [[application, component, *_counted(meter)] for application, component, meter in meters]


def _counted(meter: Meter) -> Iterator[Any]:
    places = list(meter.places)
    yield {"ok": meter.ok, **meter.outcomes}
    for histogram in (meter.latency, meter.waits):
        yield [*histogram.counts, histogram.sum]
    yield [sum(getattr(place, name) for place in places) for name in _GAUGES]


_GAUGES = ("in_flight", "queued", "kept")


@dataclass(slots=True, eq=False, weakref_slot=True)
class _There:
    """A Place in another process."""

    in_flight: int = 0
    queued: int = 0
    kept: int = 0


class Counts:
    """Of one worker, from its start to its end. `meters`: the node's."""

    def __init__(self, meters: Meters, serving: Callable[[str], bool]) -> None:
        self._meters = meters
        self._serving = serving
        self._known: dict[tuple[str, str], list[list[float]]] = {}
        self._there: dict[tuple[str, str], _There] = {}

    def take(self, told: Iterable[Sequence[Any]]) -> None:
        """What `counted` gave; of applications that are gone meanwhile nothing."""
        for application, component, outcomes, latency, waits, gauges in told:
            if self._serving(application):
                names = application, component
                meter = self._meters.of(*names)
                self._add(names, meter, [list(outcomes.values()), latency, waits], list(outcomes))
                there = self._there.setdefault(names, _There())
                there.in_flight, there.queued, there.kept = gauges
                meter.places.add(there)

    def drop(self, application: str) -> None:
        """It is gone from the node."""
        for known in (self._known, self._there):
            for names in [names for names in known if names[0] == application]:
                del known[names]

    def _add(
        self, names: tuple[str, str], meter: Meter, now: list[list[float]], outcomes: list[str]
    ) -> None:
        before = self._known.get(names) or [[0] * len(row) for row in now]
        self._known[names] = now
        news, latency, waits = (
            [new - old for new, old in zip(*rows, strict=True)]
            for rows in zip(now, before, strict=True)
        )
        for outcome, count in zip(outcomes, news, strict=True):
            if outcome == "ok":
                meter.ok += int(count)
            else:
                meter.outcomes[outcome] += int(count)
        _merge(meter.latency, latency)
        _merge(meter.waits, waits)


def _merge(histogram: Histogram, news: Sequence[float]) -> None:
    histogram.sum += news[-1]
    for bucket, count in enumerate(news[:-1]):
        histogram.counts[bucket] += int(count)
