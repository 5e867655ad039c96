"""Events handled by a component that exports wasi:http/incoming-handler: each is a `POST /` in the
HTTP binding of CloudEvents 1.0, binary mode. The answer's status is the outcome, its body the
reply.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Coroutine, Iterator
from typing import Any
from urllib.parse import quote

from edge.application.headers import RequestHeaders
from edge.application.routes import CHAINED, Match
from edge.errors import EdgeError, GuestError, GuestLimit, Overloaded
from edge.invocation.event import DONE, Event, Outcome, Status
from edge.invocation.http import HttpInvoker
from edge.invocation.native import ended_by, too_large
from edge.invocation.run import Run
from edge.invocation.sandbox import Sandboxes
from edge.invocation.tracing import marked
from edge.platform.sums import cut
from edge.wasi.http.incoming import ResponseOutparam
from edge.wasi.http.message import Headers, Reply, Request
from edge.wasi.pipe import CAPACITY, BytesSource

__all__ = ["MAX_REPLY", "EventInvoker", "event_headers"]

# A reply is in memory until it is delivered. More would let few events hold much; it is far above
# what MQTT devices take.
MAX_REPLY = 1 << 20

# RFC 9110: wait and try again, although 4xx.
_TRANSIENT = (408, 429)

# CloudEvents, HTTP binding, §3.1.3.2: all but visible ASCII, and of that `"` and `%`, is encoded.
_PLAIN = re.compile(r"[!#-$&-~]*")
_SAFE = "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
# RFC 9110, §8.3: token "/" token, then parameters.
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^`|~\w-]+/[!#$%&'*+.^`|~\w-]+[ \t]*(;[\t -~]*)?", re.ASCII)


class EventInvoker(HttpInvoker):
    """Runs events in one component. `export`: the number of its `handle` function."""

    __slots__ = ("_authority", "_headers", "_limit")

    def __init__(self, sandboxes: Sandboxes, export: int, authority: str) -> None:
        super().__init__(sandboxes, export)
        self._authority = authority
        self._headers = RequestHeaders(CHAINED)
        self._limit = min(sandboxes.profile.options.response_size or MAX_REPLY, MAX_REPLY)

    def handle(self, event: Event) -> Outcome | Coroutine[Any, Any, Outcome]:
        """An EventHandler."""
        if (reason := too_large(self.sandboxes, event)) is not None:
            return Outcome(Status.REJECTED, reason)
        request, answer = self._request(event), _Answer(self._limit)
        try:
            if not self.sandboxes.gate.enter():
                return self._waiting(request, answer)
        except Overloaded as exc:
            return ended_by(exc, self.sandboxes)
        run = self._begin(request, answer)
        return self._outcome(answer) if run is None else self._finished(run, answer)

    async def _waiting(self, request: Request, answer: _Answer) -> Outcome:
        try:
            await self._queued(request, answer)
        except Overloaded as exc:
            return ended_by(exc, self.sandboxes)
        return self._outcome(answer)

    async def _finished(self, run: Run, answer: _Answer) -> Outcome:
        await self._rest(run, answer)
        return self._outcome(answer)

    def _request(self, event: Event) -> Request:
        request = Request(
            "POST", "http", self._authority, "/",
            event_headers(event), BytesSource(event.data), "127.0.0.1:0",
        )  # fmt: skip
        request.route = self._headers, Match(CHAINED, None, path_info="/")
        if event.span is not None:
            request.span = event.span
            request.headers = marked(request.headers, event.span.carrier)
        return request

    def _over(
        self, id: str, error: BaseException | None, outparam: ResponseOutparam, reply: Reply
    ) -> BaseException | None:
        wrong = super()._over(id, error, outparam, reply)
        assert isinstance(reply, _Answer)
        reply.invocation = id
        if wrong is None and not 200 <= reply.status < 300:
            return GuestError(f"answered {reply.status}")
        return wrong

    def _outcome(self, answer: _Answer) -> Outcome:
        error = answer.error
        if error is None:
            return self._answered(answer)
        match error:
            case Overloaded():
                return Outcome(Status.BUSY, error.message)
            case GuestLimit():
                return Outcome(Status.REJECTED, error.cause)
            case GuestError():
                return Outcome(Status.FAILED, error.cause)
        return Outcome(Status.FAILED, cut(str(error)))

    def _answered(self, answer: _Answer) -> Outcome:
        status, body = answer.status, b"".join(answer.parts)
        if 200 <= status < 300:
            if not body:
                return DONE
            return Outcome(Status.DONE, reply=body, content_type=_content_type(answer.headers))
        said = cut(body[:1024].decode(errors="replace"))
        reason = f"answered {status}: {said}" if said else f"answered {status}"
        profile = self.sandboxes.profile
        self.sandboxes.report(
            GuestError(reason, component=profile.component, invocation=answer.invocation)
        )
        final = 400 <= status < 500 and status not in _TRANSIENT
        return Outcome(Status.REJECTED if final else Status.FAILED, reason)


def event_headers(event: Event) -> Headers:
    """The headers of an event as a request."""
    headers = [(b"content-length", b"%d" % len(event.data)), (b"ce-specversion", b"1.0")]
    if event.content_type is not None and _MEDIA_TYPE.fullmatch(event.content_type):
        headers.append((b"content-type", event.content_type.encode()))
    headers += [(b"ce-" + name.encode(), _encode(value)) for name, value in _attributes(event)]
    return headers


def _attributes(event: Event) -> Iterator[tuple[str, str]]:
    yield "id", event.id
    yield "source", event.source
    yield "type", event.type
    if event.subject:
        yield "subject", event.subject
    if event.time is not None:
        moment = datetime.datetime.fromtimestamp(event.time, datetime.UTC)
        yield "time", moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    yield from event.attributes


def _encode(value: str) -> bytes:
    if not _PLAIN.fullmatch(value):
        value = quote(value, safe=_SAFE, errors="replace")
    return value.encode()


def _content_type(headers: Headers) -> str | None:
    found = dict(headers).get(b"content-type", b"").decode("latin-1")
    return found if _MEDIA_TYPE.fullmatch(found) else None


class _Answer:
    """A Reply that is kept. Other than one to a client it is not over before its guest is: what
    fails after the last byte fails the whole.
    """

    __slots__ = (
        "_left", "_limit", "error", "finished", "headers", "invocation", "parts", "status",
    )  # fmt: skip

    def __init__(self, limit: int) -> None:
        self._limit = self._left = limit
        self.error: Exception | None = None
        self.finished = False
        self.headers: Headers = []
        self.invocation = ""
        self.parts: list[bytes] = []
        self.status = 0

    @property
    def started(self) -> bool:
        return self.status != 0

    @property
    def written(self) -> int:
        return self._limit - self._left

    def start(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers

    def writable(self) -> int:
        return 0 if self.finished else CAPACITY

    def write(self, data: bytes) -> None:
        if self.finished:
            return
        self._left -= len(data)
        if self._left < 0:
            self.abort(GuestLimit(f"response body: larger than {self._limit} bytes"))
        else:
            self.parts.append(data)

    async def wait_writable(self) -> None:
        return

    def finish(self, trailers: Headers | None = None) -> None:
        self.finished = True

    def abort(self, error: Exception) -> None:
        if self.error is None and (not self.finished or isinstance(error, EdgeError)):
            self.error = error
            self.parts.clear()
        self.finished = True
