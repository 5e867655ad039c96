"""What is examined: a machine, the configuration of its node, and what that node says of itself."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge import config
from edge.errors import ConfigError, EdgeError
from edge.node import configuration
from edge.node.client import NodeClient
from edge.platform.clock import TrustedClock
from edge.platform.credentials import credentials_directory

__all__ = ["Answer", "Site", "ask", "visit"]

# Seconds for the node's answer: one that takes longer is not well.
_PATIENCE = 5.0

# Whose node it is where it is installed as a service.
_USER = "edge"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the node said, or why it did not. `uid`: whose process answered."""

    status: Mapping[str, Any] | None = None
    apps: Sequence[Mapping[str, Any]] = ()
    uid: int | None = None
    problem: EdgeError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """`root`: where the files of the machine are, which tests hand over."""

    settings: config.Daemon = field(default_factory=config.Daemon)
    file: Path | None = None  # edge.toml; None: there is none
    notes: tuple[str, ...] = ()  # on it
    mistake: ConfigError | None = None  # in it: the settings are the defaults then
    answer: Answer = field(default_factory=Answer)
    root: Path = Path("/")
    wall: Callable[[], float] = time.time  # noqa: TID251 – the date is what is examined

    @property
    def state_dir(self) -> Path:
        return self.settings.node.state_dir

    @property
    def credentials(self) -> Path | None:
        return self.settings.node.credentials_dir or credentials_directory()

    @property
    def user(self) -> int:
        """Whose the node is, or would be."""
        if self.answer.uid is not None:
            return self.answer.uid
        try:
            return pwd.getpwnam(_USER).pw_uid if self.installed else os.geteuid()
        except KeyError:
            return os.geteuid()

    @property
    def installed(self) -> bool:
        """As a service of the system."""
        return (self.root / "usr/lib/systemd/system/edge.service").exists()

    def clock(self) -> TrustedClock:
        """Trusted time, as far as the state directory can be read."""
        return TrustedClock(self.state_dir / "clock", wall=self.wall)


def visit(file: Path | None, sock: Path | None) -> Site:
    """Reads what is to be examined. `file`: edge.toml, `sock`: of the node, where they were named.
    Blocks.
    """
    if file is None and configuration.PATH.exists():
        file = configuration.PATH
    settings, notes, mistake = config.Daemon(), tuple[str, ...](), None
    if file is not None:
        try:
            settings, _ = configuration.read(file)
            # Once more, with the files that it names: what they lack does not hide the rest.
            _, notes = configuration.read(file, check=True)
        except ConfigError as error:
            mistake = error
    answer = asyncio.run(ask(sock or settings.node.socket))
    return Site(settings=settings, file=file, notes=notes, mistake=mistake, answer=answer)


async def ask(sock: Path) -> Answer:
    try:
        async with asyncio.timeout(_PATIENCE), NodeClient(sock) as client:
            status = await client.get("/v1/status")
            apps = await client.get("/v1/apps")
            return Answer(status, apps, await asyncio.to_thread(_owner, sock))
    except EdgeError as error:
        return Answer(problem=error)
    except TimeoutError:
        hint = "`edge logs` has what it did last; `systemctl restart edge`"
        return Answer(problem=EdgeError(f"{sock}: no answer within {_PATIENCE:g} s", hint=hint))


def _owner(sock: Path) -> int | None:
    """Of the process that listens."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            probe.connect(str(sock))
            raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return None
    uid: int = struct.unpack("3i", raw)[1]
    return uid
