"""`edge check --config`: a node's configuration, the files that it names, its own applications."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge import config
from edge.application.fields import Where
from edge.application.overrides import overridden
from edge.cli.common import credentials
from edge.errors import ConfigError, EdgeError
from edge.node import configuration
from edge.registry import local
from edge.registry.download import download
from edge.registry.local import LocalApplication
from edge.spin.platform import Stores

__all__ = ["check", "text"]

Examine = Callable[[LocalApplication, Mapping[str, str], Stores], dict[str, Any]]


async def check(path: Path, examine: Examine) -> dict[str, Any]:
    """What a node would do by it. Raises ConfigError with a line for each mistake."""
    daemon, notes = await asyncio.to_thread(configuration.read, path, check=True)
    mistakes: list[ConfigError] = []
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for index, entry in enumerate(daemon.applications):
            where = Where(str(path), mistakes=mistakes).key("application").item(index)
            found.append(await _application(entry, where, daemon, examine, Path(scratch)))
    if mistakes:
        raise configuration.together(mistakes)
    return {
        "file": str(path),
        "name": daemon.node.name,
        "state_dir": str(daemon.node.state_dir),
        "listen": [str(address) for address in daemon.http.listen],
        "applications": found,
        "notes": list(notes),
    }


async def _application(
    entry: config.ApplicationEntry,
    where: Where,
    daemon: config.Daemon,
    examine: Examine,
    scratch: Path,
) -> dict[str, Any]:
    """One of a registry is looked at when the node pulls it."""
    if entry.path is not None:
        try:
            await _examine(entry, daemon, examine, scratch)
        except EdgeError as error:
            where.refuse(where.error(error.message, error.hint))
    return {
        "name": entry.name,
        "mount": {"path": entry.mount.path, "host": entry.mount.host},
        "reference": entry.reference,
        "path": None if entry.path is None else str(entry.path),
    }


async def _examine(
    entry: config.ApplicationEntry, daemon: config.Daemon, examine: Examine, scratch: Path
) -> None:
    assert entry.path is not None
    loaded = await local.load(entry.path, state_dir=scratch, fetch=download)
    application = overridden(loaded.application, daemon.defaults, entry.options)
    directory = daemon.node.credentials_dir or credentials()
    if directory is None and entry.variables_credentials:
        return  # their values are the service's
    given = await asyncio.to_thread(configuration.variables, entry, directory)
    examine(replace(loaded, application=application), given, Stores(scratch, daemon.stores))


def text(found: Mapping[str, Any]) -> str:
    return "".join(f"{line}\n" for line in _lines(found))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['file']}: ok"
    yield f"  node {found['name']}, state in {found['state_dir']}"
    yield f"  listens on {', '.join(found['listen'])}"
    for one in found["applications"]:
        mount = f"{one['mount']['host'] or ''}{one['mount']['path']}"
        yield f"  application {one['name']} on {mount}: {one['reference'] or one['path']}"
    for note in found["notes"]:
        yield f"  note: {note}"
