"""The Redis trigger: the channels of all applications, over one connection for each address.

Redis Pub/Sub delivers a message at most once: what a guest fails at is told and not tried again,
what is published while there is no connection never comes. Where guests are slower than messages,
reading stops; beyond its own limit for slow subscribers the server then ends the connection.
Knows no Wasm, and of an application only the handler of each trigger.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import secrets
import ssl
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from edge.application.addresses import RedisAddress
from edge.application.channels import RedisTrigger
from edge.invocation.event import Event, EventHandler, Outcome, Status
from edge.platform.sums import Sums
from edge.spin import dial, lazy
from edge.spin.resp import RedisFailure, Refused, Reply, TooLarge

if TYPE_CHECKING:
    from edge.spin.redisclient import Connection

__all__ = ["ChannelSubscription", "RedisService"]

_log = logging.getLogger("edge.redis")

TYPE = "dev.edge.redis.message"

# Bytes of a message; larger ones are read over and told.
_MESSAGE_MAX = 16 << 20

# Messages of one trigger that have begun and not ended: what a component's default concurrency and
# queue hold. Bytes of all of them together, counted before one is added.
_RUNNING_MAX = 64
_BYTES_MAX = 32 << 20

# Seconds to connect, to log in and until the server has taken the subscriptions.
_PATIENCE = 10.0

# Seconds before another attempt to connect: anything up to the first, doubled for each failure, up
# to the last. A full jitter keeps a fleet from coming back all at once.
_FIRST_PAUSE, _LAST_PAUSE = 0.5, 30.0
# Seconds after which a connection that ends was a good one; one that brought a message was, too.
_STABLE = 10.0

# The same while the node has no room, and how long a message waits for it.
_FIRST_BUSY, _LAST_BUSY, _BUSY_MAX = 0.02, 1.0, 30.0

# Seconds of messages in a row before others get their turn.
_SLICE = 0.002


@dataclass(frozen=True, slots=True)
class ChannelSubscription:
    """A trigger of an application, and what runs its component."""

    trigger: RedisTrigger
    application: str
    handle: EventHandler


class RedisService:
    """Runs the triggers that `update` names, as an async context manager.

    `tls`: what checks servers' certificates; None: what the system trusts. A server that is not
    there is logged and tried again.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._listeners: dict[RedisAddress, _Listener] = {}
        self._flights = _Flights()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._keep({})
        await self._flights.close()

    async def update(self, subscriptions: Sequence[ChannelSubscription]) -> None:
        """From now on these are served. Messages that have begun end with what they began with."""
        wanted: dict[RedisAddress, dict[bytes, list[_Target]]] = {}
        for one in subscriptions:
            channels = wanted.setdefault(one.trigger.address, {})
            channels.setdefault(one.trigger.channel.encode(), []).append(_Target(one))
        await self._keep(wanted)
        for address, channels in wanted.items():
            if address not in self._listeners:
                self._listeners[address] = _Listener(address, self._tls, self._flights)
            self._listeners[address].adopt(channels)

    async def ready(self) -> None:
        """Until the servers have taken every subscription of the last `update`."""
        for listener in [*self._listeners.values()]:
            await listener.ready.wait()

    async def drain(self, timeout: float) -> None:
        """Takes no more messages and waits for those that have begun, at most `timeout` seconds."""
        await self._keep({})
        await self._flights.ended(timeout)

    async def _keep(self, wanted: Mapping[RedisAddress, object]) -> None:
        for address in self._listeners.keys() - wanted.keys():
            await self._listeners.pop(address).close()


class _Target:
    """A subscription at work."""

    __slots__ = ("handle", "losing", "name", "running")

    def __init__(self, subscription: ChannelSubscription) -> None:
        self.name = f"{subscription.application}: trigger {subscription.trigger.id}"
        self.handle = subscription.handle
        self.running = 0
        self.losing = Sums(partial(_tell, self.name))


class _Listener:
    """One connection to one server, made again whenever it is lost."""

    def __init__(
        self, address: RedisAddress, tls: ssl.SSLContext | None, flights: _Flights
    ) -> None:
        self.ready = asyncio.Event()  # every channel has been asked for and answered
        self._address = address
        self._tls = tls
        self._flights = flights
        self._channels: Mapping[bytes, Sequence[_Target]] = {}
        self._connection: Connection | None = None
        self._asked: deque[bytes] = deque()  # channels whose answer is still to come
        self._failures = 0  # since a connection was a good one
        self._connected: bool | None = None  # as the log knows it
        self._ids = map(f"{secrets.token_hex(8)}-%x".__mod__, itertools.count(1))
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"redis {address}")

    def adopt(self, channels: Mapping[bytes, Sequence[_Target]]) -> None:
        before, self._channels = self._channels.keys(), channels
        if self._connection is not None:
            self._ask("UNSUBSCRIBE", before - channels.keys())
            self._ask("SUBSCRIBE", channels.keys() - before)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        """Ends by cancellation."""
        while True:
            try:
                await self._serve(await self._connect())
            except RedisFailure as exc:
                self._tell(exc)
            longest = min(_LAST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures, 16))
            self._failures += 1
            await asyncio.sleep(random.uniform(0, longest))  # noqa: S311

    async def _connect(self) -> Connection:
        library = await lazy.load("edge.spin.redisclient")
        try:
            streams = await dial.trusted_streams(self._address.endpoint, self._tls, _PATIENCE)
        except OSError as exc:
            raise RedisFailure(dial.reason(exc)) from exc
        connection: Connection = await library.Connection.open(
            self._address, streams, timeout=_PATIENCE, limit=_MESSAGE_MAX
        )
        return connection

    async def _serve(self, connection: Connection) -> None:
        """Ends by RedisFailure."""
        self._connection = connection
        self._asked.clear()
        patience = asyncio.get_running_loop().time() + _PATIENCE
        try:
            self._ask("SUBSCRIBE", self._channels)
            while not self.ready.is_set():
                async with asyncio.timeout_at(patience):
                    reply = await connection.receive()
                # Not within that time: a message among the answers may wait for room.
                await self._take(reply)
            await self._read(connection)
        except TimeoutError:
            raise RedisFailure("the server does not answer to subscriptions") from None
        finally:
            self._connection = None
            self.ready.clear()
            connection.close()

    async def _read(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        began = turn = loop.time()
        try:
            while True:
                await self._take(await connection.receive())
                if loop.time() - turn > _SLICE:
                    await asyncio.sleep(0)
                    turn = loop.time()
        finally:
            if loop.time() - began > _STABLE:
                self._failures = 0

    def _ask(self, command: str, channels: Iterable[bytes]) -> None:
        """One command for each: a channel that is refused is no other's affair."""
        assert self._connection is not None
        try:
            for channel in channels:
                self._connection.post(command, channel)
                self._asked.append(channel)
        except RedisFailure:
            return  # whoever reads finds out, and asks for all of them again
        if self._asked:
            self.ready.clear()

    async def _take(self, reply: Reply) -> None:
        match reply:
            case [b"message", bytes() as channel, bytes() as data]:
                await self._message(channel, data)
            case [b"subscribe" | b"unsubscribe", bytes(), int()]:
                self._answered(None)
            case Refused():
                self._answered(reply)
            case TooLarge():
                _log.warning("%s: message lost: larger than %d bytes", self._address, _MESSAGE_MAX)
            case _:
                raise RedisFailure("the other side does not speak the protocol of Redis")

    def _answered(self, refusal: Refused | None) -> None:
        # Only a missing right is about one channel, and stays; a server that loads its data or
        # wants a password refuses everything.
        if not self._asked or (refusal is not None and refusal.code != "NOPERM"):
            raise RedisFailure(str(refusal or "the server answers what nobody asked"))
        channel = self._asked.popleft().decode()
        if refusal is not None:
            _log.error("%s: channel %s: %s", self._address, channel, refusal)
        if not self._asked:
            self.ready.set()
            self._tell(None)

    async def _message(self, channel: bytes, data: bytes) -> None:
        targets = self._channels.get(channel)
        if not targets:
            return
        self._failures = 0
        event = Event(
            "redis",
            next(self._ids),
            str(self._address.endpoint),
            TYPE,
            channel.decode(),
            data,
        )
        for target in targets:
            await self._flights.room(target)
            self._flights.begin(target, event)

    def _tell(self, failure: RedisFailure | None) -> None:
        """One line for each change."""
        if failure is not None and self._connected is not False:
            _log.warning("%s: %s; messages are lost until it is back", self._address, failure)
        elif failure is None and not self._connected:
            names = ", ".join(sorted(channel.decode() for channel in self._channels))
            _log.info("%s: subscribed to %s", self._address, names)
        self._connected = failure is None


class _Flights:
    """Messages that have begun, of all listeners: limited in number and bytes, each ended once."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0
        self._landed = asyncio.Event()

    async def room(self, target: _Target) -> None:
        """Until one more may begin."""
        while target.running >= _RUNNING_MAX or self._bytes >= _BYTES_MAX:
            self._landed.clear()
            await self._landed.wait()

    def begin(self, target: _Target, event: Event) -> None:
        first = _attempt(target, event)
        if isinstance(first, Outcome) and first.status is not Status.BUSY:
            _note(target, event, first)
            return
        target.running += 1
        self._bytes += len(event.data)
        task = asyncio.get_running_loop().create_task(
            _finish(target, event, first), name=target.name
        )
        self._tasks.add(task)

        def landed(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            target.running -= 1
            self._bytes -= len(event.data)
            self._landed.set()
            if isinstance(first, Coroutine):
                first.close()  # where the task was cancelled before its first step

        task.add_done_callback(landed)

    async def ended(self, timeout: float) -> None:
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout)
            if late:
                _log.warning("%d messages were not finished within %g s", len(late), timeout)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


async def _finish(
    target: _Target, event: Event, first: Outcome | Coroutine[Any, Any, Outcome]
) -> None:
    """One message to its end. A node without room is asked again: nothing has run then."""
    loop = asyncio.get_running_loop()
    give_up, busy = loop.time() + _BUSY_MAX, 0
    outcome = await _outcome(target, first)
    while outcome.status is Status.BUSY and loop.time() < give_up:
        longest = min(_LAST_BUSY, _FIRST_BUSY * 2 ** min(busy, 16))
        await asyncio.sleep(random.uniform(0, longest))  # noqa: S311
        busy += 1
        outcome = await _outcome(target, _attempt(target, event))
    _note(target, event, outcome)


def _attempt(target: _Target, event: Event) -> Outcome | Coroutine[Any, Any, Outcome]:
    try:
        return target.handle(event)
    except Exception as exc:  # the border of an invocation: a mistake of ours, not the guest's
        return _failed(target, exc)


async def _outcome(target: _Target, work: Outcome | Coroutine[Any, Any, Outcome]) -> Outcome:
    if isinstance(work, Outcome):
        return work
    try:
        return await work
    except Exception as exc:  # as in _attempt
        return _failed(target, exc)


def _failed(target: _Target, exc: Exception) -> Outcome:
    _log.error("%s: failed within the node", target.name, exc_info=exc)
    return Outcome(Status.FAILED, f"failed within the node: {type(exc).__name__}")


def _note(target: _Target, event: Event, outcome: Outcome) -> None:
    if outcome.status is not Status.DONE and target.losing(outcome.reason):
        _log.warning("%s: message on %s lost: %s", target.name, event.subject, outcome.reason)


def _tell(name: str, text: str, _number: int) -> None:
    _log.warning("%s: messages were lost %s", name, text)
