"""What sync works with in tests: a host that only remembers, bundles, a registry's content."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry_lab import Liar

from edge import config
from edge.application.model import Application, Component, HttpTrigger, PathSource
from edge.application.routes import Route
from edge.config import ApplicationEntry, Mount
from edge.errors import ConfigError, EdgeError
from edge.registry import bundle
from edge.registry.client import Patience
from edge.registry.digest import Digest
from edge.registry.lan.lan import Lan
from edge.registry.local import LocalApplication
from edge.registry.manifest import MAX_MANIFEST, Manifest, read
from edge.registry.store import ContentStore
from edge.registry.sync import AppStatus, Candidate, Registries, StateFile, Sync, Wanted

COMPONENT = b"\0asm\x0d\0\1\0"
# Tests wait for none of it.
HASTY = Patience(total=0.3, attempts=2, first=0.01, connect=2.0, silence=0.2)
SETTINGS = config.Sync(interval=0.2, jitter=0.2, soak=30.0, timeout=20.0)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    digest: Digest | None
    wanted: Wanted
    checked: bool


@dataclass
class Watch:
    name: str
    seconds: float
    failed: Callable[[str], None]
    passed: Callable[[], None]
    before: Prepared


@dataclass
class FakeHost:
    """A node without guests. `sick`: digests that are not healthy; `broken`: that do not load."""

    live: dict[str, Prepared] = field(default_factory=dict)
    sick: set[Digest] = field(default_factory=set)
    broken: set[Digest] = field(default_factory=set)
    prepared: list[Prepared] = field(default_factory=list)
    discarded: list[Candidate] = field(default_factory=list)
    swaps: list[list[str]] = field(default_factory=list)
    watches: dict[str, Watch] = field(default_factory=dict)
    replaced: dict[str, Prepared] = field(default_factory=dict)
    # before a version is ready: a test lets it wait
    gate: Callable[[], Any] | None = None
    preparing: int = 0
    most: int = 0

    async def prepare(
        self, wanted: Wanted, local: LocalApplication, digest: Digest | None, *, check: bool = True
    ) -> Prepared:
        assert digest is not None
        assert all(path.exists() for path in local.sources.values())
        self.preparing += 1
        self.most = max(self.most, self.preparing)
        try:
            await asyncio.sleep(0)
            if self.gate is not None:
                await self.gate()
        finally:
            self.preparing -= 1
        if digest in self.broken:
            raise EdgeError(f"{wanted.entry.name}: does not load")
        if check and digest in self.sick:
            raise EdgeError(f"{wanted.entry.name}: answers /healthz with 500")
        found = Prepared(digest, wanted, check)
        self.prepared.append(found)
        return found

    async def swap(self, changes: Mapping[str, Candidate | None]) -> None:
        after: dict[str, Any] = {**self.live, **changes}
        after = {name: found for name, found in after.items() if found is not None}
        mounts: dict[Mount, str] = {}
        for name, found in after.items():
            mount = found.wanted.entry.mount
            if mount in mounts:
                raise ConfigError(f"application {name}: its mount is that of {mounts[mount]}")
            mounts[mount] = name
        for name in changes:
            self.watches.pop(name, None)
            if name in self.live:
                self.replaced[name] = self.live[name]
        self.live = after
        self.swaps.append(list(changes))

    def watch(
        self, name: str, seconds: float, failed: Callable[[str], None], passed: Callable[[], None]
    ) -> None:
        self.watches[name] = Watch(name, seconds, failed, passed, self.replaced[name])

    def discard(self, candidate: Candidate) -> None:
        self.discarded.append(candidate)

    # What a test makes happen

    def fail(self, name: str, reason: str) -> None:
        watch = self.watches.pop(name)
        self.live[name] = watch.before
        watch.failed(reason)

    def pass_(self, name: str) -> None:
        self.watches.pop(name).passed()

    def digest(self, name: str) -> Digest | None:
        return self.live[name].digest if name in self.live else None


def put(registry: Liar, scratch: Path, name: str, content: str, *tags: str) -> Digest:
    """An application whose one component holds that text, at tags of a repository."""
    folder = scratch / name
    folder.mkdir(parents=True, exist_ok=True)
    wasm = folder / f"{content}.wasm"
    wasm.write_bytes(COMPONENT + content.encode())
    trigger = HttpTrigger(id="t", route=Route.parse("/..."), component="c")
    component = Component("c", PathSource(str(wasm)))
    application = Application(name, components={"c": component}, http=(trigger,))
    store = ContentStore(folder)
    digest = bundle.build(LocalApplication(application, {"c": wasm}, {"c": ()}, ()), store)
    offer(registry, store, digest, *tags)
    return digest


def offer(registry: Liar, store: ContentStore, digest: Digest, *tags: str) -> None:
    """A bundle of a store, at tags of every repository."""
    data = store.read(digest, MAX_MANIFEST)
    manifest = read(data, str(digest))
    assert isinstance(manifest, Manifest)
    for tag in (*tags, str(digest)):
        registry.manifests[tag] = (manifest.media_type, data)
    for blob in manifest.blobs:
        registry.blobs[str(blob.digest)] = store.path(blob.digest).read_bytes()


@asynccontextmanager
async def syncing(
    state_dir: Path,
    host: FakeHost,
    entries: Iterable[ApplicationEntry] = (),
    *,
    settings: config.Sync = SETTINGS,
    fleet: Iterable[Wanted] | None = None,
    configured: Iterable[config.Registry] = (),
    lan: Lan | None = None,
    **options: Any,
) -> AsyncIterator[Sync]:
    """A sync at work; leaving ends it as SIGTERM would. `lan`: the neighbours of its node."""
    options.setdefault("clock", lambda: 1_800_000_000.0)
    options.setdefault("rng", random.Random(4))
    store = ContentStore(state_dir)
    async with (
        Registries(configured, patience=HASTY) as registries,
        Sync(settings, StateFile(state_dir), store, host, registries, **options) as sync,
    ):
        registries.lan = lan
        if fleet is not None:
            sync.set_fleet(fleet)
        await sync.start(entries)
        task = asyncio.get_running_loop().create_task(sync.run())
        try:
            yield sync
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def status(sync: Sync, name: str) -> AppStatus:
    return next(app for app in sync.apps() if app.name == name)


async def until(condition: Callable[[], bool]) -> None:
    """A deadline for it is the test's own."""
    while not condition():  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(0.005)
