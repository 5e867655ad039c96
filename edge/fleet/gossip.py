"""How what one node learns reaches all: news are told once to a few, and two nodes that believe
different things compare.

Most of what is told comes with a probe: who probes sends a digest of what it believes, and when
the other's is the same, nothing more is said.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from edge.errors import BundleError
from edge.fleet.asking import GOSSIP, PEER, Transport, Unanswered
from edge.fleet.table import PROBERS, Peer, Table
from edge.fleet.wire import (
    Endpoint,
    Hint,
    Message,
    Record,
    Status,
    distinct,
    dump,
    read_message,
    write_message,
)

__all__ = ["Gossip"]

_log = logging.getLogger("edge.fleet")

# Seconds that one telling may take.
_TELL = 2.0
# Seconds within which two that could not agree do not compare again.
_APART = 20.0
# Seconds between two comparisons: while a fleet is switched on, all disagree with all.
_BETWEEN = 0.3
# Hints that wait to be told, and numbers of hints that were seen.
_HINTS_MOST = 32
# Of an incarnation, so that numbers stay small whatever was said of this node.
_DATES = 1 << 32
_SEEN_MOST = 512


class Gossip:
    """What this node tells and is told. `now`: the loop's clock; `wake` is called when there is
    something to tell, `learned` with each peer of which something new is known.
    """

    def __init__(
        self,
        table: Table,
        transport: Transport,
        now: Callable[[], float],
        *,
        wake: Callable[[], None] = lambda: None,
        learned: Callable[[Peer], None] = lambda _: None,
        hinted: Callable[[str, str], None] = lambda _origin, _text: None,
    ) -> None:
        self.table = table
        self._transport = transport
        self._now = now
        self._wake, self._learned, self._hinted = wake, learned, hinted
        self._news: dict[str, None] = {}
        self._hints: deque[Hint] = deque(maxlen=_HINTS_MOST)
        self._seen: dict[tuple[str, int], None] = {}
        self._number = 0
        self._compared = 0.0  # until then no two are compared

    # To tell

    def spread(self, *ids: str) -> None:
        """What is known of them is news."""
        self._news.update(dict.fromkeys(ids))
        self._wake()

    def hint(self, text: str) -> None:
        # Numbers that another start of this node has not used.
        self._number = max(self._number + 1, self.table.me.incarnation % _DATES << 16)
        hint = Hint(self.table.me.id, self._number, text)
        self._has_seen(hint)
        self._hints.append(hint)
        self._wake()

    @property
    def has_news(self) -> bool:
        return bool(self._news or self._hints)

    def receivers(self) -> list[Peer]:
        """Those that this node probes; in a small fleet, or without, some others as well."""
        alive = {peer.id: peer for peer in self.table.alive()}
        chosen = [alive.pop(id) for id in self.table.targets() if id in alive]
        missing = min(max(PROBERS - len(chosen), 1), len(alive))
        return [*chosen, *random.sample(list(alive.values()), missing)]

    def take_news(self) -> Message:
        """What is to be told now; it is told once."""
        message = Message(self.table.told(self._news), tuple(self._hints))
        self._news.clear()
        self._hints.clear()
        return message

    async def tell(self, peer: Peer, message: Message) -> None:
        """Raises Unanswered."""
        if peer.endpoint is None:  # since it was chosen
            raise Unanswered("it is not known any more where it is")
        await self._converse(peer, peer.endpoint, message)

    # To compare

    async def look(self, id: str, endpoint: Endpoint, seconds: float) -> bool:
        """Asks a node at an address how it is; whether it is one of the fleet's. Raises Unanswered.

        What the two do not agree on, they compare.
        """
        target = f"{PEER}?know={self.table.digest}"
        data = await self._transport.ask(id, endpoint, target, None, seconds)
        message = _parsed(data, id)
        self._take(message.news, id)
        peer = self.table.peers.get(id)
        if peer is None:
            return False
        self._answered(peer, endpoint)
        if peer.record.status != Status.ALIVE or self._disagrees(peer, message.digest):
            await self._compare(peer, endpoint)
        return True

    def _answered(self, peer: Peer, endpoint: Endpoint) -> None:
        peer.seen, peer.attempts = self._now(), 0
        self.table.found(peer, endpoint)

    def _disagrees(self, peer: Peer, digest: str) -> bool:
        now = self._now()
        if not digest or digest == self.table.digest or max(peer.apart, self._compared) > now:
            return False
        self._compared = now + _BETWEEN
        return True

    async def _compare(self, peer: Peer, endpoint: Endpoint) -> None:
        """Where it has answered, whatever it says there of other addresses."""
        me = Message((self.table.me,), have=self.table.have())
        answer = await self._converse(peer, endpoint, me)
        if answer.want:
            await self._converse(peer, endpoint, Message(self.table.told(answer.want)))
        settled = not answer.want or self.table.is_full
        if answer.digest and answer.digest != self.table.digest and settled:
            peer.apart = self._now() + _APART

    async def _converse(self, peer: Peer, endpoint: Endpoint, message: Message) -> Message:
        body = dump(write_message(message))
        data = await self._transport.ask(peer.id, endpoint, GOSSIP, body, _TELL)
        answer = _parsed(data, peer.id)
        peer.seen = self._now()
        self._take(answer.news, peer.id)
        return answer

    # To be told

    def probed(self, id: str, host: str, know: str) -> bytes:
        """Answers another one's `look`; nothing when there is nothing to say."""
        peer = self._met(id, host)
        doubted = peer is not None and peer.record.status != Status.ALIVE
        if know == self.table.digest and not doubted:
            return b""
        news = (self.table.me, *(self.table.told([id]) if doubted else ()))
        return dump(write_message(Message(news, digest=self.table.digest)))

    def told(self, id: str, host: str, data: bytes) -> bytes:
        """Answers what another one tells. Raises BundleError for what is no message."""
        message = read_message(data, f"what {id} says")
        self._take(message.news, id)
        self._met(id, host)
        for hint in message.hints:
            self._take_hint(hint)
        if message.have is None:
            return b""
        answer = replace(self.table.compare(message.have, self._now()), digest=self.table.digest)
        return dump(write_message(answer))

    def _met(self, id: str, host: str) -> Peer | None:
        """Somebody spoke with this node whose certificate was seen, from this address."""
        peer = self.table.peers.get(id)
        if peer is None:
            return None
        now = peer.seen = self._now()
        if peer.endpoint is None or peer.attempts or not peer.lives:
            peer.may_be_at([(host, peer.record.facts.port)])
            if peer.due > now:
                peer.due = now
                self._wake()
        elif peer.endpoint[0] != host:
            peer.candidates = distinct(
                (*peer.candidates[:4], (host, peer.record.facts.port), *peer.candidates[4:])
            )
        return peer

    def _take(self, news: Iterable[Record], teller: str) -> None:
        """A loopback address is one of the teller's machine: it says something on that one only."""
        own = self.table.me
        # Of several about one node the first: each could be a leap ahead of the one before.
        for record in {record.id: record for record in reversed(tuple(news))}.values():
            told = record if _is_local(own) else _elsewhere(record)
            incarnation = self.table.me.incarnation
            if self.table.take(told, self._now(), own=told.id == teller):
                self.spread(told.id)
            peer = self.table.peers.get(told.id)
            if peer is not None and told.version >= peer.record.version:
                self._learned(peer)
            if self.table.me.incarnation != incarnation:
                _log.info("refuted what %s was told of this node", teller[:12])

    def _take_hint(self, hint: Hint) -> None:
        if hint.origin == self.table.me.id or self._has_seen(hint):
            return
        self._hints.append(hint)
        self._wake()
        self._hinted(hint.origin, hint.text)

    def _has_seen(self, hint: Hint) -> bool:
        key = (hint.origin, hint.number)
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > _SEEN_MOST:
            del self._seen[next(iter(self._seen))]
        return False


def _parsed(data: bytes, id: str) -> Message:
    try:
        return read_message(data, f"what {id} says") if data else Message()
    except BundleError as error:
        raise Unanswered(error.message) from error


def _is_local(record: Record) -> bool:
    return any(_is_loopback(host) for host, _ in record.endpoints)


def _elsewhere(record: Record) -> Record:
    if not any(_is_loopback(host) for host, _ in (*record.endpoints, *record.also)):
        return record
    endpoints, also = (
        tuple(at for at in found if not _is_loopback(at[0]))
        for found in (record.endpoints, record.also)
    )
    return replace(record, endpoints=endpoints, also=also)


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host == "::1"
