"""Certificates renewed and lists of the revoked fetched over the port of peers; forgeries."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from members import DAY, HOUR, Clock, admitted, founded, greeted, kept, member, serving
from sync_lab import until

from edge.config import Address
from edge.errors import EdgeError
from edge.fleet import certificates, issuing, renewing
from edge.fleet.authority import Authority
from edge.fleet.identity import Identity
from edge.fleet.names import Refused
from edge.fleet.renewing import Renewing
from edge.fleet.server import Server


@asynccontextmanager
async def served(own: Identity, made: Authority | None) -> AsyncIterator[str]:
    """The URL of a node as its peers ask it."""
    routes = issuing.routes(own, made)
    async with Server(own, Address("127.0.0.1", 0), routes) as server:
        yield f"https://{server.address}"


async def ask(
    client: Identity, url: str, server: Identity, method: str = "GET", body: bytes = b""
) -> tuple[int, bytes]:
    connector = aiohttp.TCPConnector(ssl=client.client_context())
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.request(method, url, data=body or None, server_hostname=server.node) as answer,
    ):
        return answer.status, await answer.read()


async def test_peers_have_the_newest_list_from_each_other(tmp_path: Path) -> None:
    clock = Clock()
    made, a = founded(tmp_path / "a", clock)
    b, c = (admitted(made, tmp_path / name, clock) for name in "bc")
    async with served(b, None) as url:
        assert (await ask(c, url + issuing.REVOCATIONS, b))[0] == 404
        await b.take_revocations(made.revoke("a" * 52, b""))
        status, data = await ask(c, url + issuing.REVOCATIONS, b)
        assert status == 200
        assert await c.take_revocations(data)
    assert c.revoked == {"a" * 52}
    assert data.startswith(b"-----BEGIN X509 CRL-----")
    assert a.revocations.number == 0


async def test_only_the_authority_renews_and_only_for_who_asks(tmp_path: Path) -> None:
    clock = Clock()
    made, a = founded(tmp_path / "a", clock)
    b, c = (admitted(made, tmp_path / name, clock) for name in "bc")
    clock.now += 2 * HOUR
    async with served(c, None) as url:
        assert (await ask(b, url + issuing.RENEW, c, "POST", await b.request()))[0] == 404
    async with served(a, made) as url:
        url += issuing.RENEW
        status, pem = await ask(b, url, a, "POST", await b.request())
        assert status == 200
        assert certificates.certificate_of(pem, made.certificate).node == b.node
        refused = (await b.request(), await c.request(), b"", b"junk", b"x" * 9000)
        assert [(await ask(b, url, a, "POST", body))[0] for body in refused] == [
            403,  # within the hour
            403,
            403,
            403,
            413,
        ]
    assert len(made.members) == 3


async def test_a_certificate_is_renewed_when_a_third_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewing, "_LOOK", 0.01)
    monkeypatch.setattr(renewing, "_FIRST", 0.01)
    clock = Clock()
    made, a = founded(tmp_path / "a", clock)
    b = admitted(made, tmp_path / "b", clock)
    before = b.until
    asked = 0

    async with served(a, made) as url:

        async def remote(request: bytes) -> bytes:
            nonlocal asked
            asked += 1
            if asked < 3:
                raise EdgeError("the authority is away")
            status, pem = await ask(b, url + issuing.RENEW, a, "POST", request)
            assert status == 200
            return pem

        tasks = [
            asyncio.get_running_loop().create_task(Renewing(b, clock, remote).run()),
            asyncio.get_running_loop().create_task(Renewing(a, clock, remote, made).run()),
        ]
        try:
            clock.now += 240 * DAY
            for _ in range(20):
                await asyncio.sleep(0.01)
            assert asked == 0
            clock.now += 5 * DAY
            await until(lambda: b.until > before and a.until > before)
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
    assert asked == 3
    assert member(tmp_path / "b", clock).until == b.until == before + 245 * DAY


async def test_a_member_is_no_authority(tmp_path: Path) -> None:
    """It signs a certificate for another id by its own key, and shows both."""
    clock = Clock()
    made, a = founded(tmp_path / "a", clock)
    admitted(made, tmp_path / "b", clock)
    files = kept(tmp_path / "b")
    forged = tmp_path / "forged.pem"
    key = certificates.new_key()
    forger = certificates.Signer(files.key.read_bytes(), files.certificate.read_bytes())
    with pytest.raises(Refused):
        forger.issue(certificates.new_request(key), clock.now)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.setattr(certificates.Signer, "fleet", a.fleet)
        issued = forger.issue(certificates.new_request(key), clock.now)
    forged.write_bytes(key + issued.pem + files.certificate.read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(forged)
    async with serving(a) as seen:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await greeted(seen.port, context, a.node)
    assert seen.peers == []
    with pytest.raises(Refused):
        certificates.certificate_of(issued.pem, made.certificate)


# What comes from others is read by a parser that others wrote, too


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("real")
    made, own = founded(folder, Clock())
    key = certificates.new_key()
    request = certificates.new_request(key)
    return {
        "authority": made.certificate,
        "key": key,
        "request": request,
        "certificate": made.admit_self(request, "x").pem,
        "list": made.revoke("b" * 52, made.revoke("a" * 52, b"")),
        "own": own.node.encode(),
    }


@given(data=st.data())
def test_what_is_damaged_is_refused_and_nothing_else(
    real: dict[str, bytes], data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(["authority", "request", "certificate", "list"]))
    pem = bytearray(real[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(pem) - 1))
        if data.draw(st.booleans()):
            pem[at] = data.draw(st.integers(0, 255))
        else:
            del pem[at : at + data.draw(st.integers(1, 40))]
    changed = bytes(pem)
    with suppress(Refused):
        if kind == "authority":
            certificates.authority_id(changed)
        elif kind == "request":
            certificates.node_of_request(changed)
        elif kind == "certificate":
            node = certificates.certificate_of(changed, real["authority"]).node
            assert node == certificates.node_of_key(real["key"])
        else:
            found = certificates.read_revocations(changed, real["authority"])
            assert set(found.entries.values()) == {"a" * 52, "b" * 52}


@given(st.binary(max_size=300))
def test_anything_else_is_refused(real: dict[str, bytes], junk: bytes) -> None:
    for read in (
        certificates.authority_id,
        certificates.node_of_request,
        certificates.node_of_key,
        lambda data: certificates.certificate_of(data, real["authority"]),
        lambda data: certificates.read_revocations(data, real["authority"]),
    ):
        with pytest.raises(Refused):
            read(junk)


def test_openssl_reads_what_was_made(real: dict[str, bytes], tmp_path: Path) -> None:
    """Another program finds these certificates and lists in order."""
    for name, data in real.items():
        (tmp_path / name).write_bytes(data)
    later = str(int(Clock().now) + 10)
    verify = ["openssl", "verify", "-x509_strict", "-CAfile", "authority", "-crl_check"]
    done = subprocess.run(
        [*verify, "-CRLfile", "list", "-purpose", "sslserver", "-attime", later, "certificate"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "certificate: OK\n", done.stderr
    shown = subprocess.run(
        ["openssl", "crl", "-in", "list", "-noout", "-crlnumber", "-CAfile", "authority"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(shown.stdout.partition("=")[2], 16) == 2
    assert "verify OK" in shown.stderr
