"""In which order the nodes of a fleet are responsible for a blob. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from edge.registry.digest import Digest

__all__ = ["by_rendezvous"]


def by_rendezvous(digest: Digest, ids: Iterable[str]) -> list[str]:
    """The same for everybody who knows the same nodes; one that goes changes nothing in the order
    of the others.
    """
    return sorted(set(ids), key=lambda id: (_score(digest, id), id))


def _score(digest: Digest, id: str) -> bytes:
    return hashlib.sha256(f"{digest}\0{id}".encode(errors="surrogateescape")).digest()
