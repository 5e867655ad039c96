"""fermyon:spin/key-value@2 and the unversioned one, whose stores are numbers.

Knows no back end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from edge.application.units import show_size
from edge.engine.host import Err, Interface
from edge.spin.platform import Context, KeyValueError, KeyValueStore

__all__ = ["KEY_VALUE", "UNVERSIONED", "all_keys", "check_key", "check_value"]

P = ParamSpec("P")
T = TypeVar("T")

# Bytes of the keys that one answer brings; the memory of a node is not for lists of keys.
_KEYS_MAX = 4 << 20


def check_key(store: KeyValueStore, key: str) -> None:
    """Raises KeyValueError for a key that is too long."""
    # Four bytes a character at most: most keys need not be encoded to know.
    most = store.limits.max_key
    if len(key) * 4 > most and (size := len(key.encode())) > most:
        raise KeyValueError(f"the key has {size} bytes, at most {most} are kept")


def check_value(store: KeyValueStore, value: bytes) -> None:
    """Raises KeyValueError for a value that is too large."""
    most = store.limits.max_value
    if len(value) > most:
        raise KeyValueError(f"the value has {len(value)} bytes, at most {most} are kept")


async def all_keys(store: KeyValueStore) -> list[str]:
    """Every key. Raises KeyValueError, also when there are too many for one list."""
    keys, cursor = await store.keys()
    size = sum(map(len, keys))
    while cursor is not None:
        more, cursor = await store.keys(cursor)
        keys += more
        size += sum(map(len, more)) + len(more)
        if size > _KEYS_MAX:
            raise KeyValueError(f"the keys are more than {show_size(_KEYS_MAX)} together")
    return keys


def granted(context: Context, label: str) -> KeyValueStore:
    """The store of that label, if the component may use it."""
    store = context.platform.key_value.get(label)
    if store is None:
        context.note(f'may not use the key-value store "{label}": name it in key_value_stores')
        raise Err("access-denied")
    return store


class Store:
    """A store that a guest has opened."""

    __slots__ = ("_store",)

    def __init__(self, store: KeyValueStore) -> None:
        self._store = store

    @staticmethod
    def open(context: Context, label: str) -> Store:
        return Store(granted(context, label))

    async def get(self, key: str) -> bytes | None:
        try:
            check_key(self._store, key)
            return await self._store.get(key)
        except KeyValueError as exc:
            raise Err(("other", str(exc))) from None

    async def set(self, key: str, value: bytes) -> None:
        try:
            check_key(self._store, key)
            check_value(self._store, value)
            await self._store.set(key, value)
        except KeyValueError as exc:
            raise Err(("other", str(exc))) from None

    async def delete(self, key: str) -> None:
        try:
            check_key(self._store, key)
            await self._store.delete(key)
        except KeyValueError as exc:
            raise Err(("other", str(exc))) from None

    async def exists(self, key: str) -> bool:
        try:
            check_key(self._store, key)
            return await self._store.exists(key)
        except KeyValueError as exc:
            raise Err(("other", str(exc))) from None

    async def get_keys(self) -> list[str]:
        try:
            return await all_keys(self._store)
        except KeyValueError as exc:
            raise Err(("other", str(exc))) from None


KEY_VALUE = Interface(
    """interface fermyon:spin/key-value@2 {
      variant error { store-table-full, no-such-store, access-denied, other(string) }
      resource store {
        open: static func(label: string) -> result<store, error>;
        get: func(key: string) -> result<option<list<u8>>, error>;
        set: func(key: string, value: list<u8>) -> result<_, error>;
        delete: func(key: string) -> result<_, error>;
        exists: func(key: string) -> result<bool, error>;
        get-keys: func() -> result<list<string>, error>;
      }
    }""",
    resources={"store": Store},
)


def _open(context: Context, name: str) -> int:
    """The number of a store: its place among those that are granted. There is nothing to close."""
    granted(context, name)
    return list(context.platform.key_value).index(name)


def _numbered(
    method: Callable[Concatenate[Store, P], Awaitable[T]],
) -> Callable[Concatenate[Context, int, P], Coroutine[Any, Any, T]]:
    """A method of a store as a function of its number."""

    async def call(context: Context, number: int, /, *args: P.args, **kwargs: P.kwargs) -> T:
        stores = tuple(context.platform.key_value.values())
        if number >= len(stores):
            raise Err("invalid-store")
        try:
            return await method(Store(stores[number]), *args, **kwargs)
        except Err as exc:
            payload = exc.payload
            raise Err(("io", payload[1]) if isinstance(payload, tuple) else payload) from None

    return call


async def _get(store: Store, key: str) -> bytes:
    value = await store.get(key)
    if value is None:
        raise Err("no-such-key")
    return value


def _close(_context: Context, _number: int) -> None:
    return


UNVERSIONED = Interface(
    """interface fermyon:spin/key-value {
      type store = u32;
      variant error {
        store-table-full, no-such-store, access-denied, invalid-store, no-such-key, io(string)
      }
      open: func(name: string) -> result<store, error>;
      get: func(store: store, key: string) -> result<list<u8>, error>;
      set: func(store: store, key: string, value: list<u8>) -> result<_, error>;
      delete: func(store: store, key: string) -> result<_, error>;
      exists: func(store: store, key: string) -> result<bool, error>;
      get-keys: func(store: store) -> result<list<string>, error>;
      close: func(store: store);
    }""",
    functions={
        "open": _open,
        "get": _numbered(_get),
        "set": _numbered(Store.set),
        "delete": _numbered(Store.delete),
        "exists": _numbered(Store.exists),
        "get-keys": _numbered(Store.get_keys),
        "close": _close,
    },
)
