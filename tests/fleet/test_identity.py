"""Who is let in and who is believed, by real TLS over loopback."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from members import DAY, HOUR, YEAR, Clock, admitted, founded, greeted, kept, member, serving

from edge.errors import EdgeError
from edge.fleet import certificates, identity
from edge.fleet.identity import Identity, tells_of_revocation
from edge.fleet.names import Refused, is_id


def nodes(tmp_path: Path, clock: Clock) -> tuple[Identity, Identity]:
    authority, first = founded(tmp_path / "a", clock)
    return first, admitted(authority, tmp_path / "b", clock)


async def test_members_know_each_other_by_their_ids(tmp_path: Path) -> None:
    a, b = nodes(tmp_path, Clock())
    assert is_id(a.node)
    assert is_id(b.node)
    assert a.fleet == b.fleet != a.node != b.node
    assert (a.is_issuer, b.is_issuer, b.issuer) == (True, False, a.node)
    async with serving(a) as served:
        said, connection = await greeted(served.port, b.client_context(), a.node)
        assert (said, b.peer_of(connection), served.peers) == (b"hello", a.node, [b.node])
        assert connection.version() == "TLSv1.3"


async def test_who_answers_for_another_node_is_told_nothing(tmp_path: Path) -> None:
    authority, a = founded(tmp_path / "a", Clock())
    b, c = (admitted(authority, tmp_path / name, Clock()) for name in "bc")
    async with serving(b) as served:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await greeted(served.port, a.client_context(), c.node)
    assert (served.heard, served.peers) == (b"", [])


async def test_another_fleet_of_the_same_name_is_another_fleet(tmp_path: Path) -> None:
    _, ours = founded(tmp_path / "ours", Clock())
    _, theirs = founded(tmp_path / "theirs", Clock())
    refused: list[str] = []
    ours.on_refused = refused.append
    async with serving(ours) as served:
        blind = theirs.client_context()
        blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
        blind.sslobject_class = ssl.SSLObject
        with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
            await greeted(served.port, blind, ours.node)
        assert (served.heard, served.peers, len(refused)) == (b"", [], 1)
    async with serving(theirs) as served:
        with pytest.raises(ssl.SSLCertVerificationError):
            await greeted(served.port, ours.client_context(), theirs.node)
    assert served.heard == b""


def blind() -> ssl.SSLContext:
    """A client that believes everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def test_nobody_gets_in_without_a_certificate(tmp_path: Path) -> None:
    _, own = founded(tmp_path, Clock())
    async with serving(own) as served:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await greeted(served.port, blind(), own.node)
        old = blind()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await greeted(served.port, old, own.node)
    assert (served.heard, served.peers) == (b"", [])


async def test_the_certificate_of_the_door_is_no_peers(tmp_path: Path) -> None:
    """It is in a file of the authority's, and its name is the fleet's."""
    authority, own = founded(tmp_path, Clock())
    context = blind()
    context.load_cert_chain(authority.door())
    async with serving(own) as served:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await greeted(served.port, context, own.node)
    assert served.peers == []


@pytest.mark.parametrize("names", ["two", "no uri", "another fleet's", "an address"])
async def test_a_peer_has_exactly_the_names_of_a_node(tmp_path: Path, names: str) -> None:
    _, own = founded(tmp_path, Clock())
    node = ("DNS", own.node)
    uri = ("URI", f"edge://{own.fleet}/{own.node}")
    found = {
        "two": (node, ("DNS", "a" * 52), uri),
        "no uri": (node,),
        "another fleet's": (node, ("URI", f"edge://{'a' * 52}/{own.node}")),
        "an address": (node, ("IP Address", "10.0.0.1")),
    }[names]

    class Connection:
        def getpeercert(self) -> object:
            return {"subjectAltName": found}

    with pytest.raises(Refused):
        own.peer_of(Connection())  # type: ignore[arg-type]


# Dates


async def test_an_expired_certificate_counts_on_neither_side(tmp_path: Path) -> None:
    clock = Clock()
    a, _ = nodes(tmp_path, clock)
    refused: list[str] = []
    a.on_refused = refused.append
    clock.now = a.until + 1
    late, early = member(tmp_path / "a", clock), member(tmp_path / "b", Clock())
    async with serving(a) as served:
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            await greeted(served.port, late.client_context(), a.node)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await greeted(served.port, early.client_context(), a.node)
    assert (served.peers, served.heard) == ([], b"")
    assert refused[-1:] == ["it has expired"]
    assert "expired" in late.notes()[0]


async def test_a_board_without_a_clock_is_a_peer(tmp_path: Path) -> None:
    """It knows when it was built, and no more."""
    issuer = Clock(Clock().now + 2 * YEAR)
    authority, a = founded(tmp_path / "a", issuer)
    built = Clock(1_793_491_200.0, is_set=False)
    admitted(authority, tmp_path / "b", issuer)
    b = member(tmp_path / "b", built)
    async with serving(b) as served:
        await greeted(served.port, a.client_context(), b.node)
    async with serving(a) as served:
        await greeted(served.port, b.client_context(), a.node)
    assert served.peers == [b.node]


# Renewal


async def test_a_renewed_certificate_is_shown_by_what_serves_already(tmp_path: Path) -> None:
    clock = Clock()
    authority, a = founded(tmp_path / "a", clock)
    b = admitted(authority, tmp_path / "b", clock)
    async with serving(b) as served:
        _, before = await greeted(served.port, a.client_context(), b.node)
        clock.now += 300 * DAY
        issued = authority.renew(b.node, await b.request(), ())
        await b.take_certificate(issued.pem)
        _, after = await greeted(served.port, a.client_context(), b.node)
        clock.now += 300 * DAY
        with pytest.raises((ssl.SSLError, ConnectionError)):  # the client's own has ended
            await greeted(served.port, a.client_context(), b.node)
    clock.now = b.until - 20 * DAY
    assert "20 days" in b.notes()[0]
    first, second = (one.getpeercert() or {} for one in (before, after))
    assert first["serialNumber"] != second["serialNumber"]
    assert b.until == issued.until == member(tmp_path / "b", clock).until
    assert {f"{s:x}" for s in authority.members[1].serials} == {
        str(one["serialNumber"]).lower().lstrip("0") for one in (first, second)
    }


async def test_only_a_later_certificate_of_ones_own_is_taken(tmp_path: Path) -> None:
    clock = Clock()
    authority, a = founded(tmp_path / "a", clock)
    b = admitted(authority, tmp_path / "b", clock)
    other, stranger = founded(tmp_path / "other", clock)
    own = (tmp_path / "b" / "identity" / "certificate.pem").read_bytes()
    clock.now += DAY
    foreign = other.admit_self(await b.request(), "b").pem
    for pem in (own, foreign, authority.renew(a.node, await a.request(), ()).pem, b"", b"junk"):
        with pytest.raises(Refused):
            await b.take_certificate(pem)
    assert (tmp_path / "b" / "identity" / "certificate.pem").read_bytes() == own
    assert stranger.fleet != b.fleet


async def test_a_member_cannot_keep_the_authority_busy(tmp_path: Path) -> None:
    clock = Clock()
    authority, a = founded(tmp_path / "a", clock)
    with pytest.raises(Refused, match="hour"):
        authority.renew(a.node, await a.request(), ())
    clock.now += HOUR
    assert authority.renew(a.node, await a.request(), ()).node == a.node
    b = admitted(authority, tmp_path / "b", clock)
    with pytest.raises(Refused, match="not of the node"):
        authority.renew(b.node, await a.request(), ())


# Revocation


async def test_a_revoked_node_is_refused_and_told_why(tmp_path: Path) -> None:
    clock = Clock()
    authority, a = founded(tmp_path / "a", clock)
    b = admitted(authority, tmp_path / "b", clock)
    c = admitted(authority, tmp_path / "c", clock)
    told: list[frozenset[str]] = []
    a.on_revoked = told.append
    async with serving(a) as served, serving(b) as serving_b:
        await greeted(served.port, b.client_context(), a.node)
        await greeted(serving_b.port, a.client_context(), b.node)
        assert await a.take_revocations(authority.revoke(b.node, b""))
        with pytest.raises(ssl.SSLError) as refused:
            await greeted(served.port, b.client_context(), a.node)
        assert tells_of_revocation(refused.value)
        with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
            await greeted(serving_b.port, a.client_context(), b.node)
        await greeted(served.port, c.client_context(), a.node)
        # And after a start of the program.
        again = member(tmp_path / "a", clock)
        assert again.revocations == a.revocations
        async with serving(again) as served_again:
            with pytest.raises(ssl.SSLError):
                await greeted(served_again.port, b.client_context(), a.node)
    assert told == [{b.node}]
    assert served.peers == [b.node, c.node]
    await b.take_revocations(a.revocations.data)
    assert b.is_revoked
    assert "revoked" in b.notes()[0]


async def test_certificates_that_nobody_wrote_down_are_revoked_by_their_node(
    tmp_path: Path,
) -> None:
    """The authority was restored from a backup that is older than they are."""
    clock = Clock()
    authority, a = founded(tmp_path / "a", clock)
    before = (tmp_path / "a/authority/authority.json").read_bytes()
    b = admitted(authority, tmp_path / "b", clock)
    (tmp_path / "a/authority/authority.json").write_bytes(before)
    authority, _ = founded(tmp_path / "a", clock)
    await a.take_revocations(authority.revoke(authority.find(b.node), b""))
    async with serving(a) as served:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await greeted(served.port, b.client_context(), a.node)
    assert served.peers == []


async def test_a_list_is_never_replaced_by_an_older_one(tmp_path: Path) -> None:
    clock = Clock()
    authority, a = founded(tmp_path / "a", clock)
    b, c = (admitted(authority, tmp_path / name, clock) for name in "bc")
    one = authority.revoke(b.node, b"")
    two = authority.revoke(c.node, one)
    clock.now -= 30 * DAY  # which a trusted clock does not
    three = authority.revoke(c.node, two)
    async with serving(a) as served:  # what it loads while it serves
        assert await a.take_revocations(one)
        await greeted(served.port, c.client_context(), a.node)
        assert await a.take_revocations(two)
        assert not await a.take_revocations(one)
        assert not await a.take_revocations(two)
        assert a.revoked == {b.node, c.node}
        for node in (b, c):  # of the lists that it has, OpenSSL takes the newest
            with pytest.raises(ssl.SSLError) as refused:
                await greeted(served.port, node.client_context(), a.node)
            assert tells_of_revocation(refused.value)
        assert await a.take_revocations(three)
    assert member(tmp_path / "a", clock).revocations.number == 3


async def test_a_list_of_somebody_else_changes_nothing(tmp_path: Path) -> None:
    clock = Clock()
    _, a = founded(tmp_path / "a", clock)
    other, b = founded(tmp_path / "b", clock)
    forged = other.revoke(a.node, b"")
    for data in (forged, b"", b"junk", b"-----BEGIN X509 CRL-----\n" * 3, b"x" * (2 << 20)):
        with pytest.raises(Refused):
            await a.take_revocations(data)
    assert a.revocations.number == 0
    assert not kept(tmp_path / "a").revocations.exists()
    assert b.node not in a.revoked


async def test_nothing_can_be_taken_up_again_without_a_handshake(tmp_path: Path) -> None:
    """A session's ticket would let a revoked node in."""
    a, b = nodes(tmp_path, Clock())
    async with serving(a) as served:

        def once() -> bool:
            import socket

            context = b.client_context()
            plain = socket.create_connection(("127.0.0.1", served.port), timeout=10)
            with context.wrap_socket(plain, server_hostname=a.node) as connection:
                connection.send(b"x")
                assert connection.recv(10) == b"hello"
                return bool(connection.session and connection.session.has_ticket)

        assert not await asyncio.to_thread(once)


# On the disk


def test_a_node_without_a_fleet_has_no_identity(tmp_path: Path) -> None:
    assert identity.load(tmp_path, Clock()) is None


@pytest.mark.parametrize("name", ["certificate.pem", "key.pem", "authority.pem", "membership.json"])
def test_a_damaged_identity_says_so(tmp_path: Path, name: str) -> None:
    founded(tmp_path, Clock())
    path = tmp_path / "identity" / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(EdgeError, match=str(tmp_path)) as error:
        member(tmp_path, Clock()).server_context()
    assert "edge fleet leave" in (error.value.hint or "")


def test_nobody_else_may_read_a_key(tmp_path: Path) -> None:
    founded(tmp_path, Clock())
    for directory in ("identity", "authority"):
        assert (tmp_path / directory).stat().st_mode & 0o777 == 0o700
        for path in (tmp_path / directory).iterdir():
            assert path.stat().st_mode & 0o077 == 0, path


def test_an_id_is_that_of_the_key(tmp_path: Path) -> None:
    _, own = founded(tmp_path, Clock())
    key = (tmp_path / "identity" / "key.pem").read_bytes()
    assert certificates.node_of_key(key) == own.node
    authority = (tmp_path / "identity" / "authority.pem").read_bytes()
    assert certificates.authority_id(authority) == own.fleet
