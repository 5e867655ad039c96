"""A node of the fleet that went over to the enemy: `edge`, whose answers to peers are lies.

    fleet_turncoat.py run --config FILE

What it does is in the file that $TURNCOAT names, read at each request: a word of `BYTES`, `BOARD`
or `TALK`; any other is honest. How much it could send of an endless answer is in $TURNCOAT.sent.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from edge.cli import main
from edge.fleet import server

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ENDLESS = 10 * 1000**3
ORDERS = Path(os.environ["TURNCOAT"])
BLOBS = Path(os.environ["TURNCOAT_BLOBS"])
PIECE = bytes(256 * 1024)


def ordered() -> str:
    return ORDERS.read_text()


def note(sent: int) -> None:
    Path(f"{ORDERS}.sent").write_text(str(sent))


def size_of(request: web.Request) -> int:
    """Of the blob that is asked for: it has it."""
    found = re.search(r"sha256:([0-9a-f]{64})", request.path)
    assert found is not None
    return (BLOBS / found[1]).stat().st_size


def head(request: web.Request) -> tuple[web.StreamResponse, int]:
    """Of an honest answer about a blob, and how many bytes follow it."""
    size = size_of(request)
    wanted = request.http_range
    start, stop = wanted.start or 0, min(wanted.stop or size, size)
    response = web.StreamResponse(status=206 if "Range" in request.headers else 200)
    if response.status == 206:
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    response.headers["Docker-Content-Digest"] = request.path.rpartition("/")[2]
    response.content_type = "application/octet-stream"
    return response, stop - start


async def begun(request: web.Request) -> tuple[web.StreamResponse, int]:
    response, size = head(request)
    response.content_length = size
    await response.prepare(request)
    return response, size


async def wrong(request: web.Request) -> web.StreamResponse:
    response, size = await begun(request)
    await response.write(os.urandom(size))
    return response


async def stalls(request: web.Request) -> web.StreamResponse:
    response, size = await begun(request)
    await response.write(bytes(min(size - 1, 1024)))
    await asyncio.get_running_loop().create_future()
    return response


async def breaks(request: web.Request) -> web.StreamResponse:
    response, size = await begun(request)
    await response.write(bytes(size // 2))
    assert request.transport is not None
    request.transport.abort()
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    response = head(request)[0] if request.path.startswith("/v2/") else web.StreamResponse()
    await response.prepare(request)
    sent = 0
    while sent < ENDLESS and not (request.transport is None or request.transport.is_closing()):
        await response.write(PIECE)
        # The loop hears that the other end has gone only when it gets a turn.
        await asyncio.sleep(0)
        sent += len(PIECE)
        note(sent)
    return response


async def hangs(request: web.Request) -> web.StreamResponse:
    await asyncio.get_running_loop().create_future()
    return web.Response()


async def refuses(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500)


async def nonsense(request: web.Request) -> web.StreamResponse:
    return web.json_response([{"\x1b[31m": ["x"] * 1000}] * 100)


# By what is asked for: the bytes of a blob, who has or fetches a blob, all else that peers ask.
BYTES: dict[str, Handler] = {
    "wrong bytes": wrong,
    "stalls": stalls,
    "breaks": breaks,
    "10 GB": endless,
    "refuses": refuses,
}
BOARD: dict[str, Handler] = {"board 10 GB": endless, "board hangs": hangs}
TALK: dict[str, Handler] = {"talk 10 GB": endless, "talk hangs": hangs, "talk nonsense": nonsense}


def turned(route: web.RouteDef) -> web.RouteDef:
    """The same route with a handler that lies when it was told to."""
    honest: Any = route.handler
    if "blobs" in route.path:
        lies = BYTES if route.path.startswith("/v2/") else BOARD
    else:
        lies = TALK if route.path.startswith("/edge/") else {}

    async def handler(request: web.Request) -> web.StreamResponse:
        lie = lies.get(ordered())
        if lie is not None and request.method != "HEAD":
            return await lie(request)
        answer: web.StreamResponse = await honest(request)
        return answer

    return web.RouteDef(route.method, route.path, handler, route.kwargs)


def turn() -> None:
    honest: Any = server.Server.__init__

    def init(self: Any, credentials: Any, listen: Any, routes: Any = (), **more: Any) -> None:
        honest(self, credentials, listen, [turned(route) for route in routes], **more)

    server.Server.__init__ = init  # type: ignore[method-assign]


if __name__ == "__main__":
    turn()
    sys.exit(main(sys.argv[1:]))
