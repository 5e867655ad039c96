"""Nodes that find each other by multicast DNS, each in a network of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from advertising import FLEET, Stage, advertised, made_id
from fleet_lab import ip, needs_root, promised, until

from edge.fleet.adverts import Advert
from edge.fleet.discovery import browse

pytestmark = needs_root


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as made:
        yield made


def test_five_nodes_find_each_other_and_one_says_goodbye(stage: Stage) -> None:
    first, *others = nodes = [stage.node() for _ in range(5)]
    stage.settle(*nodes)
    heard = others[0].adverts()[first.id]
    assert (heard.name, heard.fleet, heard.inventory) == (first.machine.name, FLEET, "0")
    assert (heard.arch, heard.version) == ("x86_64", "0.1.0")
    own, own6, local = heard.addresses
    assert (own, own6) == ((first.machine.address, 7466), (first.machine.address6, 7466))
    # Link-local, with the number of the interface where it was heard.
    assert local[0].startswith("fe80::")
    assert local[0].partition("%")[2].isdigit()

    assert first.stop() < 2
    until(lambda: not any(first.id in node.adverts() for node in others), promised(2))


def test_nodes_without_ipv4_find_each_other(stage: Stage) -> None:
    machines = [stage.machine(), stage.machine()]
    for one in machines:
        ip("-4", "addr", "flush", "dev", "eth0", namespace=one.namespace)
    nodes = [stage.node(one) for one in machines]
    stage.settle()
    assert machines[0].address6 in nodes[1].hosts(nodes[0].id)


def test_inventories_that_follow_each_other_quickly_go_out_as_one(stage: Stage) -> None:
    first, second = stage.two()
    for number in range(1, 51):
        first.tell(lambda discovery, number=number: discovery.update(str(number)))
    until(lambda: second.adverts()[first.id].inventory == "50", promised(4))
    heard = [event for _, event in second.events if isinstance(event, Advert)]
    assert len({advert.inventory for advert in heard}) <= 3


@pytest.mark.parametrize("names", [("hall", "hall"), ("hall", "attic")])
def test_a_copy_of_a_node_is_noticed_and_the_node_itself_is_not(
    stage: Stage, names: tuple[str, str]
) -> None:
    alone = stage.node()
    nodes = [stage.node(name=name, id=made_id("copied")) for name in names]
    until(lambda: any(node.doubles for node in nodes), promised(6))
    places = {node: {node.machine.address, node.machine.address6} for node in nodes}
    for node in nodes:
        said = {host for advert in node.doubles for host, _ in advert.addresses}
        assert not said & places[node]
    assert not alone.doubles


def test_of_two_nodes_with_one_name_one_takes_another(stage: Stage) -> None:
    nodes = [stage.node(name="kitchen") for _ in range(2)]
    watching = stage.node()
    until(
        lambda: len(watching.adverts()) == 2 and len(watching.names()) == 2,
        promised(6),
        lambda: (watching.names(), [advertised(node) for node in nodes]),
    )
    stage.settle(within=6)
    assert "kitchen" in watching.names()
    (other,) = watching.names() - {"kitchen"}
    (renamed,) = (node for node in nodes if advertised(node) == other)
    assert other == f"kitchen-{renamed.id[:4]}"


def test_names_that_were_taken_apart_are_settled_when_the_networks_join(stage: Stage) -> None:
    machines = [stage.machine(), stage.machine()]
    stage.lab.partition([], [machines[0]], [machines[1]])
    nodes = [stage.node(one, "hall") for one in machines]
    until(lambda: all(advertised(node) == "hall" for node in nodes), promised(3))
    stage.lab.heal()
    # No interface changed: it is by the next thing that either says.
    nodes[0].tell(lambda discovery: discovery.update("1"))
    loser = max(nodes, key=lambda node: node.id)
    until(
        lambda: {advertised(node) for node in nodes} == {"hall", f"hall-{loser.id[:4]}"},
        promised(10),
        lambda: [advertised(node) for node in nodes],
    )
    assert advertised(loser) != "hall"
    stage.settle(within=10)


def test_browsing_needs_no_node(stage: Stage) -> None:
    nodes = stage.two()
    stranger = stage.node(fleet=made_id("other"))
    until(lambda: advertised(stranger) != "", promised(3))
    found = stage.machine().call(lambda: asyncio.run(browse(1.5)))
    assert {advert.id for advert in found} == {node.id for node in (*nodes, stranger)}
    order = [(advert.fleet, advert.name) for advert in found]
    assert order == sorted(order)


def test_leaving_is_quick_without_a_network_or_before_it_was_used(stage: Stage) -> None:
    node = stage.node()
    until(lambda: advertised(node) != "", promised(3))
    ip("link", "del", "eth0", namespace=node.machine.namespace)
    assert node.stop() < 2
    assert stage.node().stop() < 2
