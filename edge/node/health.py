"""Asks a version whether it is well: an instance of each component, and its own answer.

A path that somebody stated (`health`) must be answered with 2xx or 3xx. Where nobody did, /healthz
is asked: who does not know it is well, too, as long as the answer is not 5xx.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import quote

from edge.errors import BundleError, GuestError, Overloaded
from edge.invocation.application import LiveApplication
from edge.invocation.sandbox import Sandboxes
from edge.wasi.http.message import Handler, Headers, Request
from edge.wasi.pipe import CAPACITY, BytesSource

__all__ = ["DEADLINE", "check", "instantiate"]

# Seconds in which a component must have answered.
DEADLINE = 10.0

# Seconds for the rest, once it has begun to answer.
_REST = 1.0

_UNSTATED = "/healthz"


async def instantiate(live: LiveApplication) -> None:
    """Makes an instance of each component and ends it. Raises BundleError, or Overloaded when the
    node has no room for it now.
    """
    for id, sandboxes in live.sandboxes.items():
        try:
            await _instantiate(sandboxes)
        except GuestError as exc:
            raise BundleError(f"component {id}: {exc.cause}", hint=exc.hint) from exc


async def check(live: LiveApplication, deadline: float = DEADLINE) -> None:
    """Asks each component that handles HTTP, one after the other. Raises as `instantiate`."""
    asked = {t.component: None for t in live.application.http if t.component}
    for id in asked:
        path = live.application.components[id].options.health
        handler = live.probe(id)
        if path is not None and handler is not None:
            status = await _ask(live.name, id, handler, path or _UNSTATED, deadline)
            if not (200 <= status < 400 if path else status < 500):
                raise BundleError(
                    f"component {id}: answers GET {path or _UNSTATED} with {status}",
                    hint="it is asked for its health before it goes live (tool.edge: health)",
                )


async def _instantiate(sandboxes: Sandboxes) -> None:
    if not sandboxes.gate.enter():
        await sandboxes.gate.wait()
    try:
        sandboxes.give(sandboxes.take())
    finally:
        sandboxes.gate.leave()


async def _ask(name: str, id: str, handler: Handler, path: str, deadline: float) -> int:
    """The status of the answer. Raises BundleError where there is none."""
    request = Request(
        "GET", "http", quote(name, safe=""), path,
        [(b"host", quote(name, safe="").encode()), (b"user-agent", b"edge-health")],
        BytesSource(), "127.0.0.1:0",
    )  # fmt: skip
    loop, reply = asyncio.get_running_loop(), _Answer()
    try:
        async with asyncio.timeout(deadline) as waiting:
            # A body without an end is an answer, too.
            reply.on_start = lambda: waiting.reschedule(loop.time() + _REST)
            work = handler(request, reply)
            if work is not None:
                await work
    except TimeoutError:
        if not reply.status:
            raise BundleError(f"component {id}: GET {path}: no answer in {deadline:g} s") from None
    if isinstance(reply.error, Overloaded):
        raise reply.error
    if reply.error is not None and not (reply.status and isinstance(reply.error, OSError)):
        cause = getattr(reply.error, "cause", str(reply.error))
        raise BundleError(f"component {id}: GET {path}: {cause}") from reply.error
    return reply.status


def _nothing() -> None: ...


class _Answer:
    """Keeps the status, and nothing of the body."""

    def __init__(self) -> None:
        self.status = 0
        self.on_start: Callable[[], None] = _nothing
        self._error: Exception | None = None
        self._finished = False
        self._written = 0

    @property
    def started(self) -> bool:
        return self.status != 0

    @property
    def finished(self) -> bool:
        return self._finished

    @property
    def written(self) -> int:
        return self._written

    @property
    def error(self) -> Exception | None:
        return self._error

    def start(self, status: int, headers: Headers) -> None:
        self.status = status
        self.on_start()

    def writable(self) -> int:
        return CAPACITY

    def write(self, data: bytes) -> None:
        self._written += len(data)

    async def wait_writable(self) -> None:
        return

    def finish(self, trailers: Headers | None = None) -> None:
        self._finished = True

    def abort(self, error: Exception) -> None:
        if not self._finished:
            self._finished, self._error = True, error
