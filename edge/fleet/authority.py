"""The authority of a fleet, on the node where it was founded: the state directory's `authority`.

    key.pem            the fleet's key: who has it is the fleet
    certificate.pem    its certificate, which every member has
    authority.json     who got which certificates
    tokens.json        which tokens are good, and who used them: hashes, never secrets. It is in no
                       backup, so that nothing makes a used one good again
    door.pem           key and certificate of the server that nodes join at, while it is open

What is answered to anybody is on the disk before. Everything here blocks; it may be called from
several threads.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edge.application.fields import Reader, Table, Where, integer, items, parsed, string
from edge.errors import ConfigError, EdgeError
from edge.fleet.keeping import Kept, id_text
from edge.fleet.names import Refused, is_id
from edge.fleet.token import SECRET_BYTES, Token, fleet_bytes, hash_of
from edge.platform.atomic import write_file
from edge.platform.files import unreadable

# Cryptography is loaded by what needs it: most nodes with an authority do nothing with it for long.
if TYPE_CHECKING:
    from edge.fleet.certificates import Issued, Signer

__all__ = ["DIRECTORY", "Authority", "Member", "found", "load"]

DIRECTORY = "authority"
_SCHEMA = 1
_MAX_MEMBERS = 4096
_MAX_TOKENS = 64
# Certificates of one node that are listed when it is revoked; by its id it is refused anyway.
_SERIALS = 8
# Seconds between two certificates for one node: a member cannot keep the disk busy.
_RENEW_EVERY = 3600.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Member:
    """A node that has a certificate. `since`, `until`: of the newest, in seconds since 1970."""

    node: str
    name: str
    since: int
    until: int
    serials: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Offer:
    """A token. `by`: who has used it."""

    hash: str
    expires: int
    uses: int
    by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _State:
    fleet: str
    fleet_name: str
    members: tuple[Member, ...] = ()


class Authority:
    """Issues, renews and revokes. Made by `found` or `load`."""

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self._directory, self._clock = directory, clock
        self._lock = threading.Lock()
        self._files = Kept(directory)
        self._state = _read(directory / "authority.json", _state)
        self._offers: tuple[_Offer, ...] = ()
        if (directory / "tokens.json").exists():
            self._offers = _read(directory / "tokens.json", _tokens)

    @property
    def fleet(self) -> str:
        """Its id."""
        return self._state.fleet

    @property
    def fleet_name(self) -> str:
        return self._state.fleet_name

    @property
    def certificate(self) -> bytes:
        """In PEM."""
        return self._files.read(self._files.certificate)

    @property
    def members(self) -> tuple[Member, ...]:
        return self._state.members

    # Tokens

    def offer(self, uses: int, life: float, addresses: tuple[tuple[str, int], ...]) -> Token:
        """A new token. Raises EdgeError."""
        now = self._clock()
        token = Token(
            fleet_bytes(self.fleet), secrets.token_bytes(SECRET_BYTES), int(now + life), addresses
        )
        with self._lock:
            good = tuple(offer for offer in self._offers if offer.expires > now)
            if len(good) >= _MAX_TOKENS:
                raise EdgeError(
                    f"{_MAX_TOKENS} tokens are good already",
                    hint="use one, or wait until one has expired",
                )
            self._write_offers((*good, _Offer(token.hash, token.expires, uses)))
        return token

    def open_until(self) -> float | None:
        """When the last good token ends; None: there is none."""
        now = self._clock()
        return max((float(o.expires) for o in self._offers if o.expires > now), default=None)

    # Certificates

    def admit(self, secret: bytes, request: bytes, name: str, revoked: Iterable[str]) -> Issued:
        """For who brings a token. The same node may ask again: an answer may be lost. Raises
        Refused, and EdgeError when it cannot be written down.
        """
        hashed = hash_of(secret)
        self._good(hashed)  # whoever has no secret is not worth a signature's check
        node = _asks(request)
        with self._lock:
            if node in revoked:
                raise Refused("the node was revoked")
            self._use(hashed, node)
            return self._issue(request, node, name)

    def renew(self, node: str, request: bytes, revoked: Iterable[str]) -> Issued:
        """For a member that showed its certificate. Raises Refused and EdgeError."""
        if _asks(request) != node:
            raise Refused("the request is not of the node that sends it")
        with self._lock:
            member = self._member(node)
            if member is not None and self._clock() < member.since + _RENEW_EVERY:
                raise Refused("its certificate was renewed less than an hour ago")
            if node in revoked:
                raise Refused("the node was revoked")
            return self._issue(request, node, member.name if member else "")

    def admit_self(self, request: bytes, name: str) -> Issued:
        """For the node that has this authority."""
        node = _asks(request)
        with self._lock:
            return self._issue(request, node, name)

    def _use(self, hashed: str, node: str) -> None:
        """Counted, and on the disk, before there is a certificate."""
        offer = self._good(hashed)
        if node in offer.by:
            return
        if len(offer.by) >= offer.uses:
            raise Refused("the token has been used")
        used = replace(offer, by=(*offer.by, node))
        self._write_offers(tuple(used if one is offer else one for one in self._offers))

    def _good(self, hashed: str) -> _Offer:
        for offer in self._offers:
            if offer.hash == hashed and offer.expires > self._clock():
                return offer
        raise Refused("the token has expired, or is none of this fleet")

    def _issue(self, request: bytes, node: str, name: str) -> Issued:
        before, others = self._member(node), self._others(node)
        now = self._clock()
        issued = self._signer().issue(request, now)
        serials = (*(before.serials if before else ()), issued.serial)[-_SERIALS:]
        member = Member(node, name, int(now), issued.until, serials)
        self._write(replace(self._state, members=(*others, member)))
        return issued

    def _others(self, node: str) -> tuple[Member, ...]:
        others = tuple(member for member in self._state.members if member.node != node)
        if len(others) < _MAX_MEMBERS:
            return others
        now = self._clock()
        good = tuple(member for member in others if member.until > now)
        if len(good) >= _MAX_MEMBERS:
            raise Refused(f"the fleet has {_MAX_MEMBERS} nodes, and takes no more")
        return good

    def _member(self, node: str) -> Member | None:
        return next((member for member in self._state.members if member.node == node), None)

    def door(self) -> Path:
        """Key and certificate, made anew, for the server that nodes join at."""
        from edge.fleet.certificates import new_key, new_request

        key = new_key()
        issued = self._signer().door(new_request(key), self._clock())
        path = self._directory / "door.pem"
        _write_file(path, key + issued.pem)
        return path

    # Revocation

    def find(self, who: str, revoked: Container[str] = ()) -> str:
        """The node that an id, the beginning of one (eight characters or more), or a name means:
        a revoked one only where nobody else is called so. Raises ConfigError.
        """
        # A whole id means that node, whatever another one calls itself. It may be unknown here: an
        # older backup of the authority may have been restored since it was issued.
        if is_id(who):
            return who
        found = [
            member.node
            for member in self._state.members
            if member.name == who or (len(who) >= 8 and member.node.startswith(who))
        ]
        found = [node for node in found if node not in revoked] or found
        if len(found) > 1:
            listed = ", ".join(sorted(found))
            raise ConfigError(f"{who}: several nodes are called so: {listed}", hint="name the id")
        if found:
            return found[0]
        raise ConfigError(
            f"{who}: no node of this fleet", hint="`edge fleet members` lists those that there are"
        )

    def revoke(self, node: str, known: bytes) -> bytes:
        """The next list, in PEM, with this node; `known`: the newest one, empty before the first.
        Tokens that it has used are good for nobody any more: it still has their secrets, and could
        come back as another node. Raises Refused when the list is none of this fleet.
        """
        from edge.fleet.certificates import read_revocations

        with self._lock:
            if any(node in offer.by for offer in self._offers):
                self._write_offers(tuple(o for o in self._offers if node not in o.by))
            before = read_revocations(known, self.certificate) if known else None
            member = self._member(node)
            serials = member.serials if member else (_no_serial(node),)
            entries = dict.fromkeys(serials, node)
            return self._signer().revoke(entries, before, self._clock())

    def _signer(self) -> Signer:
        """The key is in memory only while it signs."""
        from edge.fleet.certificates import Signer

        signer = Signer(self._files.read(self._files.key), self.certificate)
        try:
            if signer.fleet == self.fleet:
                return signer
        except Refused:
            pass
        raise EdgeError(
            f"{self._directory}: key and certificate are not this fleet's", hint="restore a backup"
        )

    def _write(self, state: _State) -> None:
        _write_file(self._directory / "authority.json", _to_json(state))
        self._state = state

    def _write_offers(self, offers: tuple[_Offer, ...]) -> None:
        _write_file(self._directory / "tokens.json", _tokens_json(offers))
        self._offers = offers


def found(directory: Path, name: str, clock: Callable[[], float]) -> Authority:
    """Founds a fleet, or takes up a founding that was interrupted. Raises EdgeError."""
    from edge.fleet import certificates

    if not (directory / "authority.json").exists():
        files = Kept(directory)
        key, certificate = certificates.new_authority(name, clock())
        files.write(files.key, key)
        files.write(files.certificate, certificate)
        state = _State(certificates.authority_id(certificate), name)
        files.write(directory / "authority.json", _to_json(state))
    return Authority(directory, clock)


def load(state_dir: Path, clock: Callable[[], float]) -> Authority | None:
    """None: this node has none. Raises EdgeError for a damaged one."""
    directory = state_dir / DIRECTORY
    return Authority(directory, clock) if (directory / "authority.json").exists() else None


def _asks(request: bytes) -> str:
    from edge.fleet.certificates import node_of_request

    return node_of_request(request)


def _no_serial(node: str) -> int:
    """Stands in a list for certificates that nobody knows any more; the entry's id counts."""
    return int.from_bytes(hashlib.sha256(node.encode()).digest()[:16], "big") | 1


def _write_file(path: Path, data: bytes) -> None:
    try:
        write_file(path, data, mode=0o600)
    except OSError as error:
        raise EdgeError(f"{path}: {unreadable(error)}") from error


# authority.json


def _to_json(state: _State) -> bytes:
    about = {
        "schema": _SCHEMA,
        "fleet": state.fleet,
        "fleet_name": state.fleet_name,
        "members": [
            {
                "node": member.node,
                "name": member.name,
                "since": member.since,
                "until": member.until,
                "serials": [f"{serial:x}" for serial in member.serials],
            }
            for member in state.members
        ],
    }
    return json.dumps(about, indent=1).encode() + b"\n"


def _tokens_json(offers: Iterable[_Offer]) -> bytes:
    tokens = [
        {"sha256": offer.hash, "expires": offer.expires, "uses": offer.uses, "by": list(offer.by)}
        for offer in offers
    ]
    return json.dumps({"schema": _SCHEMA, "tokens": tokens}, indent=1).encode() + b"\n"


def _read(path: Path, read: Reader[T]) -> T:
    try:
        return read(json.loads(path.read_bytes()), Where(str(path)))
    except ConfigError as error:
        raise EdgeError(error.message, hint="restore a backup") from error
    except ValueError:
        raise EdgeError(f"{path}: is damaged", hint="restore a backup") from None
    except OSError as error:
        raise EdgeError(f"{path}: {unreadable(error)}") from error


_MOMENT: Reader[int] = integer(0, 1 << 40)


def _state(value: object, where: Where) -> _State:
    with Table(value, where) as table:
        _check_schema(table)
        return _State(
            table.need("fleet", parsed(id_text)),
            table.need("fleet_name", string),
            table.need("members", items(_read_member)),
        )


def _tokens(value: object, where: Where) -> tuple[_Offer, ...]:
    with Table(value, where) as table:
        _check_schema(table)
        return table.need("tokens", items(_read_offer))


def _check_schema(table: Table) -> None:
    if (schema := table.need("schema", integer(1, 1 << 31))) > _SCHEMA:
        raise table.where.error(f"has schema {schema}, this version knows {_SCHEMA}")


def _read_member(value: object, where: Where) -> Member:
    with Table(value, where) as table:
        return Member(
            table.need("node", parsed(id_text)),
            table.need("name", string),
            table.need("since", _MOMENT),
            table.need("until", _MOMENT),
            table.need("serials", items(parsed(lambda text: int(text, 16)))),
        )


def _read_offer(value: object, where: Where) -> _Offer:
    with Table(value, where) as table:
        return _Offer(
            table.need("sha256", string),
            table.need("expires", _MOMENT),
            table.need("uses", integer(1, 1 << 20)),
            table.need("by", items(parsed(id_text))),
        )
