"""wasi:keyvalue@0.2.0-draft2 over the same stores: buckets, batches, numbers, compare and swap.

A batch is one transaction where the back end has them; the interface promises less.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from edge.engine.host import Err, Interface
from edge.spin.key_value import check_key, check_value, granted
from edge.spin.platform import Context, KeyValueError, KeyValueStore

__all__ = ["ATOMICS", "BATCH", "STORE"]

# Bytes of the largest value that is kept as it is, to be compared.
_KEPT = 256

# Keys in one call. Looking at them is done on the loop's thread: 3 ms.
_BATCH_MAX = 16_384


def _check_keys(store: KeyValueStore, keys: Sequence[str]) -> None:
    if len(keys) > _BATCH_MAX:
        raise KeyValueError(f"{len(keys)} keys at once, at most {_BATCH_MAX} are taken")
    for key in keys:
        check_key(store, key)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except KeyValueError as exc:
        raise Err(("other", str(exc))) from None


class Bucket:
    """A store that a guest has opened."""

    __slots__ = ("store",)

    def __init__(self, store: KeyValueStore) -> None:
        self.store = store

    async def get(self, key: str) -> bytes | None:
        with _explained():
            check_key(self.store, key)
            return await self.store.get(key)

    async def set(self, key: str, value: bytes) -> None:
        with _explained():
            check_key(self.store, key)
            check_value(self.store, value)
            await self.store.set(key, value)

    async def delete(self, key: str) -> None:
        with _explained():
            check_key(self.store, key)
            await self.store.delete(key)

    async def exists(self, key: str) -> bool:
        with _explained():
            check_key(self.store, key)
            return await self.store.exists(key)

    async def list_keys(self, cursor: str | None) -> tuple[list[str], str | None]:
        with _explained():
            return await self.store.keys(cursor)


class Cas:
    """A value that a guest means to replace, as it was when the guest last saw it.

    Of a large one only a digest is kept: a guest may hold thousands of these.
    """

    __slots__ = ("_key", "_seen", "_store")

    def __init__(self, store: KeyValueStore, key: str, seen: bytes | None) -> None:
        self._store = store
        self._key = key
        self._seen = _seen(seen)

    @staticmethod
    async def new(_context: Context, bucket: Bucket, key: str) -> Cas:
        return Cas(bucket.store, key, await bucket.get(key))

    async def current(self) -> bytes | None:
        with _explained():
            value = await self._store.get(self._key)
        self._seen = _seen(value)
        return value

    async def swap(self, value: bytes) -> None:
        try:
            check_value(self._store, value)
            if await self._swapped(value):
                return
            now = await self._store.get(self._key)
        except KeyValueError as exc:
            raise Err(("store-error", ("other", str(exc)))) from None
        raise Err(("cas-failed", Cas(self._store, self._key, now)))

    async def _swapped(self, value: bytes) -> bool:
        seen = self._seen
        if isinstance(seen, _Large):
            now = await self._store.get(self._key)
            if _seen(now) != seen:
                return False
            seen = now
        return await self._store.swap(self._key, seen, value)


@dataclass(frozen=True, slots=True)
class _Large:
    """A value, as its digest."""

    digest: bytes


def _seen(value: bytes | None) -> bytes | _Large | None:
    if value is None or len(value) <= _KEPT:
        return value
    return _Large(hashlib.blake2b(value, digest_size=32).digest())


def _open(context: Context, identifier: str) -> Bucket:
    return Bucket(granted(context, identifier))


async def _increment(_context: Context, bucket: Bucket, key: str, delta: int) -> int:
    with _explained():
        check_key(bucket.store, key)
        return await bucket.store.increment(key, delta)


async def _swap(_context: Context, cas: Cas, value: bytes) -> None:
    await cas.swap(value)


async def _get_many(
    _context: Context, bucket: Bucket, keys: Sequence[str]
) -> list[tuple[str, bytes | None]]:
    with _explained():
        _check_keys(bucket.store, keys)
        return list(zip(keys, await bucket.store.get_many(keys), strict=True))


async def _set_many(_context: Context, bucket: Bucket, items: Sequence[tuple[str, bytes]]) -> None:
    with _explained():
        _check_keys(bucket.store, [key for key, _ in items])
        for _, value in items:
            check_value(bucket.store, value)
        await bucket.store.set_many(items)


async def _delete_many(_context: Context, bucket: Bucket, keys: Sequence[str]) -> None:
    with _explained():
        _check_keys(bucket.store, keys)
        await bucket.store.delete_many(keys)


STORE = Interface(
    """interface wasi:keyvalue/store@0.2.0-draft2 {
      variant error { no-such-store, access-denied, other(string) }
      record key-response { keys: list<string>, cursor: option<string> }
      open: func(identifier: string) -> result<bucket, error>;
      resource bucket {
        get: func(key: string) -> result<option<list<u8>>, error>;
        set: func(key: string, value: list<u8>) -> result<_, error>;
        delete: func(key: string) -> result<_, error>;
        exists: func(key: string) -> result<bool, error>;
        list-keys: func(cursor: option<string>) -> result<key-response, error>;
      }
    }""",
    functions={"open": _open},
    resources={"bucket": Bucket},
)

ATOMICS = Interface(
    """interface wasi:keyvalue/atomics@0.2.0-draft2 {
      use wasi:keyvalue/store@0.2.0-draft2.{bucket, error};
      variant cas-error { store-error(error), cas-failed(cas) }
      resource cas {
        new: static func(bucket: borrow<bucket>, key: string) -> result<cas, error>;
        current: func() -> result<option<list<u8>>, error>;
      }
      increment: func(bucket: borrow<bucket>, key: string, delta: s64) -> result<s64, error>;
      swap: func(cas: cas, value: list<u8>) -> result<_, cas-error>;
    }""",
    uses=(STORE,),
    functions={"increment": _increment, "swap": _swap},
    resources={"cas": Cas},
)

BATCH = Interface(
    """interface wasi:keyvalue/batch@0.2.0-draft2 {
      use wasi:keyvalue/store@0.2.0-draft2.{bucket, error};
      get-many: func(bucket: borrow<bucket>, keys: list<string>)
        -> result<list<tuple<string, option<list<u8>>>>, error>;
      set-many: func(bucket: borrow<bucket>, key-values: list<tuple<string, list<u8>>>)
        -> result<_, error>;
      delete-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<_, error>;
    }""",
    uses=(STORE,),
    functions={"get-many": _get_many, "set-many": _set_many, "delete-many": _delete_many},
)
