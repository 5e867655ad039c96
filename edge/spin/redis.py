"""fermyon:spin/redis: commands to Redis servers that the grants allow, as `redis://` or `rediss://`.

A connection belongs to the invocation that opened it and ends with it. Commands that turn a
connection into something else than questions and answers are refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, final

from edge.application.addresses import RedisAddress
from edge.engine.host import Err, Interface
from edge.spin import dial, lazy
from edge.spin.platform import Context, Outbound
from edge.spin.resp import Argument, RedisFailure, Refused, Reply, Status, TooLarge

if TYPE_CHECKING:
    from edge.spin.redisclient import Connection

__all__ = ["REDIS", "REDIS_TYPES", "UNVERSIONED", "RedisConnection"]

T = TypeVar("T")
Parameter = tuple[str, int | bytes]
Result = str | tuple[str, int | bytes | str]

_U32 = range(1 << 32)
_S64 = range(-(1 << 63), 1 << 63)

# They are answered by more than one reply, by none, or in another version of the protocol.
_REFUSED = frozenset(
    {
        *("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"),
        *("MONITOR", "HELLO", "SYNC", "PSYNC", "REPLCONF"),
    }
)


@final
class RedisConnection:
    """A connection, counted as one of the invocation until it is dropped."""

    __slots__ = ("_connection", "_max", "_outbound")

    def __init__(self, connection: Connection, outbound: Outbound, max_payload: int) -> None:
        self._connection = connection
        self._outbound: Outbound | None = outbound
        self._max = max_payload

    @staticmethod
    async def open(context: Context, address: str) -> RedisConnection:
        try:
            parsed = RedisAddress.parse(address)
        except ValueError:
            raise Err("invalid-address") from None
        try:
            return await _open(context, parsed)
        except dial.Denied as exc:
            raise Err(("other", str(exc))) from None
        except RedisFailure as exc:
            raise Err(("other", f"{parsed}: {exc}")) from None
        except OSError as exc:
            raise Err(("other", f"{parsed}: {dial.reason(exc)}")) from None

    async def publish(self, channel: str, payload: bytes) -> None:
        await self._command("PUBLISH", channel, payload)

    async def get(self, key: str) -> bytes | None:
        reply = await self._command("GET", key)
        if reply is None or isinstance(reply, bytes):
            return reply
        raise Err("type-error")

    async def set(self, key: str, value: bytes) -> None:
        await self._command("SET", key, value)

    async def incr(self, key: str) -> int:
        return _integer(await self._command("INCR", key), _S64)

    async def del_(self, keys: list[str]) -> int:
        return _integer(await self._command("DEL", *keys), _U32)

    async def sadd(self, key: str, values: list[str]) -> int:
        return _integer(await self._command("SADD", key, *values), _U32)

    async def smembers(self, key: str) -> list[str]:
        reply = await self._command("SMEMBERS", key)
        if not isinstance(reply, list):
            raise Err("type-error")
        return [_text(member) for member in reply]

    async def srem(self, key: str, values: list[str]) -> int:
        return _integer(await self._command("SREM", key, *values), _U32)

    async def execute(self, command: str, arguments: list[Parameter]) -> list[Result]:
        values = [value for _, value in arguments]
        _check_command(command, values)
        return list(_results(await self._command(command, *values)))

    def drop(self) -> None:
        self._connection.close()
        outbound, self._outbound = self._outbound, None
        if outbound is not None:
            outbound.release()

    # A guest that ends just as its connection is made never gets the handle.
    __del__ = drop

    async def _command(self, name: str, *arguments: Argument) -> Reply:
        size = sum(_size(argument) for argument in arguments)
        if size > self._max:
            raise Err(("other", f"{name}: {size} bytes at once, at most {self._max} are sent"))
        try:
            return await self._connection.command(name, *arguments)
        except Refused as exc:
            raise Err(_refusal(exc)) from None
        except (RedisFailure, TooLarge) as exc:
            raise Err(("other", f"{self._connection.address}: {exc}")) from None


async def _open(context: Context, address: RedisAddress) -> RedisConnection:
    outbound, brokers = dial.granted(context.outbound, address.endpoint), context.platform.brokers
    if not outbound.acquire():
        raise Err("too-many-connections")
    try:
        async with asyncio.timeout(brokers.connect):
            library = await lazy.load("edge.spin.redisclient")
            sock = await dial.connect(outbound, address.endpoint, brokers.connect)
            streams = await dial.streams(sock, address.endpoint, brokers.tls)
            connection = await library.Connection.open(
                address, streams, timeout=brokers.reply, limit=brokers.max_payload
            )
    except BaseException:
        outbound.release()
        raise
    return RedisConnection(connection, outbound, brokers.max_payload)


def _check_command(command: str, arguments: Sequence[int | bytes]) -> None:
    name = command.upper()
    first = arguments[0] if arguments else b""
    if name == "CLIENT" and isinstance(first, bytes) and first.upper() == b"REPLY":
        name = "CLIENT REPLY"
    if name in _REFUSED or name == "CLIENT REPLY":
        raise Err(("other", f"{name} is not available: a guest asks, the server answers once"))


def _refusal(error: Refused) -> str | tuple[str, str]:
    if error.code == "WRONGTYPE" or "is not an integer" in str(error):
        return "type-error"
    return ("other", str(error))


def _size(argument: Argument) -> int:
    return len(argument) if isinstance(argument, bytes | str) else 8


def _integer(reply: Reply, bounds: range) -> int:
    if isinstance(reply, int) and reply in bounds:
        return reply
    raise Err("type-error")


def _text(reply: Reply) -> str:
    try:
        if isinstance(reply, bytes):
            return reply.decode()
    except UnicodeDecodeError:
        pass
    raise Err("type-error")


def _results(reply: Reply) -> Iterator[Result]:
    """A reply as Spin's results: of arrays the values, one after the other."""
    match reply:
        case None:
            yield "nil"
        case Status():
            yield "status", reply.decode(errors="replace")
        case bytes():
            yield "binary", reply
        case int():
            yield "int64", _integer(reply, _S64)
        case list():
            for value in reply:
                yield from _results(value)
        case _:
            raise Err(("other", str(reply)))


REDIS = Interface(
    """interface fermyon:spin/redis@2 {
      variant error { invalid-address, too-many-connections, type-error, other(string) }
      type payload = list<u8>;
      variant redis-parameter { int64(s64), binary(payload) }
      variant redis-result { nil, status(string), int64(s64), binary(payload) }
      resource connection {
        open: static func(address: string) -> result<connection, error>;
        publish: func(channel: string, payload: payload) -> result<_, error>;
        get: func(key: string) -> result<option<payload>, error>;
        set: func(key: string, value: payload) -> result<_, error>;
        incr: func(key: string) -> result<s64, error>;
        del: func(keys: list<string>) -> result<u32, error>;
        sadd: func(key: string, values: list<string>) -> result<u32, error>;
        smembers: func(key: string) -> result<list<string>, error>;
        srem: func(key: string, values: list<string>) -> result<u32, error>;
        execute: func(command: string, arguments: list<redis-parameter>)
          -> result<list<redis-result>, error>;
      }
    }""",
    resources={"connection": RedisConnection},
)

REDIS_TYPES = Interface(
    """interface fermyon:spin/redis-types {
      enum error { success, error }
      type payload = list<u8>;
      variant redis-parameter { int64(s64), binary(payload) }
      variant redis-result { nil, status(string), int64(s64), binary(payload) }
    }"""
)


def _once(
    method: Callable[..., Awaitable[T]],
) -> Callable[..., Awaitable[T]]:
    """A command with a connection of its own. Its only error says no more than that."""

    async def call(context: Context, address: str, *arguments: Any) -> T:
        try:
            connection = await RedisConnection.open(context, address)
            try:
                return await method(connection, *arguments)
            finally:
                connection.drop()
        except Err:
            raise Err("error") from None

    return call


async def _get(connection: RedisConnection, key: str) -> bytes:
    return await connection.get(key) or b""


UNVERSIONED = Interface(
    """interface fermyon:spin/redis {
      use fermyon:spin/redis-types.{payload, redis-parameter, redis-result, error};
      publish: func(address: string, channel: string, payload: payload) -> result<_, error>;
      get: func(address: string, key: string) -> result<payload, error>;
      set: func(address: string, key: string, value: payload) -> result<_, error>;
      incr: func(address: string, key: string) -> result<s64, error>;
      del: func(address: string, keys: list<string>) -> result<s64, error>;
      sadd: func(address: string, key: string, values: list<string>) -> result<s64, error>;
      smembers: func(address: string, key: string) -> result<list<string>, error>;
      srem: func(address: string, key: string, values: list<string>) -> result<s64, error>;
      execute: func(address: string, command: string, arguments: list<redis-parameter>)
        -> result<list<redis-result>, error>;
    }""",
    uses=(REDIS_TYPES,),
    functions={
        "publish": _once(RedisConnection.publish),
        "get": _once(_get),
        "set": _once(RedisConnection.set),
        "incr": _once(RedisConnection.incr),
        "del": _once(RedisConnection.del_),
        "sadd": _once(RedisConnection.sadd),
        "smembers": _once(RedisConnection.smembers),
        "srem": _once(RedisConnection.srem),
        "execute": _once(RedisConnection.execute),
    },
)
