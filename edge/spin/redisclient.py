"""Connections to Redis and Valkey, over PyPI `redis`.

That library logs in and keeps the connection; the streams are handed to it, and it reads replies by
our reader, so that their size is bounded. Loading it takes 100 ms and 10 MB: whoever needs a
connection imports this module then, and not before.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis import exceptions
from redis._parsers import BaseParser, _AsyncRESP2Parser
from redis.asyncio.connection import AbstractConnection

from edge.application.addresses import RedisAddress
from edge.spin.dial import Streams
from edge.spin.resp import Argument, RedisFailure, Refused, Reply, packed, read_reply

__all__ = ["Client", "Connection"]

# Bytes of commands that wait for one server to take them; beyond: refused.
_UNSENT_MAX = 32 << 20

# What servers before Redis 6 say to a user name.
_OLD_SERVER = re.compile("ERR wrong number of arguments for '(auth|AUTH)' command")


class Connection:
    """A connection, logged in. `command` is for one at a time; `send` and `receive` are its halves.

    Closed by the first failure, and by `close`.
    """

    __slots__ = ("_raw", "_timeout", "address")

    def __init__(self, address: RedisAddress, raw: _Connection, timeout: float) -> None:
        self.address = address
        self._raw = raw
        self._timeout = timeout

    @classmethod
    async def open(
        cls, address: RedisAddress, streams: Streams, *, timeout: float, limit: int
    ) -> Connection:
        """Logs in over the streams, which are closed when that fails.

        `timeout`: seconds for it, and later for each command; `limit`: bytes of a reply.
        Raises RedisFailure.
        """
        connection = cls(address, _Connection(address, streams, limit), timeout)
        with connection._closing():
            async with asyncio.timeout(timeout):
                await connection._raw.connect_check_health(
                    check_health=False, retry_socket_connect=False
                )
        return connection

    @property
    def closed(self) -> bool:
        return not self._raw.is_connected

    async def command(self, *arguments: Argument) -> Reply:
        """The reply. Raises Refused for an error, TooLarge, RedisFailure."""
        with self._closing():
            async with asyncio.timeout(self._timeout):
                await self._send(arguments)
                reply = await self._receive()
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def send(self, *arguments: Argument) -> None:
        """Returns when there is room for the next one. Raises RedisFailure."""
        with self._closing():
            async with asyncio.timeout(self._timeout):
                await self._send(arguments)

    async def receive(self) -> Reply:
        """The next reply or message, however long it takes. Raises RedisFailure."""
        with self._closing():
            return await self._receive()

    def post(self, *arguments: Argument) -> None:
        """Sends without waiting: for who waits for each reply. Raises RedisFailure."""
        if self.closed:
            raise RedisFailure("the connection was lost")
        self._raw.post(packed(arguments))

    @property
    def unsent(self) -> int:
        """Bytes of commands that the server has not taken yet."""
        return self._raw.unsent

    def close(self) -> None:
        """Does not wait. Idempotent."""
        self._raw.abort()

    @contextmanager
    def _closing(self) -> Iterator[None]:
        """What fails or is cancelled ends the connection: nobody knows which reply is next."""
        try:
            yield
        except BaseException as exc:
            self.close()
            failure = _failure(exc)
            if failure is None:
                raise
            raise failure from exc

    async def _send(self, arguments: Sequence[Argument]) -> None:
        if self.closed:
            raise exceptions.ConnectionError
        await self._raw.send_packed_command(packed(arguments), check_health=False)

    async def _receive(self) -> Reply:
        if self.closed:
            raise exceptions.ConnectionError
        reply: Reply = await self._raw.read_response()
        return reply


class Client:
    """Commands of any number of callers at once, over one connection, made when it is needed.

    Replies come in the order of commands, so nobody waits for another's. `connect` raises
    RedisFailure; `timeout`: seconds of a command, making the connection included.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], timeout: float) -> None:
        self._connect = connect
        self._timeout = timeout
        self._link: _Link | None = None
        self._connecting: asyncio.Task[_Link] | None = None

    async def command(self, *arguments: Argument) -> Reply:
        """The reply. Raises Refused, TooLarge, RedisFailure; a write may have happened even so."""
        link = None
        try:
            async with asyncio.timeout(self._timeout):
                link = self._link
                if link is None or link.closed:
                    link = await self._linked()
                reply = await link.ask(arguments)
        except TimeoutError:
            # Who else waits has no hope either; the next command gets a new connection.
            if link is not None:
                link.close()
            raise RedisFailure("no answer in time") from None
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._link is not None:
            self._link.close()
            await asyncio.wait([self._link.task])

    async def _linked(self) -> _Link:
        if self._connecting is None:
            loop = asyncio.get_running_loop()
            self._connecting = loop.create_task(self._make(), name="redis connect")
            self._connecting.add_done_callback(_noticed)
        # The others go on waiting when one of them is cancelled.
        return await asyncio.shield(self._connecting)

    async def _make(self) -> _Link:
        try:
            self._link = _Link(await self._connect(), self._timeout)
            return self._link
        finally:
            self._connecting = None


class _Link:
    """A connection, and who waits for its next replies.

    Closed when the oldest command has had no reply for `timeout` seconds, also where its caller was
    less patient and has gone: the next ones would wait behind it.
    """

    __slots__ = ("_connection", "_loop", "_patience", "_timeout", "_waiting", "task")

    def __init__(self, connection: Connection, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[asyncio.Future[Reply], float]] = deque()
        self._patience: asyncio.TimerHandle | None = None
        self.task = self._loop.create_task(self._read(), name="redis replies")

    @property
    def closed(self) -> bool:
        return self._connection.closed

    async def ask(self, arguments: Sequence[Argument]) -> Reply:
        if self._connection.unsent > _UNSENT_MAX:
            raise RedisFailure("too many commands wait for it")
        self._connection.post(*arguments)
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting.append((future, self._loop.time() + self._timeout))
        if self._patience is None:
            self._patience = self._loop.call_later(self._timeout, self._look)
        return await future

    def close(self) -> None:
        self._connection.close()
        self.task.cancel()
        self._fail(RedisFailure("the connection was lost"))

    def _look(self) -> None:
        """The oldest of some time ago may still wait."""
        self._patience = None
        if self._waiting:
            _, deadline = self._waiting[0]
            if deadline <= self._loop.time():
                self.close()
            else:
                self._patience = self._loop.call_at(deadline, self._look)

    async def _read(self) -> None:
        try:
            while True:
                reply = await self._connection.receive()
                if not self._waiting:
                    raise RedisFailure("the server answered what nobody asked")
                future, _ = self._waiting.popleft()
                if not future.done():  # its caller may have gone
                    future.set_result(reply)
        except RedisFailure as exc:
            self._connection.close()
            self._fail(exc)

    def _fail(self, failure: RedisFailure) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        while self._waiting:
            future, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(failure)


def _noticed(task: asyncio.Task[_Link]) -> None:
    """Its failure is no news when all who waited for it have gone."""
    if not task.cancelled():
        task.exception()


class _Connection(AbstractConnection):
    """The library's connection, over streams that exist already; it never makes others."""

    def __init__(self, address: RedisAddress, streams: Streams, limit: int) -> None:
        self._limit = limit
        super().__init__(
            db=address.database,
            username=address.username,
            password=address.password,
            socket_timeout=None,
            socket_connect_timeout=None,
            parser_class=_Parser,
            protocol=2,
            driver_info=None,
        )
        self._streams = streams

    def set_parser(self, parser_class: type[BaseParser]) -> None:
        self._parser = _Parser(self._limit)

    def repr_pieces(self) -> list[tuple[str, str | int]]:
        return []

    def post(self, data: Iterable[bytes]) -> None:
        self._streams[1].writelines(data)

    @property
    def unsent(self) -> int:
        return self._streams[1].transport.get_write_buffer_size()

    def abort(self) -> None:
        self._streams[1].transport.abort()
        self._reader = self._writer = None

    async def _connect(self) -> None:
        self._reader, self._writer = self._streams

    def _host_error(self) -> str:
        return "the server"


class _Parser(_AsyncRESP2Parser):
    """Reads replies of up to `limit` bytes; of a longer one everything is read and nothing kept."""

    def __init__(self, limit: int) -> None:
        super().__init__(0)
        self._limit = limit

    async def read_response(self, disable_decoding: bool = False) -> Any:  # noqa: FBT001, FBT002
        if not self._connected or self._stream is None:
            raise exceptions.ConnectionError
        reply = await read_reply(self._stream, self._limit)
        if isinstance(reply, Refused) and _OLD_SERVER.fullmatch(str(reply)):
            # The library knows this error by its class, and logs in without a user name.
            return exceptions.AuthenticationWrongNumberOfArgsError(str(reply))
        return reply


def _failure(exc: BaseException) -> RedisFailure | None:
    """What a caller sees of it; None: cancellation, or a mistake of ours."""
    match exc:
        case RedisFailure():
            return exc
        case TimeoutError() | exceptions.TimeoutError():
            return RedisFailure("no answer in time")
        case exceptions.AuthenticationError():
            return RedisFailure("user name or password is wrong")
        case exceptions.ConnectionError() if str(exc) == "Invalid Database":
            return RedisFailure("has no such database, or wants a password")
        case exceptions.InvalidResponse() | asyncio.LimitOverrunError() | ValueError():
            return RedisFailure("the other side does not speak the protocol of Redis")
        case exceptions.RedisError() | OSError() | asyncio.IncompleteReadError():
            return RedisFailure("the connection was lost")
    return None
