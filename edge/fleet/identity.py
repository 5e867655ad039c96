"""Who this node is in its fleet, and who a peer is: TLS 1.3 on both sides, bound to node ids.

A node's id is the hash of its key, and so is the fleet's, of its authority's key. A connection is
made to an id: whoever answers must hold a certificate of this fleet for exactly that id. Knows no
HTTP and no peers; how a node comes by its identity is `join` and `authority`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edge.fleet import keeping
from edge.fleet.keeping import Kept, Membership, Revoked
from edge.fleet.names import Identified, Refused
from edge.platform.dates import Clock, date_by, is_about_dates

__all__ = ["MAX_REVOCATIONS", "Identity", "Revocations", "load", "tells_of_revocation"]

# Bytes of a list of the revoked: five thousand of them.
MAX_REVOCATIONS = 1 << 20

# Seconds before a certificate's end: it should have been renewed for two months.
_WORRYING = 60 * 86400.0

# X509_V_ERR_APPLICATION_VERIFICATION: a refusal that is ours, not OpenSSL's.
_OURS = 50


@dataclass(frozen=True, slots=True)
class Revocations:
    """The fleet's list of those that no longer belong to it. `data` is empty before the first."""

    number: int = 0
    data: bytes = b""


class Identity:
    """A node's membership of a fleet. Made by `load`.

    `on_revoked` is told the ids that a newer list names for the first time; it is set by who keeps
    connections, and closes theirs. `on_refused` is told why somebody's connection to the server was
    refused in its handshake.
    """

    def __init__(self, kept: Kept, clock: Clock) -> None:
        self._kept, self._clock = kept, clock
        self._member: Membership = kept.membership()
        self._revoked: Revoked = kept.revoked()
        self._client: ssl.SSLContext | None = None
        self._anybody: ssl.SSLContext | None = None
        self._server: ssl.SSLContext | None = None
        self._taking = asyncio.Lock()
        self.on_revoked: Callable[[frozenset[str]], None] = _nobody
        self.on_refused: Callable[[str], None] = _nobody

    @property
    def node(self) -> str:
        """This node's id."""
        return self._member.node

    @property
    def fleet(self) -> str:
        """The fleet's id."""
        return self._member.fleet

    @property
    def fleet_name(self) -> str:
        return self._member.fleet_name

    @property
    def issuer(self) -> str:
        """The id of the node that has the fleet's authority."""
        return self._member.issuer

    @property
    def is_issuer(self) -> bool:
        return self._member.issuer == self._member.node

    @property
    def introduced(self) -> tuple[str, ...]:
        """Where the issuer could be reached by peers when this node joined, "host:port" each."""
        return self._member.introduced

    @property
    def until(self) -> float:
        """When this node's certificate ends, in seconds since 1970."""
        return self._member.until

    @property
    def is_revoked(self) -> bool:
        """Whether this node knows that it is no longer of the fleet."""
        return self.node in self._revoked.nodes

    @property
    def revoked(self) -> frozenset[str]:
        """Ids of those that are not of this fleet any more."""
        return self._revoked.nodes

    @property
    def revocations(self) -> Revocations:
        return Revocations(self._revoked.number, self._revoked.data)

    def client_context(self) -> ssl.SSLContext:
        """For connections to peers. `server_hostname` must be the id of the node that is meant.
        Always the same object, which newer lists and certificates reach. Blocks the first time, and
        raises EdgeError then when a file is damaged.
        """
        if self._client is None:
            self._client = self._context(ssl.PROTOCOL_TLS_CLIENT)
        return self._client

    def anybody_context(self) -> ssl.SSLContext:
        """For a connection to whichever node of the fleet answers; `peer_of` says which that is."""
        if self._anybody is None:
            self._anybody = self._context(ssl.PROTOCOL_TLS_CLIENT)
            self._anybody.check_hostname = False
        return self._anybody

    def server_context(self) -> ssl.SSLContext:
        """For connections from peers, as `client_context`."""
        if self._server is None:
            self._server = self._context(ssl.PROTOCOL_TLS_SERVER)
        return self._server

    def peer_of(self, connection: ssl.SSLObject | ssl.SSLSocket) -> str:
        """The id of who is at the other end, after the handshake. Raises Refused for whoever is
        none of this fleet: the contexts made here have refused them already.
        """
        return self._identified().peer(connection.getpeercert() or {})

    async def take_revocations(self, data: bytes) -> bool:
        """Whether this was a newer list, of this fleet's authority: it is kept then, and counts for
        new connections at once; `on_revoked` is told. Raises Refused for what is no list of this
        fleet, EdgeError when it cannot be kept.
        """
        async with self._taking:
            taken = await asyncio.to_thread(self._newer, data)
            if taken is None:
                return False
            fresh = taken.nodes - self._revoked.nodes
            self._revoked = taken
            for context in self._contexts:
                self._load_revoked(context)
        self.on_revoked(fresh)
        return True

    async def take_certificate(self, pem: bytes) -> None:
        """A newer certificate of this node, from its fleet's authority; it is shown from now on.
        Raises Refused for any other, EdgeError when it cannot be kept.
        """
        async with self._taking:
            self._member = await asyncio.to_thread(self._renewed, pem)
            for context in self._contexts:
                context.load_cert_chain(self._kept.certificate, self._kept.key)

    async def request(self) -> bytes:
        """What a newer certificate is asked for with, in PEM."""
        from edge.fleet.certificates import new_request

        return await asyncio.to_thread(lambda: new_request(self._kept.read(self._kept.key)))

    def notes(self) -> tuple[str, ...]:
        """What the node's operator should know."""
        if self.is_revoked:
            hint = "`edge fleet leave`, then join with a new token"
            return (f"this node was revoked: no peer of its fleet talks to it ({hint})",)
        if self._clock() > self.until:
            return ("this node's certificate has expired: join again with a new token",)
        if (left := self.until - self._clock()) < _WORRYING:
            days = f"{left / 86400:.0f} days"
            return (f"this node's certificate ends in {days}: is the authority's node away?",)
        return ()

    def _newer(self, data: bytes) -> Revoked | None:
        if len(data) > MAX_REVOCATIONS:
            raise Refused("the list of the revoked is too long")
        from edge.fleet.certificates import read_revocations

        found = read_revocations(data, self._kept.read(self._kept.authority))
        if found.number <= self._revoked.number:
            return None
        revoked = Revoked(found.number, frozenset(found.entries.values()), found.pem)
        self._kept.write_revoked(revoked)
        return revoked

    def _renewed(self, pem: bytes) -> Membership:
        from edge.fleet.certificates import certificate_of

        issued = certificate_of(pem, self._kept.read(self._kept.authority))
        if issued.node != self.node:
            raise Refused("the certificate is another node's")
        if issued.until <= self.until:
            raise Refused("the certificate ends no later than the one before")
        member = replace(self._member, until=issued.until)
        self._kept.write(self._kept.certificate, issued.pem)
        self._kept.write_membership(member)
        return member

    @property
    def _contexts(self) -> tuple[ssl.SSLContext, ...]:
        every = (self._client, self._anybody, self._server)
        return tuple(context for context in every if context is not None)

    def _identified(self) -> Identified:
        return Identified(self.fleet, self._revoked.nodes)

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = protocol == ssl.PROTOCOL_TLS_CLIENT
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        # A session that is taken up again skips the handshake, and with it every check here.
        context.options |= ssl.OP_NO_TICKET
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0
        try:
            context.load_verify_locations(self._kept.authority)
            context.load_cert_chain(self._kept.certificate, self._kept.key)
            self._load_revoked(context)
        except OSError as error:  # of ssl, too
            raise self._kept.damaged(error) from error
        date_by(self._clock, context)
        self._bind(context)
        return context

    def _bind(self, context: ssl.SSLContext) -> None:
        """The id is checked within the handshake, so that nobody can forget to."""
        identity = self

        class Bound(context.sslobject_class):  # type: ignore[misc, name-defined]
            _failed: ssl.SSLError | None = None

            def do_handshake(self) -> None:
                if self._failed is not None:
                    raise self._failed
                try:
                    super().do_handshake()
                    identity.peer_of(self)
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    raise
                except Refused as refused:
                    raise self._told(_refusal(str(refused))) from None
                except ssl.SSLError as error:
                    raise self._told(error) from error

            def _told(self, error: ssl.SSLError) -> ssl.SSLError:
                """asyncio throws away the alert that tells a client why it is refused, unless the
                handshake seems to go on: it ends as the client does, or at its deadline.
                """
                if not self.server_side:
                    return error
                identity.on_refused(_reason(error))
                if isinstance(error, ssl.SSLCertVerificationError) and not _is_ours(error):
                    self._failed = error
                    return ssl.SSLWantReadError()
                return error

        context.sslobject_class = Bound

    def _load_revoked(self, context: ssl.SSLContext) -> None:
        if self._revoked.number:
            context.load_verify_locations(self._kept.revocations)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def load(state_dir: Path, clock: Clock) -> Identity | None:
    """The node's identity; None: it is in no fleet. Blocks. Raises EdgeError for a damaged one."""
    kept = Kept(state_dir / keeping.DIRECTORY)
    return Identity(kept, clock) if kept.exists() else None


def tells_of_revocation(error: BaseException) -> bool:
    """Whether a peer broke the connection because it takes this node for revoked."""
    return "CERTIFICATE_REVOKED" in (getattr(error, "reason", None) or "")


def _refusal(reason: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, reason)
    error.verify_code, error.verify_message = _OURS, reason
    return error


def _is_ours(error: ssl.SSLCertVerificationError) -> bool:
    """Whether OpenSSL was content with the certificate: it has no alert to send then."""
    return error.verify_code == _OURS or is_about_dates(error)


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or "no TLS").lower().replace("_", " ")


def _nobody(_what: object) -> None:
    pass
