"""Bodies that a component limits: `request_size` and `response_size` of its options.

Only requests to such components pass through here; nobody else pays for the counting.
"""

from __future__ import annotations

from edge.application.options import Options
from edge.errors import GuestLimit, TooLarge
from edge.wasi.http.message import Body, Headers, Reply, Request


def limited(options: Options, request: Request, reply: Reply) -> Reply:
    """Holds both bodies to the limits: the request's in place, the response's by the reply that
    is returned. Raises TooLarge when the request says at once that it is larger.
    """
    if options.request_size:
        length = dict(request.headers).get(b"content-length", b"0")
        if int(length) > options.request_size:
            raise TooLarge(f"request body: larger than {options.request_size} bytes")
        request.body = _LimitedBody(request.body, options.request_size, reply)
    if options.response_size:
        return _LimitedReply(reply, options.response_size)
    return reply


class _LimitedBody:
    """A body that ends with an error, and its reply with a 413, beyond so many bytes."""

    def __init__(self, body: Body, limit: int, reply: Reply) -> None:
        self._body = body
        self._left = limit
        self._limit = limit
        self._reply = reply
        self._error: TooLarge | None = None

    @property
    def ended(self) -> bool:
        return self._error is not None or self._body.ended

    @property
    def exhausted(self) -> bool:
        return self._error is not None or self._body.exhausted

    @property
    def error(self) -> Exception | None:
        return self._error or self._body.error

    @property
    def trailers(self) -> Headers | None:
        return self._body.trailers

    def read_nowait(self, n: int) -> bytes:
        if self._error is not None:
            return b""
        # One byte more than there may be tells a body that is too long from one that just fits.
        data = self._body.read_nowait(min(n, self._left + 1))
        if len(data) > self._left:
            self._error = TooLarge(f"request body: larger than {self._limit} bytes")
            self._reply.abort(self._error)
            self._body.close()
            return b""
        self._left -= len(data)
        return data

    async def wait_readable(self) -> None:
        if self._error is None:
            await self._body.wait_readable()

    def close(self) -> None:
        self._body.close()


class _LimitedReply:
    """A reply that is cut when its body exceeds so many bytes."""

    def __init__(self, reply: Reply, limit: int) -> None:
        self._reply = reply
        self._limit = limit

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

    def writable(self) -> int:
        return self._reply.writable()

    def write(self, data: bytes) -> None:
        if self._reply.written + len(data) > self._limit:
            self.abort(GuestLimit(f"response body: larger than {self._limit} bytes"))
        else:
            self._reply.write(data)

    async def wait_writable(self) -> None:
        await self._reply.wait_writable()

    def finish(self, trailers: Headers | None = None) -> None:
        self._reply.finish(trailers)

    def abort(self, error: Exception) -> None:
        self._reply.abort(error)
