"""Clients of registries, each with the configuration that fits the reference best."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol

from edge.config import Registry
from edge.errors import ConfigError
from edge.platform.dates import Clock
from edge.registry.client import Patience, RegistryClient, RegistrySettings
from edge.registry.credentials import DockerConfig
from edge.registry.reference import Reference
from edge.registry.source import Source

__all__ = ["Registries", "configured"]


# Sync tries again by itself, and says so; what it waits for here, nobody sees.
_PATIENCE = Patience(total=10.0, attempts=4, longest=5.0)
# Seconds that a LAN which is expected may take.
_EXPECTED = 3.0


class Lan(Protocol):
    """Neighbours that have the same content."""

    def source(self, registry: RegistryClient) -> Source:
        """A registry with them beside it."""

    @property
    def has_neighbours(self) -> bool: ...


class Registries:
    """Gives a client for each reference, as an async context manager that closes them.

    `lan`: neighbours that are asked beside registries, from when that is set on.

    `docker`: Docker's config.json, read anew after each `update`. `credentials`: where a password
    file that is a bare name is looked for. `note` gets a line for each wait.
    """

    def __init__(
        self,
        configured: Iterable[Registry] = (),
        *,
        docker: Path | None = None,
        credentials: Path | None = None,
        patience: Patience | None = None,
        note: Callable[[str], None] = lambda _: None,
        clock: Clock | None = None,
    ) -> None:
        self._lan: Lan | None = None
        self._lan_came = asyncio.Event()
        self._expected = 0.0  # until when
        self._clock = clock
        self._configured = tuple(configured)
        self._docker = docker
        self._credentials = credentials
        self._patience = patience or _PATIENCE
        self._note = note
        self._clients: dict[str, RegistryClient] = {}
        self._opened = AsyncExitStack()
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Registries:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clients.clear()
        await self._opened.aclose()

    async def client(self, reference: Reference) -> Source:
        """Raises ConfigError when a password or Docker's configuration cannot be read."""
        client = await self._client(reference)
        if self._lan is None and self._expected > asyncio.get_running_loop().time():
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._expected):
                    await self._lan_came.wait()
        return client if self._lan is None else self._lan.source(client)

    @property
    def lan(self) -> Lan | None:
        return self._lan

    @lan.setter
    def lan(self, lan: Lan | None) -> None:
        self._lan = lan
        if lan is not None:
            self._lan_came.set()

    def expect_lan(self) -> None:
        """There will be one in a moment: what a node lacks when it starts, its neighbours have."""
        self._expected = asyncio.get_running_loop().time() + _EXPECTED

    def has_neighbours(self) -> bool:
        """Whether what a digest names may be had without a registry."""
        return self._lan is not None and self._lan.has_neighbours

    async def _client(self, reference: Reference) -> RegistryClient:
        entry = configured(self._configured, reference)
        key = entry.name if entry else ""
        async with self._opening:
            if key not in self._clients:
                self._clients[key] = await self._open(entry, reference)
            return self._clients[key]

    def update(self, configured: Iterable[Registry]) -> None:
        """From the next reference on. What is under way keeps the client that it has."""
        self._configured = tuple(configured)
        self._clients.clear()  # open until the end: they hold no connection for long

    async def _open(self, entry: Registry | None, reference: Reference) -> RegistryClient:
        settings, docker = await asyncio.to_thread(self._read, entry)
        client = RegistryClient(
            {reference.registry: settings} if entry else {},
            docker=docker,
            patience=self._patience,
            note=self._note,
            clock=self._clock,
        )
        return await self._opened.enter_async_context(client)

    def _read(self, entry: Registry | None) -> tuple[RegistrySettings, DockerConfig]:
        docker = DockerConfig.load(self._docker) if self._docker else DockerConfig()
        if entry is None:
            return RegistrySettings(), docker
        password = entry.password or ""
        if entry.password_file is not None:
            password = self._password(entry.name, entry.password_file)
        settings = RegistrySettings(entry.insecure, entry.ca_file, entry.username, password)
        return settings, docker

    def _password(self, name: str, path: Path) -> str:
        if self._credentials and not path.is_absolute() and len(path.parts) == 1:
            path = self._credentials / path
        try:
            return path.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not text"
            where = f'edge.toml: registry."{name}".password_file'
            raise ConfigError(f"{where}: {path}: {reason}") from error


def configured(entries: Iterable[Registry], reference: Reference) -> Registry | None:
    """The entry whose name fits a reference's repository best: the longest, at a "/"."""
    fitting = [e for e in entries if f"{reference.name}/".startswith(f"{e.name.lower()}/")]
    return max(fitting, key=lambda entry: len(entry.name), default=None)
