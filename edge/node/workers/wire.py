"""What the first process and a worker say to each other, over sockets that only they have.

Messages have their length before them. The first process sends objects: `Ask`, pickled, since a
worker is its own child and of the same code. A worker sends JSON, which can do no more than be
wrong: guests run there.

    {"answer": N, "value": …}                   to the Ask of that number
    {"answer": N, "error": [kind, message, hint]}
    {"log": {…}}                                a record, see `records`
    {"outcomes": [id, [true, …]]}               events of a version that is watched
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge import config
from edge.errors import BundleError, ComponentError, ConfigError, EdgeError, Overloaded
from edge.registry.local import LocalApplication

__all__ = ["Ask", "Opening", "Place", "Spec", "error_of", "of_error", "receive", "send"]

_LENGTH = struct.Struct("!Q")
_ERRORS = {kind.__name__: kind for kind in (BundleError, ComponentError, ConfigError, Overloaded)}


@dataclass(frozen=True, slots=True)
class Spec:
    """A version as it can be loaded. `variables` have their values: secrets, too."""

    local: LocalApplication
    variables: Mapping[str, str] = field(repr=False)
    mount: config.Mount


@dataclass(frozen=True, slots=True)
class Place:
    """Which version serves under a name, by its number; `watched`: its outcomes are told."""

    version: int
    watched: bool = False


@dataclass(frozen=True, slots=True)
class Opening:
    """What a worker begins with. `settings`: its share. `sockets`: descriptors that listen, and
    whether they speak TLS.
    """

    settings: config.Daemon
    level: int
    sockets: Sequence[tuple[int, bool]]
    versions: Mapping[int, Spec] = field(repr=False)
    placed: Mapping[str, Place]


@dataclass(frozen=True, slots=True)
class Ask:
    """`verb`: a method of `desk.Desk`."""

    number: int
    verb: str
    arguments: tuple[Any, ...] = field(repr=False)


def send(writer: asyncio.StreamWriter, message: bytes) -> None:
    if not writer.is_closing():
        writer.write(_LENGTH.pack(len(message)) + message)


async def receive(reader: asyncio.StreamReader, most: int | None = None) -> bytes | None:
    """The next message; None: the other side is gone. Raises ValueError beyond `most` bytes."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if most is not None and length > most:
            raise ValueError(f"a message of {length} bytes")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def of_error(error: EdgeError) -> list[str | None]:
    """As JSON."""
    return [type(error).__name__, error.message, error.hint]


def error_of(told: Sequence[Any], who: str) -> EdgeError:
    """What `of_error` made, said by `who`."""
    kind, message, hint = told
    return _ERRORS.get(kind, EdgeError)(f"{who}: {message}", hint=hint)
