"""Connections to Redis and Valkey, over PyPI `redis`.

That library logs in and keeps the connection; the streams are handed to it, and it reads replies by
our reader, so that their size is bounded. Loading it takes 100 ms and 10 MB: whoever needs a
connection imports this module then, and not before.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis import exceptions
from redis._parsers import BaseParser, _AsyncRESP2Parser
from redis.asyncio.connection import AbstractConnection

from edge.application.addresses import RedisAddress
from edge.spin.dial import Streams
from edge.spin.resp import Argument, RedisFailure, Refused, Reply, packed, read_reply

__all__ = ["Connection"]

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
