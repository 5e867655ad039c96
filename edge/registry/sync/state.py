"""What a node was told to run and what it runs: apps.json, replaced as a whole.

Nothing here knows registries or the network.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["StateFile"]


class StateFile:
    """apps.json of a state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "apps.json"
