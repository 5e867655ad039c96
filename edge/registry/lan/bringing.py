"""How a node gets a blob: from neighbours who have it, from the one that fetches it for all, over
the uplink when it is this node's turn, and from anybody when the registry does not answer.

    who has it?  ──► somebody: in parts, from several
         │ nobody
    who fetches it?  ──► another node: wait for it, as long as it gets on; then from the top
         │ this one, or nobody can tell
    the registry  ──► and if that does not answer: does anybody at all have it?

No neighbour is asked to fetch anything for another, so nothing can go in circles.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from weakref import WeakValueDictionary

from edge.errors import BundleError, PullError
from edge.registry.blobs import in_thread
from edge.registry.digest import Digest
from edge.registry.lan.board import Board
from edge.registry.lan.gather import Came, Gather, Wish, begin_anew, commit, liars
from edge.registry.lan.neighbours import Neighbours, is_alive
from edge.registry.lan.order import by_rendezvous
from edge.registry.lan.talk import WAIT, Part, Report, Talk, Unanswered
from edge.registry.manifest import Descriptor
from edge.registry.store import ContentStore

__all__ = ["Bringing", "Uplink"]

# The registry's own pull, from where the blob's writer is; is told of each piece.
Uplink = Callable[[Callable[[int], None]], Awaitable[None]]

# Neighbours that are asked whether they have a blob before the uplink is used, and how many at a
# time. In a larger fleet the home of a blob, which is among them, knows who has it.
_ASKED, _AT_ONCE = 16, 8
# As many that have it are enough.
_ENOUGH = 3
# Homes that are asked who is to fetch, the next one when one does not answer.
_HOMES = 3
# How often another node is waited for, each time another one, before the uplink is used anyway.
_ROUNDS = 4
# Seconds without progress after which who fetches is given up. One that is gone without a word is
# known to be after `WAIT` and the time for an answer: 7 s.
_STALLED = 10.0
# And whatever it says of its progress: seconds, and bytes a second.
_FINISHED, _SLOWEST = 30.0, 64 << 10
# Seconds between two questions, however soon they are answered.
_LEAST_PAUSE = 1.0
# Neighbours that are being told at a time that this node has something.
_MOST_TOLD = 64
_PIECE = 1 << 20


class Bringing:
    """For one node, as an async context manager that ends what goes on by itself."""

    def __init__(
        self, neighbours: Neighbours, talk: Talk, board: Board, store: ContentStore
    ) -> None:
        self._neighbours, self._talk = neighbours, talk
        self._is_neighbour = partial(is_alive, neighbours)
        self._board, self._store = board, store
        self._locks: WeakValueDictionary[Digest, asyncio.Lock] = WeakValueDictionary()
        self._telling: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        for task in self._telling:
            task.cancel()
        if self._telling:
            await asyncio.wait(self._telling)

    async def bring(self, wish: Wish, uplink: Uplink) -> None:
        """Raises as `uplink` does when nobody delivers."""
        async with self._alone(wish.blob.digest) as waited:
            if waited and await self._copied(wish):
                return
            gather = Gather(self._talk, wish, self._is_neighbour)
            if await self._shared(gather):
                self._came(wish.blob.digest, gather.ids)
            else:
                await self._by_uplink(gather, uplink)

    async def bring_from_anybody(self, wish: Wish) -> bool:
        """Whether a neighbour had it: for what is small, or what no registry delivers."""
        found = await self._last(Gather(self._talk, wish, self._is_neighbour))
        if not found:
            await begin_anew(wish)
        return found

    # From neighbours

    async def _shared(self, gather: Gather) -> bool:
        """False: it is for this node to use the uplink."""
        digest, lost = gather.wish.blob.digest, None
        holders: Sequence[str] = await self._located(digest)
        if holders:
            if await self._from(gather, holders):
                return True
            # Who did not deliver is no witness of who else has it.
            holders = await self._beside(digest, holders)
        tried: set[str] = set()
        for _ in range(_ROUNDS):
            tried.update(holders)
            if holders and await self._from(gather, holders):
                return True
            fetcher, known = await self._claim(digest, lost)
            if fetcher is None or fetcher == self._neighbours.me:
                # Somebody may have brought it between the question who has it and this one.
                holders = [id for id in known if id not in tried]
                break
            holders, lost = await self._waited_for(fetcher, gather.wish.blob), fetcher
        return bool(holders) and await self._from(gather, holders)

    async def _last(self, gather: Gather) -> bool:
        holders = await self._holders(gather.wish.blob.digest, everybody=True)
        return bool(holders) and await self._from(gather, holders)

    async def _from(self, gather: Gather, holders: Iterable[str]) -> bool:
        if not await gather.fill(holders):
            return False
        if await commit(gather.wish):
            return True
        came, gather.came = gather.came, []
        return await self._without_liars(gather, came)

    async def _without_liars(self, wrong: Gather, came: Sequence[Came]) -> bool:
        """What several brought together is wrong: each alone, until one is right; that shows who
        was not.
        """
        blob, ids = wrong.wish.blob, list(dict.fromkeys(one.id for one in came))
        if len(ids) == 1 and sum(one.part.size for one in came) == blob.size:
            self._penalise(ids[0])
            return False
        for id in ids:
            alone = Gather(self._talk, wrong.wish, id.__eq__)
            if not await alone.fill((id,)):
                await begin_anew(wrong.wish)
            elif await commit(wrong.wish):
                wrong.came = alone.came
                for liar in await self._liars(blob, came):
                    self._penalise(liar)
                return True
            else:
                self._penalise(id)
        return False

    async def _liars(self, blob: Descriptor, came: Sequence[Came]) -> Iterable[str]:
        try:
            with await in_thread(self._store.open, blob.digest) as file:

                def read(part: Part) -> bytes:
                    file.seek(part.start)
                    return file.read(part.size)

                return await in_thread(liars, came, read)
        except BundleError:  # collected in the same moment
            return ()

    def _penalise(self, id: str) -> None:
        self._neighbours.penalise(id, "sends wrong bytes for a blob")

    # Who has it

    async def _located(self, digest: Digest) -> Sequence[str]:
        """Who has it, by its home, or by some who were asked; nobody while somebody fetches it."""
        home, *others = self._order(digest)
        try:
            report = await self._report_of(home, digest)
        except Unanswered:
            report = Report()
        known = self._named(home, report)
        if known or report.fetcher not in (None, self._neighbours.me):
            return known
        return await self._holders(digest, others[: _ASKED - 1])

    async def _beside(self, digest: Digest, failed: Sequence[str]) -> Sequence[str]:
        """Who else has it, by their own word."""
        others = [id for id in self._order(digest) if id not in failed]
        found = await self._holders(digest, others[:_ASKED])
        return [id for id in found if id not in failed]

    async def _report_of(self, home: str, digest: Digest) -> Report:
        if home != self._neighbours.me:
            return await self._talk.state(home, digest)
        board = self._board
        return Report(holders=board.holders(digest), fetcher=board.appointed(digest))

    async def _holders(
        self, digest: Digest, ids: Iterable[str] = (), *, everybody: bool = False
    ) -> Sequence[str]:
        """Asks these, a few at a time, until enough have it."""
        left = iter(self._order(digest) if everybody else ids)
        found: dict[str, None] = {}

        async def ask() -> None:
            for id in left:
                if len(found) >= _ENOUGH:
                    return
                if id == self._neighbours.me:
                    continue
                with suppress(Unanswered):
                    found.update(dict.fromkeys(self._named(id, await self._talk.state(id, digest))))

        async with asyncio.TaskGroup() as group:
            for number in range(_AT_ONCE):
                group.create_task(ask(), name=f"ask neighbours {number}")
        return self._nearest(found)

    def _named(self, id: str, report: Report) -> tuple[str, ...]:
        """Whom a report says to have it, who wrote it among them."""
        names = (id, *report.holders) if report.here else report.holders
        return tuple(name for name in names if self._is_neighbour(name))

    def _nearest(self, ids: Iterable[str]) -> Sequence[str]:
        far = {n.id: n.round_trip or 0.0 for n in self._neighbours.alive()}
        return sorted(ids, key=lambda id: far.get(id, 0.0))

    def _order(self, digest: Digest) -> list[str]:
        """All nodes, this one among them, the home first."""
        alive = (neighbour.id for neighbour in self._neighbours.alive())
        return by_rendezvous(digest, (self._neighbours.me, *alive))

    # Who fetches it

    async def _claim(self, digest: Digest, lost: str | None) -> tuple[str | None, Sequence[str]]:
        """Who is to fetch it, None: nobody can tell; and who has it. By the word of its home."""
        me = self._neighbours.me
        for home in self._order(digest)[:_HOMES]:
            if home == me:
                return self._board.appoint(digest, me, lost), self._board.holders(digest)
            with suppress(Unanswered):
                report = await self._talk.claim(home, digest, lost)
                if report.here:
                    return home, ()
                if report.fetcher not in (None, lost):
                    return report.fetcher, self._named(home, report)
        return None, ()

    async def _waited_for(self, id: str, blob: Descriptor) -> Sequence[str]:
        """Who has the blob, once the node that fetches it does; nobody if it does not get on."""
        clock = asyncio.get_running_loop().time
        begun = moved = clock()
        most = begun + _FINISHED + blob.size / _SLOWEST
        received = -1
        while clock() < min(moved + _STALLED, most):
            asked = clock()
            try:
                report = await self._talk.state(id, blob.digest, wait=WAIT)
            except Unanswered:
                return ()
            if named := self._named(id, report):
                return named
            if report.received is None:  # it has given up, or was never told
                return ()
            if report.received > received:
                received, moved = report.received, clock()
            await asyncio.sleep(asked + _LEAST_PAUSE - clock())
        return ()

    # Over the uplink

    async def _by_uplink(self, gather: Gather, uplink: Uplink) -> None:
        wish = gather.wish
        try:
            with self._board.fetching(wish.blob) as fetch:

                def received(size: int) -> None:
                    fetch.count(size)
                    wish.received(size)

                await self._fetched(gather, partial(uplink, received))
                self._came(wish.blob.digest, ())
        except PullError:
            if not await self._last(gather):
                raise

    async def _fetched(self, gather: Gather, uplink: Callable[[], Awaitable[None]]) -> None:
        try:
            await uplink()
        except BundleError:
            if not gather.came:
                raise
            # A neighbour's part before the registry's: its word is not the last one.
            await begin_anew(gather.wish)
            await uplink()

    # Among the tasks of this node, and afterwards

    @asynccontextmanager
    async def _alone(self, digest: Digest) -> AsyncIterator[bool]:
        """One task of this node at a time; whether another one was before."""
        lock = self._locks.get(digest) or asyncio.Lock()
        self._locks[digest] = lock
        waited = lock.locked()
        async with lock:
            yield waited

    async def _copied(self, wish: Wish) -> bool:
        """Whether another task of this node has brought it meanwhile."""

        def copy() -> bool:
            if not self._store.has(wish.blob):
                return False
            with self._store.open(wish.blob.digest) as file:
                while piece := file.read(_PIECE):
                    wish.into.write(piece)
            return True

        try:
            if not await in_thread(copy):
                return False
        except BundleError:  # collected in the same moment
            return False
        wish.received(wish.into.written)
        return await commit(wish)

    def _came(self, digest: Digest, sources: Iterable[str]) -> None:
        """Its home, and those it came from, name this node to others from now on."""
        self._board.came(digest)
        home = self._order(digest)[0]
        self._board.has(digest, self._neighbours.me)
        for id in {home, *sources} - {self._neighbours.me}:
            if len(self._telling) < _MOST_TOLD:
                work = self._tell(id, digest)
                task = asyncio.get_running_loop().create_task(work, name="tell a neighbour")
                self._telling.add(task)
                task.add_done_callback(self._telling.discard)

    async def _tell(self, id: str, digest: Digest) -> None:
        with suppress(Unanswered):
            await self._talk.have(id, digest)
