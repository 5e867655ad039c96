# cython: annotation_typing=False, binding=False
"""HTTP messages as triggers, router, invocation and guests hand them on.

Knows no wire format and no Wasm.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from edge.application.headers import RequestHeaders
from edge.application.routes import Match
from edge.wasi.pipe import CAPACITY, Pipe, Signal, Sink, Source

Headers = list[tuple[bytes, bytes]]
"""Names as sent but lower-cased, values without surrounding blanks; order and repeats kept."""


class Body(Source, Protocol):
    """A body being received."""

    @property
    def trailers(self) -> Headers | None:
        """Fields sent after the body; complete once `ended`, None when there were none."""


class Request:
    """A request whose head is complete. `target` is in origin form ("/path?query"), as received
    but for the path where its application is mounted: that belongs to its `route`. `client` is
    "ip:port"; `depth`: components that wait for this answer, each called by the one before it.
    """

    __slots__ = (
        "authority", "body", "client", "depth", "headers", "method", "route", "scheme", "span",
        "target",
    )  # fmt: skip

    def __init__(
        self,
        method: str,
        scheme: str,
        authority: str,
        target: str,
        headers: Headers,
        body: Body,
        client: str,
        depth: int = 0,
    ) -> None:
        self.method = method
        self.scheme = scheme
        self.authority = authority
        self.target = target
        self.headers = headers
        self.body = body
        self.client = client
        self.depth = depth
        # Where it was routed to. What that adds to the headers is made when somebody asks for it.
        self.route: tuple[RequestHeaders, Match[Any]] | None = None
        # Of its invocation, where the node traces: a Span.
        self.span: Any = None

    def routed_headers(self) -> Headers:
        """The headers with those that tell a component about its route and its client."""
        if self.route is None:
            return self.headers
        added, match = self.route
        url = f"{self.scheme}://{self.authority}{added.base}{self.target}"
        return added.add(self.headers, match, url=url, client=self.client)


class Reply(Sink, Protocol):
    """How one request is answered: `start`, body bytes as for any Sink, `finish`; or `abort`.

    The one who calls need not flush: the head may be held back until the first body byte, `finish`
    or the end of the current turn of the loop, so that a small reply is one write with a
    Content-Length. Whoever implements it frames the body as the headers given to `start` say
    (Content-Length kept, else chunked or until close), and leaves out the body where HTTP has none
    (the answer to HEAD, 204, 304). One write after `start` may be larger than `writable()`: what a
    guest wrote before, at most 1 MiB.
    """

    @property
    def started(self) -> bool:
        """`start` was called: the status can no longer change."""

    @property
    def finished(self) -> bool:
        """The reply is complete, was aborted, or its client is gone: nothing more is sent."""

    @property
    def written(self) -> int:
        """Bytes of the body taken so far: who watches them sees whether the reply moves."""

    def start(self, status: int, headers: Headers) -> None:
        """Send the head. Once only, 200 ≤ status ≤ 999: there are no informational heads."""

    def finish(self, trailers: Headers | None = None) -> None:
        """The reply is complete. Idempotent. Trailers are dropped where the transport has none."""

    def abort(self, error: Exception) -> None:
        """Before `start`: an error status. After: the connection is cut, never a clean end.
        After `finish`, or a second time: nothing."""


Handler = Callable[[Request, Reply], Coroutine[Any, Any, None] | None]
"""Called when a request's head is complete. None: fully answered already. A coroutine: the caller
runs it as a task that it owns and cancels when the client goes away; the coroutine finishes or
aborts the reply."""


class LocalReply:
    """A Reply to a caller in this process: `await head()`, then read `body` (with its `trailers`).

    Closing `body` tells the writer that its reader is gone. `method` is the request's.
    """

    __slots__ = ("_bodyless", "_head", "body", "headers", "status", "written")

    def __init__(self, method: str = "", capacity: int = CAPACITY) -> None:
        self._bodyless = method == "HEAD"
        self.written = 0
        self.body = Pipe(capacity)
        self.status = 0
        self.headers: Headers = []
        self._head = Signal()

    @property
    def started(self) -> bool:
        return self.status != 0

    @property
    def finished(self) -> bool:
        return self.body.ended

    @property
    def error(self) -> Exception | None:
        return self.body.error

    @property
    def decided(self) -> bool:
        """The status is known, or there will be none (see `error`)."""
        return self.status != 0 or self.body.ended

    async def wait_decided(self) -> None:
        while not self.decided:
            await self._head.wait()

    async def head(self) -> tuple[int, Headers]:
        """Status and headers. Raises what the reply was aborted with before its start."""
        await self.wait_decided()
        if not self.status:
            raise self.body.error or ConnectionAbortedError("no reply")
        return self.status, self.headers

    def start(self, status: int, headers: Headers) -> None:
        self._bodyless = self._bodyless or status in (204, 304)
        self.status = status
        self.headers = headers
        self._head.wake()

    def writable(self) -> int:
        return self.body.writable()

    def write(self, data: bytes) -> None:
        self.written += len(data)
        if not self._bodyless:
            self.body.write(data)

    async def wait_writable(self) -> None:
        await self.body.wait_writable()

    def finish(self, trailers: Headers | None = None) -> None:
        self.body.finish(trailers)
        self._head.wake()

    def abort(self, error: Exception) -> None:
        self.body.abort(error)
        self._head.wake()
