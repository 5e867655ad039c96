"""One blob from several neighbours: in parts, hedged, resumed, verified.

Parts arrive in any order and are written in theirs; what waits for its turn is in memory, so there
is a window of a few of them. Knows nothing of who is asked in which case.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from edge.errors import BundleError
from edge.registry.blobs import in_thread
from edge.registry.lan.talk import Busy, Part, Talk, Unanswered
from edge.registry.manifest import Descriptor
from edge.registry.reference import Reference
from edge.registry.source import BlobWriter

__all__ = ["Came", "Gather", "Wish", "begin_anew", "commit", "liars"]

# Bytes asked for at a time: what is lost when a neighbour goes; a window of them, of each blob that
# is under way, is in memory.
PART = 512 << 10
# From this size on several neighbours are asked at once.
LARGE = 4 << 20
# Parts ahead of what is written, and parts of one neighbour, at a time.
_WINDOW = 4
_OF_ONE = 2
# Seconds after which the part that all others wait for is asked of somebody else, too: this at
# first and at least, and so many times what the quickest part took.
_HEDGE, _HEDGE_LEAST, _HEDGE_TIMES = 2.0, 0.5, 4.0
# Seconds in which busy neighbours must have had a turn for us, and bytes a second of what they
# may have to do before.
_PATIENCE, _EXPECTED = 20.0, 256 << 10
# Neighbours that one blob is fetched from.
_MOST_SOURCES = 8


# A part, and who else has the blob.
Answer = tuple[bytearray, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Wish:
    """A blob that a verified manifest of a reference names, and where it goes."""

    reference: Reference
    blob: Descriptor
    into: BlobWriter
    received: Callable[[int], None]


@dataclass(slots=True)
class _Source:
    running: int = 0
    rested: float = 0.0  # busy until then


@dataclass(frozen=True, slots=True)
class Came:
    """Of whom a part came, and what it was: to be told when all of it turns out to be wrong."""

    part: Part
    id: str
    digest: bytes


@dataclass(slots=True)
class Gather:
    """For one blob. `knows`: whether an id is that of a neighbour that may be asked."""

    talk: Talk
    wish: Wish
    knows: Callable[[str], bool]
    came: list[Came] = field(default_factory=list)
    _sources: dict[str, _Source] = field(default_factory=dict)
    _running: dict[asyncio.Task[Answer], tuple[Part, str, float]] = field(default_factory=dict)
    _ready: dict[int, tuple[Part, str, bytearray]] = field(default_factory=dict)
    _failed: set[str] = field(default_factory=set)
    _quickest: float = _HEDGE / _HEDGE_TIMES
    _moved: float = 0.0

    @property
    def ids(self) -> list[str]:
        """Of whom anything came that was written."""
        return list(dict.fromkeys(came.id for came in self.came))

    async def fill(self, holders: Iterable[str]) -> bool:
        """Writes the blob to its end, from where it is; False when nobody is left who can."""
        self._failed.clear()
        self._add(holders)
        self._moved = _now()
        try:
            while self.wish.into.written < self.wish.blob.size:
                self._ask()
                if not await self._step():
                    return False
            return True
        finally:
            await self._stop()

    async def _step(self) -> bool:
        """Waits for something to happen; False when nothing will."""
        pause = self._pause()
        if self._running:
            done, _ = await asyncio.wait(
                self._running, timeout=pause, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                self._take(task)
            await self._write()
        elif pause is None or _now() - self._moved > self._patience:
            return False
        else:
            await asyncio.sleep(pause)
        return True

    @property
    def _patience(self) -> float:
        return _PATIENCE + self.wish.blob.size / _EXPECTED

    # Asking

    def _ask(self) -> None:
        """As much as may be under way now."""
        for part in self._missing():
            if (id := self._free()) is None:
                return
            self._begin(part, id)
        head = self._head()
        if head is not None and self._is_late(head) and (id := self._free(other=head)) is not None:
            self._begin(head, id)

    def _missing(self) -> list[Part]:
        """Parts within the window that nobody was asked for."""
        asked = {part.start for part, _, _ in self._running.values()} | set(self._ready)
        start, size = self.wish.into.written, self.wish.blob.size
        window = _WINDOW if size >= LARGE else 1
        starts = (start + number * PART for number in range(window))
        return [Part(s, min(s + PART, size)) for s in starts if s < size and s not in asked]

    def _begin(self, part: Part, id: str) -> None:
        work = self.talk.part(id, self.wish.reference, self.wish.blob, part)
        task = asyncio.get_running_loop().create_task(work, name=f"part {part.start}")
        self._running[task] = part, id, _now()
        self._sources[id].running += 1

    def _free(self, other: Part | None = None) -> str | None:
        """Who has least to do for us; with `other` it is somebody who was not asked for that."""
        asked = {id for part, id, _ in self._running.values() if part == other}
        now = _now()
        free = [
            (source.running, id)
            for id, source in self._sources.items()
            if source.running < _OF_ONE and source.rested <= now and id not in asked
        ]
        return min(free, key=lambda item: item[0])[1] if free else None

    def _head(self) -> Part | None:
        """The part that all others wait for, if it is under way once."""
        start = self.wish.into.written
        found = [part for part, _, _ in self._running.values() if part.start == start]
        return found[0] if len(found) == 1 else None

    def _is_late(self, head: Part) -> bool:
        return self._late_at(head) <= _now()

    def _late_at(self, head: Part) -> float:
        begun = min(since for part, _, since in self._running.values() if part == head)
        return begun + max(_HEDGE_LEAST, self._quickest * _HEDGE_TIMES)

    def _pause(self) -> float | None:
        """Until there may be something to ask for again; None: only when something comes."""
        now = _now()
        moments = [s.rested for s in self._sources.values() if s.rested > now]
        head = self._head()
        if head is not None and len(self._sources) > 1 and (late := self._late_at(head)) > now:
            moments.append(late)
        return max(0.01, min(moments) - now) if moments else None

    # What comes

    def _take(self, task: asyncio.Task[Answer]) -> None:
        part, id, since = self._running.pop(task)
        source = self._sources.get(id)
        if source is not None:
            source.running -= 1
        try:
            data, holders = task.result()
        except Busy as busy:
            if source is not None:
                source.rested = _now() + busy.pause
            self._add(busy.holders)
        except Unanswered:
            self._failed.add(id)  # others may still name it
            self._sources.pop(id, None)
        else:
            self._add(holders)
            self._quickest = min(self._quickest, _now() - since)
            self._moved = _now()
            if part.start >= self.wish.into.written and part.start not in self._ready:
                self._ready[part.start] = part, id, data

    def _add(self, ids: Iterable[str]) -> None:
        for id in ids:
            known = id in self._sources or id in self._failed
            if not known and len(self._sources) < _MOST_SOURCES and self.knows(id):
                self._sources[id] = _Source()

    async def _write(self) -> None:
        into = self.wish.into
        while (found := self._ready.pop(into.written, None)) is not None:
            part, id, data = found
            self.came.append(Came(part, id, await in_thread(_written, into, data)))
            self.wish.received(part.size)

    async def _stop(self) -> None:
        running, self._running = list(self._running), {}
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        self._ready.clear()


def _written(into: BlobWriter, data: bytearray) -> bytes:
    into.write(data)
    return hashlib.sha256(data).digest()


def liars(came: Iterable[Came], read: Callable[[Part], bytes]) -> Mapping[str, Part]:
    """Whose parts differ from what the blob has there. Blocks."""
    return {
        one.id: one.part for one in came if hashlib.sha256(read(one.part)).digest() != one.digest
    }


async def commit(wish: Wish) -> bool:
    """Whether what was written is the blob, and kept from then on; otherwise it is forgotten."""
    try:
        await in_thread(wish.into.commit, wish.blob)
    except BundleError:
        await begin_anew(wish)
        return False
    return True


async def begin_anew(wish: Wish) -> None:
    if written := wish.into.written:
        await in_thread(wish.into.restart)
        wish.received(-written)


def _now() -> float:
    return asyncio.get_running_loop().time()
