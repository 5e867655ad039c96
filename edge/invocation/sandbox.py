# cython: annotation_typing=False, binding=False
"""A component's sandboxes: fresh for each event, made ready ahead while events come, or reused
where that was asked for.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from edge.application.options import Options
from edge.engine._core import Instance
from edge.engine.drive import Lane
from edge.engine.guest import Component
from edge.engine.pool import INSTANCES_PER_SLOT, TABLES_PER_SLOT
from edge.engine.values import Trap
from edge.errors import GuestError, Overloaded
from edge.invocation.admission import Budget, Gate
from edge.invocation.meter import Meter
from edge.invocation.printing import Printing
from edge.invocation.report import Reporter
from edge.invocation.tracing import Tracer
from edge.spin.platform import Platform
from edge.wasi.context import Context
from edge.wasi.http.incoming import parts_of_requests
from edge.wasi.lines import LineSink
from edge.wasi.outbound import Egress, Grants, Outbound
from edge.wasi.pipe import Sink
from edge.wasi.tree import Tree

# Making an instance ahead pays where making one takes longer than this (seconds): a small guest
# takes 10 µs, one of componentize-py a millisecond.
WORTH_PREPARING = 200e-6
AHEAD = 2  # instances made ahead; more would hold memory for bursts that the queue absorbs
HOT = 10.0  # seconds since the last event after which nothing is kept ready

_log = logging.getLogger("edge.guest")


@dataclass(frozen=True, slots=True)
class Node:
    """What all invocations of a node share. `trace`: called with each line a guest prints,
    (application, component, invocation, stream, line). `tracer`: makes a span of each of them.
    """

    budget: Budget
    lane: Lane = field(default_factory=Lane)
    egress: Egress = field(default_factory=Egress)
    trace: Callable[[str, str, str, str, str], None] | None = None
    tracer: Tracer | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """What every invocation of a component gets."""

    application: str
    component: str
    options: Options = field(default_factory=Options)
    environ: tuple[tuple[str, str], ...] = ()
    tree: Tree | None = None
    grants: Grants = field(default_factory=Grants)
    platform: Platform = field(default_factory=Platform)


class Sandbox(Context):
    """An instance and its context, for one invocation at a time.

    Standard output and error are lines of the log.
    """

    __slots__ = ("id", "instance", "pool", "uses")

    def __init__(self, pool: Sandboxes, renewed: Instance | None = None) -> None:
        # On the path of every event: sets what Context would, with half the work.
        profile = pool.profile
        self.environ = profile.environ
        self.arguments = ()
        self.directory = None
        self.tree = profile.tree
        self.scratch = profile.options.scratch
        self.scratch_root = self._stdin = self._stdout = self._stderr = self.table = None
        self.outbound: Outbound | None = None
        self.platform = profile.platform
        self.now = time.time_ns
        self.random = os.urandom
        self.pool = pool
        self.id = ""
        self.uses = 0
        self.instance: Instance = renewed or pool.component.instantiate(
            self, profile.options.memory
        )

    def note(self, text: str) -> None:
        """See Context."""
        self.pool.report.note(self.id, text)

    def expire(self) -> None:
        """Not to be used again."""
        self.uses = sys.maxsize

    def end(self) -> None:
        """The invocation is over: what the guest printed is complete, its files are gone."""
        for sink in (self._stdout, self._stderr):
            if sink is not None:
                sink.finish()
        self._stdout = self._stderr = self.outbound = None
        if self.table is not None or self.scratch_root is not None or self._stdin is not None:
            Context.close(self)

    def close(self) -> None:
        """Frees everything the guest held. Idempotent."""
        self.instance.close()
        self.end()

    def _opened(self, stream: str) -> Sink:
        return LineSink(lambda line: self.pool.emit(self.id, stream, line))


class Sandboxes:
    """The sandboxes of one component. `gate` admits; `take` and `give` are for who was admitted,
    `report` is told what failed, `meter` what came, also to other versions.
    """

    def __init__(
        self, component: Component, profile: Profile, node: Node, meter: Meter | None = None
    ) -> None:
        self.component = component
        self.profile = profile
        self.node = node
        self._budget = node.budget
        self.meter = meter or Meter()
        self.meter.places.add(self)
        options = profile.options
        self.gate = Gate(
            node.budget, profile.component,
            # Scratch files are in memory, too.
            memory=options.memory + options.scratch, slots=_slots(component),
            concurrency=options.concurrency, queue=options.queue, timeout=options.queue_timeout,
            meter=self.meter,
        )  # fmt: skip
        self._ids = map(f"{secrets.token_hex(4)}-%x".__mod__, itertools.count(1))
        # Each of these holds a place in the budget, which takes it back when others need it.
        self._idle: deque[Sandbox] = deque()  # reused ones, between two events
        self._ready: deque[Sandbox] = deque()  # made ahead, or as if they were made just now
        self._cost = 0.0  # seconds of the last instantiation
        self._last = 0.0  # when the last event came, of the monotonic clock
        self._refill: asyncio.Handle | None = None
        self._cooling: asyncio.TimerHandle | None = None
        self._closed = False
        self._connected = bool(profile.grants.hosts)
        self._printing = Printing()
        self.report = Reporter(profile.application, profile.component)

    @property
    def in_flight(self) -> int:
        """Events that were admitted and have not ended."""
        return self.gate.active

    @property
    def queued(self) -> int:
        """Events that wait to be admitted."""
        return self.gate.queued

    @property
    def kept(self) -> int:
        """Instances that wait for events."""
        return len(self._ready) + len(self._idle)

    def emit(self, invocation: str, stream: str, line: str) -> None:
        """A guest printed that; what goes into the log of it is bounded."""
        for text in self._printing(line):
            self._print(invocation, stream, text)

    def _print(self, invocation: str, stream: str, line: str) -> None:
        profile = self.profile
        if self.node.trace is not None:
            self.node.trace(profile.application, profile.component, invocation, stream, line)
        else:
            _log.info(
                "%s [%s] %s", profile.component, invocation, line,
                extra={
                    "EDGE_APP": profile.application,
                    "EDGE_COMPONENT": profile.component,
                    "EDGE_INVOCATION": invocation,
                    "EDGE_STREAM": stream,
                },
            )  # fmt: skip

    def outbound(self) -> Outbound | None:
        """The way out of one invocation; None: there is none."""
        return Outbound(self.profile.grants, self.node.egress) if self._connected else None

    def take(self) -> Sandbox:
        """A sandbox for one invocation. Raises GuestError when it cannot start, Overloaded when
        there is no place for it."""
        if self._idle or self._ready:
            sandbox = self._idle.pop() if self._idle else self._ready.popleft()
            self._budget.give(self.gate)
        else:
            sandbox = self._make()
        sandbox.id = next(self._ids)
        sandbox.uses += 1
        return sandbox

    def give(self, sandbox: Sandbox) -> None:
        """The invocation is over."""
        instance = sandbox.instance
        if (
            sandbox.uses < self.profile.options.reuse
            and not instance.broken
            and not self._closed
            and _left_nothing(instance)
        ):
            sandbox.end()
            self._idle.append(sandbox)
            self._budget.keep(self)
            self._stay_warm()
        elif not self._renew(sandbox):
            sandbox.close()
        if self._cost > WORTH_PREPARING and not self._closed:
            self._prepare()

    def release(self) -> bool:
        """Ends an instance that was kept; its place is the caller's."""
        kept = self._ready or self._idle
        if not kept:
            return False
        kept.popleft().close()
        return True

    def close(self) -> None:
        """Nothing is kept ready any more; invocations under way go on."""
        self._closed = True
        for handle in (self._refill, self._cooling):
            if handle is not None:
                handle.cancel()
        self._cool(force=True)
        self.report.close()
        self._budget.spares.pop(self, None)

    def _renew(self, sandbox: Sandbox) -> bool:
        """Whether its instance is as it was made, for another event."""
        if self._closed or self._budget.line:
            return False
        fresh = Sandbox(self, sandbox.instance)
        try:
            if not sandbox.instance.renew(fresh):
                return False
        except BaseException:
            sandbox.close()
            raise
        sandbox.end()
        self._budget.keep(self)
        self._stay_warm()
        # Last: from here on it is another's. What ran last is in the processor's caches.
        self._ready.appendleft(fresh)
        return True

    def _make(self) -> Sandbox:
        started = time.perf_counter()
        try:
            return Sandbox(self)
        except Trap as exc:
            raise GuestError(f"did not start: {exc}", component=self.profile.component) from exc
        except MemoryError as exc:
            raise Overloaded(f"component {self.profile.component}: {exc}") from exc
        finally:
            self._cost = time.perf_counter() - started

    def _prepare(self) -> None:
        """Makes instances ahead once the loop has nothing else to do."""
        self._stay_warm()
        if self._refill is None and len(self._ready) + len(self._idle) < AHEAD:
            self._refill = asyncio.get_running_loop().call_soon(self._fill)

    def _stay_warm(self) -> None:
        """What is kept is kept for a while from now."""
        self._last = monotonic()
        if self._cooling is None:
            self._cooling = asyncio.get_running_loop().call_later(HOT, self._cool)

    def _fill(self) -> None:
        self._refill = None
        budget = self._budget
        full = len(self._ready) >= AHEAD
        if self._closed or full or budget.line or not budget.fits(self.gate):
            return
        budget.keep(self)
        try:
            self._ready.append(self._make())
        except (GuestError, Overloaded):
            budget.give(self.gate)  # the next event says why
            return
        if len(self._ready) < AHEAD:
            self._refill = asyncio.get_running_loop().call_soon(self._fill)

    def _cool(self, *, force: bool = False) -> None:
        self._cooling = None
        if not force and (left := self._last + HOT - monotonic()) > 0:
            self._cooling = asyncio.get_running_loop().call_later(left, self._cool)
            return
        while self.release():
            self._budget.give(self.gate)


def _left_nothing(instance: Instance) -> bool:
    """But for what is of the request: componentize-js never drops it. It ends here."""
    if not instance.handles:
        return True
    instance.end(parts_of_requests(instance.kept()))
    return not instance.handles


def _slots(component: Component) -> int:
    """Slots of the pool one instance takes: by its memories, its core instances or its tables."""
    code = component.code
    instances = -(-len(code.plan.instances) // INSTANCES_PER_SLOT)
    return max(1, code.memories, instances, -(-code.tables // TABLES_PER_SLOT))
