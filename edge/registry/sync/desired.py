"""What is wanted of a node, by everybody who may say so. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edge.config import ApplicationEntry
from edge.registry.sync.wanted import Wanted

__all__ = ["merged"]


def merged(
    file: Iterable[ApplicationEntry],
    deployed: Iterable[ApplicationEntry],
    fleet: Iterable[Wanted],
    *,
    soak: float,
) -> Mapping[str, Wanted]:
    """By name: edge.toml wins over `edge deploy`, which wins over the fleet's document."""
    found = {wanted.entry.name: wanted for wanted in fleet}
    found |= {entry.name: Wanted(entry, "deploy", soak) for entry in deployed}
    found |= {entry.name: Wanted(entry, "file", soak) for entry in file}
    return found
