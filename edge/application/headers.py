"""The `spin-*` request headers: what a guest is told about its route and its client."""

from __future__ import annotations

from collections.abc import Sequence

from edge.application.routes import Match, Route

__all__ = ["RequestHeaders"]

Headers = list[tuple[bytes, bytes]]

# Ours alone to say, whatever a client sends. `connection` is between the client and the server.
_NOT_THE_CLIENTS = frozenset(
    b"spin-" + name
    for name in (
        b"full-url",
        b"path-info",
        b"matched-route",
        b"base-path",
        b"raw-component-route",
        b"component-route",
        b"client-addr",
    )
) | {b"connection"}
_MATCH = b"spin-path-match-"


class RequestHeaders:
    """Adds the headers of one route; what is the same for all its requests is made once.

    `base_path` is where the application is mounted, a path without a trailing slash or "/".
    `base`: what was taken off the paths of its requests, "" for "/".
    """

    __slots__ = ("_fixed", "_names", "base")

    def __init__(self, route: Route, *, base_path: str = "/") -> None:
        self.base = base = base_path.rstrip("/")
        self._fixed = (
            (b"spin-matched-route", _encode(base + route.matched)),
            (b"spin-base-path", _encode(base_path)),
            (b"spin-raw-component-route", _encode(route.text)),
            (b"spin-component-route", _encode(route.prefix)),
        )
        self._names = tuple(_MATCH + _encode(name.lower()) for name in route.names)

    def add(
        self,
        headers: Sequence[tuple[bytes, bytes]],
        match: Match[object],
        *,
        url: str,
        client: str,
    ) -> Headers:
        """The client's headers (names in lower case) without what it has no say in, and ours."""
        kept = [
            header
            for header in headers
            if header[0] not in _NOT_THE_CLIENTS and not header[0].startswith(_MATCH)
        ]
        kept += self._fixed
        kept.append((b"spin-full-url", _encode(url)))
        kept.append((b"spin-path-info", _encode(match.path_info)))
        kept.append((b"spin-client-addr", _encode(client)))
        if self._names:
            kept += zip(self._names, map(_encode, match.values), strict=True)
        return kept


def _encode(text: str) -> bytes:
    """Heads are Latin-1 on the wire; a route from a TOML file may hold more."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
