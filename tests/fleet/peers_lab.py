"""Fleets within one process: real identities, connections and clocks, on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edge.config import Address
from edge.fleet import authority, certificates, identity, keeping
from edge.fleet.authority import Authority
from edge.fleet.identity import Identity
from edge.fleet.peers import Facts, Peers, Settings
from edge.fleet.probe import Times
from edge.fleet.wire import Endpoint
from edge.platform.clock import TrustedClock

PATIENCE = 30.0
# Everything is near here.
FAST = Times(interval=0.5, probe=1.0, again=1.0, suspect=0.5, back_off=2.0)


@dataclass
class Fleet:
    """One authority and its nodes. `folder`: where they keep what they keep."""

    folder: Path
    clock: TrustedClock = field(default_factory=TrustedClock)

    def __post_init__(self) -> None:
        directory = self.folder / "authority"
        self.authority: Authority = authority.found(directory, "lab", self.clock)
        self.issuer = ""

    def member(self, name: str) -> Identity:
        """A node of this fleet that was let in."""
        kept = keeping.Kept(self.folder / name / keeping.DIRECTORY)
        key = certificates.new_key()
        issued = self.authority.admit_self(certificates.new_request(key), name)
        self.issuer = self.issuer or issued.node
        kept.write(kept.key, key)
        kept.write(kept.authority, self.authority.certificate)
        kept.write(kept.certificate, issued.pem)
        kept.write_membership(
            keeping.Membership(
                issued.node, self.authority.fleet, "lab", self.issuer, (), issued.until
            )
        )
        found = identity.load(self.folder / name, self.clock)
        assert found is not None
        return found


def peers(
    of: Identity,
    name: str,
    *,
    static: Sequence[str] = (),
    times: Times = FAST,
    clock: Callable[[], float] | None = None,
    listen: str = "127.0.0.1:0",
) -> Peers:
    def tell(port: int) -> tuple[Facts, tuple[Endpoint, ...]]:
        return Facts(name, port or 1, "0.1", "test"), (("127.0.0.1", port or 1),)

    host, _, port = listen.rpartition(":")
    settings = Settings(Address(host, int(port)), tuple(static), times=times)
    return Peers(
        of, settings, tell=tell, date=clock or TrustedClock(), now=asyncio.get_running_loop().time
    )


@asynccontextmanager
async def group(fleet: Fleet, count: int) -> AsyncIterator[list[Peers]]:
    """So many nodes that know each other; all but the first were told of the first."""
    async with AsyncExitStack() as stack:
        found: list[Peers] = []
        for number in range(count):
            static = [str(found[0].address)] if found else []
            one = peers(fleet.member(f"n{number}"), f"n{number}", static=static)
            found.append(await stack.enter_async_context(one))
        await until(lambda: all(len(names(one)) == count - 1 for one in found))
        yield found


def names(one: Peers) -> set[str]:
    """Of those that it takes for alive."""
    return {one.table.peers[neighbour.id].record.facts.name for neighbour in one.alive()}


async def until(true: Callable[[], object], seconds: float = PATIENCE) -> float:
    """Waits until it is true; the seconds that took."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while not true():
        assert loop.time() - begun < seconds, "it did not become true"
        await asyncio.sleep(0.02)
    return loop.time() - begun
