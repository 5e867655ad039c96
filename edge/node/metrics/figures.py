"""`GET /v1/metrics`: what a node has counted, as JSON. Field for field: docs/operating.md."""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edge.invocation.meter import BOUNDS, Histogram, Meter
from edge.node.applications import Applications
from edge.node.fleet import FleetService
from edge.node.metrics import process
from edge.node.node import Node
from edge.node.services import Services
from edge.registry.sync.sync import Sync

if TYPE_CHECKING:
    from edge.node.workers.crew import Crew

__all__ = ["Figures"]


@dataclass(frozen=True, slots=True)
class Figures:
    """Call it for the figures of now. `stored`: bytes in the content store, by a walk that blocks;
    `quota`: how many there may be; `clock`: trusted Unix time; `began`: when the node did, of the
    monotonic clock.
    """

    guests: Node
    crew: Crew | None
    applications: Applications
    services: Services
    sync: Sync
    fleet: FleetService
    stored: Callable[[], int]
    quota: int | None
    clock: Callable[[], float]
    began: float

    async def __call__(self) -> dict[str, Any]:
        lag = await _lag()
        stored, own = await asyncio.to_thread(
            lambda: (self.stored(), process.figures(self.guests.shared.budget))
        )
        if self.crew is not None:
            own = await self.crew.figures(own)
        return {
            "at": round(self.clock(), 3),
            "components": self._components(),
            "node": {
                "version": importlib.metadata.version("edge"),
                "uptime": round(time.monotonic() - self.began, 3),
                **own,
                "workers": self.crew.state() if self.crew else None,
                "loop_lag": lag,
                "store": {"used": stored, "quota": self.quota},
                "applications": len(self.applications.versions()),
                "peers": self.fleet.counts(),
                "sync": {"last": self.sync.last_look, **_rounded(asdict(self.sync.tally))},
                "mqtt": self.services.figures("mqtt"),
            },
        }

    def _components(self) -> list[dict[str, Any]]:
        serving = {version.name for version in self.applications.versions()}
        return [
            {"application": application, "component": component, **_of(meter)}
            for application, component, meter in self.guests.meters
            if application in serving
        ]


def _of(meter: Meter) -> dict[str, Any]:
    places = list(meter.places)
    waits = _histogram(meter.waits)
    waits["counts"][0] += sum(meter.latency.counts) - sum(meter.waits.counts)
    return {
        "outcomes": {"ok": meter.ok, **meter.outcomes},
        "in_flight": sum(place.in_flight for place in places),
        "queued": sum(place.queued for place in places),
        "kept": sum(place.kept for place in places),
        "latency": _histogram(meter.latency),
        "queue": waits,
    }


def _histogram(histogram: Histogram) -> dict[str, Any]:
    return {
        "bounds": list(BOUNDS),
        "counts": list(histogram.counts),
        "sum": round(histogram.sum, 9),
    }


async def _lag() -> float:
    """Seconds that one turn of the loop takes now: who comes waits for as long."""
    began = time.monotonic()
    await asyncio.sleep(0)
    return round(time.monotonic() - began, 6)


def _rounded(counted: Mapping[str, Any]) -> dict[str, Any]:
    return {**counted, "seconds": round(counted["seconds"], 3)}
