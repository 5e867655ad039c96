"""Discovery on networks that come, go and change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from advertising import Stage, advertised
from fleet_lab import ip, needs_root, promised, until

pytestmark = needs_root


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as made:
        yield made


def test_a_changed_address_is_followed(stage: Stage) -> None:
    first, second = stage.two()
    first.machine.take_address(stage.lab.spare_number())
    new = (first.machine.address, 7466)
    # What it had may be remembered for a while, behind what it has.
    until(
        lambda: second.adverts()[first.id].addresses[0] == new, promised(6), lambda: second.events
    )
    assert first.machine.address6 in second.hosts(first.id)


def test_a_flapping_link_is_survived(stage: Stage) -> None:
    first, second = stage.two()
    for state in ("down", "up", "down", "up", "down"):
        first.machine.cable(state)
    # What is said meanwhile reaches nobody.
    first.tell(lambda discovery: discovery.update("7"))
    until(lambda: not first.tell(lambda discovery: discovery._followed), promised(6))
    first.machine.cable("up")
    until(lambda: second.adverts()[first.id].inventory == "7", promised(8), lambda: second.events)
    until(lambda: first.machine.address in second.hosts(first.id), promised(4))


def test_a_link_that_was_lost_for_a_moment_is_asked_again(stage: Stage) -> None:
    first, second = stage.two()
    # Shorter than changes are collected: the interface is the same before and after.
    first.machine.cable("down")
    second.tell(lambda discovery: discovery.update("8"))
    third = stage.node()
    stage.settle(second, third)
    first.machine.cable("up")
    until(
        lambda: third.id in first.adverts() and first.adverts()[second.id].inventory == "8",
        promised(6),
        lambda: first.events,
    )


def test_a_board_that_boots_without_a_network_is_found_once_it_has_one(stage: Stage) -> None:
    late = stage.machine()
    late.cable("down")
    stage.node(late)
    early = stage.node()
    until(lambda: advertised(early) != "", promised(3))
    late.cable("up")
    stage.settle(within=8)


def test_networks_of_containers_are_left_out(stage: Stage) -> None:
    host = stage.machine()
    for number, (name, address) in enumerate(
        (
            ("docker0", "172.17.0.1/16"),
            ("br-0123456789ab", "172.18.0.1/16"),
            ("virbr0", "10.9.0.1/24"),
            ("br-lan", "192.168.7.1/24"),
        )
    ):
        ip("link", "add", name, "type", "bridge", namespace=host.namespace)
        ip("addr", "add", address, "dev", name, namespace=host.namespace)
        ip("link", "set", name, "up", namespace=host.namespace)
        # Without a port that is up it has no carrier.
        port, peer = f"veth{number}a", f"veth{number}b"
        ip("link", "add", port, "type", "veth", "peer", "name", peer, namespace=host.namespace)
        ip("link", "set", port, "master", name, "up", namespace=host.namespace)
        ip("link", "set", peer, "up", namespace=host.namespace)
    node, other = stage.node(host), stage.node()
    stage.settle()
    four = {found for found in other.hosts(node.id) if ":" not in found}
    assert four == {host.address, "192.168.7.1"}
