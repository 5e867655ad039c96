"""Which addresses may be reached, and what an invocation leaves behind: nothing."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import pytest

from edge.application.hosts import AllowedHosts
from edge.wasi.outbound import Egress, Grants, Limits, Outbound, Resolver


def grants(*hosts: str, blocked: str | None = None) -> Grants:
    networks = (ipaddress.ip_network(blocked),) if blocked else ()
    return Grants(AllowedHosts.parse(hosts), blocked=networks)


LOCAL = [
    "127.0.0.1",
    "127.8.9.10",
    "::1",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "169.254.169.254",
    "fe80::1",
    "fe80::1%eth0",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
    "240.0.0.1",
    "::ffff:127.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
]
OTHER = ["93.184.216.34", "192.168.1.20", "10.0.0.5", "2606:2800:220:1::1", "fd00::7"]


@pytest.mark.parametrize("address", LOCAL)
def test_a_name_does_not_lead_to_special_addresses(address: str) -> None:
    assert not grants("http://a.example").allows_address("http", "a.example", address, 80)
    assert not grants("http://*.example").allows_address("http", "a.example", address, 80)


@pytest.mark.parametrize("address", OTHER)
def test_a_name_leads_to_public_and_private_addresses(address: str) -> None:
    assert grants("http://a.example").allows_address("http", "a.example", address, 80)


@pytest.mark.parametrize("address", LOCAL)
def test_a_grant_of_any_host_is_one_of_every_address(address: str) -> None:
    assert grants("http://*:*").allows_address("http", "a.example", address, 80)


def test_a_grant_of_an_address_or_a_network_reaches_it_by_name_too() -> None:
    for entry in ("http://127.0.0.1:80", "http://127.0.0.0/8:80"):
        made = grants("http://a.example", entry)
        assert made.allows_address("http", "a.example", "127.0.0.1", 80)
        assert made.allows_address("http", "a.example", "::ffff:127.0.0.1", 80)
        assert not made.allows_address("http", "a.example", "127.0.0.1", 81)
        assert not made.allows_address("https", "a.example", "127.0.0.1", 80)


def test_localhost_is_loopback_and_nothing_else() -> None:
    made = grants("http://localhost:*")
    assert made.allows_address("http", "localhost", "127.0.0.1", 80)
    assert made.allows_address("http", "localhost", "::1", 80)
    assert not made.allows_address("http", "localhost", "169.254.1.1", 80)
    assert not made.allows_address("http", "localhost.evil.example", "127.0.0.1", 80)


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203"])
def test_a_blocked_network_is_blocked_whatever_is_granted(address: str) -> None:
    made = grants("*://*:*", "http://10.1.2.3", blocked="10.0.0.0/8")
    assert not made.allows_address("http", "a.example", address, 80)
    assert not made.allows_address("http", None, address, 80)


async def test_a_looked_up_name_grants_its_addresses_to_sockets() -> None:
    names = {"db.example": ["192.168.1.9"], "evil.example": ["127.0.0.1"], "other": ["10.9.9.9"]}
    egress = Egress(Resolver(lambda name: names[name]))
    outbound = Outbound(grants("tcp://db.example:5432", "tcp://evil.example:*"), egress)
    assert not outbound.allows_socket("tcp", "192.168.1.9", 5432)
    for name in names:
        await outbound.lookup(name)
    assert outbound.allows_socket("tcp", "192.168.1.9", 5432)
    assert not outbound.allows_socket("tcp", "192.168.1.9", 5433)
    assert not outbound.allows_socket("udp", "192.168.1.9", 5432)
    assert not outbound.allows_socket("tcp", "127.0.0.1", 80)
    assert not outbound.allows_socket("tcp", "10.9.9.9", 5432)
    assert not Outbound(outbound.grants, egress).allows_socket("tcp", "192.168.1.9", 5432)
    egress.resolver.close()


async def test_what_was_learned_is_bounded() -> None:
    egress = Egress(Resolver(lambda name: [f"10.0.0.{int(name) % 200}", "10.1.1.1"]))
    outbound = Outbound(grants("tcp://*:*"), egress)
    for number in range(300):
        await outbound.lookup(str(number))
    assert len(outbound._learned) == 256
    egress.resolver.close()


async def test_the_system_resolver_knows_localhost() -> None:
    resolver = Resolver()
    assert {"127.0.0.1", "::1"} & set(await resolver.resolve("localhost"))
    with pytest.raises(socket.gaierror):
        await resolver.resolve("does-not-exist.invalid")
    resolver.close()


async def test_a_name_without_addresses_is_an_error() -> None:
    resolver = Resolver(lambda _: [])
    with pytest.raises(socket.gaierror):
        await resolver.resolve("a")
    resolver.close()
    resolver.close()


async def test_close_cancels_what_runs_and_waits_for_what_may_finish() -> None:
    outbound, log = Outbound(Grants(), Egress()), []

    async def work(name: str, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
            log.append(f"{name} done")
        except asyncio.CancelledError:
            log.append(f"{name} cancelled")
            raise

    outbound.start(work("a", 60), name="a")
    outbound.start(work("b", 0.02), name="b", may_finish=lambda: True)
    assert outbound.busy
    await asyncio.sleep(0)
    await outbound.close()
    assert log == ["a cancelled", "b done"]
    assert not outbound.busy
    await outbound.close()


async def test_a_cancelled_close_ends_the_rest() -> None:
    outbound = Outbound(Grants(), Egress())
    outbound.start(asyncio.sleep(60), name="slow", may_finish=lambda: True)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await outbound.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not outbound.busy


def test_connections_are_counted() -> None:
    outbound = Outbound(Grants(limits=Limits(connections=1)), Egress())
    assert outbound.acquire()
    assert not outbound.acquire()
    outbound.release()
    assert outbound.egress.open == 0
