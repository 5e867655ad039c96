"""What goes wrong in HTTP: the error codes that guests see and the status that clients get."""

from __future__ import annotations

from typing import Any

from edge.errors import EdgeError

__all__ = ["ErrorCode", "HttpError", "body_size", "code_of", "failure", "internal"]

# A case of wasi:http's `error-code`: its name, or name and payload.
ErrorCode = str | tuple[str, Any]


class HttpError(EdgeError):
    """An exchange failed, or a guest answered with an error; `code` is what a guest sees of it."""

    status = 502

    def __init__(self, code: ErrorCode, message: str = "") -> None:
        super().__init__(message or _text(code))
        self.code = code


class HttpTimeout(HttpError):
    """The other side was too slow."""

    status = 504


class HttpInternal(HttpError):
    """The fault is on this side."""

    status = 500


_TIMEOUTS = frozenset(
    {
        "DNS-timeout",
        "connection-timeout",
        "connection-read-timeout",
        "connection-write-timeout",
        "HTTP-response-timeout",
    }
)
_OWN = frozenset({"internal-error", "configuration-error", "HTTP-response-body-size"})


def failure(code: ErrorCode, message: str = "") -> HttpError:
    """The error for `code`, of the class that has its status."""
    name = code if isinstance(code, str) else code[0]
    if name in _TIMEOUTS:
        return HttpTimeout(code, message)
    return (HttpInternal if name in _OWN else HttpError)(code, message)


def internal(message: str) -> HttpError:
    """A fault without a code of its own; guests see the message."""
    return failure(("internal-error", message), message)


def body_size(kind: str, size: int) -> HttpError:
    """A body of `size` bytes that contradicts its Content-Length; `kind`: request, response."""
    return failure((f"HTTP-{kind}-body-size", size), f"{kind} body: {size} bytes is not its length")


def code_of(error: Exception) -> ErrorCode:
    """What a guest sees of an error that ended a message early."""
    if isinstance(error, HttpError):
        return error.code
    if isinstance(error, TimeoutError):
        return "connection-read-timeout"
    if isinstance(error, ConnectionError):
        return "connection-terminated"
    return ("internal-error", None)


def _text(code: ErrorCode) -> str:
    name, payload = (code, None) if isinstance(code, str) else code
    return f"http error: {name}" if payload is None else f"http error: {name} ({payload})"
