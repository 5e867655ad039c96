"""Ids of nodes and fleets, and which of them a certificate says. Pure."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Identified",
    "Refused",
    "address_of",
    "fleet_name",
    "is_id",
    "key_id",
    "node_name",
    "plain_node_name",
]

_ID = re.compile(r"[a-z2-7]{52}")
# As [node] name.
_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
# Of a certificate's subject, which has 64 characters.
_FLEET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,62}")


class Refused(Exception):
    """A certificate is not one that counts here; the message says why."""


def key_id(public_key: bytes) -> str:
    """Of a key, as DER of its SubjectPublicKeyInfo: base32 of its SHA-256, in lower case."""
    digest = hashlib.sha256(public_key).digest()
    return base64.b32encode(digest).decode().rstrip("=").lower()


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def node_name(text: str) -> str:
    """Raises ValueError."""
    if not _NODE_NAME.fullmatch(text):
        raise ValueError("is not a name of a node: letters, digits, . _ and -")
    return text


def plain_node_name(text: str) -> str:
    """The nearest that is one: a machine may be called as it likes."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", text)[:253].lstrip("._-")
    return plain or "node"


def fleet_name(text: str) -> str:
    """Raises ValueError."""
    if not _FLEET_NAME.fullmatch(text):
        raise ValueError("is not a name of a fleet: at most 63 letters, digits, spaces, . _ and -")
    return text


def address_of(fleet: str, node: str) -> str:
    """How a certificate names a node: the URI among its names."""
    return f"edge://{fleet}/{node}"


@dataclass(frozen=True, slots=True)
class Identified:
    """Who counts as a node of a fleet."""

    fleet: str
    revoked: frozenset[str] = frozenset()

    def peer(self, certificate: Mapping[str, Any]) -> str:
        """The node that a verified certificate, as `getpeercert` has it, is of. Raises Refused."""
        names = certificate.get("subjectAltName", ())
        nodes = [value for kind, value in names if kind == "DNS"]
        addresses = [value for kind, value in names if kind == "URI"]
        if len(names) != 2 or len(nodes) != 1 or not is_id(nodes[0]):
            raise Refused("its certificate is not that of a node")
        if addresses != [address_of(self.fleet, nodes[0])]:
            raise Refused("its certificate is that of another fleet")
        if nodes[0] in self.revoked:
            raise Refused("it was revoked")
        return str(nodes[0])
