# cython: annotation_typing=False, binding=False
"""The `fields` resource: headers and trailers. Names are kept lower-cased, as in HTTP/2."""

from __future__ import annotations

from collections.abc import Sequence

from edge.engine.host import Err, Trap
from edge.wasi.http.message import Headers

__all__ = ["FORBIDDEN", "Fields", "content_length", "visible"]

# What belongs to one connection, and what the transport decides. Guests neither set nor see these;
# the list is wasmtime's, so a guest that works there finds the same here.
FORBIDDEN = frozenset(
    {
        b"connection",
        b"host",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
    }
)

# Bytes of one `fields`, `_ENTRY` for each field included. More than any HTTP server takes.
MAX_SIZE = 128 * 1024

# What the objects of one field cost besides its bytes, so that many empty ones count too.
_ENTRY = 64

_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"  # RFC 9110 §5.6.2, lower case
_CONTROL = bytes(b for b in range(32) if b != 9) + b"\x7f"  # RFC 9110 §5.5; HTAB is allowed

# Names that need no check, as guests and specifications spell them.
_KNOWN = {
    spelling: name.encode()
    for name in (
        "accept",
        "authorization",
        "cache-control",
        "content-length",
        "content-type",
        "cookie",
        "date",
        "etag",
        "last-modified",
        "location",
        "server",
        "set-cookie",
        "user-agent",
        "vary",
    )
    for spelling in (name, name.title())
}


class Fields:
    """Fields of a message. `list` is shared with the message; an immutable one never changes."""

    __slots__ = ("list", "mutable", "size")

    def __init__(self, fields: Headers, *, mutable: bool = False) -> None:
        self.list = fields
        self.mutable = mutable
        self.size = 0

    @staticmethod
    def new(_context: object) -> Fields:
        return Fields([], mutable=True)

    @staticmethod
    def from_list(_context: object, entries: Sequence[tuple[str, bytes]]) -> Fields:
        made = Fields([], mutable=True)
        for name, value in entries:
            made.append(name, value)
        return made

    def get(self, name: str) -> list[bytes]:
        key = name.encode().lower()
        return [value for known, value in self.list if known == key]

    def has(self, name: str) -> bool:
        key = name.encode().lower()
        return any(known == key for known, _ in self.list)

    def set(self, name: str, values: Sequence[bytes]) -> None:
        key = self._changeable(name)
        for value in values:
            _check_value(value)
        self._remove(key)
        for value in values:
            self._add(key, value)

    def delete(self, name: str) -> None:
        self._remove(self._changeable(name))

    def append(self, name: str, value: bytes) -> None:
        key = self._changeable(name)
        _check_value(value)
        self._add(key, value)

    def entries(self) -> list[tuple[str, bytes]]:
        return [(name.decode("latin-1"), value) for name, value in self.list]

    def clone(self) -> Fields:
        copy = Fields(list(self.list), mutable=True)
        copy.size = sum(_cost(name, value) for name, value in self.list)
        return copy

    def _changeable(self, name: str) -> bytes:
        key = _KNOWN.get(name) or _checked_name(name)
        if not self.mutable:
            raise Err("immutable")
        return key

    def _add(self, key: bytes, value: bytes) -> None:
        size = self.size = self.size + len(key) + len(value) + _ENTRY
        if size > MAX_SIZE:
            raise Trap(f"fields: more than {MAX_SIZE} bytes")
        self.list.append((key, value))

    def _remove(self, key: bytes) -> None:
        kept = [field for field in self.list if field[0] != key]
        if len(kept) != len(self.list):
            self.size -= sum(_cost(name, value) for name, value in self.list if name == key)
            self.list = kept


def visible(headers: Headers) -> Headers:
    """The headers of a received message that a guest may see."""
    return [field for field in headers if field[0] not in FORBIDDEN]


def content_length(headers: Headers) -> int | None:
    """The length a message declares, in bytes. Raises ValueError when it declares nonsense."""
    found = None
    for name, value in headers:
        if name == b"content-length":
            # int() also takes signs, blanks and underscores; 18 digits fit every transport.
            if found is not None or not value.isdigit() or len(value) > 18:
                raise ValueError("content-length: must be one number")
            found = int(value)
    return found


def _checked_name(name: str) -> bytes:
    # Bytes are lower-cased as ASCII: a Kelvin sign must not become the k of keep-alive.
    key = name.encode().lower()
    if not key or key.translate(None, _TOKEN):
        raise Err("invalid-syntax")
    if key in FORBIDDEN:
        raise Err("forbidden")
    return key


def _check_value(value: bytes) -> None:
    if len(value.translate(None, _CONTROL)) != len(value):
        raise Err("invalid-syntax")


def _cost(name: bytes, value: bytes) -> int:
    return len(name) + len(value) + _ENTRY
