"""Nodes that know each other by their certificates: found, lost, deceived."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from peers_lab import FAST, Fleet, group, names, peers, until

from edge.errors import BundleError, PullError
from edge.fleet import remembered
from edge.fleet.asking import Excluded, Impostor, Unanswered
from edge.fleet.client import Client
from edge.fleet.identity import Identity
from edge.fleet.peers import Peers
from edge.fleet.strangers import Strangers
from edge.fleet.wire import BODY_MOST, Status, dump


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


async def killed(one: Peers) -> None:
    """It ends without a goodbye."""
    await one._stack.aclose()


async def test_nodes_that_are_told_of_one_know_all(fleet: Fleet) -> None:
    async with group(fleet, 4) as (first, *_):
        assert names(first) == {"n1", "n2", "n3"}
        await until(lambda: all(peer.round_trip is not None for peer in first.peers()))


async def test_a_node_that_ends_without_a_word_is_noticed(fleet: Fleet) -> None:
    async with group(fleet, 3) as (first, second, third):
        await killed(third)
        known = [one.table.peers[third.me] for one in (first, second)]
        await until(lambda: all(peer.record.status == Status.DEAD for peer in known))
        assert (names(first), names(second)) == ({"n1"}, {"n0"})


async def test_a_goodbye_is_believed_at_once(fleet: Fleet) -> None:
    async with group(fleet, 3) as (first, second, _):
        leaving = peers(fleet.member("x"), "x", static=[str(first.address)])
        async with leaving:
            await until(lambda: "x" in names(first) & names(second))
        await until(lambda: "x" not in names(first) | names(second), FAST.interval)
        assert first.table.peers[leaving.me].record.status == Status.LEFT


async def test_a_node_that_returns_is_alive_again(fleet: Fleet) -> None:
    async with group(fleet, 2) as (first, second):
        member = fleet.member("x")
        one = peers(member, "x", static=[str(first.address)])
        await one.__aenter__()
        await until(lambda: "x" in names(first) & names(second))
        await killed(one)
        await until(lambda: "x" not in names(first) | names(second))
        # Its clock has stood still: what it says of itself is no newer than before.
        async with peers(member, "x", static=[str(second.address)], clock=lambda: 0.0):
            await until(lambda: "x" in names(first) & names(second))


async def test_what_is_said_of_a_living_node_is_refuted(fleet: Fleet) -> None:
    async with group(fleet, 3) as (first, second, third):
        before = third.table.me.incarnation
        first.table.dead(third.me, first.now)
        first.life.gossip.spread(third.me)
        await until(lambda: third.table.me.incarnation > before)
        await until(lambda: names(first) == {"n1", "n2"} and names(second) == {"n0", "n2"})


async def test_a_hint_reaches_everybody_once(fleet: Fleet) -> None:
    async with group(fleet, 4) as found:
        heard: list[tuple[str, str]] = []
        for one in found:
            one.heard = lambda id, text: heard.append((id, text))
        found[1].hint("registry.example/app:stable")
        await until(lambda: len(heard) == 3)
        await asyncio.sleep(3 * FAST.interval)
        assert heard == [(found[1].me, "registry.example/app:stable")] * 3


async def test_a_penalised_peer_is_not_asked(fleet: Fleet) -> None:
    async with group(fleet, 2) as (first, second):
        first.penalise(second.me, "sends wrong bytes\n")
        assert first.alive() == []
        assert first.table.peers[second.me].penalty == "sends wrong bytes?"


# Strangers


async def test_a_node_of_another_fleet_gets_nothing(fleet: Fleet, tmp_path: Path) -> None:
    other = Fleet(tmp_path / "other")
    async with (
        group(fleet, 2) as (first, second),
        peers(other.member("evil"), "evil", static=[str(first.address)]) as evil,
    ):
        first.discovered(second.me, "n1", [("127.0.0.1", evil.address.port)])
        first.discovered(evil.me, "evil", [("127.0.0.1", evil.address.port)])
        await until(lambda: len(first.reports.latest()) >= 2 and evil.reports.latest())
        assert names(first) == {"n1"}
        assert not names(evil)
        assert second.address.port == first.table.peers[second.me].endpoint[1]
        said = {report.where: report.what for report in first.reports.latest()}
        assert f"127.0.0.1:{evil.address.port}" in said


async def test_a_client_of_another_fleet_is_shown(fleet: Fleet, tmp_path: Path) -> None:
    evil = Fleet(tmp_path / "other").member("evil")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    own = tmp_path / "other" / "evil" / "identity"
    context.load_cert_chain(own / "certificate.pem", own / "key.pem")
    async with group(fleet, 2) as (first, _):
        port = first.address.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(b"GET /edge/v1/peer HTTP/1.1\r\nhost: x\r\n\r\n")
        with pytest.raises(OSError, match="ALERT"):
            await reader.read()
        writer.transport.abort()
        (report,) = first.reports.latest()
        assert report.where == "127.0.0.1"
        assert "was refused" in report.what
        assert evil.node not in first.table.peers


async def test_another_node_of_the_fleet_is_not_the_one_that_is_meant(fleet: Fleet) -> None:
    async with group(fleet, 2) as (first, second):
        stranger = "a" * 52
        first.discovered(stranger, "ghost", [("127.0.0.1", second.address.port)])
        await until(lambda: first.reports.latest())
        assert stranger not in first.table.peers
        assert stranger not in first.life.prober.candidates


async def test_what_tls_says_is_told(fleet: Fleet, tmp_path: Path) -> None:
    other = Fleet(tmp_path / "other").member("x")
    async with group(fleet, 2) as (first, second), Client(other) as client:
        endpoint = ("127.0.0.1", first.address.port)
        with pytest.raises(Impostor, match="its certificate is not one of this fleet"):
            await client.ask(first.me, endpoint, "/edge/v1/peer", None, 5)
        with pytest.raises(Impostor, match="its certificate is not one of this fleet"):
            await client.identify(endpoint, 5)
    async with Client(fleet.member("y")) as client:
        with pytest.raises(Unanswered):
            await client.ask(second.me, endpoint, "/edge/v1/peer", None, 5)


async def test_a_revoked_node_is_out_and_told_so(fleet: Fleet) -> None:
    async with group(fleet, 3) as (first, second, third):
        members = [one._identity for one in (first, second)]
        data = fleet.authority.revoke(third.me, b"")
        for one, member in zip((first, second), members, strict=True):
            assert isinstance(member, Identity)
            member.on_revoked = one.revoked
            await member.take_revocations(data)
        assert third.me not in first.table.peers
        await until(lambda: third.is_excluded)
        assert "revoked" in (third.excluded or "")
        await until(lambda: not names(third))
        assert names(first) == {"n1"}


# Members that misbehave


async def test_answers_are_bounded(fleet: Fleet) -> None:
    async with group(fleet, 2) as (first, second):
        endpoint = first.table.peers[second.me].endpoint
        assert endpoint is not None
        with pytest.raises(Unanswered, match="it answers with more than 0 KiB"):
            await first._client.ask(second.me, endpoint, "/edge/v1/apps", None, 5, most=1)
        with pytest.raises(Unanswered, match="404"):
            await first.ask(second.me, "/nothing", 5)
        with pytest.raises(PullError, match="is not there"):
            await first.ask("a" * 52, "/nothing", 5)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        dump({"news": [{}]}),
        dump({"news": 1}),
        dump({"have": {"x": [1, 1, 1]}}),
        dump({"have": {"a" * 52: [1, 1]}}),
        dump({"hints": [["a" * 52, 1, "x" * 600]]}),
        b" " * (BODY_MOST + 1),
    ],
)
async def test_what_is_no_message_changes_nothing(fleet: Fleet, body: bytes) -> None:
    async with group(fleet, 2) as (first, second):
        before = dict(second.table.have())
        with pytest.raises(Unanswered, match=r"4\d\d"):
            await first.ask(second.me, "/edge/v1/gossip", 5, body=body)
        assert second.table.have() == before


async def test_who_asks_too_often_waits(fleet: Fleet) -> None:
    async with group(fleet, 2) as (first, second):

        async def ask() -> None:
            for _ in range(200):
                await first.ask(second.me, "/edge/v1/apps", 5)

        with pytest.raises(Unanswered, match="429"):
            await ask()


async def test_large_messages_count_as_many(fleet: Fleet) -> None:
    async with group(fleet, 2) as (first, second):
        body = dump({"want": [], "padding": "x" * (BODY_MOST - 100)})

        async def tell(times: int) -> None:
            for _ in range(times):
                await first.ask(second.me, "/edge/v1/gossip", 5, body=body)

        await tell(1)
        with pytest.raises(Unanswered, match="429"):
            await tell(5)


async def test_who_only_holds_on_keeps_nobody_out(fleet: Fleet) -> None:
    async with group(fleet, 2) as (first, _):
        writers = []
        coming, most = first._server._coming, first._settings.limits.of_an_address
        for _ in range(60):
            _, writer = await asyncio.open_connection("127.0.0.1", first.address.port)
            writers.append(writer)
        async with Client(fleet.member("x")) as client:
            endpoint = ("127.0.0.1", first.address.port)
            for _ in range(5):
                await client.ask(first.me, endpoint, "/edge/v1/apps", None, 5)
        await until(lambda: len(coming) <= most)
        for writer in writers:
            writer.transport.abort()
        await until(lambda: not coming)
        assert names(first) == {"n1"}


async def test_who_cannot_pass_gets_no_handshake_without_end(fleet: Fleet) -> None:
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE

    async def attempt() -> None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(*at, ssl=anybody)
            writer.transport.abort()

    async with group(fleet, 2) as (first, second):
        at = ("127.0.0.1", first.address.port)
        first._server._strangers = strangers = Strangers(time.monotonic, seconds=3600)
        while not strangers.unwelcome("127.0.0.1"):
            await attempt()
        await until(lambda: not first._server._coming)
        (refused,) = first.reports.latest()
        before = refused.count
        for _ in range(5):
            await attempt()
        assert (refused.count, first._server._coming) == (before, {})
        assert await first.ask(second.me, "/edge/v1/apps", 5)  # whom it asks by itself


def test_errors_of_ssl_have_kinds() -> None:
    from edge.fleet.client import _unanswered

    alert = ssl.SSLError(1, "x")
    alert.reason = "SSLV3_ALERT_CERTIFICATE_REVOKED"
    outer = aiohttp.ClientOSError(1, "broken")
    outer.__cause__ = alert
    assert isinstance(found := _unanswered(outer), Excluded)
    assert found.message.endswith("certificate revoked")
    assert type(_unanswered(TimeoutError())) is Unanswered


def test_a_body_of_the_largest_fleet_fits() -> None:
    from edge.fleet.wire import PEERS_MOST, Facts, Message, Record, read_message, write_message

    address = "fd00:1111:2222:3333:4444:5555:6666:7777"
    facts = Facts("n" * 64, 65535, "v" * 20, "aarch64", "i" * 16, 1 << 30, 1 << 20)
    at = tuple((address, 65535) for _ in range(8))
    news = tuple(Record("a" * 52, facts, at, 1 << 40, 1 << 20) for _ in range(PEERS_MOST + 1))
    data = dump(write_message(Message(news)))
    assert len(data) < BODY_MOST
    assert read_message(data, "x").news == news
    # Events wait meanwhile.
    assert fastest(lambda: read_message(data, "x")) < 30 * fastest(lambda: json.loads(data))
    with pytest.raises(BundleError, match="more than"):
        read_message(dump(write_message(Message((*news, news[0])))), "x")


def fastest(work: Callable[[], object]) -> float:
    """Seconds of the processor, of the quickest of some."""

    def timed() -> float:
        begun = time.process_time()
        work()
        return time.process_time() - begun

    return min(timed() for _ in range(5))


def test_a_node_without_a_fleet_loads_nothing_of_it() -> None:
    code = "import sys, edge.node.daemon; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    light = {"edge.fleet", "edge.fleet.static"}  # what checks a configuration
    heavy = ("edge.fleet", "edge.registry.lan", "edge.node.peering", "zeroconf", "cryptography")
    loaded = set(done.stdout.split()) - light
    assert "edge.node.fleet" in loaded
    assert not [module for module in loaded if module.startswith(heavy)]


async def test_peers_of_the_last_run_are_looked_at(fleet: Fleet, tmp_path: Path) -> None:
    async with group(fleet, 2) as (first, second):
        file = tmp_path / "peers.json"
        remembered.save(file, {first.me: (str(first.address),)})
        third = peers(fleet.member("x"), "x")
        third.introduce(remembered.load(file))
        async with third:
            await until(lambda: "x" in names(first) & names(second))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": 2, "peers": {}}', '{"schema": 1, "peers": {"x": ["y"]}}']
)
def test_a_damaged_list_of_peers_is_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "peers.json"
    file.write_text(text)
    assert remembered.load(file) == {}
    assert remembered.load(tmp_path / "missing") == {}
