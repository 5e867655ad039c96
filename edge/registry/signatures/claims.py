"""What a signature says, whichever format says it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from edge.application.fields import Where, raw_table, string
from edge.registry.digest import Digest
from edge.registry.reference import Reference

__all__ = ["EXPIRES", "Candidate", "Claim", "added", "base64_bytes", "expiry", "show_date"]

# An annotation of ours: until when a signature counts, as RFC 3339. Other tools ignore it.
EXPIRES = "edge.expires"


@dataclass(frozen=True, slots=True)
class Claim:
    """`digests`: of the manifests that were signed. `identity`: as what, if it says so.

    `expires`: in seconds since 1970; None: never.
    """

    digests: frozenset[Digest]
    identity: str | None = None
    expires: float | None = None

    def objection(self, reference: Reference, digest: Digest, now: float) -> str | None:
        """Why it does not stand for that manifest in that repository now."""
        if digest not in self.digests:
            signed = min(self.digests, default=None)
            return f"signs another digest: {signed}" if signed else "signs no digest"
        if self.identity is not None and _repository(self.identity) != reference.name:
            return f"was made for another repository: {self.identity[:200]!a}"
        if self.expires is not None and now >= self.expires:
            return f"expired on {show_date(self.expires)}"
        return None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A signature that nobody has looked at yet. `claim` reads what is signed: only afterwards."""

    signature: bytes
    message: bytes
    claim: Callable[[], Claim]  # raises BundleError


def show_date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")


def added(value: object, where: Where) -> Mapping[str, object]:
    """What its maker added. cosign writes null for nothing."""
    return {} if value is None else raw_table(value, where)


def expiry(among: Mapping[str, object], where: Where) -> float | None:
    """Our annotation among those of a signature. One that cannot be read is no signature."""
    if (found := among.get(EXPIRES)) is None:
        return None
    try:
        moment = datetime.fromisoformat(string(found, where.key(EXPIRES)))
        if moment.tzinfo is not None:
            return moment.astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        pass
    raise where.key(EXPIRES).error("is not a date like 2030-01-31T00:00:00Z")


def base64_bytes(text: str) -> bytes:
    """Standard base64, of which each value has one spelling. Raises ValueError."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if base64.b64encode(data).decode() != text:
        raise ValueError("is not base64")
    return data


def _repository(identity: str) -> str:
    """Registry and repository of what a signature calls its image, without tag and digest."""
    name = identity.partition("@")[0]
    registry, slash, rest = name.partition("/")
    if not slash or not ("." in registry or ":" in registry or registry == "localhost"):
        registry, rest = "docker.io", name  # as Docker reads names
    if registry.lower() in ("docker.io", "index.docker.io"):
        registry = "docker.io"
        rest = rest if "/" in rest else f"library/{rest}"
    return f"{registry.lower()}/{rest.partition(':')[0]}"
