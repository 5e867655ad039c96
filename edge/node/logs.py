"""`GET /v1/logs`: the last lines of the node's log and, where that is asked for, those to come."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web

from edge.application.fields import did_you_mean
from edge.errors import ConfigError
from edge.platform.entries import Entry, Wanted
from edge.platform.recent import Recent

__all__ = ["log_routes"]

# Seconds between two signs of life while nothing is logged.
_ALIVE = 10.0
# Lines that are told at a time: others get their turn in between.
_BATCH = 64

T = TypeVar("T")

_NAMES = ("application", "component", "invocation", "since", "lines", "follow")


@dataclass(frozen=True, slots=True)
class _Asked:
    """`lines`: at most the last so many; None: all that are kept."""

    wanted: Wanted
    lines: int | None
    follow: bool


def log_routes(recent: Recent) -> tuple[web.RouteDef, ...]:
    """For the node API. Who follows is let go by `recent.end()`."""

    async def answer(request: web.Request) -> web.StreamResponse:
        asked = _read(request.query)
        response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
        await response.prepare(request)
        try:
            async for part in _told(recent, asked):
                await response.write(part)
                await asyncio.sleep(0)
            await response.write_eof()
        except ConnectionError:
            pass  # who asked is gone
        return response

    return (web.get("/v1/logs", answer),)


async def _told(recent: Recent, asked: _Asked) -> AsyncGenerator[bytes, None]:
    """Lines of JSON, some at a time."""
    seen = recent.last
    kept = recent.after(0)
    first = [entry for _, entry in kept if asked.wanted.fits(entry)]
    seen = max(seen, kept[-1][0] if kept else 0)
    if asked.lines is not None:
        first = first[max(0, len(first) - asked.lines) :]
    for part in _parts(first):
        yield part
    while asked.follow and not (recent.ended and seen == recent.last):
        try:
            async with asyncio.timeout(_ALIVE):
                await recent.beyond(seen)
        except TimeoutError:
            yield _line({"progress": None})
            continue
        last = recent.last
        newer = recent.after(seen)
        last = max(last, newer[-1][0] if newer else 0)
        if missed := last - seen - len(newer):
            yield _line({"missed": missed})
        seen = last
        for part in _parts([entry for _, entry in newer if asked.wanted.fits(entry)]):
            yield part


def _parts(entries: Sequence[Entry]) -> Iterator[bytes]:
    for at in range(0, len(entries), _BATCH):
        yield b"".join(_line(entry.to_json()) for entry in entries[at : at + _BATCH])


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _read(query: Mapping[str, str]) -> _Asked:
    """Raises ConfigError."""
    for name in query:
        if name not in _NAMES:
            hint = did_you_mean(name, _NAMES)
            raise ConfigError(f'logs: unknown parameter "{name}"', hint=hint)
    return _Asked(
        Wanted(
            query.get("application"),
            query.get("component"),
            query.get("invocation"),
            _value(query, "since", _seconds),
        ),
        _value(query, "lines", _count),
        _value(query, "follow", _flag) or False,
    )


def _value(query: Mapping[str, str], name: str, read: Callable[[str], T]) -> T | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        return read(text)
    except (ValueError, KeyError):
        raise ConfigError(f'logs: {name}: cannot be "{text[:80]}"') from None


def _seconds(text: str) -> float:
    seconds = float(text)
    if not math.isfinite(seconds):
        raise ValueError
    return seconds


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError
    return int(text[:9])


def _flag(text: str) -> bool:
    return {"": True, "1": True, "true": True, "0": False, "false": False}[text]
