"""What a node knows of the others of its fleet. Pure: no network and no clock of its own.

What two say of one node is ordered by (incarnation, status, counter), so that everybody who has
heard both believes the same. A node of which something false is said makes a new incarnation, and
that is newer than what was false.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import inf

from edge.fleet.wire import (
    PEERS_MOST,
    Endpoint,
    Facts,
    Message,
    Record,
    Status,
    Version,
    distinct,
)

__all__ = ["Peer", "Table"]

# Everybody is probed by so many others.
PROBERS = 3
# What is said of a node may not leave it without numbers to refute it with: nothing counts that is
# further ahead of what is known, and a node itself goes that far only so often, in seconds, so that
# the others can follow. Incarnations begin with dates: no honest one is that far from another.
_JUMP_MOST, _LEAP, _LEAP_EVERY = 1 << 32, 1 << 16, 10.0
# So many times another one lived under this node's id, within so many seconds: there are two of it.
# Both would contradict each other for ever: after that, once in so many seconds.
_CLAIMS, _CLAIMED_WITHIN, _CLAIM_EVERY = 3, 600.0, 30.0
# Seconds that who has left or died stays known; so does who died before anybody was seen there.
_LEFT_KEPT, _DEAD_KEPT = 600.0, 86400.0


@dataclass(slots=True)
class Peer:
    """One other node. Moments are those of the loop's clock."""

    record: Record
    since: float  # when its status became this
    mark: int = 0
    # Where its certificate was seen; until then it is a rumor.
    endpoint: Endpoint | None = None
    # Where it may be, the likeliest first.
    candidates: tuple[Endpoint, ...] = ()
    round_trip: float | None = None
    seen: float | None = None  # when it last spoke with this node
    attempts: int = 0  # since it last answered
    due: float = 0.0  # when it is tried again, if it does not answer
    apart: float = 0.0  # until then they do not compare what they know again
    moved: bool = False  # it does not say any more that it is at `endpoint`
    penalty: str = ""
    penalised: float = 0.0  # until then
    penalties: int = 0

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def is_made_up(self) -> bool:
        """Whether it is gone and was never seen: somebody said so, and it was not true."""
        return not self.lives and self.seen is None and self.endpoint is None

    @property
    def lives(self) -> bool:
        return self.record.status <= Status.SUSPECT

    def told(self) -> Record:
        """As it is told to others."""
        at = self.endpoint
        if at is None or "%" in at[0] or at in self.record.endpoints:
            return self.record
        return replace(self.record, also=(at,))

    @property
    def places(self) -> tuple[Endpoint, ...]:
        """Where it answers, and then where else it says it is."""
        return distinct((*((self.endpoint,) if self.endpoint else ()), *self.record.endpoints))

    @property
    def likely(self) -> tuple[Endpoint, ...]:
        """Where to try it: what anybody says does not displace what it says itself."""
        first, own = self.candidates[:3], self.record.endpoints[:4]
        return distinct((*first, *own, *self.candidates))

    def may_be_at(self, endpoints: Iterable[Endpoint]) -> bool:
        """Puts these first; whether one of them is new."""
        before = self.candidates
        self.candidates = distinct((*endpoints, *before))
        return not set(self.candidates) <= set(before)


@dataclass(slots=True)
class Table:
    """This node and its peers, by id."""

    me: Record
    peers: dict[str, Peer] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()  # revoked: nothing is known of them
    _targets: tuple[str, ...] | None = None
    _leapt: float = float("-inf")
    _claims: tuple[float, ...] = ()
    _doubled_until: float = float("-inf")
    double: tuple[Endpoint, ...] = ()  # where another one says it is this node

    # What is told

    @property
    def digest(self) -> str:
        """The same for all who take the same nodes for alive."""
        found = _mark(self.me)
        for peer in self.peers.values():
            if peer.lives:
                found ^= peer.mark
        return f"{found:016x}"

    @property
    def is_full(self) -> bool:
        return len(self.peers) >= PEERS_MOST

    def have(self) -> dict[str, Version]:
        known = {peer.id: peer.record.version for peer in self.peers.values()}
        return {self.me.id: self.me.version, **known}

    def told(self, ids: Iterable[str]) -> tuple[Record, ...]:
        found = (self._told(id) for id in ids)
        return tuple(record for record in found if record)

    def compare(self, have: Mapping[str, Version], now: float) -> Message:
        """What the other one lacks, and what this node lacks, of what the other one has."""
        self._refute(have.get(self.me.id, self.me.version), now)
        mine = self.have()
        news = [id for id in mine if self._is_news(id, have.get(id))]
        want = [
            id
            for id, version in have.items()
            if id not in self.refused
            and (version > mine[id] if id in mine else version[1] <= Status.SUSPECT)
        ]
        return Message(self.told(news), want=tuple(want[:PEERS_MOST]))

    def _is_news(self, id: str, theirs: Version | None) -> bool:
        record = self.me if id == self.me.id else self.peers[id].record
        return record.status <= Status.SUSPECT if theirs is None else record.version > theirs

    def _told(self, id: str) -> Record | None:
        if id == self.me.id:
            return self.me
        peer = self.peers.get(id)
        return peer.told() if peer else None

    # What is heard

    def take(self, record: Record, now: float, *, own: bool = False) -> bool:
        """Whether this is news, to be told to others. `own`: said by that node of itself."""
        if record.id == self.me.id:
            return self._refute(record.version, now, record.endpoints)
        if record.id in self.refused:
            return False
        peer = self.peers.get(record.id)
        known = self.me if peer is None else peer.record
        if record.incarnation - known.incarnation > _JUMP_MOST and not own:
            if peer is not None and not peer.moved:  # only itself can say so
                peer.moved, peer.due = True, max(now, peer.due + _LEAP_EVERY)
            return False
        if peer is None:
            return self._add(record, now)
        if record.version <= peer.record.version:
            return False
        self._renew(peer, record, now)
        return True

    def suspect(self, id: str, now: float) -> bool:
        return self._decide(id, Status.SUSPECT, now)

    def dead(self, id: str, now: float) -> bool:
        return self._decide(id, Status.DEAD, now)

    def forget(self, ids: Iterable[str]) -> None:
        for id in ids:
            if self.peers.pop(id, None) is not None:
                self._targets = None

    def refuse(self, ids: frozenset[str]) -> None:
        """They were revoked."""
        self.refused |= ids
        self.forget(ids)

    def expire(self, now: float) -> None:
        """Forgets who has been gone for long."""
        kept = {Status.LEFT: _LEFT_KEPT, Status.DEAD: _DEAD_KEPT}
        self.forget(
            [
                peer.id
                for peer in self.peers.values()
                if now - peer.since > kept.get(peer.record.status, float("inf"))
                or (peer.is_made_up and now - peer.since > _LEFT_KEPT)
            ]
        )

    def change(self, facts: Facts, endpoints: tuple[Endpoint, ...]) -> bool:
        """Whether this node has something new to say of itself."""
        if (facts, endpoints) == (self.me.facts, self.me.endpoints):
            return False
        self.me = replace(self.me, facts=facts, endpoints=endpoints, counter=self.me.counter + 1)
        return True

    def leave(self) -> Record:
        self.me = replace(self.me, status=Status.LEFT)
        return self.me

    def is_doubled(self, now: float) -> bool:
        """Whether another machine has this node's key, or a member says so again and again."""
        claimed = len(self._claims) == _CLAIMS and now - self._claims[0] < _CLAIMED_WITHIN
        return claimed or now < self._doubled_until

    def doubled(self, at: Endpoint, until: float) -> None:
        """Who is there has shown this node's own certificate."""
        self.double, self._doubled_until = (at,), until

    def _refute(self, said: Version, now: float, at: tuple[Endpoint, ...] = ()) -> bool:
        ahead = said[0] - self.me.incarnation
        if said <= self.me.version or ahead > _JUMP_MOST or said[0] >= (1 << 53) - 1:
            return False
        lives = said[1] == Status.ALIVE
        if lives and self.is_doubled(now) and now < max(self._claims, default=-inf) + _CLAIM_EVERY:
            return False
        if ahead > _LEAP:
            if now < self._leapt + _LEAP_EVERY:
                return False
            self._leapt = now
        if lives:
            self._claims = (*self._claims, now)[-_CLAIMS:]
            self.double = at or self.double
        self.me = replace(self.me, incarnation=said[0] + 1)
        return True

    def _add(self, record: Record, now: float) -> bool:
        if record.status > Status.SUSPECT or not self._has_room():
            return False
        peer = Peer(_own(record), now, _mark(record), due=now)
        peer.may_be_at((*record.also, *record.endpoints))
        self.peers[record.id] = peer
        self._targets = None
        return True

    def _has_room(self) -> bool:
        """Those that are gone go first, then those that were not found where they are said to be:
        what was not tried yet goes for nobody, or two rumors would make each other news for ever.
        """
        if not self.is_full:
            return True
        gone = [peer for peer in self.peers.values() if not peer.lives]
        rumors = [p for p in self.peers.values() if p.endpoint is None and p.attempts]
        if not gone and not rumors:
            return False
        self.forget([min(gone or rumors, key=lambda peer: peer.since).id])
        return True

    def _renew(self, peer: Peer, record: Record, now: float) -> None:
        if not peer.lives and record.status <= Status.SUSPECT:
            peer.endpoint, peer.attempts, peer.due = None, 0, now
        if peer.record.status != record.status:
            peer.since, self._targets = now, None
        if not record.endpoints:
            record = replace(record, endpoints=peer.record.endpoints)
        elif record.endpoints != peer.record.endpoints:
            peer.may_be_at((*record.endpoints, *record.also))
            self._look_whether_moved(peer, record, now)
        peer.record, peer.mark = _own(record), _mark(record)

    def _look_whether_moved(self, peer: Peer, record: Record, now: float) -> None:
        at = peer.endpoint
        if at is not None and "%" not in at[0] and at not in record.endpoints:
            peer.moved, peer.due = True, now

    def _decide(self, id: str, status: Status, now: float) -> bool:
        peer = self.peers.get(id)
        if peer is None or peer.record.status >= status:
            return False
        self._renew(peer, replace(peer.record, status=status), now)
        return True

    # Who is asked

    def found(self, peer: Peer, endpoint: Endpoint) -> None:
        """Its certificate was seen there."""
        if peer.endpoint is None:
            self._targets = None
        if peer.endpoint != endpoint:
            peer.endpoint = endpoint
            peer.may_be_at((endpoint,))

    def alive(self) -> Iterator[Peer]:
        """Those whose certificate was seen."""
        return (peer for peer in self.peers.values() if peer.lives and peer.endpoint)

    @property
    def is_changed(self) -> bool:
        """Whether `targets` may be others than when they were last asked for."""
        return self._targets is None

    def targets(self) -> tuple[str, ...]:
        """Whom this node probes: by rendezvous hash each node has a few probers, and all agree who
        they are.
        """
        if self._targets is None:
            of = [peer.id for peer in self.peers.values() if peer.lives]
            self._targets = tuple(self._probed_by_me(of))
        return self._targets

    def watches(self, id: str) -> bool:
        """Whether this node is one of those that try a dead one again."""
        return id in self._probed_by_me((id,))

    def _probed_by_me(self, of: Iterable[str]) -> Iterator[str]:
        """Who is suspected is no prober: another one takes over. Nor is who was only heard of: a
        member could make up enough of them for nobody to be probed.
        """
        probers = [p.id for p in self.alive() if p.record.status == Status.ALIVE]
        numbers = {id: _number(id) for id in probers}
        own = _number(self.me.id)
        for id in of:
            target = _number(id)
            mine, ahead = _score(target, own), 0
            for other, number in numbers.items():
                if other != id and _score(target, number) > mine:
                    ahead += 1
                    if ahead == PROBERS:
                        break
            else:
                yield id


def _number(id: str) -> int:
    """An id is a hash already."""
    return int.from_bytes(id[:12].encode())


def _score(one: int, other: int) -> int:
    """The same for both orders; multiplied, because neighbours would choose each other."""
    mixed = ((one ^ other) * 0x9E3779B97F4A7C15F39CC0605CEDC835) & ((1 << 128) - 1)
    return (mixed >> 64) ^ (mixed & ((1 << 64) - 1))


def _own(record: Record) -> Record:
    return replace(record, also=()) if record.also else record


def _mark(record: Record) -> int:
    text = f"{record.id} {record.incarnation} {record.counter}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
