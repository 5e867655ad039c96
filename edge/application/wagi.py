"""Wagi, CGI for Wasm: a request as environment and arguments, standard output as a response.

RFC 3875 in the manner of Spin. Knows nothing of how the command is run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

from edge.application.routes import Match
from edge.errors import GuestError

__all__ = ["Head", "HeadReader", "arguments", "environment"]

# The whole head. More is not a head but output of a program that does not speak CGI.
MAX_HEAD = 64 * 1024

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_END = re.compile(rb"\r?\n\r*\n")
# Between the server and its client; a guest that sent them would break the framing.
_FRAMING = (b"connection", b"keep-alive", b"transfer-encoding", b"upgrade")
_SUFFICIENT = {b"content-type", b"location", b"status"}
_NOT_PASSED_ON = ("HTTP_AUTHORIZATION", "HTTP_CONNECTION", "HTTP_PROXY")

Headers = list[tuple[bytes, bytes]]


def arguments(template: str, path: str, query: str) -> list[str]:
    """The argument vector: the template, filled in, split at its spaces."""
    text = template.replace("${SCRIPT_NAME}", path).replace("${ARGS}", query.replace("&", " "))
    return text.split(" ")


def environment(
    match: Match[object],
    *,
    method: str,
    scheme: str,
    authority: str,
    target: str,
    headers: Sequence[tuple[bytes, bytes]],
    client: str,
    content_length: int | None,
    protocol: str = "HTTP/1.1",
    base_path: str = "/",
) -> dict[str, str]:
    """The environment of one request. `headers` are the client's; `target` is "/path?query" below
    `base_path`, where the application is mounted.

    A body of unknown length (`None`) leaves out CONTENT_LENGTH: the program reads to the end.
    """
    route, base = match.route, base_path.rstrip("/")
    host, port = _host_and_port(authority, scheme)
    address = client.rpartition(":")[0].strip("[]")
    info = unquote(match.path_info)
    known = {
        "AUTH_TYPE": "",
        "CONTENT_TYPE": _text(dict(headers).get(b"content-type", b"")),
        "GATEWAY_INTERFACE": "CGI/1.1",
        "PATH_INFO": info,
        "PATH_TRANSLATED": info,
        "QUERY_STRING": target.partition("?")[2],
        "REMOTE_ADDR": address,
        "REMOTE_HOST": address,
        "REMOTE_USER": "",
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": base + route.matched.removesuffix("/..."),
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": protocol,
        "SERVER_SOFTWARE": "WAGI/1",
        "X_BASE_PATH": base_path,
        "X_CLIENT_ADDR": client,
        "X_COMPONENT_ROUTE": route.prefix,
        "X_FULL_URL": f"{scheme}://{authority}{base}{target}",
        "X_MATCHED_ROUTE": base + route.matched,
        "X_RAW_COMPONENT_ROUTE": route.text,
        "X_RAW_PATH_INFO": match.path_info,
    }
    if content_length is not None:
        known["CONTENT_LENGTH"] = str(content_length)
    for name, value in zip(route.names, match.values, strict=True):
        known[f"X_PATH_MATCH_{name.upper()}"] = value
    return _from_headers(headers) | known


def _from_headers(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers:
        key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
        if key in _NOT_PASSED_ON:
            continue
        text = _text(value)
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _host_and_port(authority: str, scheme: str) -> tuple[str, str]:
    host, colon, port = authority.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = authority, ""
    return host or "localhost", port or ("443" if scheme == "https" else "80")


class Head(NamedTuple):
    """How the response begins; `rest` is what was read of its body already."""

    status: int
    headers: Headers
    rest: bytes


class HeadReader:
    """Collects standard output until the head is complete."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> Head | None:
        """The head once it is complete; a GuestError if the output is not a response."""
        self._data += data
        if found := _END.search(self._data):
            return self._head(self._data[: found.start()], self._data[found.end() :])
        if len(self._data) > MAX_HEAD:
            raise GuestError(f"no end of the response's head within {MAX_HEAD} bytes of output")
        return None

    def end(self) -> Head:
        """The head of an output that ended before one was complete: it may have no body."""
        if not self._data:
            raise GuestError(
                "wrote nothing to its standard output",
                hint="a Wagi program writes headers, an empty line and the body",
            )
        return self._head(self._data, b"")

    def _head(self, lines: bytes, rest: bytes) -> Head:
        headers = [pair for line in lines.split(b"\n") if (pair := _header(line)) is not None]
        if not _SUFFICIENT & {name for name, _ in headers}:
            raise GuestError(
                "its standard output does not begin with a response's head",
                hint="one of content-type, location and status is needed, then an empty line",
            )
        kept = [pair for pair in headers if pair[0] != b"status" and pair[0] not in _FRAMING]
        return Head(_status(headers), kept, rest)


def _header(line: bytes) -> tuple[bytes, bytes] | None:
    name, colon, value = line.partition(b":")
    name, value = name.strip().lower(), value.strip()
    if not colon or not _NAME.fullmatch(name):
        return None
    if not _VALUE.fullmatch(value):
        raise GuestError(f"its response has control characters in {name.decode()}")
    return name, value


def _status(headers: Headers) -> int:
    known = dict(headers)
    if (text := known.get(b"status")) is None:
        return 302 if b"location" in known else 200
    code = text.partition(b" ")[0]
    # 502 is what Spin makes of a status that is none
    return int(code) if re.fullmatch(rb"[2-5][0-9]{2}", code) else 502
