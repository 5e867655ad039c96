"""What a node advertises: as a value, as a TXT record (RFC 6763), and as it is heard. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge.fleet.names import is_id

__all__ = ["TYPE", "Advert", "is_instance", "label", "parse", "properties"]

TYPE = "_edge-node._tcp.local."
_VERSION = "1"

_LABEL_BYTES = 63  # RFC 1035 §2.3.4
_SUFFIX_BYTES = 9  # of a name that was taken: "-" and the head of the id
_MAX_TEXT = 1300  # RFC 6763 §6.2: what fits one packet
_SHORT = re.compile(r"[!-~]{0,64}")  # printable ASCII without spaces


@dataclass(frozen=True, slots=True)
class Advert:
    """What a node says of itself, to anybody. Its form was checked, its truth was not."""

    id: str
    name: str
    fleet: str
    # Hosts are IP addresses without brackets; link-local IPv6 with "%" and the interface's index.
    # The best to try comes first; one that a node had two minutes ago may still follow.
    addresses: tuple[tuple[str, int], ...] = ()
    inventory: str = ""
    arch: str = ""
    version: str = ""


def properties(advert: Advert) -> dict[str, str]:
    """The TXT record, in the order in which it is sent. Raises ValueError."""
    said = {"inv": advert.inventory, "arch": advert.arch, "v": advert.version}
    if not is_id(advert.id) or not is_id(advert.fleet):
        raise ValueError("an advert without the id of a node and of its fleet")
    for key, value in said.items():
        if not _SHORT.fullmatch(value):
            raise ValueError(f"an advert's {key} has no more than 64 printable characters")
    return {"txtvers": _VERSION, "id": advert.id, "fleet": advert.fleet, **said}


def label(name: str, suffix: str = "") -> str:
    """A node's name as an instance name; a dot would end the label, so it becomes a hyphen."""
    plain = "".join(c if c.isprintable() and c != "." else "-" for c in name) or "node"
    room = _LABEL_BYTES - _SUFFIX_BYTES
    return plain.encode()[:room].decode(errors="ignore") + (f"-{suffix}" if suffix else "")


def is_instance(service: str) -> bool:
    """Whether a full name is one of our type that can be sent again, as it was heard."""
    name, dot, rest = service.rpartition(f".{TYPE}")
    if not name or not dot or rest or "\N{REPLACEMENT CHARACTER}" in name:
        return False
    return max(len(part.encode()) for part in name.split(".")) <= _LABEL_BYTES


def _shown(service: str) -> str:
    name = service[: -len(TYPE) - 1]
    return "".join(c if c.isprintable() else "?" for c in name[:_LABEL_BYTES])


def parse(
    service: str, text: bytes, found: Mapping[bytes, bytes | None], port: int, hosts: Sequence[str]
) -> Advert:
    """An advert as it was heard. Raises ValueError: it is none of ours, or malformed."""
    if len(text) > _MAX_TEXT or not 1 <= port <= 65535:
        raise ValueError("too large, or without a port")
    # RFC 6763 §6.4: of keys that differ in case only the first counts.
    keys: dict[bytes, bytes] = {}
    for key, value in found.items():
        keys.setdefault(key.lower(), value or b"")
    said = {name: _short(keys.get(name.encode(), b"")) for name in ("inv", "arch", "v")}
    node, fleet = _short(keys.get(b"id", b"")), _short(keys.get(b"fleet", b""))
    if keys.get(b"txtvers") != _VERSION.encode() or not is_id(node) or not is_id(fleet):
        raise ValueError("not of this version, or without an id")
    addresses = tuple((host, port) for host in hosts)
    return Advert(node, _shown(service), fleet, addresses, said["inv"], said["arch"], said["v"])


def _short(value: bytes) -> str:
    text = value.decode("ascii")  # a UnicodeDecodeError is a ValueError
    if not _SHORT.fullmatch(text):
        raise ValueError("a value that is too long, or not printable")
    return text
