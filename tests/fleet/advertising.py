"""Nodes that only advertise and browse: a Discovery each, in a thread in its own network; and
what others may send there.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
from base64 import b32encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from fleet_lab import Lab, Machine, enter, lab, promised, until
from zeroconf import ServiceInfo
from zeroconf._protocol.outgoing import DNSOutgoing

from edge.fleet.adverts import TYPE
from edge.fleet.discovery import Advert, Discovery

T = TypeVar("T")


def made_id(text: str) -> str:
    return b32encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=").lower()


FLEET = made_id("fleet")
ANSWER = 0x8400  # flags of a response


class Advertiser:
    """As a context: entering starts it, leaving says goodbye."""

    def __init__(
        self,
        machine: Machine,
        name: str = "",
        *,
        id: str = "",
        fleet: str = FLEET,
        port: int = 7466,
    ) -> None:
        self.machine = machine
        self.id = id or made_id(machine.name)
        self.me = Advert(
            self.id, name or machine.name, fleet, (("::", port),), "0", "x86_64", "0.1.0"
        )
        self.events: list[tuple[float, Advert | str]] = []
        self.doubles: list[Advert] = []
        self.discovery: Discovery | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()
        self._entered = threading.Event()
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._inside, name=machine.name)

    def __enter__(self) -> Advertiser:
        self._thread.start()
        assert self._entered.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def end(self) -> None:
        if self._loop is not None and self._thread.is_alive():
            with suppress(RuntimeError):  # its loop ends in this moment
                self._loop.call_soon_threadsafe(self._end.set)

    def stop(self) -> float:
        """The seconds that leaving took."""
        began = time.monotonic()
        self.end()
        self._thread.join(10)
        assert not self._thread.is_alive()
        if self._failed:
            raise self._failed[0]
        return time.monotonic() - began

    def tell(self, do: Callable[[Discovery], T]) -> T:
        """Does it on the discovery's own loop."""
        assert self._loop is not None

        async def inside() -> T:
            assert self.discovery is not None
            return do(self.discovery)

        return asyncio.run_coroutine_threadsafe(inside(), self._loop).result(10)

    def adverts(self) -> dict[str, Advert]:
        """The last that was heard of each id that has not gone."""
        found: dict[str, Advert] = {}
        for _, event in list(self.events):
            if isinstance(event, Advert):
                found[event.id] = event
            else:
                found.pop(event, None)
        return found

    def names(self) -> set[str]:
        return {advert.name for advert in self.adverts().values()}

    def hosts(self, id: str) -> set[str]:
        advert = self.adverts().get(id)
        return {host for host, _ in advert.addresses} if advert else set()

    def _inside(self) -> None:
        try:
            enter(self.machine.namespace)
            asyncio.run(self._main())
        except BaseException as exc:  # raised where the thread is waited for
            self._failed.append(exc)
        finally:
            self._entered.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with Discovery(
            self.me, heard=self._event, gone=self._event, doubled=self.doubles.append
        ) as self.discovery:
            self._entered.set()
            await self._end.wait()

    def _event(self, event: Advert | str) -> None:
        self.events.append((time.monotonic(), event))


class Stage:
    """A network with advertisers, as a context."""

    def __init__(self, folder: Path) -> None:
        self._opened = lab(folder)
        self.nodes: list[Advertiser] = []

    def __enter__(self) -> Stage:
        self.lab: Lab = self._opened.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            for node in self.nodes:
                node.end()
            for node in self.nodes:
                node.stop()
        finally:
            self._opened.__exit__(None, None, None)

    def machine(self) -> Machine:
        return self.lab.machine(f"m{len(self.lab.machines)}")

    def node(self, machine: Machine | None = None, name: str = "", **options: str) -> Advertiser:
        """On the network, though not yet known to others."""
        node = Advertiser(machine or self.machine(), name, **options).__enter__()
        self.nodes.append(node)
        return node

    def two(self) -> tuple[Advertiser, Advertiser]:
        """That know each other."""
        first, second = self.node(), self.node()
        self.settle(first, second)
        return first, second

    def settle(self, *nodes: Advertiser, within: float = 3) -> None:
        """Until each of these, or all, knows every other one."""
        some = nodes or tuple(self.nodes)
        until(
            lambda: all(len(node.adverts()) == len(some) - 1 for node in some),
            promised(within),
            lambda: [(node.machine.name, node.names()) for node in some],
        )


def advertised(node: Advertiser) -> str:
    """The name under which it is, or nothing yet."""
    return node.tell(lambda discovery: discovery.name)


def text(id: str, fleet: str = FLEET, **more: str) -> dict[str, str]:
    return {"txtvers": "1", "id": id, "fleet": fleet, **more}


def announcement(
    name: str,
    said: dict[str, str] | bytes,
    hosts: Sequence[str],
    *,
    port: int = 7466,
    ttl: int = 4500,
) -> bytes:
    """What a node with such a TXT record says when it starts, or with ttl 0 as goodbye."""
    info = ServiceInfo(
        TYPE,
        f"{name}.{TYPE}",
        port=port,
        properties=said if isinstance(said, bytes) else dict(said),
        server=f"{name}.local.",
        parsed_addresses=list(hosts),
    )
    out = DNSOutgoing(ANSWER)
    host_ttl = min(ttl, 120)
    for record in (info.dns_pointer(ttl), info.dns_service(host_ttl), info.dns_text(ttl)):
        out.add_answer_at_time(record, 0)
    for address in info.dns_addresses(host_ttl):
        out.add_answer_at_time(address, 0)
    (packet,) = out.packets()
    return packet


def multicast(machine: Machine, *packets: bytes) -> None:
    """Sends as any machine of the network can."""

    def send() -> None:
        own = socket.inet_aton(machine.address)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
            for packet in packets:
                sock.sendto(packet, ("224.0.0.251", 5353))

    machine.call(send)
