"""The node API: HTTP with JSON on a UNIX socket. Routes and bodies only; what they do is `control`.

What takes long answers with lines of JSON as they come: progress, and at last {"result": …} or
{"error": …}. Such work goes on in the node when who asked goes away, but for an invocation.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
import socket
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from aiohttp import web

from edge.application.fields import Table, Where, boolean, items, parsed, string
from edge.errors import EdgeError
from edge.node.answers import Answer, Jobs, Operation, Reading, body, reading, stream, translated
from edge.node.control import Control
from edge.node.invoke import Call
from edge.node.socket import unix_socket

__all__ = ["Api"]

# Bytes of one request's body. Data of an invocation is in memory, and in base64 here.
_BODY_MAX = 24 << 20
# Bytes of an import that are written at a time.
_PIECE = 1 << 20
# Seconds without any of them, after which an import is given up: another one may wait for it.
_SILENCE = 60.0
# RFC 9110: token, field-value; the origin form of a target.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD = re.compile(r"[\t -~\x80-\xff]*")
_TARGET = re.compile(r"/[!-~]*")

# What somebody else wrote does not end a line of the log.
_UNPRINTABLE = re.compile(r"[^ -~]")

_log = logging.getLogger("edge.node")


class Api:
    """Serves while entered. `group`: as for `unix_socket`. `readings` and `operations`: of other
    parts of the node, by their paths; `routes`: what answers in its own way.
    """

    def __init__(
        self,
        control: Control,
        path: Path,
        group: str | None = None,
        *,
        readings: Mapping[str, Reading] = MappingProxyType({}),
        operations: Mapping[str, Operation] = MappingProxyType({}),
        routes: Sequence[web.RouteDef] = (),
    ) -> None:
        self._control = control
        self._path = path
        self._group = group
        self._readings, self._operations, self._routes = readings, operations, routes
        self._stack = AsyncExitStack()
        self._jobs = Jobs()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            listener = stack.enter_context(unix_socket(self._path, self._group))
            runner = web.AppRunner(
                self._application(), access_log=None, handler_cancellation=True, shutdown_timeout=1
            )
            stack.push_async_callback(self._jobs.end)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.SockSite(runner, listener)
            await site.start()
            # No new work, then an end of what is under way, then of who waits for it.
            stack.push_async_callback(self._jobs.end)
            stack.push_async_callback(site.stop)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[translated], client_max_size=_BODY_MAX)
        application.add_routes(
            [
                web.get("/v1/apps", self._apps),
                web.get("/v1/apps/{name}", self._app),
                web.get("/v1/status", self._status),
                web.post("/v1/deploy", self._deploy),
                web.post("/v1/undeploy", self._undeploy),
                web.post("/v1/rollback", self._rollback),
                web.post("/v1/sync", self._sync),
                web.post("/v1/import", self._import),
                web.post("/v1/reload", self._reload),
                web.post("/v1/invoke", self._invoke),
                *(web.get(path, reading(read)) for path, read in self._readings.items()),
                *(web.post(path, self._operation(do)) for path, do in self._operations.items()),
                *self._routes,
            ]
        )
        return application

    # Reading

    async def _apps(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(self._control.apps())

    async def _app(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._control.app(request.match_info["name"]))

    async def _status(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._control.status())

    # Changing

    async def _deploy(self, request: web.Request) -> web.StreamResponse:
        entry = self._control.entry(await body(request))
        _told(request, f"deploy of {entry.name}")
        return await self._jobs.answer(
            request, lambda progress: self._control.deploy(entry, progress)
        )

    async def _undeploy(self, request: web.Request) -> web.StreamResponse:
        with Table(await body(request), Where("undeploy")) as table:
            name = table.need("name", string)
            purge = table.get("purge", boolean, False)
        _told(request, f"undeploy of {name}{' with its data' if purge else ''}")
        return await self._jobs.answer(request, lambda _: self._control.undeploy(name, purge=purge))

    async def _rollback(self, request: web.Request) -> web.StreamResponse:
        with Table(await body(request), Where("rollback")) as table:
            name = table.need("name", string)
        _told(request, f"rollback of {name}")
        return await self._jobs.answer(request, lambda _: self._control.rollback(name))

    async def _sync(self, request: web.Request) -> web.StreamResponse:
        with Table(await body(request), Where("sync")) as table:
            name = table.optional("name", string)
            retry = table.get("retry", boolean, False)
        return await self._jobs.answer(request, lambda _: self._control.sync(name, retry=retry))

    async def _import(self, request: web.Request) -> web.StreamResponse:
        """The body is the tar of an OCI layout."""
        title, name = request.query.get("title", "import"), request.query.get("name")
        _told(request, f"import of {title}")
        file = await self._control.receive(_pieces(request))
        return await self._jobs.answer(
            request, lambda _: self._control.take_in(file, title, name or None)
        )

    async def _reload(self, request: web.Request) -> web.StreamResponse:
        _told(request, "reload")
        return await self._jobs.answer(request, lambda _: self._control.reload())

    async def _invoke(self, request: web.Request) -> web.StreamResponse:
        with Table(await body(request), Where("invoke")) as table:
            name = table.need("name", string)
            call = _read_call(table)
        async with aclosing(self._control.invoke(name, call)) as parts:
            return await stream(request, parts)

    def _operation(self, operation: Operation) -> Answer:
        async def answer(request: web.Request) -> web.StreamResponse:
            given = await body(request)
            _told(request, request.path)
            return await self._jobs.answer(request, lambda _: operation(given))

        return answer


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    while True:
        try:
            async with asyncio.timeout(_SILENCE):
                piece = await request.content.read(_PIECE)
        except TimeoutError:
            raise EdgeError(f"nothing came for {_SILENCE:.0f} s") from None
        if not piece:
            return
        yield piece


def _read_call(table: Table) -> Call:
    return Call(
        table.get("method", parsed(_token), "GET"),
        table.get("path", parsed(_path), "/"),
        table.get("headers", items(_header), ()),
        table.get("data", _base64, b""),
        table.optional("component", string),
        table.optional("trigger", string),
        table.optional("subject", string),
    )


def _header(value: object, where: Where) -> tuple[str, str]:
    pair = items(string)(value, where)
    if len(pair) != 2:
        raise where.error("must be a name and a value")
    return parsed(_token)(pair[0], where), parsed(_field)(pair[1], where)


def _token(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{text[:80]!a} is not a token of HTTP")
    return text


def _field(text: str) -> str:
    if not _FIELD.fullmatch(text):
        raise ValueError("holds what no header can: control characters, or none of Latin-1")
    return text


def _path(text: str) -> str:
    if not _TARGET.fullmatch(text):
        raise ValueError(f'{text[:80]!a} is not a path like "/x?y=z"')
    return text


def _base64(value: object, where: Where) -> bytes:
    try:
        return base64.b64decode(string(value, where), validate=True)
    except binascii.Error as exc:
        raise where.error(f"must be base64: {exc}") from exc


def _told(request: web.Request, what: str) -> None:
    """Whoever changes a node is in its log."""
    connection = request.get_extra_info("socket")
    if connection is None:  # it is gone already
        return
    size = struct.calcsize("3i")
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _pid, uid, _gid = struct.unpack("3i", raw)
    _log.info("%s, asked by user %d", _UNPRINTABLE.sub("?", what[:200]), uid)
