"""Keeps what multicast DNS brings about nodes: adverts, within bounds whatever is sent.

zeroconf's own browser keeps a timer for each name it ever heard and answers each with a query;
this one keeps at most so many names, looks at so many within a second, and forgets the rest.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable

from zeroconf import (
    BadTypeInNameException,
    RecordUpdate,
    RecordUpdateListener,
    ServiceInfo,
    Zeroconf,
    current_time_millis,
)

# Its package exports these too, but does not say so to type checkers.
from zeroconf._dns import DNSPointer, DNSQuestion, DNSRecord
from zeroconf._protocol.outgoing import DNSOutgoing

from edge.fleet.adverts import TYPE, Advert, is_instance, parse

__all__ = ["Browser"]

_A, _PTR, _TXT, _AAAA, _SRV = 1, 12, 16, 28, 33
_IN = 1
_QUERY = 0

_MAX_ADVERTS = 512  # followed; of more, those that were not heard of for longest go
_MAX_STRANGERS = 1024  # remembered, so as not to look at them again
_MAX_PENDING = 1024  # names to look at; beyond, only those that are followed already
_MAX_KNOWN_STRANGERS = 64  # named in our queries, so that they need not answer
# Looks: so many each so many seconds. With what zeroconf does one is 0.2 ms (x86-64).
_INTERVAL, _BATCH = 0.1, 48
_RESOLVERS, _MAX_UNRESOLVED = 4, 64
_RESOLVE_TIMEOUT = 3000.0  # ms


class Browser(RecordUpdateListener):
    """Follows the adverts of a fleet, or of all of them. Synchronous but for `close`.

    `heard` gets adverts that are new or have changed, `gone` ids that no name stands for any
    longer, `claimed` the id of another node that advertises our name, `myself` what is advertised
    under our own id, by this node or another one.
    """

    def __init__(
        self,
        zc: Zeroconf,
        *,
        fleet: str | None,
        me: str = "",
        near: Callable[[Iterable[str]], tuple[str, ...]],
        heard: Callable[[Advert], None],
        gone: Callable[[str], None] = lambda _: None,
        claimed: Callable[[str], None] = lambda _: None,
        myself: Callable[[Advert], None] = lambda _: None,
    ) -> None:
        super().__init__()
        self._mine = ""  # the full name this node advertises, in lower case, if it does
        self.adverts: dict[str, Advert] = {}  # full name, lower case -> advert; oldest first
        self.strangers: dict[str, None] = {}  # full names, lower case; oldest first
        self._zc = zc
        self._fleet = fleet
        self._me = me
        self._near = near
        self._heard = heard
        self._gone = gone
        self._claimed = claimed
        self._myself = myself
        self._host: dict[str, str] = {}  # name -> its host, both lower case, of `adverts`
        self._names: dict[str, set[str]] = {}  # host -> names
        self._pending: dict[str, str] = {}  # lower case -> full name, to be looked at
        self._unresolved: dict[str, str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._resolvers: set[asyncio.Task[None]] = set()
        zc.async_add_listener(self, None)

    async def close(self) -> None:
        self._zc.async_remove_listener(self)
        if self._timer is not None:
            self._timer.cancel()
        for task in self._resolvers:
            task.cancel()
        if self._resolvers:
            await asyncio.wait(self._resolvers)

    def ask(self) -> None:
        """Asks every node to say what it is, but for those of which we know."""
        out = DNSOutgoing(_QUERY)
        out.add_question(DNSQuestion(TYPE, _PTR, _IN))
        now = current_time_millis()
        strangers = itertools.islice(reversed(self.strangers), _MAX_KNOWN_STRANGERS)
        known = {*self.adverts, *strangers}
        for record in self._zc.cache.async_all_by_details(TYPE, _PTR, _IN):
            if _alias(record).lower() in known and not record.is_stale(now):
                out.add_answer_at_time(record, now)
        self._zc.async_send(out)

    def rename(self, mine: str) -> None:
        """What this node advertises now; what it did so far may be another's."""
        before, self._mine = self._mine, mine.lower()
        if before not in ("", self._mine):
            self._note(before, before)
            self.async_update_records_complete()

    def again(self) -> None:
        """Looks at everything once more: which addresses are near may have changed."""
        for name in self.adverts:
            self._note(name, name)
        self.async_update_records_complete()

    # --- called by zeroconf ---

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        for update in records:
            record = update.new
            if record.type == _PTR:
                if record.name.lower() == TYPE:
                    self._pointed(_alias(record), expired=record.is_expired(now))
            elif update.old is None and not record.is_expired(now):
                self._changed(record)

    def async_update_records_complete(self) -> None:
        if self._pending and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_INTERVAL / 2, self._look_at_some)

    def _pointed(self, name: str, *, expired: bool) -> None:
        key = name.lower()
        if expired:
            self._pending.pop(key, None)
            self._drop(key)
        elif key not in self.adverts and key not in self.strangers:
            self._note(key, name)

    def _changed(self, record: DNSRecord) -> None:
        key = record.name.lower()
        if record.type in (_SRV, _TXT) and key.endswith(TYPE):
            self._note(key, record.name)
        elif record.type in (_A, _AAAA):
            for name in self._names.get(key, ()):
                self._note(name, name)

    # --- ours ---

    def _note(self, key: str, name: str) -> None:
        if (len(self._pending) < _MAX_PENDING or key in self.adverts) and is_instance(name):
            self._pending.setdefault(key, name)

    def _look_at_some(self) -> None:
        self._timer = None
        for key in list(itertools.islice(self._pending, _BATCH)):
            self._look_at(key, self._pending.pop(key))
        if self._pending:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_INTERVAL, self._look_at_some)

    def _look_at(self, key: str, name: str) -> None:
        try:
            info = ServiceInfo(TYPE, name)
        except BadTypeInNameException:
            self._stranger(key)
            return
        if info.load_from_cache(self._zc):
            self._take(key, info)
        elif key not in self.strangers:
            self._resolve(key, name)

    def _take(self, key: str, info: ServiceInfo) -> None:
        hosts = self._near(info.parsed_scoped_addresses())
        try:
            advert = parse(info.name, info.text, info.properties, info.port or 0, hosts)
        except ValueError:
            self._stranger(key)
            return
        if advert.id == self._me:
            self._forget(key)
            self._myself(advert)
            return
        if key == self._mine:
            self._claimed(advert.id)
        if self._fleet not in (None, advert.fleet):
            self._stranger(key)
        else:
            self._follow(key, advert, (info.server or "").lower())

    def _follow(self, key: str, advert: Advert, host: str) -> None:
        before = self._forget(key)
        self.strangers.pop(key, None)
        self.adverts[key] = advert
        self._host[key] = host
        self._names.setdefault(host, set()).add(key)
        if len(self.adverts) > _MAX_ADVERTS:
            # Whoever fills the table gets others forgotten here, where they were only a hint.
            self._forget(next(iter(self.adverts)))
        if advert != before:
            self._heard(advert)

    def _stranger(self, key: str) -> None:
        self._forget(key)
        self.strangers.pop(key, None)
        self.strangers[key] = None
        if len(self.strangers) > _MAX_STRANGERS:
            del self.strangers[next(iter(self.strangers))]

    def _forget(self, key: str) -> Advert | None:
        host = self._host.pop(key, "")
        if names := self._names.get(host):
            names.discard(key)
            if not names:
                del self._names[host]
        return self.adverts.pop(key, None)

    def _drop(self, key: str) -> None:
        self.strangers.pop(key, None)
        advert = self._forget(key)
        if advert and all(advert.id != other.id for other in self.adverts.values()):
            self._gone(advert.id)

    # --- names that came without the records that belong to them ---

    def _resolve(self, key: str, name: str) -> None:
        if key in self._unresolved or len(self._unresolved) >= _MAX_UNRESOLVED:
            return
        self._unresolved[key] = name
        if len(self._resolvers) < _RESOLVERS:
            task = asyncio.get_running_loop().create_task(self._resolver(), name="mdns resolver")
            self._resolvers.add(task)
            task.add_done_callback(self._resolvers.discard)

    async def _resolver(self) -> None:
        while self._unresolved:
            key, name = next(iter(self._unresolved.items()))
            del self._unresolved[key]
            info = ServiceInfo(TYPE, name)
            if await info.async_request(self._zc, _RESOLVE_TIMEOUT):
                self._take(key, info)


def _alias(record: DNSRecord) -> str:
    assert isinstance(record, DNSPointer)
    return str(record.alias)
