"""What discovery decides without a network: interfaces, addresses, adverts, names of peers."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from ipaddress import ip_interface

import pytest
from advertising import made_id
from hypothesis import given
from hypothesis import strategies as st
from zeroconf import ServiceInfo

from edge.fleet import netlink, static
from edge.fleet.adverts import TYPE, Advert, is_instance, label, parse, properties
from edge.fleet.interfaces import Interface, bindings, followed, hosts, is_virtual, near
from edge.fleet.static import StaticPeers, split

ME = Advert(
    made_id("me"), "attic", made_id("fleet"), (("10.0.0.1", 7466),), "a1", "x86_64", "0.1.0"
)


def interface(index: int, name: str, *addresses: str, **more: object) -> Interface:
    found = tuple(ip_interface(address) for address in addresses)
    return Interface(index, name, addresses=found, **more)  # type: ignore[arg-type]


# --- interfaces ---


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("docker0", "bridge"),
        ("br-0123456789ab", "bridge"),
        ("virbr0", "bridge"),
        ("veth12ab", "veth"),
        ("cali77", "veth"),
        ("wg0", "wireguard"),
        ("office", "wireguard"),
        ("anything", "tun"),
        ("tailscale0", "tun"),
        ("cni0", "bridge"),
        ("vxlan7", "vxlan"),
    ],
)
def test_interfaces_of_containers_and_tunnels_are_virtual(name: str, kind: str) -> None:
    assert is_virtual(name, kind, has_device=False)
    assert not is_virtual(name, "", has_device=True)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("eth0", "veth"),  # the network of a container that edge itself runs in
        ("end0", ""),
        ("br0", "bridge"),
        ("br-lan", "bridge"),
        ("bond0", "bond"),
        ("eth0.5", "vlan"),
        ("macvlan0", "macvlan"),
        ("wlan0", ""),
        ("usb0", ""),
    ],
)
def test_networks_of_ones_own_are_not_virtual(name: str, kind: str) -> None:
    assert not is_virtual(name, kind, has_device=False)


def test_interfaces_that_lead_nowhere_are_left_out_unless_they_are_named() -> None:
    good = interface(2, "eth0", "10.0.0.1/24")
    others = [
        interface(1, "lo", "127.0.0.1/8", loopback=True),
        interface(3, "eth1", "10.0.1.1/24", up=False),
        interface(4, "eth2"),
        interface(5, "ppp0", "10.0.2.1/32", point_to_point=True),
        interface(6, "eth3", "10.0.3.1/24", enslaved=True),
        interface(7, "eth4", "10.0.4.1/24", multicast=False),
        interface(8, "docker0", "172.17.0.1/16", kind="bridge"),
    ]
    assert followed([*others, good]) == (good,)
    named = followed([*others, good], ("lo", "docker0", "eth1", "none"))
    assert [one.name for one in named] == ["lo", "docker0"]


def test_each_interface_sends_from_one_address_of_each_family() -> None:
    both = interface(2, "eth0", "10.0.0.1/24", "10.0.0.9/24", "fd00::1/64", "fe80::1/64")
    # A VLAN has the address of the interface below it: only the index tells them apart.
    vlan = interface(5, "eth0.5", "10.0.5.1/24", "fe80::1/64")
    other = interface(6, "wlan0", "fe80::2/64")
    assert bindings([both, vlan, other]) == ["10.0.0.1", 2, "10.0.5.1", 5, "fe80::2"]
    assert hosts([both, other]) == ["10.0.0.1", "10.0.0.9", "fd00::1", "fe80::1", "fe80::2"]


def test_addresses_of_neighbours_come_in_the_order_in_which_they_are_tried() -> None:
    here = [interface(2, "eth0", "10.0.0.1/24", "2001:db8:7::1/64", "fe80::1/64")]
    heard = [
        "192.168.1.5",
        "fe80::5%2",
        "fe80::5%9",
        "fe80::5",
        "10.0.0.5",
        "2001:db8:7::5",
        "2600::5",
        "1.1.1.1",
        "::ffff:1.1.1.1",
        "localhost",
        "10.0.0.5",
        "240.0.0.1",
        "169.254.3.4",
    ]
    assert near(heard, here) == (
        "10.0.0.5",
        "2001:db8:7::5",
        "fe80::5%2",
        "192.168.1.5",
        "169.254.3.4",
    )
    assert len(near([f"10.0.0.{n}" for n in range(2, 99)], here)) == 8


# --- adverts ---


def heard(name: str, text: bytes, port: int = 7466) -> Advert:
    info = ServiceInfo(TYPE, f"{name}.{TYPE}", port=port, properties=text)
    return parse(info.name, info.text, info.properties, port, ["10.0.0.1"])


def txt(*strings: bytes) -> bytes:
    return b"".join(bytes([len(string)]) + string for string in strings)


def test_an_advert_is_heard_as_it_was_said() -> None:
    info = ServiceInfo(TYPE, f"attic.{TYPE}", port=7466, properties=dict(properties(ME)))
    assert info.text.startswith(b"\x09txtvers=1")
    assert len(info.text) < 400  # RFC 6763 §6.2: what fits beside everything else
    assert heard("attic", info.text) == ME


@pytest.mark.parametrize(
    "text",
    [
        b"",
        txt(b"txtvers=1"),
        txt(b"txtvers=2", b"id=" + ME.id.encode(), b"fleet=" + ME.fleet.encode()),
        txt(b"txtvers=1", b"id=" + ME.id.encode().upper(), b"fleet=" + ME.fleet.encode()),
        txt(b"txtvers=1", b"id=" + ME.id.encode(), b"fleet"),
        txt(b"txtvers=1", b"id=" + ME.id.encode(), b"fleet=" + ME.fleet.encode(), b"inv=\xff"),
        txt(b"txtvers=1", b"id=" + ME.id.encode(), b"fleet=" + ME.fleet.encode(), b"v=\x1b[2J"),
        txt(b"ID=x", b"txtvers=1", b"id=" + ME.id.encode(), b"fleet=" + ME.fleet.encode()),
        txt(*(b"x" * 200 for _ in range(7))),
        b"\xff",
    ],
)
def test_a_record_that_is_no_advert_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        heard("attic", text)


@given(st.binary(max_size=600), st.text(max_size=80), st.integers(0, 65535))
def test_whatever_is_heard_is_an_advert_or_refused(text: bytes, name: str, port: int) -> None:
    info = ServiceInfo(TYPE, f"attic.{TYPE}", port=port, properties=text)
    try:
        advert = parse(f"{name}.{TYPE}", text, info.properties, port, [])
    except ValueError:
        return
    assert advert.name.isprintable()
    assert len(advert.name) <= 63


@pytest.mark.parametrize("change", [{"id": "x"}, {"fleet": ""}, {"inv": "a b"}, {"v": "9" * 65}])
def test_an_advert_that_nobody_would_accept_is_not_made(change: dict[str, str]) -> None:
    said = {"inv": ME.inventory, "arch": ME.arch, "v": ME.version, "id": ME.id, "fleet": ME.fleet}
    said.update(change)
    wrong = Advert(
        said["id"], "attic", said["fleet"], ME.addresses, said["inv"], said["arch"], said["v"]
    )
    with pytest.raises(ValueError, match="an advert"):
        properties(wrong)


@given(st.text(max_size=300))
def test_any_name_makes_a_label(name: str) -> None:
    for suffix in ("", "abcd", "abcdefgh"):
        made = label(name, suffix)
        assert is_instance(f"{made}.{TYPE}")
        assert "." not in made
        assert ServiceInfo(TYPE, f"{made}.{TYPE}").get_name() == made


@pytest.mark.parametrize(
    "name", ["", f".{TYPE}", TYPE, f"{'x' * 64}.{TYPE}", f"\ufffd.{TYPE}", f"x.{TYPE}y", "x"]
)
def test_names_that_could_not_be_sent_are_not_kept(name: str) -> None:
    assert not is_instance(name)


# --- the kernel ---


async def test_this_machine_has_a_loopback() -> None:
    (lo,) = (one for one in netlink.interfaces() if one.loopback)
    assert lo.name == "lo"
    assert ip_interface("127.0.0.1/8") in lo.addresses
    assert lo.index == socket.if_nametoindex("lo")


async def test_what_changes_within_the_delay_is_told_at_once() -> None:
    told: list[frozenset[int] | None] = []
    done = asyncio.Event()

    def changed(disturbed: frozenset[int] | None) -> None:
        told.append(disturbed)
        done.set()

    with netlink.Watcher(changed, delay=0.05) as watcher:
        link = struct.Struct("=BxHiII")
        watcher._happened(16, link.pack(0, 1, 3, 0x41, 0))  # it runs
        watcher._happened(16, link.pack(0, 1, 4, 0x01, 0))  # it lost its carrier
        watcher._happened(21, struct.pack("=BBBBI", 2, 24, 0, 0, 5))
        watcher._happened(16, b"short")
        async with asyncio.timeout(5):
            await done.wait()
        assert told == [frozenset({4, 5})]
        done.clear()
        for index in range(1000):
            watcher._happened(17, link.pack(0, 1, index, 0, 0))
        async with asyncio.timeout(5):
            await done.wait()
        assert told[1:] == [None]


@given(st.binary(max_size=400))
def test_the_kernel_could_say_anything(data: bytes) -> None:
    for _, body in netlink._messages(data):
        netlink._attributes(body)


# --- peers that are configured ---


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("10.0.0.7", ("10.0.0.7", 7466)),
        ("10.0.0.7:99", ("10.0.0.7", 99)),
        ("fd00::7", ("fd00::7", 7466)),
        ("[fd00::7]", ("fd00::7", 7466)),
        ("[fd00::7]:99", ("fd00::7", 99)),
        ("[fe80::1%eth0]:99", ("fe80::1%eth0", 99)),
        ("pi.lan", ("pi.lan", 7466)),
        ("pi.lan:99", ("pi.lan", 99)),
    ],
)
def test_a_peer_is_a_host_and_perhaps_a_port(peer: str, address: tuple[str, int]) -> None:
    assert split(peer) == address


@pytest.mark.parametrize(
    "peer", ["", ":7", "pi:", "pi:0", "pi:65536", "pi:x", "a b", "[pi]:7", "[fd00::7", "a:b:7"]
)
def test_what_is_no_peer_is_refused(peer: str) -> None:
    with pytest.raises(ValueError, match=r"must be a host|port"):
        split(peer)


class Found(dict[str, tuple[tuple[str, int], ...]]):
    """What was found; waits for a peer that is looked up after the others."""

    def __init__(self, last: str) -> None:
        super().__init__()
        self._last = last
        self._done = asyncio.Event()

    def __call__(self, peer: str, addresses: tuple[tuple[str, int], ...]) -> None:
        self[peer] = addresses
        if peer == self._last:
            self._done.set()

    async def last(self) -> None:
        async with asyncio.timeout(30):
            await self._done.wait()


async def test_names_of_peers_are_looked_up_and_addresses_are_not() -> None:
    found = Found("localhost:99")
    peers = ["no-such-host.invalid", "localhost:99", "10.0.0.7"]
    async with StaticPeers(peers, found) as static_peers:
        assert found == {"10.0.0.7": (("10.0.0.7", 7466),)}
        await found.last()
        assert ("127.0.0.1", 99) in found["localhost:99"]
        assert set(static_peers.problems) == {"no-such-host.invalid"}
        assert "no-such-host.invalid" not in found


async def test_a_resolver_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = threading.Event()

    def resolve(host: str, port: int) -> tuple[tuple[str, int], ...]:
        if host == "slow.lan":
            hanging.wait(30)
            raise OSError("gone")
        return (("10.0.0.8", port),)

    monkeypatch.setattr(static, "_addresses", resolve)
    monkeypatch.setattr(static, "_DEADLINE", 0.2)
    found = Found("quick.lan")
    try:
        async with StaticPeers(["slow.lan", "quick.lan"], found) as static_peers:
            await found.last()
            assert "not resolved within" in static_peers.problems["slow.lan"]
            assert found == {"quick.lan": (("10.0.0.8", 7466),)}
    finally:
        hanging.set()
