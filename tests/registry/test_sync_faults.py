"""Sync where something else fails than a registry: errors of edge itself, purges, what is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry_lab import liar
from sync_lab import FakeHost, Prepared, put, status, syncing

from edge.config import ApplicationEntry, Mount
from edge.registry.digest import Digest


@dataclass
class FaultyHost(FakeHost):
    """`faulty`: digests at which the node itself makes a mistake."""

    faulty: set[Digest] = field(default_factory=set)

    async def prepare(self, *args: Any, check: bool = True) -> Prepared:
        if args[2] in self.faulty:
            raise RuntimeError("a mistake of the engine")
        return await super().prepare(*args, check=check)


async def test_an_error_of_edge_itself_does_not_stop_a_boot(tmp_path: Path) -> None:
    async with liar() as registry:
        digests = [put(registry, tmp_path / "scratch", "hello", name, name) for name in ("a", "b")]
        entries = [
            ApplicationEntry(name, f"{registry.host}/hello:{name}", mount=Mount(f"/{name}"))
            for name in ("a", "b")
        ]
        async with syncing(tmp_path / "state", FakeHost(), entries) as sync:
            await sync.wait_idle()
        host = FaultyHost(faulty={digests[0]})
        async with syncing(tmp_path / "state", host, entries) as sync:
            assert (host.digest("a"), host.digest("b")) == (None, digests[1])
            assert "a mistake of the engine" in status(sync, "a").reason
