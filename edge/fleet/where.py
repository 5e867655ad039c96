"""Where this machine can be reached, for who is told it in a token. Blocks."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from edge.fleet.interfaces import Interface, followed, hosts
from edge.fleet.netlink import interfaces
from edge.fleet.token import MAX_ADDRESSES

__all__ = ["own_addresses"]


def own_addresses(port: int, names: tuple[str, ...] = ()) -> tuple[tuple[str, int], ...]:
    """Of its networks; `names`: of interfaces, when not all that lead out. None of those with a
    scope, which means nothing elsewhere; link-local ones last.
    """
    try:
        found = interfaces()
    except OSError:
        found = ()
    usable = _plain(followed(found, names)) or _plain(one for one in found if not one.loopback)
    return tuple((host, port) for host in usable[:MAX_ADDRESSES]) or (("127.0.0.1", port),)


def _plain(found: Iterable[Interface]) -> list[str]:
    every = [ipaddress.ip_address(host) for host in hosts(tuple(found))]
    plain = [ip for ip in every if ip.version == 4 or not ip.is_link_local]
    return [str(ip) for ip in sorted(plain, key=lambda ip: ip.is_link_local)]
