"""wasi:http@0.2 for guests, and the HTTP messages that everyone hands on (`message`).

An incoming request is lifted as `handle(IncomingRequest(request), ResponseOutparam(reply, method))`
of `INCOMING_HANDLER`. The module `client` sends requests to other machines and is imported by who
composes a node: it brings aiohttp along.
"""

from __future__ import annotations

from edge.wasi.http.errors import HttpError
from edge.wasi.http.incoming import IncomingRequest, ResponseOutparam
from edge.wasi.http.types import INCOMING_HANDLER, OUTGOING_HANDLER, TYPES

__all__ = [
    "INCOMING_HANDLER",
    "INTERFACES",
    "HttpError",
    "IncomingRequest",
    "ResponseOutparam",
]

INTERFACES = (TYPES, OUTGOING_HANDLER)
