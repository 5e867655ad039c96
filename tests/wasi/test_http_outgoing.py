"""Guests make requests: to real servers on loopback, to other components, to where they may not."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from edge.application.hosts import AllowedHosts
from edge.engine.host import Err, Ok
from edge.errors import GuestError, Overloaded
from edge.wasi.context import Context
from edge.wasi.http.body import IncomingBody, OutgoingBody
from edge.wasi.http.client import Client, open_egress
from edge.wasi.http.fields import Fields
from edge.wasi.http.message import Handler, Reply, Request
from edge.wasi.http.outgoing import (
    FutureIncomingResponse,
    IncomingResponse,
    OutgoingRequest,
    RequestOptions,
    handle,
)
from edge.wasi.io import InputStream, OutputStream
from edge.wasi.outbound import Egress, Grants, Limits, Outbound
from edge.wasi.pipe import Pipe, chunks, read_all

WebHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class World:
    """A node's egress, one invocation with grants, and servers."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self.stack = stack
        self.names: dict[str, list[str]] = {"localhost": ["127.0.0.1"]}
        self.lookups: list[str] = []
        self.egress = open_egress(lookup=self.lookup)

    def lookup(self, name: str) -> list[str]:
        self.lookups.append(name)
        if name not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return self.names[name]

    def context(
        self,
        *hosts: str,
        limits: Limits | None = None,
        chain: dict[str, Handler] | None = None,
        origin: Handler | None = None,
        depth: int = 0,
    ) -> Context:
        components = chain or {}
        grants = Grants(
            AllowedHosts.parse(hosts, components=components),
            chain=components.get,
            origin=origin,
            limits=limits or Limits(),
        )
        outbound = Outbound(grants, self.egress, depth=depth, authority="own:80")
        self.stack.push_async_callback(outbound.close)
        return Context(outbound=outbound)

    async def serve(self, handler: WebHandler, tls: ssl.SSLContext | None = None) -> int:
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        self.stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        return int(runner.addresses[0][1])

    async def raw(self, serve: Callable[..., Awaitable[None]]) -> int:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.stack.callback(server.close)
        return int(server.sockets[0].getsockname()[1])


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        made = World(stack)
        stack.callback(made.egress.resolver.close)
        client = made.egress.http
        assert isinstance(client, Client)
        stack.push_async_callback(client.close)
        yield made


def make(
    authority: str | None,
    target: str = "/",
    *,
    method: str = "get",
    scheme: str | None = "HTTP",
    headers: tuple[tuple[str, bytes], ...] = (),
) -> OutgoingRequest:
    request = OutgoingRequest.new(None, Fields.from_list(None, headers))
    assert request.set_method((method, None)) is None
    assert request.set_scheme((scheme, None) if scheme else None) is None
    assert request.set_authority(authority) is None
    assert request.set_path_with_query(target) is None
    return request


async def settle(future: FutureIncomingResponse) -> IncomingResponse:
    """The response, or Err(error-code)."""
    if not future.ready():
        await future.subscribe().wait()
    got = future.get()
    assert isinstance(got, Ok)
    assert future.get() == Err()
    future.drop()
    if isinstance(got.value, Err):
        raise got.value
    response = got.value.value
    assert isinstance(response, IncomingResponse)
    return response


async def fetch(
    context: Context, request: OutgoingRequest, options: RequestOptions | None = None
) -> IncomingResponse:
    return await settle(handle(context, request, options))


async def code(context: Context, request: OutgoingRequest) -> object:
    """The error-code that a request ends with."""
    with pytest.raises(Err) as raised:
        await fetch(context, request)
    return raised.value.payload


def stream_of(response: IncomingResponse) -> tuple[IncomingBody, InputStream]:
    body = response.consume()
    assert isinstance(body, IncomingBody)
    assert response.consume() == Err()
    stream = body.stream()
    assert isinstance(stream, InputStream)
    return body, stream


async def read(stream: InputStream) -> bytes:
    parts: list[bytes] = []
    while True:
        try:
            data = stream.read(65_536)
        except Err as error:
            if error.payload == "closed":
                return b"".join(parts)
            raise
        parts.append(data)
        if not data:
            await stream.wait()


async def text(response: IncomingResponse) -> bytes:
    return await read(stream_of(response)[1])


async def write(stream: OutputStream, data: bytes) -> None:
    while data:
        room = stream.check_write()
        if not room:
            await stream.wait()
            continue
        stream.write(data[:room])
        data = data[room:]


def body_of(request: OutgoingRequest) -> tuple[OutgoingBody, OutputStream]:
    body = request.body()
    assert isinstance(body, OutgoingBody)
    stream = body.write()
    assert isinstance(stream, OutputStream)
    return body, stream


async def describe(request: web.Request) -> web.Response:
    """Method, path, headers and body as the server saw them."""
    lines = [f"{request.method} {request.raw_path}"]
    lines += [f"{name.lower()}: {value}" for name, value in request.headers.items()]
    return web.Response(
        text="\n".join(lines) + "\n\n" + (await request.read()).decode(),
        headers={"X-Twice": "1", "Connection": "keep-alive"},
    )


async def test_a_request_and_its_response() -> None:
    async with world() as w:
        port = await w.serve(describe)
        context = w.context("http://localhost:*")
        request = make(f"localhost:{port}", "/a%20b?c=d", headers=(("x-one", b"1"),))
        response = await fetch(context, request)
        assert response.status() == 200
        headers = response.headers()
        assert headers.get("x-twice") == [b"1"]
        assert not headers.has("connection")
        with pytest.raises(Err):
            headers.append("a", b"b")
        seen = (await text(response)).decode()
        head, _, body = seen.partition("\n\n")
        # Nothing that the guest did not say, but for the host.
        assert head.split("\n") == ["GET /a%20b?c=d", f"host: localhost:{port}", "x-one: 1"]
        assert body == ""


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("before", [True, False])
async def test_a_small_body(length: bool, before: bool) -> None:
    async with world() as w:
        port = await w.serve(describe)
        context = w.context("http://localhost:*")
        headers = (("content-length", b"4"),) if length else ()
        request = make(f"localhost:{port}", method="post", headers=headers)
        body, stream = body_of(request)
        if before:
            await write(stream, b"data")
            OutgoingBody.finish(None, body, None)
        future = handle(context, request, None)
        if not before:
            await asyncio.sleep(0)
            await write(stream, b"data")
            OutgoingBody.finish(None, body, None)
        seen = (await text(await settle(future))).decode().lower()
        assert seen.endswith("\n\ndata")
        assert ("transfer-encoding: chunked" in seen) == (not length and not before)
        assert ("content-length: 4" in seen) == (length or before)


async def test_a_get_whose_empty_body_was_touched_has_none() -> None:
    async with world() as w:
        port = await w.serve(describe)
        request = make(f"localhost:{port}")
        body, _ = body_of(request)
        future = handle(w.context("http://localhost:*"), request, None)
        response = await settle(future)
        OutgoingBody.finish(None, body, None)
        seen = await text(response)
        assert b"transfer-encoding" not in seen.lower()
        assert b"content-length" not in seen.lower()


async def test_large_bodies_stream_both_ways_in_bounded_memory() -> None:
    block, count = bytes(range(256)) * 256, 256  # 16 MiB
    written = 0

    async def echo(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for data in request.content.iter_any():
            await response.write(data)
        await response.write_eof()
        return response

    async with world() as w:
        port = await w.serve(echo)
        request = make(f"localhost:{port}", method="put")
        body, stream = body_of(request)
        future = handle(w.context("http://localhost:*"), request, None)

        async def upload() -> None:
            nonlocal written
            for _ in range(count):
                await write(stream, block)
                written += len(block)
            OutgoingBody.finish(None, body, None)

        async with asyncio.TaskGroup() as group:
            group.create_task(upload())
            response = await settle(future)
            await asyncio.sleep(0.3)
            # Nobody reads: the buffers of two processes' kernels and ours are all that was taken.
            assert written < 14 * 2**20
            _, incoming = stream_of(response)
            digest = hashlib.sha256()
            while True:
                try:
                    data = incoming.read(65_536)
                except Err:
                    break
                digest.update(data)
                if not data:
                    await incoming.wait()
        assert written == count * len(block)
        assert digest.digest() == hashlib.sha256(block * count).digest()


async def test_a_redirect_is_an_ordinary_response() -> None:
    hits = []

    async def redirect(request: web.Request) -> web.Response:
        hits.append(request.path)
        raise web.HTTPFound("http://forbidden.example/secret")

    async with world() as w:
        port = await w.serve(redirect)
        response = await fetch(w.context("http://localhost:*"), make(f"localhost:{port}", "/one"))
        assert response.status() == 302
        assert response.headers().get("location") == [b"http://forbidden.example/secret"]
        response.drop()
        assert hits == ["/one"]
        assert w.lookups == ["localhost"]


@pytest.mark.parametrize(
    ("grant", "scheme", "authority"),
    [
        ("http://localhost:80", "HTTP", "localhost:81"),
        ("https://localhost:*", "HTTP", "localhost:80"),
        ("http://*.example.com", "HTTP", "example.com"),
        ("http://10.0.0.0/8", "HTTP", "11.0.0.1"),
        ("http://a.example", "HTTP", "b.example"),
        ("http://a.example", None, "a.example"),  # without a scheme it is https
        ("http://*:*", "HTTP", "x.spin.internal"),
    ],
)
async def test_what_is_not_granted_is_denied(grant: str, scheme: str, authority: str) -> None:
    async with world() as w:
        request = make(authority, scheme=scheme)
        with pytest.raises(Err) as raised:
            handle(w.context(grant), request, None)
        expected = (
            "destination-not-found" if "spin.internal" in authority else "HTTP-request-denied"
        )
        assert raised.value.payload == expected
        assert w.lookups == []


async def test_without_grants_or_context_everything_is_denied() -> None:
    async with world() as w:
        for context in (Context(), w.context()):
            request = make("localhost:1", method="post")
            _, stream = body_of(request)
            with pytest.raises(Err) as raised:
                handle(context, request, None)
            assert raised.value.payload == "HTTP-request-denied"
            with pytest.raises(Err, match="closed"):
                stream.check_write()


async def test_a_name_that_leads_to_this_machine_is_refused() -> None:
    async with world() as w:
        port = await w.serve(describe)
        for address in ("127.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "0.0.0.0"):
            w.names["rebound.example"] = [address]
            context = w.context("http://*.example:*", "http://rebound.example:*")
            got = await code(context, make(f"rebound.example:{port}"))
            assert got == "destination-IP-prohibited", address


async def test_only_the_addresses_that_may_be_reached_are_tried() -> None:
    async with world() as w:
        port = await w.serve(describe)
        w.names["mixed.example"] = ["169.254.169.254", "127.0.0.1"]
        context = w.context("http://mixed.example:*", "http://127.0.0.1:*")
        response = await fetch(context, make(f"mixed.example:{port}"))
        assert response.status() == 200
        await text(response)


async def test_a_kept_connection_is_not_lent_to_a_guest_that_may_not_reach_its_peer() -> None:
    async with world() as w:
        port = await w.serve(describe)
        w.names["shared.example"] = ["127.0.0.1"]
        trusted = w.context("http://shared.example:*", "http://127.0.0.1:*")
        await text(await fetch(trusted, make(f"shared.example:{port}")))
        other = w.context("http://shared.example:*")
        got = await code(other, make(f"shared.example:{port}"))
        assert got == "destination-IP-prohibited"


async def test_connections_are_kept_and_used_again() -> None:
    peers = set()

    async def peer(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response()

    async with world() as w:
        port = await w.serve(peer)
        for _ in range(3):
            context = w.context("http://localhost:*")
            await text(await fetch(context, make(f"localhost:{port}")))
        assert len(peers) == 1
        assert w.lookups == ["localhost"]


@pytest.mark.parametrize("authority", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"])
async def test_an_address_is_reached_only_when_granted_as_one(authority: str) -> None:
    async with world() as w:
        with pytest.raises(Err) as raised:
            handle(w.context("http://localhost:*"), make(f"{authority}:1"), None)
        assert raised.value.payload == "HTTP-request-denied"


@pytest.mark.parametrize("authority", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1"])
async def test_odd_spellings_of_an_address_lead_nowhere(authority: str) -> None:
    async with world() as w:
        port = await w.serve(describe)
        w.names[authority] = ["127.0.0.1"]
        context = w.context("http://10.0.0.0/8:*", "http://*.example:*")
        assert await code(context, make(f"{authority}:{port}")) == "HTTP-request-denied"


@pytest.mark.parametrize(
    "authority",
    ["", "a b", "a:b", "a:0", "a:65536", "user@host", "a/b", "a?b", "a\r\n", "é", "[x]"],
)
def test_a_malformed_authority_is_refused(authority: str) -> None:
    assert make("a").set_authority(authority) == Err()


@pytest.mark.parametrize("target", ["a", "/a b", "/a#b", "/\r\nx: y", "/\0", "/é", "http://a/"])
def test_a_malformed_path_is_refused(target: str) -> None:
    assert make("a").set_path_with_query(target) == Err()


def test_methods_and_schemes_must_be_tokens() -> None:
    request = make("a")
    assert request.set_method(("other", "PROP FIND")) == Err()
    assert request.set_method(("other", "PROPFIND")) is None
    assert request.method() == ("other", "PROPFIND")
    assert request.set_scheme(("other", "a:")) == Err()
    assert request.set_scheme(("other", "gopher")) is None
    assert request.scheme() == ("other", "gopher")


async def test_what_cannot_be_sent_is_refused() -> None:
    async with world() as w:
        context = w.context("*://*:*")

        def refused(request: OutgoingRequest) -> object:
            with pytest.raises(Err) as raised:
                handle(context, request, None)
            return raised.value.payload

        other = make("a")
        other.set_scheme(("other", "ftp"))
        assert refused(other) == "HTTP-protocol-error"
        assert refused(make("a", method="connect")) == "HTTP-request-method-invalid"
        nonsense = make("a", headers=(("content-length", b"x"),))
        assert nonsense.body() == Err()
        assert refused(nonsense) == "HTTP-protocol-error"
        missing = make("a", method="post", headers=(("content-length", b"3"),))
        assert refused(missing) == ("HTTP-request-body-size", 0)


async def test_no_one_listens() -> None:
    async with world() as w:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            context = w.context("http://*:*")
            assert await code(context, make(f"127.0.0.1:{port}")) == "connection-refused"
        assert await code(context, make("nowhere.example")) == ("DNS-error", ("NXDOMAIN", None))
        await asyncio.sleep(0)
        assert w.egress.open == 0


async def test_timeouts() -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if request.path == "/slow":
            await response.prepare(request)
            await response.write(b"one")
        await asyncio.sleep(60)
        return response

    async with world() as w:
        port = await w.serve(silent)
        context = w.context("http://*:*", "http://localhost:*")
        options = RequestOptions.new(None)
        options.set_first_byte_timeout(50_000_000)
        options.set_between_bytes_timeout(50_000_000)
        with pytest.raises(Err) as raised:
            await fetch(context, make(f"127.0.0.1:{port}"), options)
        assert raised.value.payload == "connection-read-timeout"
        response = await fetch(context, make(f"127.0.0.1:{port}", "/slow"), options)
        with pytest.raises(Err) as raised:
            await text(response)
        assert raised.value.payload[1].cause.code == "connection-read-timeout"
        options.set_connect_timeout(0)
        with pytest.raises(Err) as raised:
            await fetch(context, make(f"localhost:{port}"), options)
        assert raised.value.payload in ("connection-timeout", "DNS-timeout")


async def test_a_server_that_breaks_off() -> None:
    answers = iter(
        [
            b"",
            b"nonsense\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        ]
    )

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(next(answers))
        writer.close()

    async with world() as w:
        port = await w.raw(serve)
        context = w.context("http://*:*")

        def post() -> OutgoingRequest:
            # What is idempotent may be sent twice.
            return make(f"127.0.0.1:{port}", method="post")

        assert await code(context, post()) == "connection-terminated"
        assert await code(context, post()) == "HTTP-protocol-error"
        response = await fetch(context, post())
        with pytest.raises(Err) as raised:
            await text(response)
        assert raised.value.payload[1].cause.code == "HTTP-response-incomplete"
        assert await code(context, post()) == "HTTP-protocol-error"


def certificate(directory: Path) -> ssl.SSLContext:
    key, cert = directory / "key.pem", directory / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", str(key)]
    subprocess.run([*command, "-out", str(cert)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


async def test_a_certificate_that_nobody_vouches_for(tmp_path: Path) -> None:
    async with world() as w:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        port = await w.serve(describe, certificate(tmp_path))
        plain = await w.serve(describe)
        context = w.context("https://localhost:*")
        request = make(f"localhost:{port}", scheme="HTTPS")
        assert await code(context, request) == "TLS-certificate-error"
        request = make(f"localhost:{plain}", scheme="HTTPS")
        assert await code(context, request) == "TLS-protocol-error"


async def test_a_body_that_is_shorter_than_declared_never_arrives_whole() -> None:
    outcomes = []

    async def receive(request: web.Request) -> web.Response:
        try:
            await request.read()
        except BaseException as error:
            outcomes.append(type(error).__name__)
            raise
        outcomes.append("complete")
        return web.Response()

    async with world() as w:
        port = await w.serve(receive)
        context = w.context("http://*:*")
        headers = (("content-length", b"10"),)
        request = make(f"127.0.0.1:{port}", method="post", headers=headers)
        body, stream = body_of(request)
        future = handle(context, request, None)
        await write(stream, b"half")
        with pytest.raises(Err) as raised:
            OutgoingBody.finish(None, body, None)
        assert raised.value.payload == ("HTTP-request-body-size", 4)
        with pytest.raises(Err) as raised:
            await settle(future)
        assert raised.value.payload == ("HTTP-request-body-size", 4)

        request = make(f"127.0.0.1:{port}", method="post")
        body, stream = body_of(request)
        future = handle(context, request, None)
        await write(stream, b"half")
        await asyncio.sleep(0.05)
        body.drop()
        with pytest.raises(Err) as raised:
            await settle(future)
        assert raised.value.payload == "HTTP-protocol-error"
        await asyncio.sleep(0.05)
    assert "complete" not in outcomes


async def hang(_request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError


@pytest.mark.parametrize("stage", ["at once", "waiting", "response", "body", "end of the guest"])
async def test_who_loses_interest_ends_the_request(stage: str) -> None:
    closed = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        try:
            if stage in ("at once", "waiting"):
                await asyncio.sleep(60)
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"begun")
            await asyncio.sleep(60)
        finally:
            closed.set()
        return response

    async with world() as w:
        port = await w.serve(endless)
        context = w.context("http://*:*")
        future = handle(context, make(f"127.0.0.1:{port}"), None)
        if stage == "at once":
            future.drop()
            await asyncio.sleep(0)
        elif stage == "waiting":
            await asyncio.sleep(0.05)
            future.drop()
        else:
            response = await settle(future)
            if stage == "response":
                response.drop()
            elif stage == "body":
                body, stream = stream_of(response)
                await stream.wait()
                stream.drop()
                body.drop()
        if stage != "at once":
            if stage == "end of the guest":
                assert context.outbound.busy
                await context.outbound.close()
                assert not context.outbound.busy
            async with asyncio.timeout(5):
                await closed.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        assert w.egress.open == 0
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert not [name for name in names if name.startswith("outbound")]


async def test_connections_are_limited() -> None:
    async with world() as w:
        port = await w.serve(hang)
        context = w.context("http://*:*", limits=Limits(connections=2))
        futures = [handle(context, make(f"127.0.0.1:{port}"), None) for _ in range(2)]
        with pytest.raises(Err) as raised:
            handle(context, make(f"127.0.0.1:{port}"), None)
        assert raised.value.payload == "connection-limit-reached"
        w.egress.limit = 2
        with pytest.raises(Err):
            handle(w.context("http://*:*"), make(f"127.0.0.1:{port}"), None)
        futures[0].drop()
        for _ in range(5):
            await asyncio.sleep(0)
        handle(context, make(f"127.0.0.1:{port}"), None).drop()


# Components of the same application


async def greet(request: Request, reply: Reply) -> None:
    data = await read_all(request.body, 100)
    line = f"{request.method} {request.scheme}://{request.authority}{request.target}"
    extra = f" {dict(request.headers)} {request.client} {request.depth} {data!r}"
    trailers = getattr(request.body, "trailers", None)
    reply.start(200, [(b"x-from", b"b"), (b"connection", b"x")])
    reply.write((line + extra).encode())
    reply.finish(trailers)


async def test_a_component_calls_another_with_trailers_both_ways() -> None:
    async with world() as w:
        context = w.context("http://b.spin.internal", chain={"b": greet}, depth=3)
        request = make("b.spin.internal", "/x?y", method="post", headers=(("h", b"1"),))
        body, stream = body_of(request)
        future = handle(context, request, None)
        assert not future.ready()
        await write(stream, b"hi")
        OutgoingBody.finish(None, body, Fields.from_list(None, [("sum", b"1")]))
        response = await settle(future)
        assert response.headers().entries() == [("x-from", b"b")]
        incoming, contents = stream_of(response)
        assert (await read(contents)).decode() == (
            "POST http://b.spin.internal/x?y {b'h': b'1'} 0.0.0.0:0 4 b'hi'"
        )
        got = IncomingBody.finish(None, incoming).get()
        assert isinstance(got, Ok)
        assert got.value.value.entries() == [("sum", b"1")]
        assert w.lookups == []


async def test_a_handler_that_answers_at_once_is_not_entered_from_the_host_call() -> None:
    entered = []

    def at_once(_request: Request, reply: Reply) -> None:
        entered.append(True)
        reply.start(204, [])
        reply.finish()

    async with world() as w:
        context = w.context("http://*.spin.internal", chain={"b": at_once})
        future = handle(context, make("b.spin.internal"), None)
        assert not entered
        assert (await settle(future)).status() == 204


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (GuestError("trap: secret detail"), ("internal-error", "the component failed")),
        (Overloaded("full"), "connection-limit-reached"),
    ],
)
async def test_the_failure_of_a_chained_component(error: Exception, expected: object) -> None:
    async def fail(_request: Request, reply: Reply) -> None:
        reply.abort(error)

    async def forget(_request: Request, _reply: Reply) -> None:
        return

    def refuse(_request: Request, _reply: Reply) -> None:
        raise error

    async with world() as w:
        chain = {"b": fail, "c": forget, "r": refuse}
        context = w.context("http://*.spin.internal", chain=chain)
        assert await code(context, make("b.spin.internal")) == expected
        assert await code(context, make("r.spin.internal")) == expected
        assert await code(context, make("c.spin.internal")) == "connection-terminated"
        assert await code(context, make("d.spin.internal")) == "HTTP-request-denied"


async def test_large_bodies_stream_between_components() -> None:
    block, count, most = bytes(range(256)) * 256, 64, 0

    async def echo(request: Request, reply: Reply) -> None:
        nonlocal most
        reply.start(200, [])
        async for data in chunks(request.body):
            assert isinstance(request.body, Pipe)
            most = max(most, request.body.size)
            await reply.wait_writable()
            reply.write(data)
        reply.finish()

    async with world() as w:
        context = w.context("http://b.spin.internal", chain={"b": echo})
        request = make("b.spin.internal", method="post")
        body, stream = body_of(request)
        future = handle(context, request, None)

        async def upload() -> None:
            for _ in range(count):
                await write(stream, block)
            OutgoingBody.finish(None, body, None)

        async with asyncio.TaskGroup() as group:
            group.create_task(upload())
            assert await text(await settle(future)) == block * count
        assert most <= 65_536


async def test_the_answer_to_head_has_no_body() -> None:
    async with world() as w:
        port = await w.serve(describe)
        context = w.context("http://b.spin.internal", "http://localhost:*", chain={"b": greet})
        for authority in ("b.spin.internal", f"localhost:{port}"):
            response = await fetch(context, make(authority, method="head"))
            assert response.status() == 200
            assert await text(response) == b""


async def test_every_new_connection_resolves_its_name_once() -> None:
    async with world() as w:
        port = await w.serve(describe)
        w.names["flip.example"] = ["127.0.0.1"]
        context = w.context("http://flip.example:*", "http://127.0.0.1:*")
        response = await fetch(context, make(f"flip.example:{port}"))
        # The name moves; what is open stays where it was, the next lookup is checked again.
        w.names["flip.example"] = ["169.254.169.254"]
        await text(response)
        await text(await fetch(context, make(f"flip.example:{port}")))
        assert w.lookups == ["flip.example"]
        got = await code(context, make(f"flip.example:{port + 1 if port < 65535 else 1}"))
        assert got == "destination-IP-prohibited"
        assert w.lookups == ["flip.example"] * 2


async def test_requests_to_oneself_need_their_own_grant() -> None:
    async with world() as w:
        for authority in (None, "self.alt"):
            context = w.context("http://self", origin=greet)
            response = await fetch(context, make(authority, "/me"))
            assert (await text(response)).startswith(b"GET http://own:80/me ")
            with pytest.raises(Err) as raised:
                handle(w.context("http://other", origin=greet), make(authority), None)
            assert raised.value.payload == "HTTP-request-denied"


async def test_components_that_call_each_other_for_ever_are_stopped() -> None:
    async with world() as w:
        context = w.context("http://*.spin.internal", chain={"b": greet}, depth=8)
        with pytest.raises(Err) as raised:
            handle(context, make("b.spin.internal"), None)
        assert raised.value.payload == "loop-detected"


async def test_a_caller_that_leaves_cancels_the_component_it_called() -> None:
    ended = []

    async def slow(_request: Request, reply: Reply) -> None:
        try:
            reply.start(200, [])
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async with world() as w:
        context = w.context("http://*.spin.internal", chain={"b": slow})
        (await fetch(context, make("b.spin.internal"))).drop()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert ended
        assert w.egress.open == 0


async def test_a_component_that_answered_may_finish_its_work() -> None:
    done = []

    async def afterwards(_request: Request, reply: Reply) -> None:
        reply.start(200, [])
        reply.finish()
        await asyncio.sleep(0.05)
        done.append(True)

    async with world() as w:
        context = w.context("http://*.spin.internal", chain={"b": afterwards})
        await text(await fetch(context, make("b.spin.internal")))
        await context.outbound.close()
        assert done == [True]
        context = w.context("http://*.spin.internal", chain={"b": afterwards})
        await text(await fetch(context, make("b.spin.internal")))
        context.outbound.cancel()
        await context.outbound.close()
        assert done == [True]


def test_options_keep_what_they_are_given() -> None:
    options = RequestOptions.new(None)
    assert options.connect_timeout() is None
    options.set_connect_timeout(5)
    options.set_first_byte_timeout(6)
    options.set_between_bytes_timeout(7)
    assert options.connect_timeout() == 5
    assert options.first_byte_timeout() == 6
    assert options.between_bytes_timeout() == 7


def test_egress_counts_for_all_invocations() -> None:
    egress = Egress(limit=1)
    one, two = Outbound(Grants(), egress), Outbound(Grants(), egress)
    assert one.acquire()
    assert not two.acquire()
    one.release()
    assert two.acquire()


async def test_the_trace_goes_along_unless_the_guest_tells_one() -> None:
    told: list[list[bytes]] = []

    def other(request: Request, reply: Reply) -> None:
        told.append([value for name, value in request.headers if name.startswith(b"trace")])
        reply.start(204, [])
        reply.finish()

    async with world() as w:
        context = w.context("http://b.spin.internal", chain={"b": other})
        await fetch(context, make("b.spin.internal"))
        assert context.outbound is not None
        context.outbound.trace = (("traceparent", "00-1-2-01"), ("tracestate", "a=b"))
        await fetch(context, make("b.spin.internal"))
        await fetch(context, make("b.spin.internal", headers=(("Traceparent", b"own"),)))
    assert told == [[], [b"00-1-2-01", b"a=b"], [b"own"]]
