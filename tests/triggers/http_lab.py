"""What the tests of the HTTP trigger share: an application, and a client that speaks bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from edge.errors import GuestError, GuestTimeout, NoRoute, Overloaded
from edge.triggers.http import HttpServer, HttpSettings
from edge.wasi.http.message import Headers, Reply, Request
from edge.wasi.pipe import CAPACITY, read_all

HELLO = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
TEXT = [(b"content-type", b"text/plain")]


def get(target: str = "/", *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "Host: test", *headers, "", ""]
    return "\r\n".join(lines).encode()


def post(body: bytes, target: str = "/echo", *headers: str) -> bytes:
    return get(target, f"Content-Length: {len(body)}", *headers, method="POST") + body


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + end


def answer(reply: Reply, status: int, body: bytes = b"", headers: Headers = TEXT) -> None:
    reply.start(status, headers)
    reply.write(body)
    reply.finish()


@dataclass
class App:
    """A handler whose behaviour is the first segment of the target. Records what it saw."""

    seen: list[tuple[str, str, bytes]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    cancelled: int = 0
    running: int = 0
    read: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    reply_headers: Headers = field(default_factory=list)

    def __call__(self, request: Request, reply: Reply) -> Coroutine[Any, Any, None] | None:
        self.requests.append(request)
        name = request.target.split("?")[0].strip("/").split("/")[0] or "hello"
        work = getattr(self, name, None)
        if work is None:
            raise NoRoute(f"no route for {request.target}")
        result: Coroutine[Any, Any, None] | None = work(request, reply)
        return None if result is None else self.counted(result)

    async def counted(self, work: Coroutine[Any, Any, None]) -> None:
        self.running += 1
        try:
            await work
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    def hello(self, request: Request, reply: Reply) -> None:
        answer(reply, 200, b"hello")

    def headers(self, request: Request, reply: Reply) -> None:
        reply.start(200, self.reply_headers)
        reply.write(b"hello")
        reply.finish()

    def status(self, request: Request, reply: Reply) -> None:
        answer(reply, int(request.target.rsplit("/", 1)[1]), b"hello")

    def empty(self, request: Request, reply: Reply) -> None:
        answer(reply, 200)

    def trailers(self, request: Request, reply: Reply) -> None:
        reply.start(200, [])
        reply.write(b"hello")
        reply.finish([(b"x-sum", b"5")])

    async def echo(self, request: Request, reply: Reply) -> None:
        reply.start(200, [])
        body = request.body
        while not body.exhausted and reply.error is None:
            await reply.wait_writable()
            data = body.read_nowait(reply.writable())
            if data:
                reply.write(data)
            else:
                await body.wait_readable()
        if body.error is not None:
            reply.abort(body.error)
        else:
            reply.finish(body.trailers)

    async def record(self, request: Request, reply: Reply) -> None:
        body = await read_all(request.body, 1 << 30)
        self.seen.append((request.method, request.target, body))
        answer(reply, 200, b"%d" % len(body))

    async def slow(self, request: Request, reply: Reply) -> None:
        await self.gate.wait()
        answer(reply, 200, request.target.encode())

    async def part(self, request: Request, reply: Reply) -> None:
        """Reads as many bytes as the target says, and no more."""
        wanted = int(request.target.rsplit("/", 1)[1])
        while (left := wanted - self.read) and not request.body.exhausted:
            await request.body.wait_readable()
            self.read += len(request.body.read_nowait(min(left, CAPACITY)))
        await self.gate.wait()
        answer(reply, 200)

    async def unread(self, request: Request, reply: Reply) -> None:
        answer(reply, 200, b"not interested")

    async def twice(self, request: Request, reply: Reply) -> None:
        reply.start(200, TEXT)
        reply.write(b"one")
        await self.gate.wait()
        reply.write(b"two")
        reply.finish()

    async def endless(self, request: Request, reply: Reply) -> None:
        reply.start(200, [])
        while reply.error is None:
            await reply.wait_writable()
            reply.write(bytes(reply.writable()))
            await asyncio.sleep(0)

    async def cut(self, request: Request, reply: Reply) -> None:
        reply.start(200, [])
        reply.write(b"a part")
        await asyncio.sleep(0.05)
        reply.abort(GuestError("trap"))

    def early(self, request: Request, reply: Reply) -> None:
        reply.start(200, [])
        reply.write(b"a part that nobody has seen")
        reply.abort(GuestError("trap", component="c", invocation="i-7"))

    def long(self, request: Request, reply: Reply) -> None:
        reply.start(200, [(b"content-length", b"3")])
        reply.write(b"hello")
        reply.finish()

    def short(self, request: Request, reply: Reply) -> None:
        reply.start(200, [(b"content-length", b"10")])
        reply.write(b"hello")
        reply.finish()

    def bug(self, request: Request, reply: Reply) -> None:
        raise ZeroDivisionError("secret")

    async def later(self, request: Request, reply: Reply) -> None:
        raise ZeroDivisionError("secret")

    def nothing(self, request: Request, reply: Reply) -> None:
        return

    async def never(self, request: Request, reply: Reply) -> None:
        return

    async def timeout(self, request: Request, reply: Reply) -> None:
        raise GuestTimeout("deadline", component="c", invocation="i-8")

    def full(self, request: Request, reply: Reply) -> None:
        raise Overloaded("queue full", retry_after=7)

    async def after(self, request: Request, reply: Reply) -> None:
        """Goes on when its reply is complete."""
        answer(reply, 200, b"done")
        await self.gate.wait()
        self.seen.append(("AFTER", request.target, b""))


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    trailers: dict[str, str] = field(default_factory=dict)
    chunks: int = 0


class Client:
    """Speaks bytes and reads replies strictly; `closed` waits for the end of the connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def ask(self, data: bytes, *, head: bool = False) -> Answer:
        self.send(data)
        return await self.answer(head=head)

    async def answer(self, *, head: bool = False) -> Answer:
        async with asyncio.timeout(20):
            status, headers = await self.head()
            answer = Answer(status, headers, b"")
            if not head and status not in (204, 304):
                await self._body(answer)
            return answer

    async def head(self) -> tuple[int, dict[str, str]]:
        version, status, *_ = (await self._line()).split(" ", 2)
        assert version == "HTTP/1.1"
        return int(status), await self._fields()

    async def closed(self) -> bytes:
        """What still comes before the connection ends."""
        async with asyncio.timeout(20):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b"(reset)"

    async def _body(self, answer: Answer) -> None:
        headers = answer.headers
        if "content-length" in headers:
            assert "transfer-encoding" not in headers
            answer.body = await self.reader.readexactly(int(headers["content-length"]))
        elif "transfer-encoding" in headers:
            assert headers["transfer-encoding"] == "chunked"
            while size := int(await self._line(), 16):
                answer.body += await self.reader.readexactly(size)
                answer.chunks += 1
                assert await self._line() == ""
            answer.trailers = await self._fields()
        else:
            assert headers["connection"] == "close"
            answer.body = await self.reader.read()

    async def _line(self) -> str:
        line = await self.reader.readline()
        if not line:
            raise ConnectionResetError
        assert line.endswith(b"\r\n"), line
        return line[:-2].decode("latin-1")

    async def _fields(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        while line := await self._line():
            name, _, value = line.partition(": ")
            assert name not in fields, f"{name} twice"
            fields[name] = value
        return fields


@dataclass
class Lab:
    server: HttpServer
    app: App

    @property
    def port(self) -> int:
        port: int = self.server.addresses[0][1]
        return port

    async def client(self, **options: Any) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port, **options))

    async def ask(self, data: bytes, *, head: bool = False) -> Answer:
        async with await self.client() as client:
            return await client.ask(data, head=head)


@asynccontextmanager
async def lab(**settings: Any) -> AsyncIterator[Lab]:
    app = App()
    async with HttpServer(app, HttpSettings(**settings), listen=[("127.0.0.1", 0)]) as server:
        yield Lab(server, app)


async def until(condition: Any, seconds: float = 5) -> None:
    """Tests alone may poll: for a state that no event announces."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.005)
