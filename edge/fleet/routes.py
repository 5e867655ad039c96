"""What peers ask this node over its server: small questions with small answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from edge.errors import EdgeError
from edge.fleet.asking import GOSSIP, INDIRECT, PEER
from edge.fleet.gossip import Gossip
from edge.fleet.probe import Prober
from edge.fleet.server import host_of, peer_of
from edge.fleet.wire import BODY_MOST

__all__ = ["APPS", "routes"]

APPS = "/edge/v1/apps"

# Seconds that the body of a message may take.
_BODY = 5.0
# Questions of one peer: so many at once, and so many a second after that.
_BURST, _RATE = 40.0, 10.0
# Bytes of a message that count as one more question: to read them takes as long.
_TURN = 16 << 10
_PACES_MOST = 1024

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Pace:
    """Lets each peer ask so often. `now`: the loop's clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._left: dict[str, tuple[float, float]] = {}

    def allows(self, id: str, turns: float = 1.0) -> bool:
        """What is too much now costs nothing."""
        now = self._now()
        left, since = self._left.pop(id, (_BURST, now))
        left = min(_BURST, left + (now - since) * _RATE)
        allowed = left >= turns
        self._left[id] = left - turns if allowed else left, now
        while len(self._left) > _PACES_MOST:
            del self._left[next(iter(self._left))]
        return allowed


def routes(
    gossip: Gossip,
    prober: Prober,
    applications: Callable[[], object],
    now: Callable[[], float],
) -> list[web.RouteDef]:
    """`applications`: those of this node, as JSON."""
    pace = _Pace(now)

    def paced(answer: Answer) -> Answer:
        async def handler(request: web.Request) -> web.StreamResponse:
            if not pace.allows(peer_of(request)):
                raise web.HTTPTooManyRequests
            try:
                return await answer(request)
            except EdgeError as error:
                raise web.HTTPBadRequest(text=error.message[:200]) from error

        return handler

    async def peer(request: web.Request) -> web.StreamResponse:
        know = request.query.get("know", "")
        return _answered(gossip.probed(peer_of(request), host_of(request), know))

    async def message(request: web.Request) -> web.StreamResponse:
        data = await _body(request)
        if not pace.allows(peer_of(request), len(data) / _TURN):
            raise web.HTTPTooManyRequests
        return _answered(gossip.told(peer_of(request), host_of(request), data))

    async def indirect(request: web.Request) -> web.StreamResponse:
        return _answered(await prober.favour(request.query.get("id", "")))

    async def apps(_: web.Request) -> web.StreamResponse:
        return web.json_response(applications())

    return [
        web.get(PEER, paced(peer)),
        web.post(GOSSIP, paced(message)),
        web.get(INDIRECT, paced(indirect)),
        web.get(APPS, paced(apps)),
    ]


def _answered(data: bytes) -> web.Response:
    return web.Response(body=data) if data else web.Response(status=204)


async def _body(request: web.Request) -> bytes:
    found = bytearray()
    try:
        async with asyncio.timeout(_BODY):
            async for piece in request.content.iter_any():
                found += piece
                if len(found) > BODY_MOST:
                    raise web.HTTPRequestEntityTooLarge(BODY_MOST, len(found))
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    return bytes(found)
