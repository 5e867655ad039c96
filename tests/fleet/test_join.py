"""Joining by a token: whom a node shows its secret to, whom a door lets in, what a crash leaves."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from members import DAY, HOUR, YEAR, Clock, admitted, founded, greeted, kept, member, serving

from edge.config import Address
from edge.errors import BundleError, EdgeError, PullError
from edge.fleet import authority as authorities
from edge.fleet import certificates, door, identity, join, keeping
from edge.fleet.authority import Authority
from edge.fleet.door import Door
from edge.fleet.identity import Identity
from edge.fleet.names import Refused
from edge.fleet.token import Token

LOOPBACK = Address("127.0.0.1", 0)


@asynccontextmanager
async def opened(made: Authority, own: Identity) -> AsyncIterator[Door]:
    async with Door(own, made, LOOPBACK, 7466) as found:
        yield found


def offer(made: Authority, port: int, uses: int = 1, life: float = HOUR) -> Token:
    return made.offer(uses, life, (("127.0.0.1", port),))


async def enter(folder: Path, token: Token, clock: Clock, name: str = "second") -> Identity:
    await join.join(kept(folder), token, name, clock)
    return member(folder, clock)


async def test_a_node_joins_and_is_a_peer(tmp_path: Path) -> None:
    clock = Clock()
    made, first = founded(tmp_path / "a", clock)
    revoked = admitted(made, tmp_path / "x", clock)
    await first.take_revocations(made.revoke(revoked.node, b""))
    async with opened(made, first) as at:
        second = await enter(tmp_path / "b", offer(made, at.port), clock)
    assert (second.fleet, second.fleet_name, second.issuer) == (first.fleet, "site", first.node)
    assert second.introduced == ("127.0.0.1:7466",)
    assert second.revoked == {revoked.node}
    assert [m.name for m in made.members] == ["first", "other", "second"]
    async with serving(first) as served:
        await greeted(served.port, second.client_context(), first.node)
        assert served.peers == [second.node]


async def test_a_token_lets_in_as_many_as_it_is_for_also_after_a_crash(tmp_path: Path) -> None:
    clock = Clock()
    made, first = founded(tmp_path / "a", clock)
    async with opened(made, first) as at:
        token = offer(made, at.port, uses=2)
        b = await enter(tmp_path / "b", token, clock)
        await enter(tmp_path / "c", token, clock)
        with pytest.raises(EdgeError, match="has been used"):
            await enter(tmp_path / "d", token, clock)
    # The issuer lost its power.
    made, first = authorities.load(tmp_path / "a", clock), member(tmp_path / "a", clock)
    assert made is not None
    async with opened(made, first) as at:
        again = Token(token.fleet, token.secret, token.expires, (("127.0.0.1", at.port),))
        with pytest.raises(EdgeError, match="has been used"):
            await enter(tmp_path / "d", again, clock)
        # An answer that was lost costs nothing: the same key comes again.
        kept(tmp_path / "b").directory.joinpath("membership.json").unlink()
        assert (await enter(tmp_path / "b", again, clock)).node == b.node
    assert identity.load(tmp_path / "d", clock) is None


async def test_no_secret_is_on_the_issuers_disk(tmp_path: Path) -> None:
    made, _ = founded(tmp_path, Clock())
    secret = offer(made, 1).secret
    for path in (tmp_path / "authority").iterdir():
        data = path.read_bytes()
        for shown in (secret, secret.hex().encode(), base64.b64encode(secret)):
            assert shown not in data


async def test_a_token_ends(tmp_path: Path) -> None:
    clock = Clock()
    made, first = founded(tmp_path / "a", clock)
    async with opened(made, first) as at:
        token = offer(made, at.port, life=60)
        clock.now += 60
        with pytest.raises(EdgeError, match="expired"):
            await enter(tmp_path / "b", token, clock)
        # A node without a clock asks, and is told.
        unset = Clock(1_793_491_200.0, is_set=False)
        with pytest.raises(EdgeError, match="expired"):
            await enter(tmp_path / "b", token, unset)
    assert made.open_until() is None


async def test_a_board_without_a_clock_joins(tmp_path: Path) -> None:
    issuer, built = Clock(Clock().now + YEAR), Clock(1_793_491_200.0, is_set=False)
    made, first = founded(tmp_path / "a", issuer)
    async with opened(made, first) as at:
        second = await enter(tmp_path / "b", offer(made, at.port), built)
    async with serving(second) as served:
        await greeted(served.port, first.client_context(), second.node)


async def test_a_certificate_that_has_ended_already_is_not_kept(tmp_path: Path) -> None:
    """The issuer's clock is years behind."""
    issuer = Clock(1_793_491_200.0, is_set=False)
    made, first = founded(tmp_path / "a", issuer)
    async with opened(made, first) as at:
        token = offer(made, at.port, life=30 * DAY)
        late = Clock(issuer.now + 2 * YEAR)
        late.is_set = False  # it would not even ask otherwise
        with pytest.raises((EdgeError, PullError), match=r"ended|expired"):
            await enter(tmp_path / "b", token, late)
    assert identity.load(tmp_path / "b", late) is None


async def test_a_revoked_node_does_not_come_back_with_a_token(tmp_path: Path) -> None:
    clock = Clock()
    made, first = founded(tmp_path / "a", clock)
    async with opened(made, first) as at:
        token = offer(made, at.port)
        second = await enter(tmp_path / "b", token, clock)
        await first.take_revocations(made.revoke(second.node, b""))
        for one, why in ((token, "none of this fleet"), (offer(made, at.port), "revoked")):
            with pytest.raises(EdgeError, match=why):
                await enter(tmp_path / "b", one, clock)


async def test_who_was_revoked_does_not_come_back_as_another(tmp_path: Path) -> None:
    clock = Clock()
    made, first = founded(tmp_path / "a", clock)
    async with opened(made, first) as at:
        token, others = offer(made, at.port, uses=3), offer(made, at.port)
        second = await enter(tmp_path / "b", token, clock)
        await first.take_revocations(made.revoke(second.node, b""))
        with pytest.raises(EdgeError, match="expired, or is none"):
            await enter(tmp_path / "c", token, clock)
        await enter(tmp_path / "d", others, clock)
    again = authorities.load(tmp_path / "a", clock)
    assert again is not None
    with pytest.raises(Refused, match="expired, or is none"):
        again.admit(token.secret, certificates.new_request(certificates.new_key()), "x", ())


def test_nobody_is_protected_by_the_name_of_another(tmp_path: Path) -> None:
    clock = Clock()
    made, _ = founded(tmp_path / "a", clock)
    one = admitted(made, tmp_path / "b", clock)
    two = admitted(made, tmp_path / "c", clock, name=one.node)
    assert made.find(one.node) == one.node
    assert made.find(two.node) == two.node


async def test_addresses_that_do_not_answer_are_passed_over(tmp_path: Path) -> None:
    clock = Clock()
    made, first = founded(tmp_path / "a", clock)
    async with opened(made, first) as at:
        where = (("127.0.0.1", 1), ("no.such.host.invalid", 1), ("127.0.0.1", at.port))
        await enter(tmp_path / "b", made.offer(1, HOUR, where), clock)
        nowhere = made.offer(1, HOUR, (("127.0.0.1", 1),))

        async def heard(_: Token) -> list[tuple[str, int]]:
            return [("127.0.0.1", 65_536), ("127.0.0.1", at.port)]

        await join.join(kept(tmp_path / "d"), nowhere, "fourth", clock, heard)
    with pytest.raises(PullError, match="refused"):
        await enter(tmp_path / "c", offer(made, at.port), clock)


async def test_a_fleet_that_has_moved_is_found_by_hearsay(tmp_path: Path) -> None:
    clock = Clock()
    made, first = founded(tmp_path / "a", clock)
    other, theirs = founded(tmp_path / "other", clock)
    asked: list[Token] = []
    async with opened(made, first) as at, opened(other, theirs) as wrong:

        async def heard(token: Token) -> list[tuple[str, int]]:
            asked.append(token)
            ports = (1, wrong.port, at.port)
            return [("127.0.0.1", port) for port in ports]

        near = offer(made, at.port)
        await join.join(kept(tmp_path / "b"), near, "b", clock, heard)
        assert asked == []
        moved = offer(made, 1)
        await join.join(kept(tmp_path / "c"), moved, "c", clock, heard)
        assert asked == [moved]
    assert member(tmp_path / "c", clock).fleet == first.fleet
    assert len(other.members) == 1


# Those who would like to know the secret

Answers = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def impostor(context: ssl.SSLContext, answer: Answers) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def pretending(pem: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


class Curious:
    """Answers the first question as the fleet would, and writes down all that it hears."""

    def __init__(self, authority: bytes) -> None:
        self.heard = b""
        self._authority = authority

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        self.heard += line
        writer.write(json.dumps({"authority": self._authority.decode()}).encode() + b"\n")
        await writer.drain()
        self.heard += await reader.read(4096)


def presented(tmp_path: Path, made: Authority, first: Identity, who: str) -> Path:
    """Key and certificate of who stands in the way."""
    other, _ = founded(tmp_path / "other", Clock())
    if who == "a stranger with the fleet's certificate":
        return other.door()
    if who == "a member":
        admitted(made, tmp_path / "m", Clock())
        folder = kept(tmp_path / "m")
    else:
        folder = kept(tmp_path / "a")
    path = tmp_path / "presented.pem"
    path.write_bytes(folder.key.read_bytes() + folder.certificate.read_bytes())
    return path


@pytest.mark.parametrize(
    "who", ["a stranger with the fleet's certificate", "a member", "the first member"]
)
async def test_only_the_fleets_own_door_is_shown_the_secret(tmp_path: Path, who: str) -> None:
    clock = Clock()
    made, first = founded(tmp_path / "a", clock)
    curious = Curious(made.certificate)
    path = presented(tmp_path, made, first, who)
    async with impostor(pretending(path), curious.answer) as port:
        token = offer(made, port)
        with pytest.raises(PullError, match="certificate is refused"):
            await enter(tmp_path / "b", token, clock)
    assert base64.b64encode(token.secret) not in curious.heard
    assert b"join" not in curious.heard
    assert curious.heard.count(b"authority") == 1


async def test_another_fleets_door_is_not_even_asked_twice(tmp_path: Path) -> None:
    clock = Clock()
    made, _ = founded(tmp_path / "a", clock)
    other, theirs = founded(tmp_path / "other", clock)
    async with opened(other, theirs) as at:
        with pytest.raises(PullError, match="not the token's fleet"):
            await enter(tmp_path / "b", offer(made, at.port), clock)
    assert len(other.members) == 1


async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


def saying(data: bytes) -> Answers:
    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data + b"\n")
        await writer.drain()

    return say


@pytest.mark.parametrize(
    "answer",
    [
        endless,
        silent,
        saying(b""),
        saying(b"[" * 100_000),
        saying(b'{"error": "you lose"}'),
        saying(b'{"authority": "x"}'),
        saying(b'{"authority": 1}'),
        saying(b'{"authority": "\\ud800"}'),
        saying(b"null"),
    ],
    ids=["endless", "silent", "empty", "deep", "error", "no pem", "number", "half", "null"],
)
async def test_whoever_answers_nonsense_is_passed_over(
    tmp_path: Path, answer: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "DEADLINE", 2.0)
    clock = Clock()
    made, first = founded(tmp_path / "a", clock)
    other, _ = founded(tmp_path / "other", clock)
    async with impostor(pretending(other.door()), answer) as port, opened(made, first) as at:
        where = (("127.0.0.1", port), ("127.0.0.1", at.port))
        await enter(tmp_path / "b", made.offer(1, HOUR, where), clock)


# Those who would like to get in


async def asked(port: int, line: bytes) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        writer.write(line)
        await writer.drain()
        return await reader.readline()
    finally:
        writer.transport.abort()


def question(secret: bytes, request: bytes, **more: object) -> bytes:
    text = base64.b64encode(secret).decode()
    about = {"ask": "join", "secret": text, "request": request.decode(), "name": "x", **more}
    return json.dumps(about).encode() + b"\n"


async def test_a_door_lets_nobody_in_for_nonsense(tmp_path: Path) -> None:
    made, first = founded(tmp_path / "a", Clock())
    request = certificates.new_request(certificates.new_key())
    async with opened(made, first) as at:
        secret = offer(made, at.port).secret
        lines = [
            b"\n",
            b"{}\n",
            b"[" * 7000 + b"\n",
            b"\xff\n",
            b"GET / HTTP/1.1\r\n",
            b'{"ask": "key"}\n',
            question(b"0" * 16, request),
            question(secret[:15], request),
            question(secret, b"no request"),
            question(secret, request.replace(b"A", b"B", 3)),
            question(secret, request, name="../../etc\n"),
            question(secret, request, name="x" * 300),
            question(secret, request, more=1),
        ]
        for line in lines:
            assert b"error" in await asked(at.port, line), line
        try:
            assert await asked(at.port, b"x" * (1 << 20)) == b""
        except ConnectionError:
            pass
        assert len(made.members) == 1
        assert b"certificate" in await asked(at.port, question(secret, request))


def an_rsa_request() -> bytes:
    """Of a kind of key that no node has."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    built = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


async def test_what_a_request_asks_for_is_passed_over(tmp_path: Path) -> None:
    """It may name an authority, or another node: only its key counts."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    made, first = founded(tmp_path / "a", Clock())
    key = serialization.load_pem_private_key(certificates.new_key(), None)
    names = x509.SubjectAlternativeName([x509.DNSName(first.node)])
    built = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(names, critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    signed = built.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    request = signed.public_bytes(serialization.Encoding.PEM)
    issued = made.admit(offer(made, 1).secret, request, "x", ())
    found = x509.load_pem_x509_certificate(issued.pem)
    assert issued.node != first.node
    assert certificates.certificate_of(issued.pem, made.certificate).node == issued.node
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    with pytest.raises(Refused, match="P-256"):
        made.admit(offer(made, 1).secret, an_rsa_request(), "x", ())


async def test_those_who_only_stand_in_the_door_do_not_keep_others_out(tmp_path: Path) -> None:
    clock = Clock()
    made, first = founded(tmp_path / "a", clock)
    async with opened(made, first) as at:
        standing = [await asyncio.open_connection("127.0.0.1", at.port) for _ in range(40)]
        try:
            async with asyncio.timeout(door.DEADLINE / 2):
                await enter(tmp_path / "b", offer(made, at.port), clock)
        finally:
            for _, writer in standing:
                writer.transport.abort()


# What a power cut leaves


async def test_a_join_counts_wholly_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever write is the last one before the power goes, the token serves for another try."""
    clock = Clock()
    made, first = founded(tmp_path / "a", clock)
    written = keeping.write_file
    left = 0

    def write(path: Path, data: bytes, *, mode: int) -> None:
        nonlocal left
        if left == 0:
            raise OSError(28, "No space left on device")
        left -= 1
        written(path, data, mode=mode)

    async with opened(made, first) as at:
        for writes in range(10):
            folder = tmp_path / f"b{writes}"
            token = offer(made, at.port)
            left = writes
            monkeypatch.setattr(keeping, "write_file", write)
            try:
                await enter(folder, token, clock)
            except EdgeError as error:
                assert "no space left" in error.message  # noqa: PT017 – the last one succeeds
                assert identity.load(folder, clock) is None
            else:
                break
            finally:
                monkeypatch.setattr(keeping, "write_file", written)
            found = await enter(folder, token, clock)
            found.server_context()
        assert writes == 4, "key, authority, certificate, membership"


async def test_a_use_that_cannot_be_written_down_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    made, first = founded(tmp_path / "a", clock)
    written = authorities.write_file

    def write(path: Path, data: bytes, *, mode: int) -> None:
        raise OSError(28, "No space left on device")

    async with opened(made, first) as at:
        token = offer(made, at.port)
        monkeypatch.setattr(authorities, "write_file", write)
        with pytest.raises(EdgeError, match="cannot write it down"):
            await enter(tmp_path / "b", token, clock)
        monkeypatch.setattr(authorities, "write_file", written)
        assert identity.load(tmp_path / "b", clock) is None
        await enter(tmp_path / "b", token, clock)


async def test_what_another_fleet_left_behind_does_no_harm(tmp_path: Path) -> None:
    """A join that was interrupted, after that fleet's list was there."""
    clock = Clock()
    other, theirs = founded(tmp_path / "other", clock)
    gone = admitted(other, tmp_path / "gone", clock)
    await theirs.take_revocations(other.revoke(gone.node, b""))
    made, first = founded(tmp_path / "a", clock)
    async with opened(other, theirs) as at:
        await enter(tmp_path / "b", offer(other, at.port), clock)
    (tmp_path / "b/identity/membership.json").unlink()
    async with opened(made, first) as at:
        second = await enter(tmp_path / "b", offer(made, at.port), clock)
    assert second.revocations.number == 0
    async with serving(second) as served:
        await greeted(served.port, first.client_context(), second.node)


async def test_who_has_ended_joins_again_as_the_same_node(tmp_path: Path) -> None:
    clock = Clock()
    made, first = founded(tmp_path / "a", clock)
    async with opened(made, first) as at:
        before = await enter(tmp_path / "b", offer(made, at.port), clock)
        gone = admitted(made, tmp_path / "c", clock)
        await before.take_revocations(made.revoke(gone.node, b""))
    clock.now += YEAR + DAY
    async with opened(made, first) as at:
        again = await enter(tmp_path / "b", offer(made, at.port), clock)
    assert again.node == before.node
    assert again.until > clock.now
    # The door's list is older than the node's own, which stays.
    assert again.revoked == {gone.node}


async def test_a_malformed_admission_of_the_fleet_is_kept_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    made, first = founded(tmp_path / "a", clock)
    other = certificates.new_key()

    def admit(*_: object) -> certificates.Issued:
        return made.admit_self(certificates.new_request(other), "x")

    async with opened(made, first) as at:
        token = offer(made, at.port)
        monkeypatch.setattr(Authority, "admit", admit)
        with pytest.raises(BundleError, match="not for this node's key"):
            await enter(tmp_path / "b", token, clock)
    assert identity.load(tmp_path / "b", clock) is None
