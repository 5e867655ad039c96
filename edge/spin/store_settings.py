"""What stands behind a label of a store, and which networks guests may not reach: read alike from
Spin's `runtime-config.toml` and from a node's configuration.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from edge import config
from edge.application import units
from edge.application.addresses import RedisAddress
from edge.application.fields import Reader, Table, Where, boolean, integer, parsed, string
from edge.application.names import label
from edge.errors import ConfigError

__all__ = ["Network", "key_value", "network", "secret", "sqlite", "store_label"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Reads the `type` of a table; "redis", or another word for a file here.
Type = Callable[[Table], str]

# "private": whatever is not routed in the internet.
_PRIVATE = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
    "::/128", "::1/128", "fc00::/7", "fe80::/10", "ff00::/8",
)  # fmt: skip


def store_label(value: object, where: Where) -> str:
    return parsed(label)(value, where)


def secret(value: object, where: Where) -> str:
    """A string that no message shows."""
    if not isinstance(value, str):
        raise where.error("must be a string")
    return value


def key_value(type: Type, path: Reader[str]) -> Reader[config.KeyValue]:
    def read(value: object, where: Where) -> config.KeyValue:
        defaults: Any = config.KeyValue()
        stands: dict[str, Any]
        with Table(value, where) as table:
            if type(table) == "redis":
                stands = {"type": "redis", "url": table.needed("url", _redis_url, "")}
            else:
                stands = {"path": table.optional("path", path)}
            sizes = {
                name: table.get(name, _size, getattr(defaults, name))
                for name in ("max_key", "max_value", "max_entries", "max_bytes")
            }
            timeout = table.get("timeout", _seconds, defaults.timeout)
        return config.KeyValue(**stands, **sizes, timeout=timeout)

    return read


def sqlite(type: Type, path: Reader[str]) -> Reader[config.Sqlite]:
    def read(value: object, where: Where) -> config.Sqlite:
        defaults: Any = config.Sqlite()
        with Table(value, where) as table:
            type(table)
            found = table.optional("path", path)
            if table.get("allow_attach_file", boolean, False):
                raise where.key("allow_attach_file").error(
                    "a database of one application is no way to the files of another"
                )
            sizes = {
                name: table.get(name, _size, getattr(defaults, name))
                for name in ("max_bytes", "max_statement", "max_result")
            }
            timeout = table.get("timeout", _seconds, defaults.timeout)
        return config.Sqlite(found, **sizes, timeout=timeout)

    return read


def network(value: object, where: Where) -> tuple[Network, ...]:
    """One network, or the several that "private" stands for."""
    text = string(value, where)
    if text == "private":
        return tuple(map(ipaddress.ip_network, _PRIVATE))
    try:
        return (ipaddress.ip_network(text),)
    except ValueError:
        raise _no_network(text, where) from None


def _no_network(text: str, where: Where) -> ConfigError:
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        hint = 'write it like "10.0.0.0/8" or "fc00::/7", or "private" for all that is'
        return where.error(f'"{text}" is not a network', hint)
    return where.error(f'"{text}" is an address within a network', f'did you mean "{meant}"?')


def _size(value: object, where: Where) -> int:
    number = parsed(units.size)(value, where) if isinstance(value, str) else value
    return integer(1, 1 << 40)(number, where)


def _seconds(value: object, where: Where) -> float:
    return parsed(units.duration)(value, where)


def _redis_url(value: object, where: Where) -> str:
    url = secret(value, where)
    try:
        RedisAddress.parse(url)
    except ValueError as exc:
        raise where.error(str(exc)) from None
    return url
