"""A node and its applications as devices of Home Assistant, by its MQTT discovery."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edge import config
from edge.invocation.meter import Meters
from edge.node.applications import Applications
from edge.platform.credentials import credentials_directory
from edge.registry.sync.sync import Sync

__all__ = ["home_assistant"]


@asynccontextmanager
async def home_assistant(
    settings: config.Daemon, sync: Sync, applications: Applications, meters: Meters
) -> AsyncIterator[None]:
    """Tells it of them while entered, if that is configured. Raises ConfigError for files that can
    not be read.
    """
    if not settings.home_assistant.enabled:
        yield
        return
    # Brings a client of MQTT, which costs who has no use for it megabytes.
    from edge.node.homeassistant.devices import Application, Count, Seen
    from edge.node.homeassistant.publisher import open_publisher

    release = importlib.metadata.version("edge")

    def look() -> Seen:
        ran, failed = _counted(meters)
        found = tuple(
            Application(
                status,
                _version(applications, status.name),
                Count(ran[status.name], failed[status.name]),
            )
            for status in sync.apps()
        )
        return Seen(settings.node.name, release, found)

    credentials = settings.node.credentials_dir or credentials_directory()
    async with open_publisher(settings, credentials, look, meters.tell) as publisher:
        sync.watch(publisher.changed)
        yield
        sync.watch(lambda: None)


def _version(applications: Applications, name: str) -> str:
    live = applications.live(name)
    return "" if live is None else live.application.version


def _counted(meters: Meters) -> tuple[Counter[str], Counter[str]]:
    """Events that ran, and those of them that failed, by application."""
    ran: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for application, _, meter in meters:
        bad = sum(meter.outcomes[name] for name in ("failed", "timeout", "limit"))
        failed[application] += bad
        ran[application] += meter.ok + bad + meter.outcomes["cancelled"]
    return ran, failed
