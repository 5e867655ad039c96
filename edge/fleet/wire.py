"""What peers tell each other, as JSON: typed values out of it, or an error with its place.

Everything here was written by somebody else: sizes are bounded, names are printable ASCII. Fields
that this version does not know are passed over, so that versions can be mixed.
"""

from __future__ import annotations

import enum
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge.application.fields import Table, Where, integer, items, parsed, string
from edge.errors import BundleError, ConfigError

__all__ = [
    "ADDRESSES_MOST",
    "BODY_MOST",
    "HINT_MOST",
    "PEERS_MOST",
    "Endpoint",
    "Facts",
    "Hint",
    "Message",
    "Record",
    "Status",
    "Version",
    "distinct",
    "dump",
    "hint_text",
    "load",
    "plain_text",
    "read_message",
    "read_record",
    "show_address",
    "write_message",
    "write_record",
]

# Nodes of one fleet that a node keeps in mind, itself not among them.
PEERS_MOST = 256
# Bytes of one message: as many records, with the longest names and addresses.
BODY_MOST = 512 << 10
# Bytes of a hint, and how many a message carries.
HINT_MOST = 512
_HINTS_MOST = 64
ADDRESSES_MOST = 8
# Larger ones have been made up.
_NUMBER_MOST = 1 << 53

_ID = re.compile(r"[a-z2-7]{52}")
_PRINTABLE = re.compile(r"[ -~]{0,255}")
# What an interface may be called, after an address of its link.
_SCOPE = re.compile(r"[!-$&-~]{1,15}")

# Host, an IP address without brackets, and port.
Endpoint = tuple[str, int]
# Orders what is known of one node: incarnation, status, counter.
Version = tuple[int, int, int]


class Status(enum.IntEnum):
    """Of two that are said of the same incarnation, the larger one counts."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


@dataclass(frozen=True, slots=True)
class Facts:
    """What a node says of itself."""

    name: str
    port: int  # where it serves peers, on whichever address
    version: str = ""
    arch: str = ""
    inventory: str = ""  # changes with what it holds
    generation: int | None = None  # of the fleet's document
    applications: int = 0
    revocations: int = 0  # number of its newest list


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one node. Only the node itself makes a new incarnation, or counts on."""

    id: str
    facts: Facts
    endpoints: tuple[Endpoint, ...] = ()
    incarnation: int = 0
    counter: int = 0
    status: Status = Status.ALIVE
    # Where who tells this has found it: beside what the node says itself, and not kept.
    also: tuple[Endpoint, ...] = field(default=(), compare=False)

    @property
    def version(self) -> Version:
        return self.incarnation, self.status, self.counter


@dataclass(frozen=True, slots=True)
class Hint:
    """A line of one node for all, each of them once: `number` grows."""

    origin: str
    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Message:
    """One part of a conversation; every part of it may be empty."""

    news: tuple[Record, ...] = ()
    hints: tuple[Hint, ...] = ()
    have: Mapping[str, Version] | None = None  # id -> what the writer knows of it
    want: tuple[str, ...] = ()  # ids whose records the writer lacks
    digest: str = ""  # of all that the writer takes for alive


def dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def load(data: bytes, what: str) -> tuple[object, Where]:
    """Raises BundleError for what is not JSON."""
    try:
        return json.loads(data), Where(what)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{what}: is not JSON") from error


def write_record(record: Record) -> dict[str, Any]:
    facts = record.facts
    also = {"also": [list(endpoint) for endpoint in record.also]} if record.also else {}
    return {
        **also,
        "id": record.id,
        "name": facts.name,
        "port": facts.port,
        "at": [list(endpoint) for endpoint in record.endpoints],
        "v": facts.version,
        "arch": facts.arch,
        "inv": facts.inventory,
        "gen": facts.generation,
        "apps": facts.applications,
        "crl": facts.revocations,
        "is": list(record.version),
    }


def read_record(value: object, where: Where) -> Record:
    """Raises ConfigError."""
    table = Table(value, where)
    incarnation, status, counter = table.need("is", _version)
    return Record(
        table.need("id", parsed(_id)),
        Facts(
            table.need("name", parsed(_name)),
            table.need("port", integer(1, 65535)),
            table.get("v", parsed(_text), ""),
            table.get("arch", parsed(_text), ""),
            table.get("inv", parsed(_text), ""),
            table.get("gen", _maybe_number, None),
            table.get("apps", integer(0, _NUMBER_MOST), 0),
            table.get("crl", integer(0, _NUMBER_MOST), 0),
        ),
        table.get("at", _endpoints, ()),
        incarnation,
        counter,
        Status(status),
        table.get("also", _endpoints, ()),
    )


def write_message(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if message.news:
        found["news"] = [write_record(record) for record in message.news]
    if message.hints:
        found["hints"] = [[hint.origin, hint.number, hint.text] for hint in message.hints]
    if message.have is not None:
        found["have"] = {id: list(version) for id, version in message.have.items()}
    if message.want:
        found["want"] = list(message.want)
    if message.digest:
        found["digest"] = message.digest
    return found


def read_message(data: bytes, what: str) -> Message:
    """Raises BundleError for what is none."""
    try:
        return _message(*load(data, what))
    except ConfigError as error:
        raise BundleError(error.message) from error


def _message(value: object, where: Where) -> Message:
    table = Table(value, where)
    have = table.optional("have", _have)
    return Message(
        _few(table.get("news", items(read_record), ()), PEERS_MOST + 1, where),
        _few(table.get("hints", items(_hint), ()), _HINTS_MOST, where),
        have,
        _few(table.get("want", items(parsed(_id)), ()), PEERS_MOST + 1, where),
        table.get("digest", parsed(_text), ""),
    )


def _have(value: object, where: Where) -> dict[str, Version]:
    if not isinstance(value, dict) or len(value) > PEERS_MOST + 1:
        raise where.error("must be a table of few nodes")
    return {parsed(_id)(id, where): _version(version, where) for id, version in value.items()}


def _hint(value: object, where: Where) -> Hint:
    if not isinstance(value, list) or len(value) != 3:
        raise where.error("must be an origin, a number and a text")
    origin, number, text = value
    return Hint(
        parsed(_id)(origin, where),
        integer(0, _NUMBER_MOST)(number, where),
        parsed(hint_text)(text, where),
    )


def _version(value: object, where: Where) -> Version:
    if not isinstance(value, list) or len(value) != 3:
        raise where.error("must be three numbers")
    number, status = integer(0, _NUMBER_MOST), integer(0, max(Status))
    return number(value[0], where), status(value[1], where), number(value[2], where)


def _maybe_number(value: object, where: Where) -> int | None:
    """`null` is none."""
    return None if value is None else integer(0, _NUMBER_MOST)(value, where)


def _endpoints(value: object, where: Where) -> tuple[Endpoint, ...]:
    """Those that can be an address in another machine's network."""
    if not isinstance(value, list):
        raise where.error("must be a list")
    found = (_endpoint(item, where) for item in value[:ADDRESSES_MOST])
    return tuple(endpoint for endpoint in found if endpoint)


def _endpoint(value: object, where: Where) -> Endpoint | None:
    if not isinstance(value, list) or len(value) != 2:
        raise where.error("must be an address and a port")
    host, port = string(value[0], where), integer(1, 65535)(value[1], where)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise where.error("must be an IP address") from None
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return None
    return str(address), port


def _few(found: tuple[Any, ...], most: int, where: Where) -> tuple[Any, ...]:
    if len(found) > most:
        raise where.error(f"has more than {most} of one kind")
    return found


def _id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ValueError("is not the id of a node")
    return text


def _text(text: str) -> str:
    if not _PRINTABLE.fullmatch(text) or len(text) > 128:
        raise ValueError("must be at most 128 characters of printable ASCII")
    return text


def _name(text: str) -> str:
    if not text or not _PRINTABLE.fullmatch(text) or len(text) > 64:
        raise ValueError("must be 1 to 64 characters of printable ASCII")
    return text


def hint_text(text: str) -> str:
    """Raises ValueError for what no hint can be."""
    if not text.isprintable() or not text.isascii() or len(text) > HINT_MOST:
        raise ValueError(f"must be at most {HINT_MOST} characters of printable ASCII")
    return text


def plain_text(text: str) -> str:
    """Raises ValueError for what would not be shown as it is."""
    if not text.isprintable() or not text.isascii() or len(text) > 1024:
        raise ValueError("must be at most 1024 characters of printable ASCII")
    return text


def show_address(endpoint: Sequence[object]) -> str:
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def distinct(found: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """The first few of them, each once."""
    return tuple(dict.fromkeys(found))[:ADDRESSES_MOST]
