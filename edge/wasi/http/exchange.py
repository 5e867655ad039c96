"""A request of a guest under way: to another machine, or to a component of the same application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from edge.errors import EdgeError, GuestTimeout, NoRoute, Overloaded
from edge.wasi.http.errors import ErrorCode, HttpError, code_of, failure
from edge.wasi.http.message import Handler, Headers, LocalReply, Request
from edge.wasi.outbound import HttpClient, Outbound
from edge.wasi.pipe import Pipe

__all__ = ["Exchange", "RemoteRequest"]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class RemoteRequest:
    """A request to another machine. Its policy was checked but for the addresses of its host.

    `body` is None where there is none; times are in seconds.
    """

    method: str
    scheme: str
    host: str
    port: int
    target: str
    headers: Headers
    body: Pipe | None
    connect: float
    first_byte: float
    between_bytes: float
    outbound: Outbound

    def allows_address(self, address: str) -> bool:
        return self.outbound.allows_address(self.scheme, self.host, address, self.port)


class Exchange:
    """A request on its way and its response, as far as it came.

    It holds one of its invocation's connections until its task ends. `cancel` ends it; so does a
    reader of the response's body who closes it.
    """

    __slots__ = ("_body", "_outbound", "_task", "reply")

    def __init__(self, outbound: Outbound, method: str, body: Pipe | None) -> None:
        self.reply = LocalReply(method)
        self.reply.body.on_writable = self._reader_moved
        self._body = body
        self._outbound = outbound
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def remote(cls, client: HttpClient, request: RemoteRequest) -> Exchange:
        exchange = cls(request.outbound, request.method, request.body)
        exchange._start(client.send(request, exchange.reply), f"outbound http {request.host}")
        return exchange

    @classmethod
    def local(
        cls, handler: Handler, request: Request, outbound: Outbound, body: Pipe | None
    ) -> Exchange:
        exchange = cls(outbound, request.method, body)
        exchange._start(_call(handler, request, exchange.reply), f"chained {request.authority}")
        return exchange

    @property
    def error(self) -> ErrorCode | None:
        """Why there is no response, once `reply.decided`."""
        reply = self.reply
        if reply.started:
            return None
        # A request that its own guest broke off fails for that reason, whatever came of it.
        for error in (self._body.error if self._body else None, reply.error):
            if isinstance(error, HttpError):
                return error.code
        return _chained_code(reply.error)

    def cancel(self) -> None:
        self.reply.body.close()
        if self._task is not None:
            self._task.cancel()

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        # A component whose answer is complete may end what it does after it.
        self._task = self._outbound.start(work, name=name, may_finish=self._answered)
        self._task.add_done_callback(self._ended)

    def _answered(self) -> bool:
        return self.reply.body.ended and self.reply.error is None

    def _reader_moved(self) -> None:
        if isinstance(self.reply.error, BrokenPipeError) and self._task is not None:
            self._task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._outbound.release()
        self.reply.body.on_writable = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("%s failed", task.get_name(), exc_info=error)
        if not self.reply.body.ended:
            self.reply.abort(failure("connection-terminated", "the exchange was ended"))
        if self._body is not None:
            self._body.close()


async def _call(handler: Handler, request: Request, reply: LocalReply) -> None:
    """In a task of its own: a guest is never entered from within another's host function."""
    try:
        work = handler(request, reply)
        if work is not None:
            await work
    except EdgeError as error:
        reply.abort(error)


def _chained_code(error: Exception | None) -> ErrorCode:
    """What a component sees of the failure of the one it called: the kind, no text."""
    if isinstance(error, Overloaded):
        return "connection-limit-reached"
    if isinstance(error, GuestTimeout):
        return "HTTP-response-timeout"
    if isinstance(error, NoRoute):
        return "destination-not-found"
    if isinstance(error, EdgeError) or error is None:
        return ("internal-error", "the component failed")
    return code_of(error)
