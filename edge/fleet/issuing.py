"""What peers ask of each other about who is of the fleet. Served on the port of peers.

GET  /edge/v1/revocations   the newest list that this node has; 404 before the first
POST /edge/v1/renew         a request, in PEM: a newer certificate. 404 but at the authority
"""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from edge.errors import EdgeError
from edge.fleet.authority import Authority
from edge.fleet.identity import Identity
from edge.fleet.names import Refused
from edge.fleet.server import peer_of

__all__ = ["RENEW", "REVOCATIONS", "routes"]

REVOCATIONS = "/edge/v1/revocations"
RENEW = "/edge/v1/renew"
_PEM = "application/x-pem-file"
# A request has 500 bytes.
_REQUEST_MAX = 8 << 10
# Seconds for it to come.
_PATIENCE = 10.0

_log = logging.getLogger("edge.fleet")


def routes(identity: Identity, authority: Authority | None) -> list[web.RouteDef]:
    """For the server of peers."""

    async def revocations(_request: web.Request) -> web.Response:
        newest = identity.revocations
        if not newest.number:
            raise web.HTTPNotFound
        return web.Response(body=newest.data, content_type=_PEM)

    async def renew(request: web.Request) -> web.Response:
        if authority is None:
            raise web.HTTPNotFound
        peer = peer_of(request)
        try:
            async with asyncio.timeout(_PATIENCE):
                asked = await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        if len(asked) > _REQUEST_MAX:
            raise web.HTTPRequestEntityTooLarge(_REQUEST_MAX, len(asked))
        try:
            issued = await asyncio.to_thread(authority.renew, peer, asked, identity.revoked)
        except Refused as refused:
            raise web.HTTPForbidden(text=str(refused)) from None
        except EdgeError as error:
            _log.error("no certificate for %s: %s", peer, error.message)
            raise web.HTTPServiceUnavailable from None
        _log.info("a newer certificate for %s", peer)
        return web.Response(body=issued.pem, content_type=_PEM)

    return [web.get(REVOCATIONS, revocations), web.post(RENEW, renew)]
