"""Registries on 127.0.0.1: Debian's real one in its ways to authenticate, and one that lies."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

PROGRAM = shutil.which("docker-registry")
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

SKOPEO = shutil.which("skopeo")

USER, PASSWORD = "ada", "secret"
# bcrypt of "secret", as `htpasswd -B` writes it.
_HTPASSWD = "ada:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n"


@dataclass(frozen=True, slots=True)
class Authority:
    """A private authority, and a certificate of it for localhost and 127.0.0.1."""

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, directory: Path) -> Authority:
        ca, ca_key, request = (directory / n for n in ("ca.pem", "ca.key", "request.pem"))
        cert, key = directory / "cert.pem", directory / "key.pem"
        new = ["req", "-newkey", "rsa:2048", "-nodes"]
        usage = ["-addext", "keyUsage=critical,keyCertSign,digitalSignature"]
        names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        _openssl(*new, "-x509", "-subj", "/CN=test", *usage, "-keyout", ca_key, "-out", ca)
        _openssl(*new, "-subj", "/CN=localhost", *names, "-keyout", key, "-out", request)
        sign = ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key]
        _openssl(*sign, "-copy_extensions", "copy", "-days", "2", "-out", cert)
        return cls(ca, cert, key)

    def context(self) -> ssl.SSLContext:
        """Of a server."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        return context


def _openssl(*arguments: str | Path) -> bytes:
    command = ["openssl", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


@contextmanager
def docker_registry(
    directory: Path,
    *,
    users: bool = False,
    authority: Authority | None = None,
    token_server: str | None = None,
) -> Iterator[str]:
    """Debian's docker-registry; gives host and port.

    `users`: it knows USER by PASSWORD only; `authority`: it speaks TLS, and takes tokens that are
    signed by it when `token_server` is that server's URL.
    """
    assert PROGRAM is not None, "needs the Debian package docker-registry"
    for _ in range(5):
        port = free_port()
        config = _config(directory, port, users, authority, token_server)
        (directory / "registry.json").write_text(json.dumps(config))
        command = [PROGRAM, "serve", str(directory / "registry.json")]
        with (directory / "registry.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            if _listens(port, process):
                yield f"127.0.0.1:{port}"
                return
        finally:
            process.terminate()
            process.wait(20)
    raise AssertionError("docker-registry does not start")


def _config(
    directory: Path, port: int, users: bool, authority: Authority | None, token_server: str | None
) -> dict[str, Any]:
    http: dict[str, Any] = {"addr": f"127.0.0.1:{port}", "secret": "test"}
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "storage")}},
        "http": http,
    }
    if authority and not token_server:
        http["tls"] = {"certificate": str(authority.certificate), "key": str(authority.key)}
    if users:
        (directory / "htpasswd").write_text(_HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
    if token_server:
        assert authority is not None
        bundle = {"rootcertbundle": str(authority.ca)}
        config["auth"] = {
            "token": {"realm": token_server, "service": "test", "issuer": "test"} | bundle
        }
    return config


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        time.sleep(0.01)
    return False


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def skopeo(*arguments: str | Path) -> str:
    """What another implementation makes of it; its standard output."""
    assert SKOPEO is not None, "needs the Debian package skopeo"
    command = [SKOPEO, "--insecure-policy", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class TokenServer:
    """Gives whoever knows PASSWORD a token by the specification.

    `seconds`: how long it says that a token holds; `life`: how long it does.
    """

    authority: Authority
    url: str = ""
    seconds: int = 300
    life: int = 300
    refresh_token: str = "stands-for-ada"
    asked: list[dict[str, str]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        form = dict(await request.post()) if request.method == "POST" else dict(request.query)
        self.asked.append({key: str(value) for key, value in form.items()})
        basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if request.method == "POST":
            known = form["refresh_token"] == self.refresh_token
        else:
            known = request.headers.get("Authorization") == f"Basic {basic}"
        if not known:
            raise web.HTTPUnauthorized(text='{"errors":[{"message":"who are you?"}]}')
        token = await asyncio.to_thread(self._token, str(form["scope"]))
        return web.json_response({"token": token, "expires_in": self.seconds})

    def _token(self, scope: str) -> str:
        kind, name, actions = scope.split(":")
        now = int(time.time())  # noqa: TID251
        pem = self.authority.certificate.read_text()
        der = base64.b64encode(ssl.PEM_cert_to_DER_cert(pem)).decode()
        header = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
        claims = {
            "iss": "test",
            "sub": USER,
            "aud": "test",
            "jti": "1",
            "iat": now,
            "nbf": now - 10,
            "exp": now + self.life,
            "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
        }
        text = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        sign = ["openssl", "dgst", "-sha256", "-sign", str(self.authority.key)]
        done = subprocess.run(sign, input=text.encode(), check=True, capture_output=True)
        return f"{text}.{_base64(done.stdout)}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@asynccontextmanager
async def token_server(authority: Authority) -> AsyncIterator[TokenServer]:
    server = TokenServer(authority)
    async with served(server.answer) as base:
        server.url = f"{base}/token"
        yield server


@asynccontextmanager
async def served(answer: Answer, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server whose every answer is by that function; gives its URL."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        scheme = "https" if context else "http"
        yield f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass
class Liar:
    """A registry that reads from two dictionaries, and does first what it was told to.

    `faults`: by "manifests", "blobs" or "token": answers given instead, each once, in this order.
    """

    host: str = ""
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # tag -> type, bytes
    blobs: dict[str, bytes] = field(default_factory=dict)  # digest -> bytes
    faults: dict[str, list[Answer]] = field(default_factory=lambda: defaultdict(list))
    requests: list[web.Request] = field(default_factory=list)
    received: int = 0  # bytes of blobs, as the client counts them
    awaited: list[tuple[int, asyncio.Event]] = field(default_factory=list)

    def count(self, size: int) -> None:
        """What a client calls for each piece that it has."""
        self.received += size
        for goal, reached in self.awaited:
            if self.received >= goal:
                reached.set()

    def cut(self, data: bytes, size: int) -> Answer:
        """Announces `size` bytes, sends `data`, and goes once the client has counted it."""

        async def answer(request: web.Request) -> web.StreamResponse:
            reached = asyncio.Event()
            self.awaited.append((self.received + len(data), reached))
            start = request.http_range.start
            response = web.StreamResponse(status=200 if start is None else 206)
            if start is not None:
                response.headers["Content-Range"] = f"bytes {start}-{start + size - 1}/*"
            response.content_length = size
            await response.prepare(request)
            await response.write(data)
            await reached.wait()
            assert request.transport is not None
            request.transport.abort()
            return response

        return answer

    def seen(self, kind: str) -> list[web.Request]:
        return [request for request in self.requests if kind in request.path.split("/")]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        *_, kind, name = request.path.split("/")
        kind = kind if request.path.startswith("/v2/") else name
        if self.faults[kind]:
            return await self.faults[kind].pop(0)(request)
        return await self.honest(request, kind, name)

    async def honest(self, request: web.Request, kind: str, name: str) -> web.StreamResponse:
        if kind == "manifests" and name in self.manifests:
            media_type, data = self.manifests[name]
            return web.Response(body=data, headers={"Content-Type": media_type})
        if kind == "blobs" and name in self.blobs:
            data = self.blobs[name]
            start = request.http_range.start or 0
            status = 206 if "Range" in request.headers else 200
            response = web.Response(body=data[start:], status=status)
            if status == 206:
                response.headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return response
        raise web.HTTPNotFound


@asynccontextmanager
async def liar(context: ssl.SSLContext | None = None) -> AsyncIterator[Liar]:
    found = Liar()
    async with served(found.answer, context) as url:
        found.host = url.partition("://")[2]
        yield found


def status(code: int, body: str = "", **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=code, text=body, headers=named)

    return answer


def body(data: bytes, code: int = 200, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=code, body=data, headers=named)

    return answer


def endless(piece: bytes) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(piece)

    return answer


async def hangs(request: web.Request) -> web.StreamResponse:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


async def drops(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    raise ConnectionResetError
