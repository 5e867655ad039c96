# cython: annotation_typing=False, binding=False
"""The requests of one connection, from bytes. Framing is llhttp's; the strictness it lacks is here.

Knows no sockets and no loop. llhttp cannot be paused through httptools, so it is fed in pieces
that end where a message may end: after an empty line, or with the last byte of a body of known
length. So there is never more than one request that was parsed and not yet answered.
"""

from __future__ import annotations

import math
import re
from enum import Enum
from typing import Any, Final

import httptools

from edge.config import HttpSettings
from edge.triggers.http.failure import Refused
from edge.wasi.http.message import Headers
from edge.wasi.pipe import CAPACITY, Pipe

_EMPTY_LINE: Final = b"\r\n\r\n"

# Headers with a meaning for the connection. Of these a guest sees only host and content-length.
_MANAGED: Final = frozenset(
    b"connection content-length expect host http2-settings keep-alive proxy-connection te "
    b"transfer-encoding upgrade".split()
)

# RFC 3986 §3.2.2 and §3.2.3, without user information, which RFC 9110 §4.2.4 wants refused.
_AUTHORITY: Final = re.compile(
    rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?"
)
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?]*)(.*)")
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64} ")


class Phase(Enum):
    """How much of the current request has arrived."""

    HEAD = 0  # nothing, or a part of its head
    BODY = 1  # its head
    DONE = 2  # all of it; nothing may be fed until `reset`


HEAD, BODY, DONE = Phase.HEAD, Phase.BODY, Phase.DONE


class RequestParser:
    """Feed bytes and look at `phase`. From BODY on the attributes below describe the request.

    `authority` is "" where an HTTP/1.0 client (`old`) named none. In BODY whoever uses the parser
    sets `body` before feeding on; it gets the bytes, and the end with the trailers.
    """

    __slots__ = (
        "_chunked",
        "_completed",
        "_connection",
        "_fault",
        "_fields",
        "_framed",
        "_headed",
        "_host",
        "_known_authority",
        "_known_host",
        "_left",
        "_llhttp",
        "_seen",
        "_settings",
        "_tail",
        "_unframed",
        "_upgraded",
        "_url",
        "authority",
        "body",
        "expects",
        "headers",
        "keep_alive",
        "method",
        "old",
        "phase",
        "received",
        "target",
    )

    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings
        self._llhttp: Any = httptools.HttpRequestParser(self)
        self._known_host = b""
        self._known_authority = ""
        self.method = self.target = self.authority = ""
        self.reset()

    def reset(self) -> None:
        """Ready for the next request of the connection."""
        self.phase = HEAD
        self.body: Pipe | None = None
        self.received = 0  # bytes of the body
        self.old = self.expects = self.keep_alive = False
        self._url = self._connection = b""
        self._host: bytes | None = None
        self.headers: Headers = []
        self._fields = self.headers
        self._fault: Refused | None = None
        self._seen = b""  # of a head that is incomplete
        self._tail = b""  # the last bytes fed, which may begin an empty line
        self._left = 0  # bytes to come of a body of known length
        self._unframed = 0  # bytes fed since the last one that was of a chunked body
        self._framed = False
        self._chunked = self._upgraded = self._headed = self._completed = False

    @property
    def partial(self) -> bool:
        """A head has begun and is not complete."""
        return bool(self._seen)

    def close(self) -> None:
        """Let go of llhttp, which refers back to this object."""
        self._llhttp = None

    @property
    def expected(self) -> float:
        """Bytes of the body in all; infinite when the head does not say."""
        return math.inf if self._chunked else self.received + self._left

    def feed(self, data: bytes, at: int) -> int:
        """Parse one piece of `data`, from `at` on; return where it ended. Raises Refused."""
        end = self._boundary(data, at)
        piece = data[at:end]
        self._parse(piece)
        if self.phase is HEAD:
            self._fed_head(piece)
            return end
        if self._chunked:
            self._bound_framing(piece)
        self._fed_body(len(piece))
        return end

    def sure(self) -> int:
        """How many of the next bytes are of the body, whatever they are."""
        return self._left if self.phase is BODY else 0

    def feed_body(self, data: memoryview) -> None:
        """The same for bytes that are `sure`, all of them: what llhttp hands on is the only copy.

        In pieces that a guest can read whole.
        """
        for at in range(0, len(data), CAPACITY):
            piece = data[at : at + CAPACITY]
            self._parse(piece)
            self._fed_body(len(piece))

    def _boundary(self, data: bytes, at: int) -> int:
        if self._left and self.phase is BODY:
            return min(len(data), at + self._left)
        if self._tail:
            split = (self._tail + data[at : at + 3]).find(_EMPTY_LINE)
            if split >= 0:
                return at + split + 4 - len(self._tail)
        found = data.find(_EMPTY_LINE, at)
        return found + 4 if found >= 0 else len(data)

    def _parse(self, piece: bytes | memoryview) -> None:
        try:
            self._llhttp.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._upgraded = True
        except httptools.HttpParserError as error:
            raise self._refusal(error, piece) from None

    def _refusal(self, error: httptools.HttpParserError, piece: bytes | memoryview) -> Refused:
        reason = str(error)
        if "PRI/Upgrade" in reason or reason == "Invalid HTTP version":
            return Refused(505, "only HTTP/1.1 and HTTP/1.0 are served here")
        if isinstance(error, httptools.HttpParserInvalidMethodError) and _TOKEN.match(piece):
            return Refused(501, "unknown method")
        return Refused(400, f"malformed request: {reason[:1].lower()}{reason[1:]}")

    # The head

    def _fed_head(self, piece: bytes) -> None:
        head = self._seen + piece if self._seen else piece
        if len(head) > self._settings.max_head:
            too_long = len(self._url) > self._settings.max_target
            raise Refused(414, "target too long") if too_long else Refused(431, "head too large")
        if self._headed:
            self._end_head(head)
        else:
            self._seen = head
            self._tail = head[-3:]

    def _end_head(self, head: bytes) -> None:
        self._seen = self._tail = b""
        method = self._llhttp.get_method()
        self.method = method.decode()
        if not head.startswith(self._url + b" HTTP/1.1\r\n", len(method) + 1):
            self._check_line(head, method)
        self.headers, self._fields = self._fields, []
        self._check_headers()
        if self._upgraded and method == b"CONNECT":
            raise Refused(501, "method CONNECT is not supported")
        self._address()
        if self._upgraded:
            self._stay()
        self.phase = DONE if self._completed else BODY

    def _check_line(self, head: bytes, method: bytes) -> None:
        """Empty lines before a request are allowed (RFC 9112 §2.2), further blanks are not."""
        while head.startswith(b"\r\n"):
            head = head[2:]
        line = head[: head.find(b"\r\n")]
        if line == b"%b %b HTTP/1.0" % (method, self._url):
            self.old = True
            self.expects = False
        elif line != b"%b %b HTTP/1.1" % (method, self._url):
            if self._llhttp.get_http_version() in ("1.0", "1.1"):
                raise Refused(400, "malformed request line")
            raise Refused(505, "only HTTP/1.1 and HTTP/1.0 are served here")

    def _check_headers(self) -> None:
        if self._fault is not None:
            raise self._fault
        if len(self.headers) > self._settings.max_headers:
            raise Refused(431, "too many headers")
        if self._connection:
            self._drop_nominated()
        if self._left > self._settings.max_body:
            raise Refused(413, "body too large")
        if self._chunked and self.old:
            raise Refused(400, "transfer-encoding in HTTP/1.0")

    def _drop_nominated(self) -> None:
        """The connection header names others that are for this hop only (RFC 9110 §7.6.1)."""
        names = {name.strip().lower() for name in self._connection.split(b",")}
        names -= {b"close", b"keep-alive", b"host", b"content-length"}
        if names:
            self.headers = [field for field in self.headers if field[0] not in names]

    def _address(self) -> None:
        host, url = self._host, self._url
        if host is None and not self.old:
            raise Refused(400, "no host header")
        if len(url) > self._settings.max_target:
            raise Refused(414, "target too long")
        if host != self._known_host:
            self._check_host(host or b"")
        self.authority = self._known_authority
        if url[0] != 0x2F or b"#" in url:
            url = self._unusual_target(url)
        self.target = url.decode()

    def _check_host(self, host: bytes) -> None:
        """The requests of a connection name one host, as a rule: it is checked once."""
        if host and not _AUTHORITY.fullmatch(host):
            raise Refused(400, "invalid host")
        self._known_host, self._known_authority = host, host.decode()

    def _unusual_target(self, url: bytes) -> bytes:
        if url == b"*" and self.method == "OPTIONS":
            return url
        absolute = _ABSOLUTE.fullmatch(url)
        if absolute is None or b"#" in url:
            raise Refused(400, "invalid request target")
        authority, path = absolute.groups()
        if self._host is not None and self._host.lower() != authority.lower():
            raise Refused(400, "host header and request target differ")
        self._check_host(authority)
        self.authority = self._known_authority
        return path if path.startswith(b"/") else b"/" + path

    def _stay(self) -> None:
        """Ignore an upgrade: llhttp left HTTP/1.1 after the head, and would skip the body.

        A fresh llhttp is told of the same body.
        """
        self._upgraded = False
        self._llhttp = httptools.HttpRequestParser(self)
        if self._chunked or self._left:
            self._completed = False
            length = b"content-length: %d" % self._left
            framing = b"transfer-encoding: chunked" if self._chunked else length
            self._parse(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
            self._fields = []

    # The body

    def _fed_body(self, count: int) -> None:
        if not self._chunked:
            self._left -= count
        if self.received > self._settings.max_body:
            raise Refused(413, "body too large")
        if self._completed:
            self.phase = DONE
            self._tail = b""
            if self.body is not None:
                self.body.finish(self._fields or None)

    def _bound_framing(self, piece: bytes) -> None:
        """Neither llhttp nor httptools bounds trailers and chunk extensions."""
        self._unframed = 0 if self._framed else self._unframed + len(piece)
        self._framed = False
        if self._unframed > self._settings.max_head:
            raise Refused(431, "trailers or chunk extensions too large")
        self._tail = (self._tail + piece[-3:])[-3:]

    # Called by llhttp

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name not in _MANAGED:
            self._fields.append((name, value.strip()))
        elif not self._headed:
            self._managed(name, value.strip())

    def _managed(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            if self._host is not None:
                self._fault = Refused(400, "several host headers")
            self._host = value
            self._fields.append((name, value))
        elif name == b"content-length":
            self._left = int(value)  # llhttp lets only digits pass, and refuses a second one
            self._fields.append((name, value))
        elif name == b"transfer-encoding":
            self._chunked = True
            if value.lower() != b"chunked":
                self._fault = Refused(501, "no transfer coding but chunked is supported")
        elif name == b"connection":
            self._connection += b"," + value
        elif name == b"expect":
            self.expects = value.lower() == b"100-continue"
            if not self.expects:
                self._fault = Refused(417, "unknown expectation")

    def on_headers_complete(self) -> None:
        # llhttp forgets at the end of the message, which may be next.
        if not self._headed:
            self.keep_alive = self._llhttp.should_keep_alive()
            self._headed = True

    def on_body(self, data: bytes) -> None:
        self._framed = True
        self.received += len(data)
        assert self.body is not None
        self.body.write(data)

    def on_message_complete(self) -> None:
        # Were a piece to hold the ends of two requests, they would merge into one.
        if self._completed:
            raise AssertionError("two requests in one piece")
        self._completed = True
