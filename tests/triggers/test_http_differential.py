"""The same bytes to our server and to aiohttp's: they see the same requests.

One may refuse what the other takes; then what it saw is the beginning of what the other saw. But
never may one see another boundary: that is how requests are smuggled past a proxy.

EDGE_FUZZ_CASES sets how many streams are tried with each of aiohttp's parsers.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp import http_parser, web, web_protocol

from edge.triggers.http.server import Accepted, HttpServer
from edge.wasi.http.message import Reply, Request
from edge.wasi.pipe import read_all

CASES = int(os.environ.get("EDGE_FUZZ_CASES", "2000"))
BATCH = 50

Seen = list[tuple[str, str, bytes]]
Protocol = Callable[[], asyncio.BaseProtocol]

INNER = b"GET /inner HTTP/1.1\r\nHost: a\r\n\r\n"
METHODS = (b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"get", b"CONNECT", b"PRI", b"X")
VERSIONS = (b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1.10", b"RTSP/1.1")
ENDS = (b"\n", b"\r", b"\r\r\n", b"\n\r\n", b" \r\n", b"\t\r\n", b"\r\n ", b"\0\r\n", b"")
COLONS = (b":", b" : ", b":\t", b": \x0b", b":  ", b":\r\n ")
CODINGS = (
    *b"Chunked,identity,gzip,xchunked,chunked;q=1".split(b","),
    *(b"gzip, chunked", b"chunked, chunked", b"chunked, identity", b"chunked,", b",chunked"),
    *(b'"chunked"', b"\x0bchunked", b"chunked\0", b"chunked\x0c", b"", b"chunked "),
)
HEADERS = (
    b"Connection: keep-alive",
    b"Connection: Upgrade",
    b"Connection: Content-Length, Transfer-Encoding",
    b"Connection: Upgrade\r\nUpgrade: websocket",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"Content_Length: 3",
    b"X:",
    b"X: \x80\xff",
)
ODD_HEADERS = (
    b"Connection: close",
    b"Content-Encoding: gzip",
    b": x",
    b"Content-Length : 3",
    b" Content-Length: 3",
    b"Transfer-Encoding : chunked",
    b"X: a\r\n Content-Length: 3",
    b"X: a\rContent-Length: 3",
    b"X: a\nContent-Length: 3",
    b"X: a\0b",
    b"Sec-WebSocket-Key1: x",
    b"\xffX: \xff",
)
NOISE = (
    *(
        bytes((i,))
        for i in (0, 9, 10, 11, 12, 13, 32, 43, 44, 45, 48, 58, 59, 127, 128, 133, 160, 255)
    ),
    b"\r\n",
    b"\r\n\r\n",
    b"\n\n",
    b"0\r\n\r\n",
    b"\r\n0\r\n",
    b"00",
    b"ffffffffffffffff",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"HTTP/1.1",
    INNER,
)


class Streams:
    """A seeded grammar of requests in a row, with a few oddities, then bytes moved and changed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.requests = 0
        self.oddities = 0  # left for this stream

    def stream(self) -> bytes:
        self.oddities = self.random.choice((0, 1, 1, 2, 3))
        data = b"".join(self.request() for _ in range(self.random.randint(1, 4)))
        for _ in range(self.random.choice((0, 0, 0, 1, 2))):
            data = self.mutated(data)
        return data

    def odd(self, usual: bytes, oddities: Sequence[bytes]) -> bytes:
        if not self.oddities or self.random.random() > 0.06:
            return usual
        self.oddities -= 1
        return self.random.choice(oddities)

    def request(self) -> bytes:
        self.requests += 1
        target = b"/r%d" % self.requests
        target = self.odd(b"", (b"http://a", b"http://b", b"//a", b"*", b"a:80", b"\xff")) + target
        method = self.odd(self.random.choice((b"GET", b"POST")), METHODS)
        blank = self.odd(b" ", (b"  ", b"\t", b" \x0b"))
        lines = [method + blank + target + b" " + self.odd(b"HTTP/1.1", VERSIONS)]
        lines.append(self.odd(b"Host: a", (b"Host: b", b"Host:", b"X: 1", b"Host: a\r\nHost: a")))
        body = self.body(lines)
        if self.random.random() < 0.4:
            lines.append(self.odd(self.random.choice(HEADERS), ODD_HEADERS))
        if self.random.random() < 0.4:
            tail = lines[1:]
            self.random.shuffle(tail)
            lines[1:] = tail
        before = self.odd(b"", (b"\r\n", b"\n", b"\r", b" ", b"\r\n\r\n"))
        return before + b"".join(line + self.end() for line in lines) + self.end() + body

    def end(self) -> bytes:
        return self.odd(b"\r\n", ENDS)

    def body(self, lines: list[bytes]) -> bytes:
        kind = self.random.choice(("none", "length", "chunked"))
        content = self.content()
        if kind == "length" or self.odd(b"", (b"too",)):
            length = self.length(len(content))
            lines.append(b"Content-Length" + self.odd(b": ", COLONS) + length)
            if self.odd(b"", (b"again",)):
                lines.append(b"content-length: " + self.length(len(content)))
        if kind == "chunked":
            coding = self.odd(b"chunked", CODINGS)
            lines.append(b"Transfer-Encoding" + self.odd(b": ", COLONS) + coding)
            return self.chunks(content)
        return content if kind == "length" else self.odd(b"", (INNER, b"abc"))

    def content(self) -> bytes:
        parts = (b"abc", INNER, b"\r\n\r\n", b"0\r\n\r\n", b"")
        return b"".join(self.random.choice(parts) for _ in range(3))

    def length(self, true: int) -> bytes:
        text = b"%d" % true
        forms = (b"+%b", b"-%b", b"0%b", b"%b ", b"%b, 3", b"0x%b", b"%b.0", b"1%b", b"%b\x0b")
        return self.odd(text, [form % text for form in (*forms, b"%b_0", b"%b;", b"%b\r\n ")])

    def chunks(self, content: bytes) -> bytes:
        parts = []
        while content:
            size = self.random.randint(1, len(content))
            chunk, content = content[:size], content[size:]
            parts += [self.size(size), self.extension(), self.end(), chunk, self.end()]
        last = self.odd(b"0", (b"00", b"0;x", b"", b"0 ", b"-0"))
        trailers = (b"T: 1\r\n", b"Content-Length: 3\r\n", b"T : 1\r\n", b"T\r\n", b"T: 1\n")
        return b"".join((*parts, last, self.end(), self.odd(b"", trailers), self.end()))

    def size(self, size: int) -> bytes:
        text = b"%x" % size
        forms = (b"0%b", b"0x%b", b"+%b", b"-%b", b" %b", b"%b ", b"1000000000000000%b", b"%b_")
        return self.odd(text, [form % text for form in (*forms, b"%bg", b"%b\x0b", b"%b\0")])

    def extension(self) -> bytes:
        odd = (b";a", b";a=b", b';a="b"', b';a="\r\n"', b"; a", b";", b";\n", b";a\rb", b"\t;a")
        return self.odd(b"", (*odd, b";a=\xff", b";a\r", b" ;a"))

    def mutated(self, data: bytes) -> bytes:
        at = self.random.randint(0, len(data))
        to = min(len(data), at + self.random.randint(1, 12))
        noise = self.random.choice(NOISE)
        return self.random.choice(
            (
                data[:at] + noise + data[at:],
                data[:at] + noise + data[at + 1 :],
                data[:at] + data[to:],
                data[:to] + data[at:],
            )
        )


async def show(protocol: Protocol, data: bytes, cut: int) -> None:
    """Give a server these bytes, in two parts, and the time to handle them."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(protocol, theirs)
    with ours:
        for part in (data[:cut], data[cut:]):
            try:
                ours.send(part)
            except OSError:  # it has refused the first part
                break
            for _ in range(12):
                await asyncio.sleep(0)
        for _ in range(40):
            await asyncio.sleep(0)
    transport.abort()


@contextmanager
def parser(name: str) -> Iterator[None]:
    """aiohttp's server with its C parser (llhttp as well) or the one of its own in Python."""
    with pytest.MonkeyPatch.context() as patch:
        if name == "python":
            patch.setattr(web_protocol, "HttpRequestParser", http_parser.HttpRequestParserPy)
        yield


class Peers:
    """Both servers, each with a handler that reads the body and notes the request."""

    def __init__(self, server: HttpServer) -> None:
        self.ours: Seen = []
        self.theirs: Seen = []
        self.agreed = 0  # requests that both saw
        server.handler = self.our_handler
        self.server = server
        self.peer = web.Server(self.their_handler, access_log=None)

    async def our_handler(self, request: Request, reply: Reply) -> None:
        body = await read_all(request.body, 1 << 20)
        self.ours.append((request.method, request.target, body))
        reply.start(200, [])
        reply.finish()

    async def their_handler(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        target = request.raw_path.removeprefix("http://a").removeprefix("http://b")
        self.theirs.append((request.method, target, body))
        return web.Response()

    async def both(self, data: bytes, cut: int) -> None:
        self.ours, self.theirs = [], []
        await show(lambda: Accepted(self.server), data, cut)
        await show(self.peer, data, cut)
        agreed = min(len(self.ours), len(self.theirs))
        self.agreed += agreed
        assert self.ours[:agreed] == self.theirs[:agreed], f"{data!r} cut at {cut}"


def ignore(*_: Any) -> None:
    return


@pytest.mark.parametrize("name", ["c", "python"])
@pytest.mark.parametrize("batch", range(-(-CASES // BATCH)))
async def test_no_request_that_one_accepts_and_the_other_splits(name: str, batch: int) -> None:
    streams = Streams(batch)
    asyncio.get_running_loop().set_exception_handler(ignore)
    with parser(name):
        async with HttpServer(ignore) as server:  # type: ignore[arg-type]
            peers = Peers(server)
            for _ in range(BATCH):
                data = streams.stream()
                await peers.both(data, streams.random.randint(0, len(data)))
            await peers.peer.shutdown(0)
    assert peers.agreed > BATCH // 10, "the streams are too far from HTTP to prove anything"
