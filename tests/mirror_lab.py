"""The node's own registry on a free port, and bundles to fill stores with."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from edge.config import Address
from edge.config import Mirror as Settings
from edge.registry.digest import Digest
from edge.registry.manifest import IMAGE_CONFIG, IMAGE_MANIFEST, Descriptor, Manifest
from edge.registry.mirror import Mirror
from edge.registry.mirror.limits import MirrorLimits
from edge.registry.reference import Reference
from edge.registry.store import ContentStore

T = TypeVar("T")


@dataclass
class Running:
    """A mirror under way: its address, what it said, what was pushed to it."""

    mirror: Mirror = field(init=False)
    notes: list[str] = field(default_factory=list)
    pushed: list[tuple[Reference, Digest]] = field(default_factory=list)

    @property
    def host(self) -> str:
        return str(self.mirror.addresses[0])

    @property
    def port(self) -> int:
        return self.mirror.addresses[0].port

    @property
    def url(self) -> str:
        return f"http://{self.host}"


@asynccontextmanager
async def running(
    store: ContentStore,
    *,
    accept_pushes: bool = False,
    host: str = "127.0.0.1",
    limits: MirrorLimits | None = None,
) -> AsyncIterator[Running]:
    settings = Settings(Address(host, 0), accept_pushes=accept_pushes)
    found = Running()
    async with Mirror(settings, store, note=found.notes.append, limits=limits) as found.mirror:
        found.mirror.pushed = lambda reference, digest: found.pushed.append((reference, digest))
        yield found


def bundle(
    store: ContentStore,
    reference: str,
    *layers: bytes,
    subject: Descriptor | None = None,
    kind: str | None = None,
    annotations: dict[str, str] | None = None,
) -> Descriptor:
    """In the store, by that name; its manifest's descriptor."""
    config, *rest = (store.add(data, IMAGE_CONFIG) for data in (b"{}", *layers))
    manifest = Manifest(config, tuple(rest), annotations or {}, kind, subject)
    descriptor = store.add(manifest.to_bytes(), IMAGE_MANIFEST)
    store.tags.set(reference.replace("DIGEST", str(descriptor.digest)), descriptor.digest)
    return descriptor


async def curl(*arguments: str | Path) -> bytes:
    """What it prints; another implementation than the server's own library."""

    def run() -> bytes:
        command = ["curl", "-sS", "--path-as-is", "--max-time", "60", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return await asyncio.to_thread(run)


async def until(check: Callable[[], Awaitable[T | None]]) -> T:
    """What `check` gives once it gives something; it is soon."""
    for _ in range(2000):
        if (found := await check()) is not None:
            return found
        await asyncio.sleep(0.01)
    raise AssertionError("never")
