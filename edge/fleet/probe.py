"""Who lives: a few peers are probed by each node, all others are known from gossip.

A peer that does not answer is tried again at once, wherever it may be, and two others are asked to
try it. When nobody reaches it, it is suspected, which it can refute, and then it is dead.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from edge.errors import ConfigError
from edge.fleet.asking import INDIRECT, Excluded, Impostor, Transport, Unanswered
from edge.fleet.gossip import Gossip
from edge.fleet.reports import Reports
from edge.fleet.table import Peer
from edge.fleet.wire import PEERS_MOST, Endpoint, Status, distinct, show_address

__all__ = ["Candidate", "Prober", "Times"]


# Runs something at the same time as the rest.
Start = Callable[[Coroutine[Any, Any, None]], object]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds. Together they bound how long a death goes unnoticed: 12 s and the spreading."""

    interval: float = 4.0  # between two probes of one peer
    jitter: float = 0.2  # share of it, up and down
    probe: float = 1.5
    again: float = 2.5  # for the second attempt, and for those who are asked to try
    suspect: float = 2.5  # within which a suspicion can be refuted
    back_off: float = 60.0  # at most, between two attempts at who is gone
    others: float = 60.0  # between two looks at one that others probe


# Attempts at the same time, at those that do not live or are not known yet.
_TRIALS = 16
# Ids that were heard of and have not answered yet.
_CANDIDATES_MOST = PEERS_MOST
# Attempts at an id that was only heard of, before it is forgotten until it is heard of again.
_ATTEMPTS_MOST = 8
# Seconds between two looks at who is to be probed: while a fleet is switched on, that changes with
# each node.
_LOOKED_UP = 0.5
# Seconds between the beginnings of attempts at the addresses of one node.
_STAGGER = 0.3
# Attempts at one that others say lives, before that is doubted.
_RUMORS = 4
# How many are asked to try a peer that does not answer.
_HELPERS = 2
# Probes on behalf of others at the same time.
_FAVOURS = 4


@dataclass(slots=True)
class Candidate:
    """An id that somebody says is at these addresses."""

    endpoints: tuple[Endpoint, ...]
    name: str = ""
    attempts: int = 0
    due: float = 0.0


class Prober:
    """Probes for one node. What runs at the same time is `start`ed; the owner of that cancels it.

    `excluded` is called with what a peer says that does not take this node for a member.
    """

    def __init__(
        self,
        gossip: Gossip,
        transport: Transport,
        now: Callable[[], float],
        *,
        times: Times,
        reports: Reports,
        excluded: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.candidates: dict[str, Candidate] = {}
        self._gossip, self._table = gossip, gossip.table
        self._transport = transport
        self._now = now
        self._times = times
        self._reports = reports
        self._excluded = excluded
        self._begun = 0.0  # the last round
        self._looked_up = 0.0  # until then it is not looked who is to be probed
        self._watched: frozenset[str] = frozenset()
        self._busy: set[str] = set()
        # Addresses that were only heard of, of peers that answer elsewhere.
        self._doubted: dict[str, list[Endpoint]] = {}
        self._trying = 0
        self._favours = 0
        self._round = now() + times.interval * random.random()  # noqa: S311 – spreads the load
        self._others = now() + times.others * random.random()  # noqa: S311

    # What is due

    def due(self, start: Start) -> float:
        """Starts what is due; when it is to be called again."""
        now = self._now()
        self._decide(now)
        for peer in self._probed(now):
            start(self._probe(peer))
        while self._doubted and self._trying < _TRIALS:
            self._begin(*self._doubted.popitem(), start)
        soon = [self._looked_up] if self._table.is_changed else []
        moments = [self._round, *soon, *self._try_gone(now, start), *self._try_heard(now, start)]
        deadlines = (self._deadline(peer) for peer in self._suspects())
        # Where there is no room for another attempt, it is not looked for all the time.
        least = 0.05 if self._trying < _TRIALS else 0.5
        return max(min((*moments, *deadlines)), now + least)

    def _probed(self, now: float) -> list[Peer]:
        """All of them in each round, and at once whom this node has to probe from now on: when many
        die together, their probers are among them.
        """
        if now < min(self._round, self._looked_up):
            return []
        self._looked_up = now + _LOOKED_UP
        targets = frozenset(self._table.targets())
        fresh, self._watched = targets - self._watched, targets
        if now >= self._round:
            self._begun, self._round = now, now + self._jittered(self._times.interval)
            found = [peer for peer in self._table.alive() if peer.id in targets]
            found += self._another(now, targets)
        elif fresh:
            recent = now - self._times.interval / 2
            found = [p for p in self._table.alive() if p.id in fresh and (p.seen or 0) < recent]
        else:
            return []
        return [peer for peer in found if peer.id not in self._busy]

    def _another(self, now: float, targets: frozenset[str]) -> list[Peer]:
        """Now and then one that others probe."""
        others = [peer for peer in self._table.alive() if peer.id not in targets]
        if not others or now < self._others:
            return []
        self._others = now + self._jittered(self._times.others)
        return [random.choice(others)]  # noqa: S311

    def _suspects(self) -> list[Peer]:
        peers = self._table.peers.values()
        return [peer for peer in peers if peer.record.status == Status.SUSPECT]

    def _deadline(self, peer: Peer) -> float:
        """Those who probe it decide first, and tell the others."""
        mine = peer.id in self._table.targets()
        return peer.since + self._times.suspect * (1 if mine else 3)

    def _decide(self, now: float) -> None:
        for peer in self._suspects():
            if now >= self._deadline(peer) and self._table.dead(peer.id, now):
                peer.due = now + self._back_off(1)
                self._gossip.spread(peer.id)
        self._table.expire(now)

    def _try_gone(self, now: float, start: Start) -> list[float]:
        """Those of whom it is said that they live, and whose certificate was not seen yet; and the
        dead, by those who would probe them.
        """
        found = []
        for peer in self._table.peers.values():
            if (peer.lives and peer.endpoint and not peer.moved) or peer.id in self._busy:
                continue
            if not peer.lives and peer.due <= now and not self._may_return(peer):
                peer.due = now + self._times.back_off
            if peer.due <= now and self._trying < _TRIALS:
                peer.attempts += not peer.moved
                peer.due = now + self._back_off(peer.attempts)
                endpoints = peer.record.endpoints if peer.moved else peer.likely
                self._begin(peer.id, endpoints, start)
                peer.moved = False
            found.append(peer.due)
        return found

    def _may_return(self, peer: Peer) -> bool:
        return peer.record.status == Status.DEAD and self._table.watches(peer.id)

    def _try_heard(self, now: float, start: Start) -> list[float]:
        found = []
        waiting = list(self.candidates.items())
        random.shuffle(waiting)  # who floods the network with names is not always first
        for id, candidate in sorted(waiting, key=lambda item: item[1].attempts):
            if id in self._table.peers or candidate.attempts >= _ATTEMPTS_MOST:
                del self.candidates[id]
                continue
            if candidate.due <= now and self._trying < _TRIALS and id not in self._busy:
                candidate.attempts += 1
                candidate.due = now + self._back_off(candidate.attempts)
                self._begin(id, candidate.endpoints, start)
            found.append(candidate.due)
        return found

    def _back_off(self, attempts: int) -> float:
        return self._jittered(min(2.0 ** min(attempts, 10), self._times.back_off))

    def _jittered(self, seconds: float) -> float:
        return seconds * random.uniform(1 - self._times.jitter, 1 + self._times.jitter)  # noqa: S311

    # Who was heard of

    def heard(self, id: str, endpoints: Sequence[Endpoint], name: str = "") -> None:
        """Somebody says that this node is there. It is looked at once."""
        if id == self._table.me.id or id in self._table.refused:
            return
        now, peer = self._now(), self._table.peers.get(id)
        if peer is not None:
            claimed = {*peer.candidates, *peer.record.endpoints}
            is_new = peer.may_be_at(endpoints)
            if peer.endpoint is None or not peer.lives or (is_new and peer.attempts):
                peer.attempts, peer.due = 0, now
            elif is_new:
                self._doubted[id] = [
                    at for at in endpoints if at not in claimed and "%" not in at[0]
                ]
                while len(self._doubted) > _TRIALS:
                    del self._doubted[next(iter(self._doubted))]
        else:
            known = self.candidates.get(id) or Candidate((), name, due=now)
            known.endpoints = distinct((*endpoints, *known.endpoints))
            self.candidates[id] = known
            while len(self.candidates) > _CANDIDATES_MOST:
                del self.candidates[next(iter(self.candidates))]

    def look_soon(self, peer: Peer) -> None:
        """Something new is said of it."""
        if peer.record.status == Status.SUSPECT and peer.id in self._table.targets():
            self._hurry()

    def _hurry(self) -> None:
        """The next round comes now, unless one was just: anybody can say that somebody is gone."""
        earliest = self._begun + self._times.interval / 2
        self._round = min(self._round, max(self._now(), earliest))

    def doubt(self, id: str) -> None:
        """It may be gone; those who probe it look."""
        if id in self._table.targets():
            self._hurry()

    # Probing

    async def _probe(self, peer: Peer) -> None:
        endpoint = peer.endpoint
        if endpoint is None or peer.id in self._busy:
            return
        self._busy.add(peer.id)
        try:
            if not await self._looked(peer.id, endpoint, self._times.probe, measured=True):
                await self._again(peer)
        finally:
            self._busy.discard(peer.id)

    async def _again(self, peer: Peer) -> None:
        peer.attempts += 1
        endpoints = distinct((*((peer.endpoint,) if peer.endpoint else ()), *peer.likely))
        helpers = [other for other in self._table.alive() if other.id != peer.id and other.seen]
        helpers = random.sample(helpers, min(_HELPERS, len(helpers)))
        attempts = [self._looked(peer.id, at, self._times.again) for at in endpoints[:4]]
        reached = await _any([*attempts, *(self._helped(by, peer.id) for by in helpers)])
        if not reached and self._table.suspect(peer.id, self._now()):
            self._gossip.spread(peer.id)

    def _begin(self, id: str, endpoints: Sequence[Endpoint], start: Start) -> None:
        self._busy.add(id)
        self._trying += 1
        start(self._try(id, endpoints))

    async def _try(self, id: str, endpoints: Sequence[Endpoint]) -> None:
        try:
            attempts = [self._later(_STAGGER * n, id, at) for n, at in enumerate(endpoints)]
            if await _any(attempts):
                self.candidates.pop(id, None)
                await self._welcomed(id)
                return
            peer = self._table.peers.get(id)
            if peer and peer.lives and peer.attempts >= _RUMORS and id in self._table.targets():
                await self._again(peer)
        finally:
            self._trying -= 1
            self._busy.discard(id)

    async def _later(self, seconds: float, id: str, endpoint: Endpoint) -> bool:
        await asyncio.sleep(seconds)
        return await self._looked(id, endpoint, self._times.again)

    async def _welcomed(self, id: str) -> None:
        """It was seen: how far it is, without the handshake; and others may want to know where."""
        peer = self._table.peers.get(id)
        if peer is not None and peer.endpoint is not None:
            await self._looked(id, peer.endpoint, self._times.probe, measured=True)
            self._gossip.spread(id)

    async def _looked(
        self, id: str, endpoint: Endpoint, seconds: float, *, measured: bool = False
    ) -> bool:
        begun = self._now()
        try:
            async with asyncio.timeout(seconds + 2):
                if not await self._gossip.look(id, endpoint, seconds):
                    return False
        except Impostor as error:
            self._impostor(id, endpoint, error)
            return False
        except Excluded as error:
            self._excluded(f"{show_address(endpoint)}: {error.message}")
            return False
        except (Unanswered, TimeoutError):
            return False
        if measured and (peer := self._table.peers.get(id)):
            took, before = self._now() - begun, peer.round_trip
            peer.round_trip = took if before is None else 0.7 * before + 0.3 * took
        return True

    def _impostor(self, id: str, endpoint: Endpoint, error: Impostor) -> None:
        """Whoever said so, it is not there."""
        what = f"was said to be node {id[:12]}…, and is not: {error.message}"
        self._reports.add(show_address(endpoint), what)
        known = self._table.peers.get(id) or self.candidates.get(id)
        if isinstance(known, Peer):
            known.candidates = tuple(at for at in known.candidates if at != endpoint)
        elif known is not None:
            known.endpoints = tuple(at for at in known.endpoints if at != endpoint)
            if not known.endpoints:
                del self.candidates[id]

    async def _helped(self, by: Peer, id: str) -> bool:
        """Whether another one reaches it."""
        if by.endpoint is None:
            return False
        target, seconds = f"{INDIRECT}?id={id}", self._times.again
        try:
            return await self._transport.ask(by.id, by.endpoint, target, None, seconds) == b"yes"
        except Unanswered:
            return False

    async def favour(self, id: str) -> bytes:
        """Another one asks whether this node reaches that one. Raises ConfigError, for who asks."""
        peer = self._table.peers.get(id)
        if peer is None or peer.endpoint is None or self._favours >= _FAVOURS:
            raise ConfigError("that node is not known here, or too many ask")
        self._favours += 1
        try:
            reached = await self._looked(id, peer.endpoint, self._times.probe)
        finally:
            self._favours -= 1
        return b"yes" if reached else b"no"


async def _any(attempts: Sequence[Coroutine[Any, Any, bool]]) -> bool:
    """Whether one of them is true; the others are not waited for then."""
    async with asyncio.TaskGroup() as group:
        left = {group.create_task(attempt) for attempt in attempts}
        while left:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            if any(task.result() for task in done):
                for task in left:
                    task.cancel()
                return True
    return False
