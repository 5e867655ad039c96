"""Anybody may multicast: what that costs, and what it must not lead to."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from advertising import (
    ANSWER,
    Advertiser,
    Stage,
    advertised,
    announcement,
    made_id,
    multicast,
    text,
)
from fleet_lab import ip, needs_root, promised, until
from zeroconf._dns import DNSPointer, DNSQuestion
from zeroconf._protocol.outgoing import DNSOutgoing

from edge.fleet.adverts import TYPE
from edge.fleet.browser import Browser

pytestmark = needs_root


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as made:
        yield made


_PTR, _IN = 12, 1


def watch(stage: Stage) -> Advertiser:
    node = stage.node()
    until(lambda: advertised(node) != "", promised(3))
    return node


def browser(node: Advertiser) -> Browser:
    assert node.discovery is not None
    assert node.discovery._browser is not None
    return node.discovery._browser


def test_strangers_cost_little_and_hide_nobody(stage: Stage) -> None:
    attacker, watching = stage.machine(), watch(stage)
    here, other = [attacker.address], made_id("other")
    neighbours = [announcement(f"x{n}", text(made_id(f"x{n}"), other), here) for n in range(60)]
    malformed = [
        announcement("bad1", text("short"), here),
        announcement("bad2", text(made_id("b"), inv="a b"), here),
        announcement("bad3", text(made_id("b"), v="9" * 65), here),
        announcement("bad4", {**text(made_id("b")), "txtvers": "2"}, here),
        announcement("bad5", b"\xff\xfe\x00", here),
        announcement("bad6", text(made_id("b")), here, port=0),
        announcement("bad7", text(made_id("b"), arch="\x07\x1b"), here),
        b"\x00" * 40,
        b"\xff" * 1400,
        b"",
    ]
    # Pointers to services that never answer: each would be asked for.
    pointers = []
    for start in range(0, 3000, 20):
        out = DNSOutgoing(ANSWER)
        for n in range(start, start + 20):
            alias = f"ghost{n}.{TYPE}"
            out.add_answer_at_time(DNSPointer(TYPE, _PTR, _IN, 4500, alias, 0.0), 0)
        pointers += out.packets()
    before = stage.lab.traffic()[watching.machine.name]
    multicast(attacker, *neighbours, *malformed, *pointers, *neighbours)

    late = stage.node()
    until(lambda: late.id in watching.adverts(), promised(6), watching.names)
    until(lambda: len(browser(watching).strangers) >= 67, promised(4))
    assert set(watching.adverts()) == {late.id}
    assert watching.tell(lambda discovery: discovery.strangers) == 67
    assert len(browser(watching)._pending) <= 1024
    assert len(browser(watching)._unresolved) <= 64
    assert len(browser(watching)._resolvers) <= 4
    # It is not made to shout: 3,000 names bring a few questions a second.
    sent = stage.lab.traffic()[watching.machine.name].since(before)
    assert sent.sent_packets < 200


def test_a_flood_of_names_of_our_fleet_is_kept_within_bounds(stage: Stage) -> None:
    attacker, watching = stage.machine(), watch(stage)
    said = {
        made_id(f"flood{n}"): announcement(
            f"flood{n}", text(made_id(f"flood{n}")), [attacker.address]
        )
        for n in range(1000)
    }

    def all_heard() -> bool:
        # Again what a full socket lost: this is about what was received.
        missing = [packet for id, packet in said.items() if id not in watching.adverts()]
        multicast(attacker, *missing[:100])
        return not missing

    until(all_heard, promised(20))
    assert len(browser(watching).adverts) == 512
    assert len(browser(watching)._host) == 512
    late = stage.node()
    until(lambda: late.id in watching.adverts(), promised(4))


def test_an_advert_leads_to_no_address_beyond_the_site(stage: Stage) -> None:
    attacker, watching = stage.machine(), watch(stage)
    hosts = [
        "127.0.0.1",
        "8.8.8.8",
        "255.255.255.255",
        "224.0.0.1",
        "0.0.0.0",
        "::1",
        "2600::1",
        "ff02::1",
        "192.168.3.4",
        attacker.address,
    ]
    lure = made_id("lure")
    multicast(attacker, announcement("lure", text(lure), hosts))
    until(lambda: lure in watching.adverts(), promised(3))
    near = ((attacker.address, 7466), ("192.168.3.4", 7466))
    assert watching.adverts()[lure].addresses == near


def test_nobody_beyond_the_local_network_is_answered(stage: Stage) -> None:
    node, asker = watch(stage), stage.machine()
    for machine, public in ((node.machine, "203.0.113.1/24"), (asker, "203.0.113.5/24")):
        ip("addr", "add", public, "dev", "eth0", namespace=machine.namespace)
    out = DNSOutgoing(0, multicast=False)
    out.add_question(DNSQuestion(TYPE, _PTR, _IN))
    (question,) = out.packets()

    def answered(source: str) -> bool:
        def ask() -> bool:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((source, 0))
                sock.settimeout(2)
                sock.sendto(question, (node.machine.address, 5353))
                try:
                    return node.id.encode() in sock.recv(9000)
                except TimeoutError:
                    return False

        return asker.call(ask)

    assert not answered("203.0.113.5")
    assert answered(asker.address)
    # Also once interfaces have changed.
    node.machine.take_address(stage.lab.spare_number())
    until(lambda: answered(asker.address), promised(10))
    ip("addr", "add", "203.0.113.1/24", "dev", "eth0", namespace=node.machine.namespace)
    assert not answered("203.0.113.5")


def test_names_that_cannot_be_sent_again_are_not(stage: Stage) -> None:
    attacker, watching = stage.machine(), watch(stage)
    packet = announcement("A" * 60, text(made_id("odd")), [attacker.address])
    # Not UTF-8: as text each byte takes three, more than a label has.
    multicast(attacker, packet.replace(b"A" * 60, b"\xff" * 60))
    multicast(attacker, announcement("marker", text(made_id("marker")), [attacker.address]))
    until(lambda: made_id("marker") in watching.adverts(), promised(3))
    assert set(watching.adverts()) == {made_id("marker")}
    watching.tell(lambda _: browser(watching).ask())


def test_an_advert_in_our_own_name_is_no_peer(stage: Stage) -> None:
    attacker = stage.machine()
    node, watching = stage.two()
    here, marker = [attacker.address], made_id("marker")
    multicast(attacker, announcement("double", text(node.id), here))
    multicast(attacker, announcement("marker", text(marker), here))
    for one in (node, watching):
        until(lambda one=one: marker in one.adverts(), promised(3))
    assert node.id not in node.adverts()

    # To others it is a hint; that the double goes does not take the node with it.
    multicast(attacker, announcement("double", text(node.id), here, ttl=0))
    multicast(attacker, announcement("marker", text(marker), [], ttl=0))
    until(lambda: marker not in watching.adverts(), promised(3))
    assert node.id in watching.adverts()


def test_who_claims_our_name_for_ever_is_answered_ever_more_seldom(stage: Stage) -> None:
    attacker, node = stage.machine(), watch(stage)
    before = stage.lab.traffic()[node.machine.name]
    rivals = [f"{digit}{'a' * 51}" for digit in "234567"]

    def claim() -> bool:
        name = advertised(node)
        if not name:  # it is taking another one
            return False
        for rival in rivals:  # each is new to who has cached the one before
            multicast(attacker, announcement(name, text(rival), [attacker.address]))
        return name.endswith(f"-{node.id[:8]}")

    # It yields twice, to lower ids, and then keeps the name that only somebody who means it has.
    if node.id > rivals[-1]:
        until(claim, promised(15))
    for _ in range(20):
        claim()
    sent = stage.lab.traffic()[node.machine.name].since(before)
    assert sent.sent_packets < 200
    assert node.tell(lambda discovery: discovery.problem) is None
