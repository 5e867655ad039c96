"""Watches a version that has just gone live: how many of its events fail, and its health.

What it adds to the path of an event is there while it watches, and gone afterwards. It fails a
version

    - of whose events more than `error_rate` failed, of at least `minimum_events`,
    - whose last `minimum_events` events all failed, however many went well before,
    - that was asked for its health twice in a row and was not well.

So one that fails at everything answers `minimum_events` of them, beside those under way by then.
An event failed when its guest did: a reply of 5xx, a trap, a timeout. What the node itself could
not do (no room, a client that went away) says nothing about the version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

from edge import config
from edge.errors import EdgeError, GuestError, Overloaded
from edge.invocation.application import LiveApplication
from edge.invocation.event import Event, EventHandler, Outcome, Status
from edge.node import health
from edge.wasi.http.errors import HttpError
from edge.wasi.http.message import Headers, Reply, Request

__all__ = ["Counted", "Soak"]

# By what a reply ends when its guest is at fault; the last two: it cannot be sent like that.
_FAULTS = (GuestError, HttpError, ValueError, RuntimeError)

# So often in a row a version may be unwell before it is taken back.
_UNWELL = 2


class Soak:
    """One version under watch. `failed` is called once, from wherever it shows, with a reason."""

    def __init__(
        self, live: LiveApplication, settings: config.Sync, failed: Callable[[str], None]
    ) -> None:
        self.live = live
        self._settings = settings
        self._failed: Callable[[str], None] | None = failed
        self._least = max(1, settings.minimum_events)
        self.good = self.bad = 0
        self._row = 0  # failures since the last success

    async def run(self, seconds: float) -> None:
        """Asks for its health until it has been watched for so long, or failed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ask()

    def end(self) -> None:
        """Counts no more."""
        self._failed = None

    # What stands in the place of the version meanwhile

    def handle(self, request: Request, reply: Reply) -> Coroutine[Any, Any, None] | None:
        """Its Handler."""
        return self.live(request, Counted(reply, self))

    def event(self, handle: EventHandler) -> EventHandler:
        """A trigger's handler, counted."""

        def counted(event: Event) -> Outcome | Coroutine[Any, Any, Outcome]:
            outcome = handle(event)
            if isinstance(outcome, Outcome):
                self._outcome(outcome)
                return outcome
            return self._awaited(outcome)

        return counted

    # What it sees

    def well(self) -> None:
        """An event went well."""
        self.good += 1
        self._row = 0

    def ill(self) -> None:
        """The version failed at an event."""
        self.bad += 1
        self._row += 1
        total = self.good + self.bad
        if total >= self._least and self.bad > self._settings.error_rate * total:
            self._fail(f"{self.bad} of {total} events failed")
        elif self._row >= self._least:
            self._fail(f"the last {self._row} events failed")

    async def _awaited(self, work: Coroutine[Any, Any, Outcome]) -> Outcome:
        outcome = await work
        self._outcome(outcome)
        return outcome

    def _outcome(self, outcome: Outcome) -> None:
        if outcome.status is Status.FAILED:
            self.ill()
        elif outcome.status is not Status.BUSY:
            self.well()

    async def _ask(self) -> None:
        """Asks for its health again and again, until it is unwell."""
        unwell = 0
        while unwell < _UNWELL:
            await asyncio.sleep(self._settings.health_interval)
            try:
                await health.check(self.live)
            except Overloaded:
                continue
            except EdgeError as exc:
                unwell += 1
                reason = exc.message
            else:
                unwell = 0
        self._fail(f"health: {reason}")

    def _fail(self, reason: str) -> None:
        failed, self._failed = self._failed, None
        if failed is not None:
            failed(reason)


class Counting(Protocol):
    """Is told how the events of a version ended."""

    def well(self) -> None: ...

    def ill(self) -> None: ...


class Counted:
    """A reply whose end is counted, once."""

    __slots__ = ("_open", "_reply", "_soak")

    def __init__(self, reply: Reply, soak: Counting) -> None:
        self._reply = reply
        self._soak = soak
        self._open = True

    @property
    def started(self) -> bool:
        return self._reply.started

    @property
    def finished(self) -> bool:
        return self._reply.finished

    @property
    def written(self) -> int:
        return self._reply.written

    @property
    def error(self) -> Exception | None:
        return self._reply.error

    def start(self, status: int, headers: Headers) -> None:
        self._reply.start(status, headers)
        if status >= 500:
            self._count(self._soak.ill)

    def writable(self) -> int:
        return self._reply.writable()

    def write(self, data: bytes) -> None:
        self._reply.write(data)

    async def wait_writable(self) -> None:
        await self._reply.wait_writable()

    def finish(self, trailers: Headers | None = None) -> None:
        self._reply.finish(trailers)
        error = self._reply.error
        if error is None:
            self._count(self._soak.well)
        elif isinstance(error, _FAULTS):
            self._count(self._soak.ill)

    def abort(self, error: Exception) -> None:
        # Where the client had gone, what became of the guest was not its fault.
        cause = self._reply.error or error
        self._reply.abort(error)
        if isinstance(cause, _FAULTS):
            self._count(self._soak.ill)

    def _count(self, note: Callable[[], None]) -> None:
        if self._open:
            self._open = False
            note()
