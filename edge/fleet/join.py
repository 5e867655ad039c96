"""Becoming a member of a fleet: by founding one, or with a token of one.

Who joins first asks for the authority's certificate, believing nothing, and compares its hash with
that in the token; then it asks again, of a server that this authority has certified as the fleet's
door, and only that one is shown the token's secret.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import os
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from edge.application.fields import Table, Where, integer, parsed, string
from edge.config import Address
from edge.errors import BundleError, ConfigError, EdgeError, PullError
from edge.fleet import certificates
from edge.fleet.authority import Authority
from edge.fleet.door import DEADLINE
from edge.fleet.identity import MAX_REVOCATIONS
from edge.fleet.keeping import Kept, Membership, Revoked, id_text
from edge.fleet.names import Refused, fleet_name
from edge.fleet.token import Token, fleet_bytes
from edge.platform.dates import Clock, date_by

__all__ = ["Heard", "found", "join"]

# Where the fleet of a token may be, by hearsay.
Heard = Callable[[Token], Awaitable[Iterable[tuple[str, int]]]]
# Of those, how many are tried.
_HEARD = 8

# Bytes of an answer.
_ANSWER = MAX_REVOCATIONS + (64 << 10)


@dataclass(frozen=True, slots=True)
class _Admission:
    """What the door gave."""

    certificate: bytes
    fleet_name: str
    issuer: str
    port: int
    revocations: bytes = field(repr=False)


def found(kept: Kept, authority: Authority, name: str) -> None:
    """The node that has the authority becomes its first member. Blocks. Raises EdgeError."""
    _, request = _asking(kept)
    issued = authority.admit_self(request, name)
    member = Membership(
        issued.node, authority.fleet, authority.fleet_name, issued.node, (), issued.until
    )
    kept.write(kept.authority, authority.certificate)
    kept.write(kept.certificate, issued.pem)
    kept.write_membership(member)


async def join(
    kept: Kept, token: Token, name: str, clock: Clock, heard: Heard | None = None
) -> None:
    """Joins by the first of the token's addresses that answers, or of those that `heard` brings
    when none does: the network may have given out others since. Raises EdgeError: PullError when
    nobody answers, and another attempt may succeed.
    """
    if clock.is_set and clock() >= token.expires:
        raise EdgeError("the token has expired", hint="`edge fleet token` makes another one")
    key, request = await asyncio.to_thread(_asking, kept)
    joining = _Joining(kept, token, clock, key, request, name)
    failed: list[str] = []
    if await joining.anywhere(token.addresses, failed):
        return
    others = await heard(token) if heard is not None else ()
    fresh = dict.fromkeys(other for other in others if other not in token.addresses)
    if await joining.anywhere(tuple(fresh)[:_HEARD], failed):
        return
    raise PullError(
        f"nobody lets this node in: {'; '.join(failed)}",
        hint="is the node on that made the token, and can this one reach it?",
    )


class _Elsewhere(Exception):
    """Who answers there is not of this fleet; the next address may be."""


@dataclass(frozen=True, slots=True)
class _Joining:
    kept: Kept
    token: Token
    clock: Clock
    key: bytes = field(repr=False)
    request: bytes
    name: str

    async def anywhere(self, addresses: Iterable[tuple[str, int]], failed: list[str]) -> bool:
        """Whether it has joined at one of them; why not at each is added to `failed`."""
        for host, port in addresses:
            address = Address(host, port)
            try:
                await _Attempt(self, address).join()
            except (OSError, ValueError, OverflowError, _Elsewhere) as error:  # of ssl, too
                failed.append(f"{address}: {_why(error)}")
            else:
                return True
        return False


@dataclass(frozen=True, slots=True)
class _Attempt:
    """At one address."""

    by: _Joining
    address: Address

    async def join(self) -> None:
        authority = await self._authority()
        fleet = certificates.authority_id(authority)
        question = {
            "ask": "join",
            "secret": base64.b64encode(self.by.token.secret).decode(),
            "request": self.by.request.decode(),
            "name": self.by.name,
        }
        answer = await self._ask(self._trusting(authority), fleet, question)
        self._check_admitted(answer)
        try:
            admission = _read_admission(answer)
            await asyncio.to_thread(self._keep, authority, fleet, admission)
        except (ConfigError, Refused, UnicodeError) as error:
            raise BundleError(f"{self.address}: the fleet's answer is malformed: {error}") from None

    async def _authority(self) -> bytes:
        """That of the token's fleet, whoever it was that had it."""
        anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anybody.minimum_version = ssl.TLSVersion.TLSv1_3
        anybody.check_hostname = False
        anybody.verify_mode = ssl.CERT_NONE
        answer = await self._ask(anybody, None, {"ask": "authority"})
        try:
            with Table(answer, Where("answer")) as table:
                pem = table.need("authority", string).encode()
            fleet = await asyncio.to_thread(certificates.authority_id, pem)
        except (ConfigError, Refused, UnicodeError) as error:
            raise _Elsewhere(str(error)) from None
        if fleet_bytes(fleet) != self.by.token.fleet:
            raise _Elsewhere("that is not the token's fleet")
        return pem

    def _trusting(self, authority: bytes) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=authority.decode("ascii"))
        date_by(self.by.clock, context)
        return context

    async def _ask(
        self, context: ssl.SSLContext, name: str | None, question: Mapping[str, str]
    ) -> object:
        async with asyncio.timeout(DEADLINE):
            reader, writer = await asyncio.open_connection(
                self.address.host,
                self.address.port,
                ssl=context,
                server_hostname=name or "",
                limit=_ANSWER,
            )
            try:
                writer.write(json.dumps(question).encode() + b"\n")
                await writer.drain()
                line = await reader.readline()
            except ValueError:
                raise _Elsewhere("its answer is too long") from None
            finally:
                writer.transport.abort()
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise _Elsewhere("its answer cannot be read") from None

    def _check_admitted(self, answer: object) -> None:
        """The fleet's own no is final: it knows its tokens."""
        if isinstance(answer, dict) and isinstance(why := answer.get("error"), str):
            shown = "".join(c if " " <= c <= "~" else "?" for c in why[:200])
            raise EdgeError(
                f"{self.address}: {shown}", hint="`edge fleet token` there makes another token"
            )

    def _keep(self, authority: bytes, fleet: str, admission: _Admission) -> None:
        issued = certificates.certificate_of(admission.certificate, authority)
        if issued.node != certificates.node_of_key(self.by.key):
            raise Refused("the certificate is not for this node's key")
        if issued.until <= self.by.clock():
            raise EdgeError(
                f"{self.address}: the certificate that it gave has ended already",
                hint="the clock of one of the two machines is wrong",
            )
        kept, revoked = self.by.kept, _revoked(admission.revocations, authority)
        peers = Address(self.address.host, admission.port)
        # A scope is the number of an interface, which another start may give to another one.
        lasting = peers.port > 0 and "%" not in peers.host
        if not kept.exists():
            kept.revocations.unlink(missing_ok=True)  # of a fleet that it did not get to join
        kept.write(kept.authority, authority)
        if revoked.number > kept.revoked().number:
            kept.write_revoked(revoked)
        kept.write(kept.certificate, issued.pem)
        kept.write_membership(
            Membership(
                issued.node,
                fleet,
                admission.fleet_name,
                admission.issuer,
                (str(peers),) if lasting else (),
                issued.until,
            )
        )


def _revoked(data: bytes, authority: bytes) -> Revoked:
    if not data:
        return Revoked()
    found = certificates.read_revocations(data, authority)
    return Revoked(found.number, frozenset(found.entries.values()), found.pem)


def _asking(kept: Kept) -> tuple[bytes, bytes]:
    """The node's key, made now if it has none, and a request by it. The key stays when joining
    fails: the same node tries again, and an answer that was lost costs the token nothing.
    """
    if not kept.key.exists():
        kept.write(kept.key, certificates.new_key())
    key = kept.read(kept.key)
    try:
        return key, certificates.new_request(key)
    except Refused as refused:
        raise EdgeError(f"{kept.key}: {refused}", hint="remove it, and try again") from None


def _read_admission(value: object) -> _Admission:
    with Table(value, Where("answer")) as table:
        return _Admission(
            table.need("certificate", string).encode(),
            table.need("fleet_name", parsed(fleet_name)),
            table.need("issuer", parsed(id_text)),
            table.need("port", integer(0, 65_535)),
            table.need("revocations", string).encode(),
        )


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, OSError):
        known = error.errno is not None and error.errno in errno.errorcode
        return (os.strerror(error.errno or 0) if known else error.strerror or str(error)).lower()
    return str(error)
