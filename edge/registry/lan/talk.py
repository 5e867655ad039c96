"""Questions to neighbours, and what they answer: bounded, and read as what strangers wrote.

Who answers what cannot be is penalised here, in one place.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from weakref import WeakValueDictionary

import aiohttp

from edge.application.fields import Table, Where, boolean, integer, items, parsed
from edge.errors import BundleError, EdgeError, PullError
from edge.registry import manifest
from edge.registry.answers import read_some
from edge.registry.digest import Digest
from edge.registry.lan.neighbours import Neighbours
from edge.registry.manifest import ACCEPTED, MAX_MANIFEST, Descriptor
from edge.registry.reference import Reference
from edge.registry.source import Resolved

__all__ = ["HOLDERS", "WAIT", "Busy", "Part", "Report", "Talk", "Unanswered", "is_id"]

# Where nodes tell each other about blobs, beside the `/v2/` that they are served by.
BLOBS = "/edge/v1/blobs"
# With blobs, and with the answer that there is no room for who asks: who else has it.
HOLDERS = "Edge-Holders"

# Seconds for a short answer. Twice it, and what a question waits for by itself, and a node that is
# gone without a word is known to be.
_ANSWER = 3.0
# Seconds for which a node that fetches a blob keeps who waits for it waiting, before it says how
# far it is.
WAIT = 4.0
# Seconds without a byte in the middle of a blob, and bytes a second on the whole, below which a
# neighbour only holds us up. It may have been told to send no more than some.
_SILENCE = 5.0
_SLOWEST = 16 << 10
# Seconds by which this node may notice that late: then it is its own fault.
_HELD_UP = 1.0
# Longer for a manifest: it may have 4 MiB.
_MANIFEST = 10.0
# Requests to one neighbour at a time: it has others to serve, and some of them wait.
_AT_ONCE = 8
_MAX_REPORT = 16 << 10
_MOST_NAMES = 16
_ID = re.compile(r"[a-z0-9]{1,64}")
# Longer pauses are not ours to take: somebody else may have it.
_LONGEST_PAUSE = 2.0


class Unanswered(Exception):
    """It cannot, or is gone; somebody else may."""


class Busy(Unanswered):
    """It has what was asked for, and no room for us. `pause`: seconds. `holders`: who else may."""

    def __init__(self, pause: float, holders: tuple[str, ...]) -> None:
        super().__init__("is busy")
        self.pause, self.holders = pause, holders


class _Lied(Exception):
    """What no honest node answers, or sends so slowly."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a node says about a blob."""

    here: bool = False
    holders: tuple[str, ...] = ()  # others that it knows to have it
    received: int | None = None  # of what it fetches over the uplink now
    fetcher: str | None = None  # who fetches it, as far as it knows

    def to_json(self) -> dict[str, Any]:
        found = {"here": self.here, "holders": list(self.holders), "fetcher": self.fetcher}
        return {k: v for k, v in found.items() if v} | (
            {} if self.received is None else {"received": self.received}
        )


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a blob, from `start` to `end`, which is not in it any more."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


class Talk:
    """With the neighbours of one node. Each question has a deadline."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def state(self, id: str, digest: Digest, *, wait: float = 0.0) -> Report:
        """How it is about a blob. With `wait` it answers once the blob is there, or after that."""
        query = f"?wait={wait:.0f}" if wait else ""
        return await self._report(id, "GET", f"{BLOBS}/{digest}{query}", _ANSWER + wait)

    async def claim(self, id: str, digest: Digest, lost: str | None) -> Report:
        """Asks the home of a blob who is to fetch it. `lost`: who was to, and did not."""
        query = f"?lost={quote(lost, safe='')}" if lost else ""
        return await self._report(id, "POST", f"{BLOBS}/{digest}{query}", _ANSWER)

    async def have(self, id: str, digest: Digest) -> None:
        """Tells that this node has a blob."""
        async with self._asked(id, "PUT", f"{BLOBS}/{digest}", _ANSWER):
            pass

    async def manifest(self, id: str, reference: Reference) -> Resolved | None:
        """What it holds by a digest, verified, or what it says of a tag; None: nothing."""
        path = _path(reference, f"manifests/{reference.wanted}")
        headers = {"Accept": ", ".join(ACCEPTED)}
        async with self._asked(id, "GET", path, _MANIFEST, headers) as response:
            if response.status == 404:
                return None
            _expect(response, 200)
            return _resolved(reference, await read_some(response, MAX_MANIFEST), response)

    async def part(
        self, id: str, reference: Reference, blob: Descriptor, part: Part
    ) -> tuple[bytearray, tuple[str, ...]]:
        """A piece of a blob, of the length that was asked for; who else has the blob."""
        path = _path(reference, f"blobs/{blob.digest}")
        headers = {"Range": f"bytes={part.start}-{part.end - 1}"}
        seconds = _ANSWER + _SILENCE + part.size / _SLOWEST
        async with self._asked(id, "GET", path, seconds, headers) as response:
            holders = _holders(response)
            if response.status in (429, 503):
                raise Busy(_pause(response), holders)
            _expect(response, 206)
            return await _body(response, blob, part), holders

    async def _report(self, id: str, method: str, path: str, seconds: float) -> Report:
        async with self._asked(id, method, path, seconds) as response:
            _expect(response, 200)
            return _read_report(await read_some(response, _MAX_REPORT))

    @asynccontextmanager
    async def _asked(
        self,
        id: str,
        method: str,
        path: str,
        seconds: float,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Everything that goes wrong is Unanswered; what is a lie is penalised, too."""
        silence = aiohttp.ClientTimeout(
            total=None, sock_connect=_ANSWER, sock_read=max(_SILENCE, seconds)
        )
        turn = self._turns.get(id) or asyncio.Semaphore(_AT_ONCE)
        self._turns[id] = turn
        try:
            async with (
                asyncio.timeout(seconds),
                turn,
                self._neighbours.request(
                    id, method, path, headers=headers, timeout=silence
                ) as response,
            ):
                yield response
        except _Lied as lie:
            self._neighbours.penalise(id, str(lie))
            raise Unanswered(str(lie)) from lie
        except (EdgeError, aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            raise Unanswered(str(error) or type(error).__name__) from error


def _path(reference: Reference, rest: str) -> str:
    return f"/v2/{reference.repository}/{rest}?ns={quote(reference.registry, safe='')}"


def _expect(response: aiohttp.ClientResponse, status: int) -> None:
    if response.status != status:
        raise PullError(f"it answers {response.status}")


def _pause(response: aiohttp.ClientResponse) -> float:
    text = response.headers.get("Retry-After", "")
    asked = float(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0.5
    return min(asked, _LONGEST_PAUSE)


def _holders(response: aiohttp.ClientResponse) -> tuple[str, ...]:
    named = response.headers.get(HOLDERS, "").split(",")[:_MOST_NAMES]
    return tuple(name for part in named if is_id(name := part.strip()))


async def _body(response: aiohttp.ClientResponse, blob: Descriptor, part: Part) -> bytearray:
    expected = f"bytes {part.start}-{part.end - 1}/{blob.size}"
    if response.headers.get("Content-Range") != expected or response.content_length != part.size:
        raise _Lied("sends another part of a blob than the one asked for")
    async with _no_slower(_SILENCE + part.size / _SLOWEST):
        data = await _filled(response, part.size)
    if len(data) != part.size:
        raise PullError("its connection ended in the middle of a blob")
    return data


@asynccontextmanager
async def _no_slower(seconds: float) -> AsyncIterator[None]:
    """Who takes longer stalls; unless it was this node that was stopped, or had no processor."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        if clock() > deadline + _HELD_UP:
            raise PullError("this node itself was held up") from None
        raise _Lied("stalls in the middle of a blob") from None


async def _filled(response: aiohttp.ClientResponse, size: int) -> bytearray:
    """At most `size` bytes, with no silence among them."""
    data = bytearray()
    while len(data) < size:
        async with _no_slower(_SILENCE):
            piece = await response.content.readany()
        if not piece:
            break
        data += piece
        if len(data) > size:
            raise _Lied("sends more of a blob than it said")
    return data


def _resolved(reference: Reference, data: bytes, response: aiohttp.ClientResponse) -> Resolved:
    """As a manifest, of the digest that was asked for."""
    digest = Digest.of(data)
    if reference.digest not in (None, digest):
        raise _Lied("sends a manifest of another digest")
    try:
        found = manifest.read(data, str(reference), response.content_type)
    except BundleError as error:
        raise _Lied("sends a manifest that is none") from error
    return Resolved(Descriptor(found.media_type, digest, len(data)), data)


def is_id(text: str) -> bool:
    """Whether it can be a node's; it is written into requests."""
    return bool(_ID.fullmatch(text))


def _id(text: str) -> str:
    if not is_id(text):
        raise ValueError("is not the id of a node")
    return text


def _read_report(data: bytes) -> Report:
    if len(data) > _MAX_REPORT:
        raise _Lied("says more about a blob than there is to say")
    try:
        return manifest.read_json(data, "a report", _report)
    except BundleError as error:
        raise _Lied("does not say how it is about a blob") from error


def _report(value: object, where: Where) -> Report:
    table = Table(value, where)  # what a later version adds is passed over
    no_names: tuple[str, ...] = ()
    return Report(
        here=table.get("here", boolean, False),
        holders=table.get("holders", items(parsed(_id)), no_names)[:_MOST_NAMES],
        received=table.optional("received", integer(0, 1 << 50)),
        fetcher=table.optional("fetcher", parsed(_id)),
    )
