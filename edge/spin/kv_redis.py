"""Key-value stores in Redis or Valkey: a store's key is `edge:<application>:<label>:<key>` there.

Each store has one connection for the commands of all invocations. What is kept, how much of it and
how safely is the server's configuration: totals are not limited here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from edge import config
from edge.application.addresses import RedisAddress
from edge.errors import ConfigError
from edge.spin import dial, lazy
from edge.spin.platform import KeyValueError
from edge.spin.resp import Argument, RedisFailure, Refused, Reply, TooLarge

if TYPE_CHECKING:
    from edge.spin.redisclient import Client, Connection

__all__ = ["RedisKeyValue"]

_log = logging.getLogger("edge.stores")

# Bytes of a reply: of one value, or of all that get_many brings.
_REPLY_MAX = 16 << 20

# How many keys the server looks at for one reply, and replies without a key of this store before
# the guest is told to go on: other programs may have millions in the same database.
_SCAN_COUNT, _SCANS_MAX = 1000, 100

_CURSORS = range(1 << 64)

# Sets ARGV[3] where the value is ARGV[2], or where there is none if ARGV[1] says so.
_SWAP = """local value = redis.call('GET', KEYS[1])
if ARGV[1] == 'none' then if value then return 0 end
elseif value ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[3])
return 1"""


class RedisKeyValue:
    """One store of one application: a KeyValueStore. Nothing is connected before its first use.

    Raises ConfigError for an address that is none.
    """

    def __init__(self, application: str, label: str, settings: config.KeyValue) -> None:
        self.limits = settings
        self._label = label
        self._prefix = f"edge:{quote(application, safe='')}:{quote(label, safe='')}:"
        self._address = _address(label, settings)
        self._client: Client | None = None
        self._reachable = True  # as the log knows it

    async def get(self, key: str) -> bytes | None:
        return _value(await self._command("GET", self._name(key)))

    async def set(self, key: str, value: bytes) -> None:
        await self._command("SET", self._name(key), value)

    async def delete(self, key: str) -> None:
        await self.delete_many([key])

    async def exists(self, key: str) -> bool:
        return await self._command("EXISTS", self._name(key)) == 1

    async def keys(self, cursor: str | None = None) -> tuple[list[str], str | None]:
        """A key may come twice when keys are added or removed between two calls."""
        position = _cursor(cursor)
        for _ in range(_SCANS_MAX):
            position, found = await self._scan(position)
            if found or position == "0":
                break
        return found, None if position == "0" else position

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        if not keys:
            return []
        reply = await self._command("MGET", *map(self._name, keys))
        if not isinstance(reply, list) or len(reply) != len(keys):
            raise _strange(reply)
        return [_value(value) for value in reply]

    async def set_many(self, items: Sequence[tuple[str, bytes]]) -> None:
        if items:
            pairs = [part for key, value in items for part in (self._name(key), value)]
            await self._command("MSET", *pairs)

    async def delete_many(self, keys: Sequence[str]) -> None:
        if keys:
            await self._command("DEL", *map(self._name, keys))

    async def increment(self, key: str, delta: int) -> int:
        reply = await self._command("INCRBY", self._name(key), delta)
        if not isinstance(reply, int):
            raise _strange(reply)
        return reply

    async def swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        expected = ("none", b"") if old is None else ("value", old)
        return await self._command("EVAL", _SWAP, 1, self._name(key), *expected, new) == 1

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _name(self, key: str) -> str:
        return self._prefix + key

    async def _scan(self, position: str) -> tuple[str, list[str]]:
        reply = await self._command(
            "SCAN", position, "MATCH", f"{self._prefix}*", "COUNT", _SCAN_COUNT
        )
        match reply:
            case [bytes() as after, list() as names]:
                return _cursor(after.decode(errors="replace")), self._keys_of(names)
        raise _strange(reply)

    def _keys_of(self, names: list[Any]) -> list[str]:
        """Without what others wrote here that is no text."""
        keys = []
        for name in names:
            try:
                keys.append(name.decode().removeprefix(self._prefix))
            except (UnicodeDecodeError, AttributeError):
                continue
        return keys

    async def _command(self, *arguments: Argument) -> Reply:
        client = self._client or self._made(await lazy.load("edge.spin.redisclient"))
        try:
            return await client.command(*arguments)
        except Refused as exc:
            raise KeyValueError(_refusal(exc)) from None
        except (RedisFailure, TooLarge) as exc:
            raise KeyValueError(f"the store's server: {exc}") from None

    def _made(self, library: Any) -> Client:
        if self._client is None:  # another invocation may have been faster
            self._client = library.Client(self._connect, self.limits.timeout)
        return self._client

    async def _connect(self) -> Connection:
        timeout = self.limits.timeout
        library = await lazy.load("edge.spin.redisclient")
        try:
            streams = await dial.trusted_streams(self._address.endpoint, None, timeout)
            connection: Connection = await library.Connection.open(
                self._address, streams, timeout=timeout, limit=_REPLY_MAX
            )
        except (OSError, RedisFailure) as exc:
            why = dial.reason(exc) if isinstance(exc, OSError) else str(exc)
            self._note(why)
            raise RedisFailure(why) from None
        self._note(None)
        return connection

    def _note(self, failure: str | None) -> None:
        """One line for each change, for the operator: guests try again and again."""
        if failure is None and not self._reachable:
            _log.info("key-value store %s: %s is there again", self._label, self._address)
        elif failure is not None and self._reachable:
            _log.warning("key-value store %s: %s: %s", self._label, self._address, failure)
        self._reachable = failure is None


def _address(label: str, settings: config.KeyValue) -> RedisAddress:
    try:
        return RedisAddress.parse(settings.url)
    except ValueError as exc:
        raise ConfigError(
            f"key-value store {label}: url: not the address of a Redis server: {exc}",
            hint="write it like redis://localhost:6379/0",
        ) from None


def _cursor(text: str | None) -> str:
    """A position as the server gave it; the guest may bring back anything."""
    if text is None:
        return "0"
    if text.isascii() and text.isdigit() and len(text) <= 20 and int(text) in _CURSORS:
        return text
    raise KeyValueError("not a cursor of this store")


def _value(reply: Reply) -> bytes | None:
    if reply is None or isinstance(reply, bytes):
        return reply
    raise _strange(reply)


def _refusal(error: Refused) -> str:
    if error.code == "WRONGTYPE":
        return "the value was written by somebody else and is no string"
    if "is not an integer" in str(error) or "overflow" in str(error):
        return "the value is not an integer, or becomes too large"
    return f"the store's server: {error}"


def _strange(reply: Reply) -> KeyValueError:
    return KeyValueError(f"the store's server answered with a {type(reply).__name__}")
