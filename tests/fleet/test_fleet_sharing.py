"""What one node of a fleet has, the others need not fetch over the uplink."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from fleet_lab import (
    REGISTRY,
    Board,
    Lab,
    MiB,
    all_know_all,
    application,
    entry,
    form,
    lab,
    needs_root,
    promised,
    say,
    until,
    views,
)

pytestmark = needs_root
Guest = Callable[[str], Path]

SIZE = 20 * MiB
# A node that took the uplink and died is given up after 10 s at most, if it is idle; what is left
# is fetched at the rate of the uplink.
TAKEN_OVER = 10.0
REFERENCE = f"{REGISTRY}/big:stable"


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path) as made:
        yield made


class Publisher:
    """Pushes version after version of one application, each with a new layer and a new route."""

    def __init__(self, net: Lab, wasm: Path, size: int = SIZE) -> None:
        self.net, self.wasm, self.size = net, wasm, size
        self.layers: list[str] = []

    def push(self, reference: str = REFERENCE) -> str:
        """The route that the new version answers on."""
        number = len(self.layers) + 1
        folder = self.net.folder / f"version-{number}"
        made = application(folder, self.wasm, self.size, seed=number, route=f"/v{number}")
        data = (made / "data" / "blob.bin").read_bytes()
        self.layers.append(f"sha256:{hashlib.sha256(data).hexdigest()}")
        self.net.uplink.edge("push", made, reference, "--insecure")
        return f"/v{number}"


def live(boards: Sequence[Board], route: str, seconds: float) -> float:
    """How long it takes until all of them serve it."""

    def missing() -> list[str]:
        return [board.name for board in boards if board.get(route) != 200]

    return until(
        lambda: not missing(), seconds, lambda: f"{missing()} lack {route}\n{views(boards)}"
    )


def uplink_since(net: Lab, before: dict[str, int]) -> dict[str, int]:
    return {address: sent - before.get(address, 0) for address, sent in net.uplink.sent().items()}


def whole(board: Board, layer: str) -> bool:
    """What it holds under that digest is just that."""
    hex = layer.removeprefix("sha256:")
    data = (board.state / "blobs" / "sha256" / hex).read_bytes()
    return hashlib.sha256(data).hexdigest() == hex


def test_ten_nodes_fetch_a_bundle_once(net: Lab, guest: Guest) -> None:
    publisher = Publisher(net, guest("hello"))
    ten = net.boards(10, interval="2s", more=entry("big", REFERENCE))
    form(ten)
    until(lambda: all_know_all(ten), promised(10), lambda: views(ten))

    before = net.uplink.sent()
    route = publisher.push()
    seconds = live(ten, route, 120)
    sent = uplink_since(net, before)
    ratio = sum(sent.values()) / SIZE
    say(
        f"10 nodes, a new bundle of 20 MB: all live after {seconds:.1f} s,"
        f" {ratio:.2f} × its bytes over the uplink"
    )
    assert all(whole(board, publisher.layers[-1]) for board in ten)
    assert 1.0 <= ratio <= 1.2, sent

    # The next one over a slow uplink; whoever fetches it loses its power midway.
    net.uplink.rate(40)
    before = net.uplink.sent()
    route = publisher.push()

    def busiest() -> str | None:
        found = uplink_since(net, before)
        name = max(found, key=found.__getitem__)
        return name if found[name] > SIZE // 4 else None

    until(busiest, 30, lambda: views(ten))
    address = busiest()
    (elected,) = (board for board in ten if board.address == address)
    partial = uplink_since(net, before)[elected.address]
    assert partial < SIZE, "it was not killed midway"
    elected.power_off()
    others = [board for board in ten if board is not elected]
    seconds = live(others, route, promised(TAKEN_OVER) + 30)
    sent = uplink_since(net, before)
    ratio = (sum(sent.values()) - sent[elected.address]) / SIZE
    fetching = SIZE / (40e6 / 8)
    say(
        f"10 nodes, the one that fetches killed midway: the others live after {seconds:.1f} s"
        f" ({fetching:.1f} s of them the uplink's), {ratio:.2f} × its bytes for them"
    )
    assert seconds <= promised(TAKEN_OVER) + 2 * fetching
    assert ratio <= 1.2, sent
    assert all(whole(board, publisher.layers[-1]) for board in others)

    # It comes back with a part of it, and finds the rest around it.
    before = net.uplink.sent()
    elected.cable("up")
    elected.start()
    seconds = live([elected], route, promised(20))
    sent = uplink_since(net, before)
    say(
        f"10 nodes: the killed one live {seconds:.1f} s after its return,"
        f" {sum(sent.values()) / SIZE:.2f} × its bytes over the uplink"
    )
    assert sum(sent.values()) < 0.1 * SIZE, sent


def test_a_signed_document_reaches_all_without_the_uplink(net: Lab, guest: Guest) -> None:
    key = net.folder / "fleet.key"
    net.uplink.edge("sign", "--generate-key", key)
    publisher = Publisher(net, guest("hello"))
    bundle = f"{REGISTRY}/big:1"
    route = publisher.push(bundle)
    document, reference = net.folder / "fleet.toml", f"{REGISTRY}/fleet/site-a:stable"
    document.write_text(f'fleet = "site-a"\n{entry("big", bundle)}')
    net.uplink.edge("fleet", "push", document, reference, "--key", key, "--insecure")

    following = f'document = "{reference}"\nkeys = ["../fleet.pub"]'
    first, *others = [
        net.board(f"n{number}", fleet=following, interval="2s") for number in range(1, 6)
    ]
    first.start()
    live([first], route, 30)
    net.uplink.cut()
    before = net.uplink.sent()
    for board in others:
        board.launch()
    for board in others:
        board.ready()
    form([first, *others])
    seconds = live(others, route, promised(20))
    say(
        f"5 nodes, the uplink cut after the first has everything:"
        f" a signed document of 20 MB live on all {seconds:.1f} s after they joined"
    )
    assert net.uplink.sent() == before
    for board in others:
        assert whole(board, publisher.layers[0])
        assert board.apps()["big"]["source"] == "fleet"
        assert board.status()["generation"] == 1


def test_a_tag_is_nothing_that_a_peer_may_say(net: Lab, guest: Guest) -> None:
    """Without a signature only the registry says what a tag is: a peer's word moves nothing."""
    publisher = Publisher(net, guest("hello"), MiB)
    route = publisher.push()
    first, second = net.boards(2, interval="2s", more=entry("big", REFERENCE))
    live([first, second], route, 30)
    form([first, second])
    until(lambda: all_know_all([first, second]), promised(5), lambda: views([first, second]))
    # The second one loses its registry; the first one goes on to the next version.
    rule = ["OUTPUT", "-d", net.uplink.address, "-p", "tcp", "-j", "REJECT"]
    second.run("iptables", "-I", *rule, "--reject-with", "tcp-reset")
    new = publisher.push()
    live([first], new, 30)

    def attempts() -> int:
        return int(second.run("iptables", "-nvxL", "OUTPUT").splitlines()[2].split()[0])

    before = attempts()
    until(lambda: attempts() >= before + 4, 60, lambda: views([second]))
    # It has looked, in vain, after it could hear of the new version from its peer.
    assert (second.get(route), second.get(new)) == (200, 404)
    assert not second.holds(publisher.layers[-1])
