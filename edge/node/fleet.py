"""A node in its fleet: identity, discovery, peers and what they share, while there is a membership.

A node without one loads nothing of it.
"""

from __future__ import annotations

__all__ = ["FleetService"]


class FleetService:
    """Belongs to a daemon, as an async context manager."""

    async def refresh(self) -> None:
        """Looks at the state directory: joins in what a membership brings, or ends it. To be called
        after init, join and leave. Raises EdgeError when it cannot listen.
        """
