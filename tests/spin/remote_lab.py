"""What tests of outbound connections share: a node's way out, and what its guests may reach."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from edge.application.hosts import AllowedHosts
from edge.engine.host import Err
from edge.spin.platform import Brokers, Platform
from edge.wasi.outbound import Egress, Grants, Limits, Outbound, Resolver


class Node:
    """A node's way out; `names` is what its resolver knows."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}
        self.lookups: list[str] = []
        self.egress = Egress(Resolver(self.lookup))

    def lookup(self, name: str) -> list[str]:
        self.lookups.append(name)
        return self.names.get(name, [])

    def context(self, *hosts: str, connections: int = 16, **brokers: Any) -> Any:
        """Of an invocation that may reach these hosts."""
        grants = Grants(AllowedHosts.parse(hosts), limits=Limits(connections=connections))
        platform = Platform(brokers=Brokers(**brokers))
        return SimpleNamespace(platform=platform, outbound=Outbound(grants, self.egress))

    async def closed(self) -> None:
        """Returns when every connection was given back."""
        async with asyncio.timeout(20):
            while self.egress.open:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # the limit tells nobody


@contextmanager
def way_out() -> Iterator[Node]:
    node = Node()
    yield node
    node.egress.resolver.close()
    assert node.egress.open == 0, "connections that nobody gave back"


async def error(work: Awaitable[Any]) -> Any:
    """The error that a guest gets."""
    with pytest.raises(Err) as raised:
        await work
    return raised.value.payload
