"""The page as a server: where it listens, and what it answers."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import ssl
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

from aiohttp import web

from edge import config
from edge.application.fields import Table, Where, string
from edge.errors import ConfigError, EdgeError
from edge.node.answers import Answer, Jobs, Reading, body, reading, translated
from edge.node.page import assets
from edge.node.page.access import LIFE, Access, from_elsewhere, is_loopback
from edge.platform.crowd import bounded
from edge.platform.ends import both_ours
from edge.platform.files import unreadable
from edge.platform.tls import server_tls

__all__ = ["Holds", "Page", "Shown"]

# A browser has six at a time, and one more for each log that it follows.
_CONNECTIONS = 96
# Seconds without a request, also until the first is complete.
_SILENCE = 30.0
# Bytes of a request's body: a name, a password.
_BODY_MAX = 16 << 10

_COOKIE = "edge-page"
# What needs no login: the way to it, and what that looks like.
_OPEN = ("/login", "/assets/")
# For scrapers, which know no cookies. It tells no secret: any program of this machine may read it.
_METRICS = "/metrics"

_TAKEN = "another program, or another node, listens there: choose another in [page] of edge.toml"

# Whether we have the other end of a connection between two addresses, as `getsockname` has them.
Holds = Callable[[Any, Any], Awaitable[bool]]

_log = logging.getLogger("edge.node")


@dataclass(frozen=True, slots=True)
class Shown:
    """What the page is made of. `readings`: by path, JSON. `routes`: what answers in its own way.
    `app`: one application in detail. `rollback`: to the version before; how it is then.
    """

    readings: Mapping[str, Reading]
    routes: Sequence[web.RouteDef]
    app: Callable[[str], Any]
    rollback: Callable[[str], Awaitable[Any]]


class Page:
    """The page of a node, as an async context manager; without `listen` it does nothing.

    `http`: whose certificate it shows to others than this machine. What keeps it from being there
    keeps no node from serving: it is a note. `holds`: whether a process of this node has the other
    end of a connection between two addresses; only this one, where it is not given.
    """

    def __init__(
        self,
        settings: config.Page,
        http: config.Http,
        shown: Shown,
        *,
        credentials: Path | None = None,
        holds: Holds | None = None,
    ) -> None:
        self._holds = holds or _holds
        self._settings, self._http, self._shown = settings, http, shown
        self._credentials = credentials
        self._access = Access(None)
        self._secure = False
        self._jobs = Jobs()
        # Of the connections that are open: whether a guest of this node is at the other end.
        self._guests: WeakKeyDictionary[asyncio.BaseTransport, bool] = WeakKeyDictionary()
        self._open = AsyncExitStack()
        self.urls: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()

    async def __aenter__(self) -> Self:
        if self._settings.listen is not None:
            try:
                async with AsyncExitStack() as stack:
                    await self._serve(stack, self._settings.listen)
                    self._open = stack.pop_all()
            except EdgeError as error:
                hint = f" ({error.hint})" if error.hint else ""
                self.notes = (f"no page: {error.message}{hint}",)
                _log.warning("%s", self.notes[0])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._open.aclose()

    async def _serve(self, stack: AsyncExitStack, address: config.Address) -> None:
        self._access = Access(await asyncio.to_thread(self._password))
        tls = await asyncio.to_thread(self._tls, address)
        self._secure = tls is not None
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=1.0,
            keepalive_timeout=_SILENCE,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        assert runner.server is not None
        door = bounded(runner.server, _CONNECTIONS)
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(door, address.host, address.port, ssl=tls)
        except OSError as error:
            raise _not_listening(address, error) from error
        stack.push_async_callback(self._jobs.end)
        stack.callback(server.close)
        found = [config.Address(*sock.getsockname()[:2]) for sock in server.sockets]
        self.urls = tuple(f"http{'s' if tls else ''}://{one}" for one in found)
        _log.info("the page is at %s", ", ".join(self.urls))
        if tls is None and not all(is_loopback(one.host) for one in found):
            self.notes = (
                "the page has no certificate: its password can be read on the network"
                " ([http] tls_certificate)",
            )

    def _password(self) -> str | None:
        path = self._settings.password_file
        if path is None:
            return self._settings.password
        given = self._credentials / path if self._credentials and not path.is_absolute() else path
        try:
            text = given.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"page.password_file: {given}: {unreadable(error)}") from error
        if len(text) < config.Page.SHORTEST:
            few = config.Page.SHORTEST
            raise ConfigError(f"page.password_file: {given}: has fewer than {few} characters")
        return text

    def _tls(self, address: config.Address) -> ssl.SSLContext | None:
        """No certificate is that of "localhost"."""
        certificate, key = self._http.tls_certificate, self._http.tls_key
        if is_loopback(address.host) or certificate is None or key is None:
            return None
        return server_tls(Path(certificate), Path(key))

    def _application(self) -> web.Application:
        application = web.Application(
            middlewares=[translated, self._guarded], client_max_size=_BODY_MAX
        )
        application.on_response_prepare.append(assets.protected)
        shown = self._shown
        application.add_routes(
            [
                web.get("/", _index),
                web.get("/login", self._login_form),
                web.post("/login", self._login),
                web.post("/logout", self._logout),
                web.get("/v1/page", reading(lambda: {"login": self._access.password})),
                web.get("/v1/apps/{name}", self._app),
                web.post("/v1/rollback", self._rollback),
                *(web.get(path, reading(read)) for path, read in shown.readings.items()),
                *shown.routes,
                *assets.routes(),
            ]
        )
        return application

    # Who may

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Answer) -> web.StreamResponse:
        # Not request.host: where there is none it asks the resolver, and all wait.
        path, host = request.path, request.headers.get("Host", "")
        if self._access.wrong_name(host):
            raise web.HTTPMisdirectedRequest(reason="this page is reached as localhost")
        if await self._is_guest(request):
            raise web.HTTPForbidden(reason="guests may not look at their node")
        strange = from_elsewhere(request.headers, host)
        if strange and (request.method != "GET" or path.startswith("/v1/")):
            raise web.HTTPForbidden(reason="pages of others may not ask this node")
        if not path.startswith(_OPEN) and not self._may(request):
            if path == "/":
                raise web.HTTPSeeOther("/login")
            headers = {"WWW-Authenticate": 'Basic realm="edge"'} if path == _METRICS else {}
            raise web.HTTPUnauthorized(reason="log in first", headers=headers)
        return await handler(request)

    def _may(self, request: web.Request) -> bool:
        if self._access.is_in(request.cookies.get(_COOKIE)):
            return True
        return request.path == _METRICS and self._knows(request, _basic(request))

    def _knows(self, request: web.Request, password: str | None) -> bool:
        address = request.remote or ""
        if not password or self._access.wait(address):
            return False
        known = self._access.knows(password, address)
        if not known:
            _log.warning("the page: a wrong password from %s", address)
        return known

    async def _is_guest(self, request: web.Request) -> bool:
        """A component may be allowed to reach this machine: its node is not meant by that."""
        transport = request.transport
        if self._access.password or transport is None:
            return False
        known = self._guests.get(transport)
        if known is None:
            ends = (transport.get_extra_info(name) for name in ("sockname", "peername"))
            known = self._guests[transport] = await self._holds(*ends)
        return known

    # Login

    async def _login_form(self, request: web.Request) -> web.StreamResponse:
        if self._may(request):
            raise web.HTTPSeeOther("/")
        return _form("")

    async def _login(self, request: web.Request) -> web.StreamResponse:
        if wait := self._access.wait(request.remote or ""):
            seconds = math.ceil(wait)
            response = _form(f"Too many wrong passwords: wait {seconds} s.", 429)
            response.headers["Retry-After"] = str(seconds)
            return response
        password = (await request.post()).get("password")
        if not self._knows(request, password if isinstance(password, str) else None):
            return _form("That is not the password.", 403)
        _log.info("the page: login from %s", request.remote)
        response = web.Response(status=303, headers={"Location": "/"})
        response.set_cookie(
            _COOKIE,
            self._access.begin(),
            max_age=int(LIFE),
            httponly=True,
            secure=self._secure,
            samesite="Strict",
        )
        return response

    async def _logout(self, request: web.Request) -> web.StreamResponse:
        self._access.end(request.cookies.get(_COOKIE, ""))
        response = web.Response(status=303, headers={"Location": "/login"})
        response.del_cookie(_COOKIE, httponly=True, secure=self._secure, samesite="Strict")
        return response

    # What it shows, and does

    async def _app(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._shown.app(request.match_info["name"]))

    async def _rollback(self, request: web.Request) -> web.StreamResponse:
        # No form of a stranger's page can send this type, whatever its browser tells of it.
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(reason="JSON is wanted")
        with Table(await body(request), Where("rollback")) as table:
            name = table.need("name", string)
        _log.info("rollback of %a, asked by the page from %s", name[:200], request.remote)
        return await self._jobs.answer(request, lambda _: self._shown.rollback(name))


async def _holds(here: Any, there: Any) -> bool:
    return both_ours(here, there)


async def _index(_: web.Request) -> web.StreamResponse:
    return assets.page("index.html")


def _form(message: str, status: int = 200) -> web.Response:
    """`message`: ours, without a character of somebody else."""
    text = (assets.FOLDER / "login.html").read_text().replace("<!-- message -->", message)
    return web.Response(text=text, content_type="text/html", status=status)


def _basic(request: web.Request) -> str | None:
    """The password of HTTP's own login, whatever the name."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return b64decode(given, validate=True).decode().partition(":")[2]
    except ValueError:
        return None


def _not_listening(address: config.Address, error: OSError) -> EdgeError:
    taken = error.errno == errno.EADDRINUSE
    why = os.strerror(error.errno or 0).lower() if error.errno in errno.errorcode else str(error)
    return EdgeError(f"page.listen: {address}: {why}", hint=_TAKEN if taken else None)
