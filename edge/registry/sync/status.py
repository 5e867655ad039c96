"""What is said about an application of a node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge.config import Mount
from edge.registry.digest import Digest
from edge.registry.sync.wanted import Source

__all__ = ["AppStatus", "Health"]

# live         what is wanted serves
# soaking      it serves and is watched; `previous` returns when it fails
# pending      nothing serves yet: it was not tried, or its registry has not delivered
# waiting      a fleet's canaries have it, this node has what it had
# failed       what is wanted could not be made live; what was live before, if anything, serves
# rolled back  what is wanted failed while it was watched, or by hand; the version before serves
Health = Literal["live", "soaking", "pending", "waiting", "failed", "rolled back"]


@dataclass(frozen=True, slots=True)
class AppStatus:
    """One application, as it is now. `since`: when it came to this state, in trusted Unix time."""

    name: str
    reference: str | None  # None: a path of this machine
    source: Source
    mount: Mount
    digest: Digest | None  # of what serves
    previous: Digest | None  # what a rollback returns to
    state: Health
    reason: str = ""  # why it is not live, or why it could not be updated
    since: float | None = None
