"""Keeps what a node runs at what is wanted of it."""

from __future__ import annotations

from edge.registry.sync.registries import Registries
from edge.registry.sync.statefile import StateFile
from edge.registry.sync.status import AppStatus
from edge.registry.sync.sync import Sync
from edge.registry.sync.wanted import Candidate, Host, Source, Wanted

__all__ = [
    "AppStatus",
    "Candidate",
    "Host",
    "Registries",
    "Source",
    "StateFile",
    "Sync",
    "Wanted",
]
