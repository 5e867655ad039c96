"""Which network interfaces of this machine lead to peers, and which addresses are near. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address

__all__ = ["Interface", "bindings", "followed", "hosts", "is_virtual", "near"]

# What tunnels, containers and virtual machines are reached by: nobody's board is behind them.
_KINDS = frozenset(
    {
        "tun",  # tap as well
        "wireguard",
        "dummy",
        "vxlan",
        "geneve",
        "ipip",
        "ip6tnl",
        "sit",
        "gre",
        "gretap",
        "erspan",
        "vti",
        "xfrm",
        "ifb",
        "nlmon",
        "vcan",
        "bareudp",
    }
)
# A bridge of somebody's own (br0, br-lan) is a network; Docker names its own by hexadecimals.
_NAMES = re.compile(
    r"docker|podman|veth|virbr|vnet|vmnet|vboxnet|lxc|lxd|incus|cni|cali|flannel|cilium|weave|kube"
    r"|nodelocaldns|tun|tap|wg|tailscale|zt|utun|dummy|br-[0-9a-f]{12}$"
)
# Of one advert; who has more shows its nearest.
_MAX_ADDRESSES = 8


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface, with those of its addresses that may be used now."""

    index: int
    name: str
    kind: str = ""  # the kernel's word for what is no device: "veth", "bridge", "wireguard"
    has_device: bool = False
    up: bool = True  # and connected
    multicast: bool = True
    loopback: bool = False
    point_to_point: bool = False
    enslaved: bool = False  # a port of a bridge or bond, which has the addresses
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()


def is_virtual(name: str, kind: str, *, has_device: bool) -> bool:
    """True of one that leads to tunnels or containers of this machine and not to a network.

    A veth that is not named like one is the network of the container or namespace we run in.
    """
    return not has_device and (kind in _KINDS or _NAMES.match(name) is not None)


def followed(found: Iterable[Interface], names: Sequence[str] = ()) -> tuple[Interface, ...]:
    """Those to advertise on: the named ones, or else what may lead to a peer."""
    usable = [one for one in found if one.up and one.addresses]
    if names:
        return tuple(one for one in usable if one.name in names)
    return tuple(one for one in usable if _leads_out(one))


def _leads_out(one: Interface) -> bool:
    if one.loopback or one.point_to_point or one.enslaved or not one.multicast:
        return False
    return not is_virtual(one.name, one.kind, has_device=one.has_device)


def bindings(interfaces: Sequence[Interface]) -> list[str | int]:
    """What zeroconf is to send from: of each interface one IPv4 address, and one for IPv6.

    That is its link-local address: only from such a one do receivers learn the scope. Where two
    interfaces share it (VLANs do), the index stands for the interface's first address.
    """
    shared = [address.ip for one in interfaces for address in _link_local(one)]
    found: list[str | int] = []
    for one in interfaces:
        found.extend([str(a.ip) for a in one.addresses if isinstance(a, IPv4Interface)][:1])
        local = [a.ip for a in _link_local(one) if shared.count(a.ip) == 1]
        if local:
            found.append(str(local[0]))
        elif any(isinstance(a, IPv6Interface) for a in one.addresses):
            found.append(one.index)
    return found


def _link_local(one: Interface) -> list[IPv6Interface]:
    return [a for a in one.addresses if isinstance(a, IPv6Interface) and a.ip.is_link_local]


def hosts(interfaces: Sequence[Interface]) -> list[str]:
    """The addresses by which this node may be reached: IPv4, global IPv6, link-local."""
    every = [address.ip for one in interfaces for address in one.addresses]
    ordered = sorted(dict.fromkeys(every), key=lambda ip: (ip.version, ip.is_link_local))
    return [str(ip) for ip in ordered[:_MAX_ADDRESSES]]


def near(addresses: Iterable[str], interfaces: Sequence[Interface]) -> tuple[str, ...]:
    """Of the addresses of an advert those a peer may have, nearest first.

    Anybody may advertise anything: an address beyond the site, of this machine's loopback or of
    many machines is not one that a node connects to because it was told so.
    """
    ranked = []
    for text in addresses:
        rank = _distance(text, interfaces)
        if rank is not None:
            ranked.append((rank, text))
    ranked.sort(key=lambda pair: pair[0])
    return tuple(dict.fromkeys(text for _, text in ranked))[:_MAX_ADDRESSES]


def _distance(text: str, interfaces: Sequence[Interface]) -> int | None:
    try:
        ip = ip_address(text)
    except ValueError:
        return None
    if ip.is_loopback or ip.is_multicast or ip.is_unspecified or ip.is_reserved:
        return 0 if ip.is_loopback and _on_link(ip, interfaces) else None
    if isinstance(ip, IPv6Address) and ip.is_link_local:
        indexes = {str(one.index) for one in interfaces}
        return 1 if ip.scope_id in indexes else None
    if _on_link(ip, interfaces):
        return 0
    return 2 if ip.is_private else None


def _on_link(ip: IPv4Address | IPv6Address, interfaces: Sequence[Interface]) -> bool:
    return any(ip in address.network for one in interfaces for address in one.addresses)
