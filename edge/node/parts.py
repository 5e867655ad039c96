"""What a daemon is composed of, and the order in which it is opened."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass

from edge import config
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

__all__ = ["Parts", "compose"]

_log = logging.getLogger("edge.node")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a daemon is composed of."""

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
    stores = Stores(node.state_dir, settings.stores)
    tracer = await stack.enter_async_context(open_tracer(settings.traces, node.name))
    guests = await stack.enter_async_context(
        open_node(
            node.state_dir / "code",
            settings.limits,
            stores=stores,
            blocked=tuple(map(ipaddress.ip_network, settings.blocked)),
            tracer=tracer,
        )
    )
    services = await stack.enter_async_context(
        Services(ServiceSettings(node.state_dir, settings.mqtt, credentials, several=True))
    )
    applications = await stack.enter_async_context(
        Applications(guests, services, settings, credentials=credentials)
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
            purge=stores.purge,
            note=_log.info,
        )
    )
    if trusting.follower is not None and trusting.knows_fleet:
        sync.set_fleet(trusting.follower.wanted)
    mirror = Mirror(settings.mirror, store, note=_log.info)
    hosted = Hosted(settings, clock, sync, store, registries, lambda: trusting.generation)
    fleet = FleetService(hosted)
    return Parts(
        guests, applications, services, sync, store, registries, trusting, mirror, clock, fleet
    )
