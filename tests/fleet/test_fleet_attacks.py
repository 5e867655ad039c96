"""Strangers and turncoats: nothing of theirs is taken, they are shown, and work goes on."""

from __future__ import annotations

import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fleet_attackers import (
    Papers,
    advertising,
    ask,
    authority_of,
    claim,
    foreign_authority,
    impostor,
    random_id,
    silent_connections,
)
from fleet_lab import (
    FULL,
    REGISTRY,
    Board,
    Lab,
    Machine,
    MiB,
    all_know_all,
    application,
    form,
    lab,
    needs_root,
    processor,
    promised,
    resident,
    say,
    stop,
    token_of,
    until,
    views,
)

from edge.fleet import certificates

pytestmark = needs_root


@pytest.fixture(autouse=True)
def settled() -> None:
    """Nodes that a test starts anew live on for the next one; the lab ends them all."""


Guest = Callable[[str], Path]

PEER = "/edge/v1/peer"
SIZE = 6 * MiB  # large enough to be fetched in parts
TURNCOAT = Path(__file__).parent.parent / "fleet_turncoat.py"
# What tests/fleet_turncoat.py can do.
LIES: tuple[str, ...] = ("10 GB", "stalls", "wrong bytes")
TALK: tuple[str, ...] = ("talk 10 GB", "talk hangs")
if FULL:
    LIES += ("breaks", "refuses", "board 10 GB", "board hangs")
    TALK += ("talk nonsense",)


@dataclass
class Site:
    net: Lab
    nodes: list[Board]
    turncoat: Board
    evil: Machine

    @property
    def fleet(self) -> str:
        (node, *_) = self.nodes
        authority = (node.state / "identity" / "authority.pem").read_bytes()
        return certificates.authority_id(authority)

    def row(self, board: Board, name: str) -> dict[str, object]:
        (row,) = (peer for peer in board.peers() if peer["name"] == name)
        return row

    def order(self, lie: str) -> None:
        (self.net.folder / "orders").write_text(lie)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two honest nodes, one that turns, and a machine that is no node."""
    folder = tmp_path_factory.mktemp("net")
    with lab(folder) as net:
        (folder / "orders").write_text("honest")
        turned = net.board(
            "turncoat",
            program=(sys.executable, str(TURNCOAT)),
            environ={
                "TURNCOAT": str(folder / "orders"),
                "TURNCOAT_BLOBS": str(folder / "turncoat" / "state" / "blobs" / "sha256"),
            },
        )
        nodes = net.boards(2)
        turned.start()
        form([*nodes, turned])
        everybody = [*nodes, turned]
        until(lambda: all_know_all(everybody), promised(5), lambda: views(everybody))
        yield Site(net, nodes, turned, net.machine("evil"))


@pytest.fixture(autouse=True)
def unharmed(site: Site) -> Iterator[None]:
    """Whatever is tried, the honest nodes know each other, and none has failed."""
    yield
    one, two = site.nodes
    until(lambda: "n2" in one.knows() and "n1" in two.knows(), 15, lambda: views(site.nodes))
    for board in site.nodes:
        assert "Traceback" not in board.text, board.text


# --- strangers ------------------------------------------------------------------------------------


def papers(site: Site, kind: str, folder: Path) -> Papers:
    now = time.time()  # noqa: TID251
    if kind == "foreign":
        return Papers.issued(folder, foreign_authority(), now)
    if kind == "expired":
        return Papers.issued(folder, authority_of(site.nodes[0]), now - certificates.YEAR - 86400)
    assert kind == "good"
    return Papers.issued(folder, authority_of(site.nodes[0]), now)


def test_an_advert_of_a_node_leads_nobody_to_somebody_else(site: Site, tmp_path: Path) -> None:
    """The advert says: n2 is over there. Who is there has a certificate, of his own fleet."""
    one, two = site.nodes
    own = Papers.of(two).node
    mine = papers(site, "foreign", tmp_path / "papers")
    with (
        impostor(site.evil, mine.context(server=True)) as server,
        advertising(site.evil, [claim(own, site.fleet, site.evil)]),
    ):
        seconds = until(
            lambda: server.connections and site.evil.address in one.tell("peers"),
            promised(10),
            lambda: f"{server}\n{one.tell('peers')}",
        )
        say(f"a spoofed advert of a node: shown after {seconds:.1f} s")
        assert one.knows() == {"n2", "turncoat"}
        assert two.address in str(site.row(one, "n2")["addresses"])
    assert server.received == b""
    assert server.shaken == 0


@pytest.mark.parametrize("kind", ["foreign", "expired"])
def test_a_server_without_a_good_certificate_gets_nothing(
    site: Site, kind: str, tmp_path: Path
) -> None:
    mine = papers(site, kind, tmp_path / "papers")
    before = {board.name: len(board.peers()) for board in site.nodes}
    with (
        impostor(site.evil, mine.context(server=True)) as server,
        advertising(site.evil, [claim(mine.node, site.fleet, site.evil, f"evil-{kind}")]),
    ):
        until(
            lambda: (
                server.connections >= 2
                and all(site.evil.address in board.tell("peers") for board in site.nodes)
            ),
            promised(10),
            lambda: f"{server}\n{views(site.nodes)}",
        )
    assert (server.shaken, server.received) == (0, b"")
    for board in site.nodes:
        alive = [peer for peer in board.peers() if peer["state"] == "alive"]
        assert all(peer["id"] != mine.node for peer in alive)
        assert len(board.peers()) <= before[board.name]


def test_a_client_without_a_good_certificate_gets_nothing(site: Site, tmp_path: Path) -> None:
    node = site.nodes[0]
    foreign, expired, good = (
        papers(site, kind, tmp_path / kind) for kind in ("foreign", "expired", "good")
    )
    assert ask(site.evil, good, node, PEER) == 200, "the attack would not work at all"
    for kind in (foreign, expired, None):
        assert ask(site.evil, kind, node, PEER) == 0
        assert ask(site.evil, kind, node, "/v2/") == 0
    # A member of the fleet, whose node the others do not know yet, gets no further by asking.
    assert ask(site.evil, good, node, "/edge/v1/nothing") == 404


def test_connections_that_say_nothing_keep_nobody_out(site: Site) -> None:
    one, two = site.nodes
    with silent_connections(site.evil, one, 300):
        began = time.monotonic()
        while time.monotonic() - began < 6:
            assert "n1" in two.knows(), views([two])
            assert ask(two, Papers.of(two), one, PEER) == 200
            time.sleep(0.5)


def test_a_node_of_another_fleet_is_a_stranger(site: Site) -> None:
    other = site.net.board("other")
    other.start()
    other.tell("fleet", "init", "--name", "site-a")
    try:
        assert ask(site.evil, Papers.of(other), site.nodes[0], PEER) == 0
        assert ask(site.evil, Papers.of(site.nodes[0]), other, PEER) == 0
        assert other.knows() == set()
        assert "other" not in site.nodes[0].knows()
    finally:
        other.stop()


def test_a_flood_of_adverts_of_this_fleet_costs_little(site: Site) -> None:
    """A hundred nodes that are not there, at an address that does not answer."""
    source = random.Random(5)
    nowhere = site.net.machine("nowhere")
    spoofs = [
        claim(random_id(source), site.fleet, nowhere, f"flood-{number}") for number in range(100)
    ]
    before = [processor(board) for board in site.nodes]
    with advertising(nowhere, spoofs):
        began = time.monotonic()
        time.sleep(6)
        share = [
            (processor(board) - start) / (time.monotonic() - began)
            for board, start in zip(site.nodes, before, strict=True)
        ]
        alive = [board.knows() for board in site.nodes]
    say(f"100 adverts of nodes that are not there: {max(share):.0%} of a core while they come")
    assert max(share) < 0.5
    assert alive == [{"n2", "turncoat"}, {"n1", "turncoat"}]


# --- turncoats ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lie", LIES)
def test_a_peer_that_lies_about_a_blob(site: Site, lie: str, guest: Guest, tmp_path: Path) -> None:
    one, two = site.nodes
    number = LIES.index(lie) + 1
    fresh(site)
    made = application(tmp_path / "app", guest("hello"), SIZE, seed=100 + number)
    name = f"app-{number}"
    reference = f"{REGISTRY}/{name}:1"
    said = site.net.uplink.edge("push", made, reference, "--insecure")
    digest = re.findall(r"sha256:[0-9a-f]{64}", said)[0]
    deploy(site.turncoat, reference, name)
    assert site.turncoat.holds(digest)
    before, resident_before = site.net.uplink.sent(), resident(one)

    site.order(lie)
    began = time.monotonic()
    deploy(one, reference, name)
    seconds = time.monotonic() - began
    assert one.get(f"/{name}/one") == 200
    row = site.row(one, "turncoat")
    sent = site.net.uplink.sent()[one.address] - before[one.address]
    grown = resident(one) - resident_before
    say(
        f"a peer that answers with {lie!r}: live after {seconds:.1f} s, from the registry"
        f" {sent / SIZE:.2f} ×, {row['state']}: {row.get('reason')}"
    )
    assert seconds < promised(20)
    # Its bytes are right where its board is not; another node's board may name it.
    delivers = lie.startswith("board")
    # Who cannot, or does not want to, is no liar.
    assert row["state"] == "penalised" or delivers or lie in ("refuses", "breaks"), row
    assert sent > 0.9 * SIZE or delivers, "the bytes can only be from the registry"
    assert grown < 32 * MiB
    if "10 GB" in lie:
        taken = int((site.net.folder / "orders.sent").read_text())
        assert taken < 4 * SIZE, f"{taken} bytes were taken of it"

    # The other one has an honest peer now.
    deploy(two, reference, name)
    assert two.get(f"/{name}/one") == 200
    assert site.net.uplink.sent()[two.address] - before[two.address] < 0.2 * SIZE


@pytest.mark.parametrize("talk", TALK)
def test_a_peer_whose_word_is_nonsense(site: Site, talk: str) -> None:
    one, two = site.nodes
    fresh(site)
    before = resident(one)
    site.order(talk)
    try:
        seconds = until(
            lambda: "turncoat" not in one.knows() | two.knows(),
            promised(20),
            lambda: views(site.nodes),
        )
        assert (one.knows(), two.knows()) == ({"n2"}, {"n1"})
    finally:
        site.order("honest")
    say(f"a peer that answers with {talk!r}: no peer any more after {seconds:.1f} s")
    assert resident(one) - before < 16 * MiB


def fresh(site: Site) -> None:
    """The turncoat is a peer as any other: what was held against it was its last life's."""
    site.order("honest")
    everybody = [*site.nodes, site.turncoat]
    if all_know_all(everybody):
        return
    stop(site.nodes)
    for board in site.nodes:
        board.launch()
    for board in site.nodes:
        board.ready()
    until(lambda: all_know_all(everybody), promised(15), lambda: views(everybody))


def deploy(board: Board, reference: str, name: str) -> None:
    board.tell("deploy", reference, "--name", name, "--mount", f"/{name}")


def test_a_member_may_not_issue(site: Site) -> None:
    """Only the node with the authority gives tokens and revokes."""
    two = site.nodes[1]
    assert two.edge("fleet", "token").returncode != 0
    assert two.edge("fleet", "revoke", "n1").returncode != 0
    assert token_of(site.nodes[0]).startswith("edge1.")
