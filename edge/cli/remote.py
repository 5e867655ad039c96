"""What verbs need that reach a registry: its options, a client, progress for people."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType

from edge.errors import ConfigError, PullError, Refused
from edge.registry import bundle, local, transfer
from edge.registry.blobs import in_thread
from edge.registry.client import RegistryClient, RegistrySettings, Resolved
from edge.registry.credentials import DockerConfig, docker_config
from edge.registry.digest import Digest
from edge.registry.download import download
from edge.registry.local import LocalApplication
from edge.registry.reference import Reference
from edge.registry.store import ContentStore
from edge.registry.sweep import MakeRoom, sweep

# A registry that takes longer is not waited for, where there is an older version to serve.
ANSWER_SECONDS = 5.0

_log = logging.getLogger("edge")


def registry_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("registry")
    group.add_argument(
        "--insecure",
        action="store_true",
        help="plain HTTP to the registry, beyond this machine too",
    )
    group.add_argument(
        "--registry-ca", type=Path, metavar="FILE", help="trusted beside the system's authorities"
    )
    group.add_argument(
        "--username", metavar="USER", help="of the registry (default: as `docker login` left it)"
    )
    group.add_argument("--password-file", type=Path, metavar="FILE", help="holds its password")


@asynccontextmanager
async def registry_client(
    options: argparse.Namespace, reference: Reference
) -> AsyncIterator[RegistryClient]:
    """A client for the registry of a reference. Raises ConfigError."""
    settings = {reference.registry: _settings(options)}
    path = docker_config(os.environ)
    docker = await asyncio.to_thread(DockerConfig.load, path) if path else None
    async with RegistryClient(settings, docker=docker, note=_log.info) as client:
        yield client


def _settings(options: argparse.Namespace) -> RegistrySettings:
    if (options.username is None) != (options.password_file is None):
        raise ConfigError("--username and --password-file need each other")
    if options.insecure and options.registry_ca is not None:
        raise ConfigError("--insecure and --registry-ca exclude each other")
    return RegistrySettings(
        options.insecure, options.registry_ca, options.username, _password(options.password_file)
    )


def _password(path: Path | None) -> str:
    try:
        return "" if path is None else path.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not text"
        raise ConfigError(f"--password-file {path}: {reason}") from error


async def load(
    app: Path | Reference, options: argparse.Namespace, state_dir: Path
) -> LocalApplication:
    """The application on this machine, or the bundle of a registry."""
    if isinstance(app, Path):
        return await local.load(app, state_dir=state_dir, fetch=download)
    store = ContentStore(state_dir)
    digest = await pull_or_keep(options, app, store)
    return await asyncio.to_thread(bundle.read, store, digest, name=str(app))


@asynccontextmanager
async def in_use(app: Path | Reference, state_dir: Path) -> AsyncIterator[None]:
    """While it is held, an application's files stay: a guest reads them when it wants to."""
    with ExitStack() as lease:
        if isinstance(app, Reference):
            await in_thread(lease.enter_context, ContentStore(state_dir).lease())
        yield


async def pull(options: argparse.Namespace, reference: Reference, store: ContentStore) -> Digest:
    """Brings a bundle into the store and returns its manifest's digest."""
    async with registry_client(options, reference) as client:
        return await _pull(client, reference, store)


async def _pull(
    client: RegistryClient,
    reference: Reference,
    store: ContentStore,
    resolved: Resolved | None = None,
) -> Digest:
    """What is not needed any more goes afterwards: versions before the last two."""
    collects = not await asyncio.to_thread(_is_a_nodes, store)
    room = MakeRoom(store, note=_log.info) if collects else lambda: False
    with Progress("pulling", reference) as progress:
        digest = await transfer.pull(
            client, reference, store, progress, resolved=resolved, make_room=room
        )
    if collects:
        await asyncio.to_thread(sweep, store, (digest,))
    return digest


def _is_a_nodes(store: ContentStore) -> bool:
    """Whether a node collects there: only it knows what it could go back to."""
    return (store.directory.parent / "apps.json").exists()


async def pull_or_keep(
    options: argparse.Namespace, reference: Reference, store: ContentStore
) -> Digest:
    """As `pull`; when the registry does not deliver, what an earlier pull brought, and a line."""
    kept = await asyncio.to_thread(transfer.complete, store, reference)
    if kept is None:
        return await pull(options, reference, store)
    if reference.digest:
        return kept  # it cannot have come to mean something else
    try:
        return await _pull_in_time(options, reference, store)
    except Refused:
        raise
    except PullError as error:
        _log.warning("%s; serving what is here: %s", error.message, kept)
        return kept


async def _pull_in_time(
    options: argparse.Namespace, reference: Reference, store: ContentStore
) -> Digest:
    """The registry answers soon or not at all; what it then sends may take its time."""
    async with registry_client(options, reference) as client:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                found = await transfer.resolve(client, reference, store)
        except TimeoutError:
            seconds = f"{ANSWER_SECONDS:.0f} s"
            raise PullError(f"{reference}: the registry does not answer in {seconds}") from None
        return await _pull(client, reference, store, found)


class Progress:
    """Says how far it is, once a second, of what takes longer than that."""

    def __init__(self, verb: str, reference: Reference) -> None:
        self._text = f"{verb} {reference}"
        self._total = self._moved = 0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._shown = -1

    def __enter__(self) -> Progress:
        self._timer = self._loop.call_later(1, self._show)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def begin(self, total: int) -> None:
        self._total = total

    def moved(self, size: int) -> None:
        self._moved += size

    def _show(self) -> None:
        if self._moved != self._shown:
            self._shown = self._moved
            _log.info("%s%s", self._text, self._far())
        self._timer = self._loop.call_later(1, self._show)

    def _far(self) -> str:
        if not self._total:
            return ""
        return f": {self._moved / (1 << 20):.1f} of {self._total / (1 << 20):.1f} MiB"
