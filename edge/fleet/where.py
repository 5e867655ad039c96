"""Where this machine can be reached, for who is told it in a token. Blocks."""

from __future__ import annotations

import ipaddress

from edge.fleet.interfaces import followed, hosts
from edge.fleet.netlink import interfaces
from edge.fleet.token import MAX_ADDRESSES

__all__ = ["own_addresses"]


def own_addresses(port: int, names: tuple[str, ...] = ()) -> tuple[tuple[str, int], ...]:
    """Of its networks; `names`: of interfaces, when not all that lead out. Of link-local ones only
    if there are no others, and none of those with a scope, which means nothing elsewhere.
    """
    try:
        found = [ipaddress.ip_address(host) for host in hosts(followed(interfaces(), names))]
    except OSError:
        found = []
    usable = [ip for ip in found if ip.version == 4 or not ip.is_link_local]
    usable.sort(key=lambda ip: ip.is_link_local)
    return tuple((str(ip), port) for ip in usable[:MAX_ADDRESSES]) or (("127.0.0.1", port),)
