"""Tokens: one line that lets a node join a fleet, once, soon, and knows whom to trust with it.

    edge1.<base64url>     version 1 of: half of the fleet's id (the first 16 bytes of its hash), a
                          secret of 16 bytes, when it ends (4 bytes, seconds since 1970), addresses,
                          and 4 bytes of a SHA-256 of all that, so that a typing mistake is one

16 bytes of a hash are enough: who wants to pass for the fleet needs a key for exactly these. Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from edge.errors import ConfigError

__all__ = ["FLEET_BYTES", "MAX_ADDRESSES", "MAX_TEXT", "SECRET_BYTES", "Token", "fleet_bytes"]

FLEET_BYTES = SECRET_BYTES = 16
MAX_ADDRESSES = 8
# Characters; the longest that is made has less.
MAX_TEXT = 4096
_PREFIX = "edge1."
_CHECK = 4
_FIXED = struct.Struct(f">{FLEET_BYTES}s{SECRET_BYTES}sIB")
_PORT = struct.Struct(">H")
_NAME = 0


def fleet_bytes(fleet: str) -> bytes:
    """What a token says of a fleet, from its id."""
    return base64.b32decode(fleet.upper() + "=" * (-len(fleet) % 8))[:FLEET_BYTES]


@dataclass(frozen=True, slots=True)
class Token:
    """`expires`: seconds since 1970. `addresses`: of the port to join at, (host, port) each."""

    fleet: bytes
    secret: bytes = field(repr=False)
    expires: int
    addresses: tuple[tuple[str, int], ...]

    @property
    def id(self) -> str:
        """For people and logs; says nothing of the secret."""
        return self.hash[:8]

    @property
    def hash(self) -> str:
        """By which its issuer knows it."""
        return hash_of(self.secret)

    def __str__(self) -> str:
        head = _FIXED.pack(self.fleet, self.secret, self.expires, len(self.addresses))
        body = head + b"".join(_packed(host, port) for host, port in self.addresses)
        data = base64.urlsafe_b64encode(body + _checksum(body))
        return _PREFIX + data.decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Token:
        """Raises ConfigError, which shows nothing of the text."""
        text = text.strip()
        if not text.startswith(_PREFIX):
            _wrong(f'one begins with "{_PREFIX}"')
        if len(text) > MAX_TEXT:
            _wrong("it is too long for one")
        data = _decoded(text.removeprefix(_PREFIX))
        body, check = data[:-_CHECK], data[-_CHECK:]
        if len(body) < _FIXED.size or _checksum(body) != check:
            _wrong("a character is missing or is another one")
        fleet, secret, expires, count = _FIXED.unpack_from(body)
        addresses = tuple(_addresses(body[_FIXED.size :], count))
        return cls(fleet, secret, expires, addresses)


def hash_of(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(b"edge token" + body).digest()[:_CHECK]


def _decoded(text: str) -> bytes:
    try:
        data = text.encode("ascii")
        return base64.b64decode(data + b"=" * (-len(data) % 4), b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        _wrong("a character is missing or is another one")


def _packed(host: str, port: int) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("ascii")
        return bytes((_NAME, len(name))) + name + _PORT.pack(port)
    return bytes((address.version,)) + address.packed + _PORT.pack(port)


def _addresses(data: bytes, count: int) -> Iterator[tuple[str, int]]:
    if not 0 < count <= MAX_ADDRESSES:
        _wrong("it names no address, or too many")
    at = 0
    try:
        for _ in range(count):
            host, at = _host(data, at)
            (port,) = _PORT.unpack_from(data, at)
            at += _PORT.size
            yield host, port
    except (IndexError, ValueError, struct.error):
        _wrong("its addresses cannot be read")
    if at != len(data):
        _wrong("its addresses cannot be read")


def _host(data: bytes, at: int) -> tuple[str, int]:
    kind = data[at]
    if kind == _NAME:
        end = at + 2 + data[at + 1]
        name = data[at + 2 : end].decode("ascii")
        if len(data) < end or not name.isprintable() or set(name) & set("/@:?# "):
            raise ValueError
        return name, end
    size = {4: 4, 6: 16}[kind] if kind in (4, 6) else -1
    if size < 0 or len(data) < at + 1 + size:
        raise ValueError
    return str(ipaddress.ip_address(data[at + 1 : at + 1 + size])), at + 1 + size


def _wrong(why: str) -> NoReturn:
    raise ConfigError(
        f"the token is not one of `edge fleet token`: {why}",
        hint="copy the whole line again; `edge fleet token` makes another one",
    )
