"""What a member of a fleet keeps on disk, in the state directory's `identity`:

key.pem            the node's key, which never leaves it
certificate.pem    of the fleet's authority, for that key
authority.pem      the fleet's authority
revoked.crl        the newest list of who is no longer of the fleet, once there is one
membership.json    which fleet, and since when; the last to be written: with it, it counts
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from edge.application.fields import Table, Where, integer, items, parsed, string
from edge.errors import ConfigError, EdgeError
from edge.fleet.names import is_id
from edge.platform.atomic import write_file
from edge.platform.files import unreadable

__all__ = ["DIRECTORY", "Kept", "Membership", "Revoked", "id_text", "remove"]

DIRECTORY = "identity"
_SCHEMA = 1
_BLOCK = re.compile(rb"-----BEGIN X509 CRL-----.*-----END X509 CRL-----\n", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Membership:
    """Which fleet a node is in. `until`: of its certificate, in seconds since 1970."""

    node: str
    fleet: str
    fleet_name: str
    issuer: str
    introduced: tuple[str, ...]
    until: int


@dataclass(frozen=True, slots=True)
class Revoked:
    """A list of revocations that was verified. `data`: PEM, as its authority signed it."""

    number: int = 0
    nodes: frozenset[str] = frozenset()
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Kept:
    """The files of an identity. Everything here blocks and raises EdgeError."""

    directory: Path

    @property
    def key(self) -> Path:
        return self.directory / "key.pem"

    @property
    def certificate(self) -> Path:
        return self.directory / "certificate.pem"

    @property
    def authority(self) -> Path:
        return self.directory / "authority.pem"

    @property
    def revocations(self) -> Path:
        return self.directory / "revoked.crl"

    @property
    def _membership(self) -> Path:
        return self.directory / "membership.json"

    def exists(self) -> bool:
        return self._membership.exists()

    def read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise _damaged(path, error) from error

    def membership(self) -> Membership:
        where = Where(str(self._membership))
        try:
            return _read_membership(json.loads(self._membership.read_bytes()), where)
        except (ConfigError, ValueError, OSError) as error:
            raise _damaged(self._membership, error) from error

    def write_membership(self, membership: Membership) -> None:
        about = {
            "schema": _SCHEMA,
            "node": membership.node,
            "fleet": membership.fleet,
            "fleet_name": membership.fleet_name,
            "issuer": membership.issuer,
            "introduced": list(membership.introduced),
            "until": membership.until,
        }
        self.write(self._membership, json.dumps(about, indent=1).encode() + b"\n")

    def revoked(self) -> Revoked:
        """What was written before: it was verified then, so that no cryptography is needed now."""
        try:
            data = self.revocations.read_bytes()
        except FileNotFoundError:
            return Revoked()
        except OSError as error:
            raise _damaged(self.revocations, error) from error
        head, block = data.partition(b"\n\n")[0], _BLOCK.search(data)
        number, *nodes = head.decode("ascii", "replace").split("\n")
        if block is None or not number.isdecimal() or not all(map(is_id, nodes)):
            raise _damaged(self.revocations, None)
        return Revoked(int(number), frozenset(nodes), block[0])

    def write_revoked(self, revoked: Revoked) -> None:
        """In one file, as PEM may have text before it: what it says is never another list's."""
        head = "\n".join((str(revoked.number), *sorted(revoked.nodes)))
        self.write(self.revocations, head.encode() + b"\n\n" + revoked.data)

    def write(self, path: Path, data: bytes) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(path, data, mode=0o600)
        except OSError as error:
            raise EdgeError(f"{path}: {unreadable(error)}") from error

    def damaged(self, error: Exception) -> EdgeError:
        return _damaged(self.directory, error)

    def remove(self) -> None:
        remove(self._membership)


def remove(first: Path) -> None:
    """A directory, and this file of it before all others: without it what a power cut leaves of
    the rest counts for nothing. Raises EdgeError.
    """
    try:
        first.unlink(missing_ok=True)
        shutil.rmtree(first.parent)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise EdgeError(f"{first.parent}: {unreadable(error)}") from error


def _damaged(path: Path, error: Exception | None) -> EdgeError:
    why = error.message if isinstance(error, EdgeError) else f"{path}: is damaged"
    if isinstance(error, OSError):
        why = f"{path}: {unreadable(error)}"
    return EdgeError(why, hint="restore a backup, or `edge fleet leave` and join again")


def _read_membership(value: object, where: Where) -> Membership:
    with Table(value, where) as table:
        if (schema := table.need("schema", integer(1, 1 << 31))) > _SCHEMA:
            raise where.error(f"has schema {schema}, this version knows {_SCHEMA}")
        return Membership(
            node=table.need("node", parsed(id_text)),
            fleet=table.need("fleet", parsed(id_text)),
            fleet_name=table.need("fleet_name", string),
            issuer=table.need("issuer", parsed(id_text)),
            introduced=table.need("introduced", items(string)),
            until=table.need("until", integer(0, 1 << 40)),
        )


def id_text(text: str) -> str:
    if not is_id(text):
        raise ValueError("is not an id")
    return text
