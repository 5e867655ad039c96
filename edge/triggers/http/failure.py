"""What a client is told about a failure: a status and one line of JSON, never our internals."""

from __future__ import annotations

import json

from edge.errors import EdgeError, GuestError, GuestLimit, GuestTimeout, Overloaded
from edge.wasi.http.message import Headers


class Refused(Exception):
    """What the client sent is not a request that this server takes. The connection closes."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def describe(error: Exception) -> tuple[int, Headers, bytes]:
    """Status, headers and body that answer a request which failed with `error`."""
    content = {"error": _message(error)}
    if isinstance(error, GuestError) and error.invocation:
        content["invocation"] = error.invocation
    headers = [(b"content-type", b"application/json")]
    if isinstance(error, Overloaded):
        headers.append((b"retry-after", b"%d" % error.retry_after))
    status = error.status if isinstance(error, (EdgeError, Refused)) else 500
    return status, headers, json.dumps(content).encode() + b"\n"


def _message(error: Exception) -> str:
    """A guest's cause and the text of our own failures are for the operator."""
    match error:
        case GuestTimeout():
            return "guest timeout"
        case GuestLimit():
            return "guest limit"
        case GuestError():
            return "guest failed"
        case Refused():
            return str(error)
        case EdgeError() if error.status != 500:
            return error.message
        case _:
            return "internal error"
