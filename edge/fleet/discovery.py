"""Nodes of one network find each other by multicast DNS (RFC 6762, 6763).

What is heard here is a hint: nobody vouches for it. Knows no certificate and asks no peer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

__all__ = ["Advert", "Discovery", "browse"]


@dataclass(frozen=True, slots=True)
class Advert:
    """What a node says of itself, to anybody. Checked for its form only, printable ASCII."""

    id: str
    name: str
    fleet: str
    # Hosts are IP addresses without brackets; link-local IPv6 with "%" and the interface.
    addresses: tuple[tuple[str, int], ...] = ()
    inventory: str = ""
    arch: str = ""
    version: str = ""


class Discovery:
    """Advertises this node and browses for those of its fleet, while it is entered.

    `heard` gets each advert of this fleet when it is new or has changed, never the node's own.
    `gone` gets the id of a node that said goodbye, or that was not heard of for long: a hint too.
    """

    def __init__(
        self,
        me: Advert,
        *,
        interfaces: Sequence[str] = (),
        heard: Callable[[Advert], None],
        gone: Callable[[str], None],
    ) -> None:
        """`me.addresses`: its first port is advertised, the hosts are those of the interfaces.

        `interfaces`: names; none: all that are not virtual.
        """
        self._me = me
        self._interfaces = tuple(interfaces)
        self._heard = heard
        self._gone = gone

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    @property
    def strangers(self) -> int:
        """Adverts seen that were of other fleets, or malformed."""
        return 0

    def update(self, inventory: str) -> None:
        """Advertises another inventory; several within two seconds go out as one."""


async def browse(seconds: float, *, interfaces: Sequence[str] = ()) -> list[Advert]:
    """Every node of any fleet that answers within this time. Nothing of it is authenticated."""
    return []
