"""What peers tell each other, as JSON: typed values out of it, or an error with its place.

Everything here was written by somebody else: sizes are bounded, names are printable ASCII. Fields
that this version does not know are passed over, so that versions can be mixed.
"""

from __future__ import annotations

import enum
import json
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edge.application.fields import Reader, Table, Where, integer, items, parsed
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
BODY_MOST = 256 << 10
# Bytes of a hint, and how many a message carries.
HINT_MOST = 512
_HINTS_MOST = 64
ADDRESSES_MOST = 8
# Lists and tables of one message: the largest fleet has 5,500. Empty ones take two bytes and a
# microsecond each.
_PARTS_MOST = 8192
# Larger ones have been made up.
_NUMBER_MOST = 1 << 53

_ID = re.compile(r"[a-z2-7]{52}")
_PRINTABLE = re.compile(r"[ -~]{0,255}")
T = TypeVar("T")

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
    if data.count(b"[") + data.count(b"{") > _PARTS_MOST:
        raise BundleError(f"{what}: has too many parts")
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
    """Raises ConfigError. By hand: there are hundreds in a message, read between two events."""
    try:
        return _record(value)
    except (ValueError, TypeError, KeyError, OSError):
        raise where.error("is not what is known of a node") from None


def _record(value: Any) -> Record:
    incarnation, status, counter = _version(value["is"])
    generation = value.get("gen")
    facts = Facts(
        _text(value["name"] or None, 64),
        _number(value["port"] or None, 65535),
        _text(value.get("v", "")),
        _text(value.get("arch", "")),
        _text(value.get("inv", "")),
        None if generation is None else _number(generation),
        _number(value.get("apps", 0)),
        _number(value.get("crl", 0)),
    )
    return Record(
        _id(value["id"]),
        facts,
        _endpoints(value.get("at", [])),
        incarnation,
        counter,
        Status(status),
        _endpoints(value.get("also", [])),
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
    return Message(
        table.get("news", _few(PEERS_MOST + 1, read_record), ()),
        table.get("hints", _few(_HINTS_MOST, _hint), ()),
        table.optional("have", _have),
        table.get("want", _few(PEERS_MOST + 1, parsed(_id)), ()),
        table.get("digest", parsed(_text), ""),
    )


def _few(most: int, read: Reader[T]) -> Reader[tuple[T, ...]]:
    def read_all(value: object, where: Where) -> tuple[T, ...]:
        if isinstance(value, list) and len(value) > most:
            raise where.error(f"has more than {most}")
        return items(read)(value, where)

    return read_all


def _have(value: object, where: Where) -> dict[str, Version]:
    if not isinstance(value, dict) or len(value) > PEERS_MOST + 1:
        raise where.error("must be a table of few nodes")
    try:
        return {_id(id): _version(version) for id, version in value.items()}
    except (ValueError, TypeError):
        raise where.error("is not what is known of nodes") from None


def _hint(value: object, where: Where) -> Hint:
    if not isinstance(value, list) or len(value) != 3:
        raise where.error("must be an origin, a number and a text")
    origin, number, text = value
    return Hint(
        parsed(_id)(origin, where),
        integer(0, _NUMBER_MOST)(number, where),
        parsed(hint_text)(text, where),
    )


# What follows raises ValueError, TypeError or OSError for what it is not.


def _version(value: Any) -> Version:
    incarnation, status, counter = value
    return _number(incarnation), _number(status, max(Status)), _number(counter)


def _number(value: object, most: int = _NUMBER_MOST) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("is not a number that can be")
    return value


def _text(value: object, most: int = 128) -> str:
    if type(value) is not str or len(value) > most or not _PRINTABLE.fullmatch(value):
        raise ValueError(f"must be at most {most} characters of printable ASCII")
    return value


def _id(value: object) -> str:
    if type(value) is not str or not _ID.fullmatch(value):
        raise ValueError("is not the id of a node")
    return value


def _endpoints(value: object) -> tuple[Endpoint, ...]:
    """Those that can be an address in another machine's network."""
    if type(value) is not list or len(value) > ADDRESSES_MOST:
        raise ValueError("must be a list of few addresses")
    found = ((_address(host), _number(port or None, 65535)) for host, port in value)
    return tuple((host, port) for host, port in found if host is not None)


def _address(text: str) -> str | None:
    """None: of a link, of many machines, or of none."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    packed = socket.inet_pton(family, text)
    if family == socket.AF_INET6:
        link_local = packed[0] == 0xFE and packed[1] & 0xC0 == 0x80
        usable = any(packed) and packed[0] != 0xFF and not link_local
    else:
        usable = 0 < packed[0] < 224 and packed[:2] != b"\xa9\xfe"
    return socket.inet_ntop(family, packed) if usable else None


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
