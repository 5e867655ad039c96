"""The composition root: one engine, one pool, one way out, and what is live on them."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge import config, spin, wasi
from edge.application import templates
from edge.application.hosts import AllowedHosts
from edge.application.model import Application, Trigger
from edge.application.model import Component as Declaration
from edge.engine import guest, runtime
from edge.engine._core import Engine
from edge.engine.cache import CodeCache
from edge.engine.host import Interfaces
from edge.engine.plans import PlanCache
from edge.errors import ConfigError
from edge.invocation import sandbox
from edge.invocation.admission import Budget
from edge.invocation.application import LiveApplication
from edge.invocation.event import KINDS
from edge.invocation.handlers import HANDLERS
from edge.invocation.meter import Meters
from edge.invocation.sandbox import Profile, Sandboxes
from edge.invocation.tracing import Tracer
from edge.node.services import read_triggers
from edge.registry.local import LocalApplication
from edge.spin.platform import Stores
from edge.wasi.http.client import Client, open_egress
from edge.wasi.http.types import INCOMING_HANDLER
from edge.wasi.outbound import Egress, Grants, Network
from edge.wasi.outbound import Limits as OutboundLimits
from edge.wasi.tree import Tree

_log = logging.getLogger("edge.node")

# What components may export without having been componentised.
EXPORTS = (INCOMING_HANDLER, *HANDLERS)


def interfaces() -> Interfaces:
    """Everything a guest may import."""
    return Interfaces((*wasi.interfaces(), *spin.interfaces()))


def used_components(application: Application) -> list[str]:
    """The components that have a trigger which this version runs, each once."""
    served: list[Trigger] = [*application.http]
    served += [trigger for trigger in application.triggers if trigger.type in KINDS]
    return list({trigger.component: None for trigger in served if trigger.component})


@dataclass(frozen=True, slots=True)
class Node:
    """What every application of this machine shares. Made by `open_node`."""

    engine: Engine
    cache: CodeCache
    interfaces: Interfaces
    plans: PlanCache | None
    shared: sandbox.Node
    stores: Stores
    blocked: tuple[Network, ...] = ()
    meters: Meters = field(default_factory=Meters)

    async def activate(
        self,
        local: LocalApplication,
        variables: Mapping[str, str],
        progress: Callable[[str], None] = _log.info,
        *,
        base_path: str = "/",
    ) -> LiveApplication:
        """Loads, compiles and links an application, which will be the only one. Nothing of it runs
        yet. Raises as `load`.
        """
        live = await self.load(local, variables, progress, base_path=base_path)
        # What was just loaded lives until the next change: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        return live

    async def load(
        self,
        local: LocalApplication,
        variables: Mapping[str, str],
        progress: Callable[[str], None] = _log.info,
        *,
        base_path: str = "/",
        asleep: bool = False,
    ) -> LiveApplication:
        """Loads, compiles and links one application of several. `asleep`: each of its components
        only when its first event comes.

        Raises ComponentError or ConfigError for what cannot be made live; nothing has changed then.
        """
        application = local.application
        values = templates.resolve(application.variables, variables)
        triggers = read_triggers(application, values)
        chain = _Chain()
        used = used_components(application)
        profiles = {id: self._profile(local, id, values, chain) for id in used}

        async def load(id: str) -> Sandboxes:
            files = local.files.get(id, ())
            tree = await asyncio.to_thread(Tree.build, files) if files else None
            component = await self._component(local.sources[id], id, progress)
            meter = self.meters.of(application.name, id)
            return Sandboxes(component, replace(profiles[id], tree=tree), self.shared, meter)

        ready = {} if asleep else {id: await load(id) for id in used}
        live = chain.live = LiveApplication(application, ready, triggers, base_path, load)
        return live

    def retire(self, live: LiveApplication) -> None:
        """Another version has replaced it. Requests under way go on, nothing is kept ready."""
        live.close()
        # It refers to itself, and what is frozen is never collected: the next activation finds it.
        gc.unfreeze()

    async def _component(
        self, source: Path, id: str, progress: Callable[[str], None]
    ) -> guest.Component:
        binary = await asyncio.to_thread(source.read_bytes)
        return await guest.load(
            binary, f"component {id}", self.interfaces, self.cache, EXPORTS, progress, self.plans
        )

    def _profile(
        self, local: LocalApplication, id: str, values: Mapping[str, str], chain: _Chain
    ) -> Profile:
        declared = local.application.components[id]
        return Profile(
            local.application.name,
            declared.id,
            declared.options,
            tuple(declared.environment.items()),
            None,
            self._grants(local, declared, values, chain),
            self.stores.grant(local.application.name, declared, values),
        )

    def _grants(
        self,
        local: LocalApplication,
        declared: Declaration,
        values: Mapping[str, str],
        chain: _Chain,
    ) -> Grants:
        return Grants(
            allowed_hosts(local.application, declared, values),
            self.blocked,
            chain=lambda id: chain.live.chained(id) if chain.live else None,
            origin=lambda request, reply: chain.live(request, reply) if chain.live else None,
            limits=replace(OutboundLimits(), connections=declared.options.outbound_connections),
        )


class _Chain:
    """How a component's calls find the application they belong to, which is made last."""

    live: LiveApplication | None = None


def allowed_hosts(
    application: Application, declared: Declaration, values: Mapping[str, str]
) -> AllowedHosts:
    """Where a component may connect to. `values`: of the variables. Raises ConfigError."""
    try:
        return AllowedHosts.parse(
            declared.allowed_outbound_hosts, variables=values, components=application.components
        )
    except ValueError as exc:
        where = f"component.{declared.id}.allowed_outbound_hosts"
        raise ConfigError(f"{application.name}: {where}: {exc}") from exc


@asynccontextmanager
async def open_node(
    code_dir: Path,
    limits: config.Limits | None = None,
    trace: Callable[[str, str, str, str, str], None] | None = None,
    *,
    stores: Stores | None = None,
    blocked: tuple[Network, ...] = (),
    tracer: Tracer | None = None,
    meters: Meters | None = None,
) -> AsyncIterator[Node]:
    """A node without applications; what it opened, and `stores`, are closed on leaving.

    `code_dir`: where compiled code is kept. What is found there runs natively, so nobody else may
    write there. `stores`: what applications may keep; by default beside `code_dir`.
    `blocked`: networks that no guest reaches. `tracer`: makes a span of each invocation.
    `meters`: what is counted here.
    """
    limits = limits or config.Limits()
    engine = runtime.create_engine()
    slots = limits.instances or engine.options.slots or _UNPOOLED
    egress = open_egress()
    stores = stores or Stores(code_dir.parent)
    cache, offered = CodeCache(engine, code_dir), interfaces()
    try:
        yield Node(
            engine,
            cache,
            offered,
            PlanCache(cache.directory, offered, EXPORTS) if cache.directory else None,
            sandbox.Node(
                Budget(limits.memory, slots, limits.queue),
                egress=egress,
                trace=trace,
                tracer=tracer,
            ),
            stores,
            blocked,
            meters or Meters(),
        )
    finally:
        await stores.close()
        await _close(egress)


# How many guests run at once where there is no pool to say it.
_UNPOOLED = 64


async def _close(egress: Egress) -> None:
    if isinstance(egress.http, Client):
        await egress.http.close()
    egress.resolver.close()
