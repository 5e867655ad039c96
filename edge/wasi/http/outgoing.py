"""wasi:http/outgoing-handler@0.2: requests that guests make."""

from __future__ import annotations

import ipaddress
import re
from typing import final

from edge.application.hosts import chained_component
from edge.engine.host import Err, Ok
from edge.wasi.context import Context
from edge.wasi.http.body import IncomingBody, OutgoingBody
from edge.wasi.http.errors import body_size
from edge.wasi.http.exchange import Exchange, RemoteRequest
from edge.wasi.http.fields import Fields, content_length, visible
from edge.wasi.http.incoming import METHODS
from edge.wasi.http.message import Handler, Request
from edge.wasi.io import Pollable
from edge.wasi.outbound import Outbound
from edge.wasi.pipe import BytesSource, Pipe

__all__ = [
    "FutureIncomingResponse",
    "IncomingResponse",
    "OutgoingRequest",
    "RequestOptions",
    "handle",
]

Named = tuple[str, str | None]  # a case of `method` or `scheme`

_WORDS = {case: word for word, case in METHODS.items()}
_SCHEMES = {"HTTP": "http", "HTTPS": "https"}
_PORTS = {"http": 80, "https": 443}
# Requests to oneself for libraries that need an authority.
_SELF = "self.alt"

_METHOD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+\-.]*")
# Without user information: nobody may be led to take the text before an @ for the host.
_AUTHORITY = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
_TARGET = re.compile(r"(?:[/?][!-\"$-~]*|\*)?")  # no blanks, no fragment, ASCII


@final
class RequestOptions:
    """Timeouts, in nanoseconds; None: the host's."""

    __slots__ = ("between_bytes", "connect", "first_byte")

    def __init__(self) -> None:
        self.connect: int | None = None
        self.first_byte: int | None = None
        self.between_bytes: int | None = None

    @staticmethod
    def new(_context: object) -> RequestOptions:
        return RequestOptions()

    def connect_timeout(self) -> int | None:
        return self.connect

    def set_connect_timeout(self, duration: int | None) -> None:
        self.connect = duration

    def first_byte_timeout(self) -> int | None:
        return self.first_byte

    def set_first_byte_timeout(self, duration: int | None) -> None:
        self.first_byte = duration

    def between_bytes_timeout(self) -> int | None:
        return self.between_bytes

    def set_between_bytes_timeout(self, duration: int | None) -> None:
        self.between_bytes = duration


@final
class OutgoingRequest:
    """A request that a guest makes."""

    __slots__ = ("_authority", "_body", "_headers", "_method", "_scheme", "_target")

    def __init__(self, headers: Fields) -> None:
        headers.mutable = False
        self._headers = headers.list
        self._method: Named = ("get", None)
        self._scheme: Named | None = None
        self._authority: str | None = None
        self._target: str | None = None
        self._body: OutgoingBody | None = None

    @staticmethod
    def new(_context: object, headers: Fields) -> OutgoingRequest:
        return OutgoingRequest(headers)

    def body(self) -> OutgoingBody | Err:
        if self._body is not None:
            return Err()
        try:
            self._body = OutgoingBody("request", content_length(self._headers))
        except ValueError:
            return Err()
        return self._body

    def method(self) -> Named:
        return self._method

    def set_method(self, method: Named) -> Err | None:
        case, other = method
        if case == "other" and not _METHOD.fullmatch(other or ""):
            return Err()
        self._method = method
        return None

    def path_with_query(self) -> str | None:
        return self._target

    def set_path_with_query(self, target: str | None) -> Err | None:
        if target is not None and not _TARGET.fullmatch(target):
            return Err()
        self._target = target
        return None

    def scheme(self) -> Named | None:
        return self._scheme

    def set_scheme(self, scheme: Named | None) -> Err | None:
        if scheme is not None and scheme[0] == "other" and not _SCHEME.fullmatch(scheme[1] or ""):
            return Err()
        self._scheme = scheme
        return None

    def authority(self) -> str | None:
        return self._authority

    def set_authority(self, authority: str | None) -> Err | None:
        if authority is not None and _split(authority) is None:
            return Err()
        self._authority = authority
        return None

    def headers(self) -> Fields:
        return Fields(self._headers)

    def send(self, outbound: Outbound | None, options: RequestOptions | None) -> Exchange:
        """On its way. Raises Err(error-code) for what may not or cannot be sent."""
        try:
            if outbound is None:
                raise Err("HTTP-request-denied")
            return self._send(outbound, options)
        except Err:
            self._connect(closed=True)
            raise

    def _send(self, outbound: Outbound, options: RequestOptions | None) -> Exchange:
        self._check_length()
        if outbound.trace:
            self._mark(outbound.trace)
        handler = self._local(outbound)
        remote = None if handler else self._remote(outbound, options)
        if not outbound.acquire():
            raise Err("connection-limit-reached")
        body = self._connect()
        if remote is None:
            assert handler is not None
            return Exchange.local(handler, self._chained(outbound, body), outbound, body)
        assert outbound.egress.http is not None
        remote.body = body
        return Exchange.remote(outbound.egress.http, remote)

    def _mark(self, trace: tuple[tuple[str, str], ...]) -> None:
        """Tells the trace that it belongs to, unless its guest does."""
        if all(name != b"traceparent" for name, _ in self._headers):
            told = [(name.encode(), value.encode()) for name, value in trace]
            self._headers = [*self._headers, *told]

    def _local(self, outbound: Outbound) -> Handler | None:
        """Who answers in this process, if anybody does; also whether it may be asked."""
        authority = (self._authority or _SELF).lower()
        handler: Handler | None
        if (component := chained_component(authority)) is not None:
            self._check(outbound.allows("http", authority.partition(":")[0], 80))
            handler = outbound.grants.chain(component)
        elif authority.partition(":")[0] == _SELF:
            self._check(outbound.grants.hosts.allows_self(self._scheme_word("http")))
            handler = outbound.grants.origin
        else:
            return None
        if handler is None:
            raise Err("destination-not-found")
        if outbound.depth >= outbound.grants.limits.depth:
            raise Err("loop-detected")
        return handler

    def _chained(self, outbound: Outbound, body: Pipe | None) -> Request:
        authority = self._authority or outbound.authority
        if authority.partition(":")[0].lower() == _SELF:
            authority = outbound.authority
        return Request(
            method=self._method_word(),
            scheme="http",
            authority=authority,
            target=self._path(),
            headers=list(self._headers),
            body=BytesSource() if body is None else body,
            client="0.0.0.0:0",
            depth=outbound.depth + 1,
        )

    def _remote(self, outbound: Outbound, options: RequestOptions | None) -> RemoteRequest:
        scheme = self._scheme_word("https")
        if scheme not in _PORTS:
            raise Err("HTTP-protocol-error")
        if self._method_word() == "CONNECT":
            # A tunnel leads where no grant was asked for.
            raise Err("HTTP-request-method-invalid")
        host, port = _split(self._authority or "") or ("", None)
        port = port or _PORTS[scheme]
        self._check(outbound.allows(scheme, host, port) and outbound.egress.http is not None)
        if _is_address(host) and not outbound.allows_address(scheme, None, host, port):
            raise Err("destination-IP-prohibited")
        limits, given = outbound.grants.limits, options or RequestOptions()
        return RemoteRequest(
            method=self._method_word(),
            scheme=scheme,
            host=host,
            port=port,
            target=self._path(),
            headers=self._headers,
            body=None,
            connect=_seconds(given.connect, limits.connect),
            first_byte=_seconds(given.first_byte, limits.first_byte),
            between_bytes=_seconds(given.between_bytes, limits.between_bytes),
            outbound=outbound,
        )

    def _connect(self, *, closed: bool = False) -> Pipe | None:
        if self._body is None:
            return None
        pipe = Pipe()
        if closed:
            pipe.close()
        self._body.connect(pipe)
        return pipe

    def _check_length(self) -> None:
        try:
            length = content_length(self._headers)
        except ValueError:
            raise Err("HTTP-protocol-error") from None
        if length and self._body is None:
            raise Err(body_size("request", 0).code)

    @staticmethod
    def _check(allowed: bool) -> None:  # noqa: FBT001 -- the answer of the policy, nothing else
        if not allowed:
            raise Err("HTTP-request-denied")

    def _method_word(self) -> str:
        case, other = self._method
        return _WORDS.get(case) or other or ""

    def _scheme_word(self, default: str) -> str:
        if self._scheme is None:
            return default
        case, other = self._scheme
        return _SCHEMES.get(case) or (other or "").lower()

    def _path(self) -> str:
        target = self._target or "/"
        return f"/{target}" if target[0] == "?" else target


@final
class FutureIncomingResponse:
    """A response that may come. Dropping it ends the request."""

    __slots__ = ("_exchange", "_taken")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._taken = False

    def subscribe(self) -> Pollable:
        return Pollable(self.ready, self._exchange.reply.wait_decided)

    def ready(self) -> bool:
        return self._exchange.reply.decided

    def get(self) -> Ok | Err | None:
        if not self.ready():
            return None
        if self._taken:
            return Err()
        self._taken = True
        error = self._exchange.error
        return Ok(Ok(IncomingResponse(self._exchange)) if error is None else Err(error))

    def drop(self) -> None:
        if not self._taken:
            self._exchange.cancel()


@final
class IncomingResponse:
    """The response to a guest's request."""

    __slots__ = ("_consumed", "_exchange")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._consumed = False

    def status(self) -> int:
        return self._exchange.reply.status

    def headers(self) -> Fields:
        return Fields(visible(self._exchange.reply.headers))

    def consume(self) -> IncomingBody | Err:
        if self._consumed:
            return Err()
        self._consumed = True
        return IncomingBody(self._exchange.reply.body)

    def drop(self) -> None:
        if not self._consumed:
            self._exchange.reply.body.close()


def handle(
    context: Context, request: OutgoingRequest, options: RequestOptions | None
) -> FutureIncomingResponse:
    try:
        return FutureIncomingResponse(request.send(context.outbound, options))
    except Err as error:
        if error.payload == "HTTP-request-denied":
            host = request.authority()
            context.note(f"may not send a request to {host}: name it in allowed_outbound_hosts")
        raise


def _split(authority: str) -> tuple[str, int | None] | None:
    """Host (IPv6 without brackets) and port of an authority; None when it is malformed."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port < 65536:
        return None
    host = match["host"].lower()
    if host[0] == "[":
        host = host[1:-1]
        if not _is_address(host):
            return None
    return host, port


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _seconds(nanoseconds: int | None, default: float) -> float:
    return default if nanoseconds is None else nanoseconds / 1e9
