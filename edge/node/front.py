"""The first look at a request: the node's own health, and which application it is for."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from edge.application.routes import RESERVED
from edge.node.table import Table
from edge.wasi.http.message import Handler, Reply, Request

__all__ = ["answer"]

_HEALTH = f"{RESERVED}health"


def answer(
    table: Table[Handler], request: Request, reply: Reply
) -> Coroutine[Any, Any, None] | None:
    """Hands a request to the application it is for, with what is below its mount."""
    path = request.target.partition("?")[0]
    if path == _HEALTH:
        _reply(reply, 200, b"OK")
        return None
    found = table.find(request.authority, path)
    if found is None:
        _reply(reply, 404, b"no application is here\n")
        return None
    handler, base = found
    if base:
        below = request.target[len(base) :]
        request.target = below if below.startswith("/") else f"/{below}"
    return handler(request, reply)


def _reply(reply: Reply, status: int, body: bytes) -> None:
    reply.start(status, [(b"content-type", b"text/plain")])
    reply.write(body)
    reply.finish()
