"""How much the mirror takes on at a time, and how long it waits for anybody."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MirrorLimits"]


@dataclass(frozen=True, slots=True)
class MirrorLimits:
    """Times in seconds."""

    # A fleet of peers, or a handful of clients with some connections each; a connection is a file.
    connections: int = 128
    # Silence, and bytes a second on the whole, below which a client only holds a connection. The
    # client of this package gives up at the same.
    silence: float = 30.0
    rate: float = 8 << 10
    # Clients send some four blobs at a time each.
    uploads: int = 32
    # An upload that nothing comes for is dropped with what it brought.
    upload_idle: float = 300.0
    # Between a blob and the manifest that names it; a large layer may lie between them.
    pending: float = 1800.0
    # Blobs without a manifest; a bundle has 2,000 at most.
    pending_blobs: int = 10_000
