"""Numbers of a node from what it has counted: rates, latencies. Asks nobody, shows nothing."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

__all__ = ["Figures", "Past", "quantile", "show_rate", "show_seconds"]

# Seconds: rates are of the last few, so that they follow; latencies of more, so that they are many.
RATE, LATENCY = 3.0, 30.0

# What is nobody's failure: a client that goes away.
_FINE = ("ok", "cancelled")

Component = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figures:
    """Of a component, or of several together. Rates are per second; latencies are seconds, None
    where nothing ended, infinite beyond the last bound. `total` and `failed`: since the node began.
    """

    rate: float = 0.0
    failing: float = 0.0
    median: float | None = None
    slow: float | None = None  # 99 % take at most as long
    in_flight: int = 0
    queued: int = 0
    total: int = 0
    failed: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)  # since the node began


class Past:
    """What a node has counted, as it was told in the last seconds. `rate`, `latency`: of how many
    the figures are.
    """

    def __init__(self, rate: float = RATE, latency: float = LATENCY) -> None:
        self._rate, self._latency = rate, latency
        self._told: deque[Mapping[str, Any]] = deque()

    def add(self, metrics: Mapping[str, Any]) -> None:
        """`metrics`: of `GET /v1/metrics`."""
        if self._told and (_begun_anew(self._told[-1], metrics)):
            self._told.clear()
        self._told.append(metrics)
        while len(self._told) > 2 and self._told[1]["at"] < metrics["at"] - self._latency:
            self._told.popleft()

    @property
    def components(self) -> Sequence[tuple[str, str]]:
        """Application and component."""
        last = self._told[-1]["components"] if self._told else ()
        return [(one["application"], one["component"]) for one in last]

    def figures(self, wanted: Callable[[Component], bool] = lambda _: True) -> Figures:
        """Of the components that `wanted` is true of, together."""
        if not self._told:
            return Figures()
        now, first = self._told[-1], self._told[0]
        older = [told for told in self._told if told["at"] <= now["at"] - self._rate]
        recent = older[-1] if older else first
        after, before, earliest = (
            _sum(filter(wanted, t["components"])) for t in (now, recent, first)
        )
        seconds = now["at"] - recent["at"]
        taken = zip_longest(after.counts, earliest.counts, fillvalue=0)
        counts = [max(0, new - old) for new, old in taken]
        return Figures(
            _per(after.total - before.total, seconds),
            _per(after.failed - before.failed, seconds),
            quantile(after.bounds, counts, 0.5),
            quantile(after.bounds, counts, 0.99),
            after.in_flight,
            after.queued,
            after.total,
            after.failed,
            dict(after.outcomes),
        )

    def of(self, application: str, component: str | None = None) -> Figures:
        return self.figures(
            lambda one: one["application"] == application and component in (None, one["component"])
        )


@dataclass(slots=True)
class _Sum:
    outcomes: Counter[str] = field(default_factory=Counter)
    total: int = 0
    failed: int = 0
    in_flight: int = 0
    queued: int = 0
    bounds: Sequence[float] = ()
    counts: Sequence[int] = ()


def _sum(components: Iterable[Component]) -> _Sum:
    found = _Sum()
    for one in components:
        outcomes = one["outcomes"]
        found.outcomes.update(outcomes)
        found.total += sum(outcomes.values())
        found.failed += sum(count for name, count in outcomes.items() if name not in _FINE)
        found.in_flight += one["in_flight"]
        found.queued += one["queued"]
        found.bounds = one["latency"]["bounds"]
        pairs = zip_longest(found.counts, one["latency"]["counts"], fillvalue=0)
        found.counts = [mine + its for mine, its in pairs]
    return found


def _begun_anew(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Or its clock was set: what was before says nothing."""
    if now["at"] <= before["at"]:
        return True
    known = {_name(one): _sum((one,)).total for one in before["components"]}
    return any(_sum((one,)).total < known.get(_name(one), 0) for one in now["components"])


def _name(one: Component) -> tuple[str, str]:
    return one["application"], one["component"]


def _per(count: int, seconds: float) -> float:
    return max(0, count) / seconds if seconds > 0 else 0.0


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """Seconds that a share of all takes at most: within its bucket as if they were spread evenly.

    `counts`: of each bucket alone, one more than bounds.
    """
    left = share * sum(counts)
    if not left:
        return None
    for index, count in enumerate(counts):
        if count and left <= count:
            if index == len(bounds):
                break
            low = bounds[index - 1] if index else 0.0
            return low + (bounds[index] - low) * left / count
        left -= count
    return float("inf")


# What people read


def show_rate(per_second: float) -> str:
    if 0 < per_second < 10:
        return f"{per_second:.1f}"
    return f"{per_second:,.0f}".replace(",", "\u202f")


def show_seconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds == float("inf"):
        return "> 60 s"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.{1 if seconds < 0.01 else 0}f} ms"
    return f"{seconds:.1f} s"
