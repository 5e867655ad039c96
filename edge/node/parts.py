"""What a daemon is composed of, and the order in which it is opened."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge import config
from edge.invocation.meter import Meters
from edge.node.applications import Applications
from edge.node.fleet import FleetService, Hosted
from edge.node.node import Node, open_node
from edge.node.services import Services
from edge.node.services import Settings as ServiceSettings
from edge.node.tracing import open_tracer
from edge.node.trusting import Trusting
from edge.platform.clock import TrustedClock
from edge.platform.credentials import credentials_directory
from edge.registry.credentials import docker_config
from edge.registry.mirror import Mirror
from edge.registry.store import ContentStore
from edge.registry.sync.registries import Registries
from edge.registry.sync.statefile import StateFile
from edge.registry.sync.sync import Sync
from edge.spin.platform import Stores

if TYPE_CHECKING:
    from edge.node.workers.crew import Crew

__all__ = ["Parts", "compose"]

_log = logging.getLogger("edge.node")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a daemon is composed of. `own`: the settings as this process has them, with its share of
    the limits where there is a `crew` of others.
    """

    own: config.Daemon
    crew: Crew | None

    guests: Node
    applications: Applications
    services: Services
    sync: Sync
    store: ContentStore
    registries: Registries
    trusting: Trusting
    mirror: Mirror
    clock: TrustedClock
    fleet: FleetService


async def compose(stack: AsyncExitStack, settings: config.Daemon) -> Parts:
    """Opens them; `stack` closes them. Raises EdgeError."""
    node = settings.node
    credentials = node.credentials_dir or credentials_directory()
    clock = await asyncio.to_thread(TrustedClock, node.state_dir / "clock")
    store = ContentStore(node.state_dir, quota=settings.quota)
    own, meters = settings, Meters()
    crew = None
    if settings.http.workers > 1:
        from edge.node.workers import shares
        from edge.node.workers.crew import Crew

        own = shares.of_settings(settings, 0)
        crew = Crew(settings, meters)
    stores = Stores(node.state_dir, own.stores)
    tracer = await stack.enter_async_context(open_tracer(settings.traces, node.name))
    guests = await stack.enter_async_context(
        open_node(
            node.state_dir / "code",
            own.limits,
            stores=stores,
            meters=meters,
            blocked=tuple(map(ipaddress.ip_network, settings.blocked)),
            tracer=tracer,
        )
    )
    services = await stack.enter_async_context(
        Services(ServiceSettings(node.state_dir, settings.mqtt, credentials, several=True))
    )
    applications = await stack.enter_async_context(
        Applications(guests, services, settings, credentials=credentials, crew=crew)
    )
    docker = docker_config(os.environ)
    registries = await stack.enter_async_context(
        Registries(
            settings.registries,
            docker=docker,
            credentials=credentials,
            # Who follows a reference says what came of it, once; a network may be gone for a week.
            note=_log.debug,
            clock=clock,
        )
    )
    trusting = Trusting(settings, store, registries, clock)
    await trusting.load()
    sync = await stack.enter_async_context(
        Sync(
            settings.sync,
            StateFile(node.state_dir),
            store,
            applications,
            registries,
            clock=clock,
            verify=trusting.verify,
            follow=trusting.follow if trusting.follower else None,
            purge=_purge(stores, crew),
            note=_log.info,
        )
    )
    if trusting.follower is not None and trusting.knows_fleet:
        sync.set_fleet(trusting.follower.wanted)
    mirror = Mirror(settings.mirror, store, note=_log.info)
    hosted = Hosted(settings, clock, sync, store, registries, lambda: trusting.generation)
    fleet = FleetService(hosted)
    return Parts(
        own, crew, guests, applications, services, sync, store, registries, trusting, mirror, clock,
        fleet,
    )  # fmt: skip


def _purge(stores: Stores, crew: Crew | None) -> Callable[[str], Awaitable[None]]:
    """Of what an application kept, which no process has open then."""
    if crew is None:
        return stores.purge

    async def purge(application: str) -> None:
        await crew.forget(application)
        await stores.purge(application)

    return purge
