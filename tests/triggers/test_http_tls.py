"""HTTPS: the server's side of TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from http_lab import HELLO, App, Client, get, post, until

from edge.triggers.http import HttpServer, HttpSettings


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("tls")
    key, chain = directory / "key", directory / "chain"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    new = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    command = (*new, "-nodes", "-days", "9", *subject, "-keyout", str(key), "-out", str(chain))
    subprocess.run(command, check=True, capture_output=True)
    return key, chain


@pytest.fixture
def contexts(certificate: tuple[Path, Path]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of the server, and of a client that trusts it."""
    key, chain = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    return context, ssl.create_default_context(cafile=str(chain))


async def test_tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    context, trust = contexts
    app = App()
    settings = HttpSettings(tls_timeout=1)
    listen = [("127.0.0.1", 0)]
    async with HttpServer(app, settings, listen=listen, tls=context) as server:
        address = server.addresses[0]
        async with Client(*await asyncio.open_connection(*address, ssl=trust)) as client:
            assert (await client.ask(HELLO)).body == b"hello"
            body = b"0123456789" * 100_000
            client.send(post(body))
            assert (await client.answer()).body == body
            assert app.requests[0].scheme == "https"
            assert (await client.ask(get("/", "Connection: close"))).status == 200
            assert await client.closed() == b""
        async with Client(*await asyncio.open_connection(*address, ssl=trust)) as client:
            assert (await client.ask(get("/", "A : b"))).status == 400
        async with Client(*await asyncio.open_connection(*address, ssl=trust)) as client:
            client.send(get("/slow"))
            await until(lambda: app.running == 1)
        await until(lambda: app.cancelled == 1)


async def test_a_handshake_that_has_begun_is_served_before_the_end(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    context, trust = contexts
    listen = [("127.0.0.1", 0)]
    async with (
        HttpServer(App(), listen=listen, tls=context) as server,
        asyncio.TaskGroup() as group,
    ):
        address = server.addresses[0]
        sock = await _connected(server, address)
        drained = group.create_task(server.drain(10))
        await until(lambda: server.draining)
        shaken = asyncio.open_connection(sock=sock, ssl=trust, server_hostname=address[0])
        async with Client(*await shaken) as client:
            assert not drained.done()
            client.send(HELLO)
            assert (await client.answer()).body == b"hello"
            assert await client.closed() == b""
        await drained


async def test_who_says_nothing_holds_up_the_end_for_a_moment_only(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with HttpServer(App(), listen=[("127.0.0.1", 0)], tls=contexts[0]) as server:
        with await _connected(server, server.addresses[0]):
            async with asyncio.timeout(20):
                await server.drain(60)


async def _connected(server: HttpServer, address: tuple[str, int]) -> socket.socket:
    """It was accepted, and has said nothing."""
    sock = socket.create_connection(address)
    sock.setblocking(False)
    await until(lambda: len(server._arriving) == 1)
    return sock
