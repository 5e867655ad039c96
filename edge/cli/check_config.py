"""`edge check --config`: a node's configuration, the files that it names, its own applications."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge import config
from edge.application.fields import Where, together
from edge.application.overrides import overridden
from edge.application.routes import Route, Router
from edge.errors import ConfigError, EdgeError
from edge.node import configuration, variables
from edge.node.table import Mounted, Table
from edge.platform.credentials import credentials_directory
from edge.registry import local
from edge.registry.download import download
from edge.registry.local import LocalApplication
from edge.spin.platform import Stores

__all__ = ["check", "text"]

Examine = Callable[[LocalApplication, Mapping[str, str], Stores], dict[str, Any]]


async def check(path: Path, examine: Examine) -> dict[str, Any]:
    """What a node would do by it. Raises ConfigError with a line for each mistake."""
    daemon, notes = await asyncio.to_thread(configuration.read, path, check=True)
    found = await _applications(daemon, path, examine)
    return {
        "file": str(path),
        "name": daemon.node.name,
        "state_dir": str(daemon.node.state_dir),
        "listen": [str(address) for address in daemon.http.listen],
        "applications": [_shown(entry) for entry in daemon.applications],
        "notes": [*notes, *found],
    }


def _shown(entry: config.ApplicationEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "mount": {"path": entry.mount.path, "host": entry.mount.host},
        "reference": entry.reference,
        "path": None if entry.path is None else str(entry.path),
    }


async def _applications(daemon: config.Daemon, path: Path, examine: Examine) -> list[str]:
    """Notes on those of this machine; those of a registry are looked at when they are pulled."""
    notes: list[str] = []
    mistakes: list[ConfigError] = []
    table: Table[None] = Table()
    with tempfile.TemporaryDirectory() as scratch:
        for index, entry in enumerate(daemon.applications):
            if entry.path is None:
                continue
            try:
                routes, about = await _examined(entry, daemon, examine, Path(scratch))
                notes += (f"application {entry.name}: {note}" for note in about)
                table = table.change({entry.name: Mounted(entry.mount, routes, None)})
            except EdgeError as error:
                where = Where(str(path)).key("application").item(index)
                mistakes.append(where.error(error.message, error.hint))
    if mistakes:
        raise together(mistakes)
    return notes


async def _examined(
    entry: config.ApplicationEntry, daemon: config.Daemon, examine: Examine, scratch: Path
) -> tuple[tuple[Route, ...], list[str]]:
    """Its routes, and notes on it. Raises the EdgeError for which it would not be live."""
    notes: list[str] = []
    assert entry.path is not None
    loaded = await local.load(entry.path, state_dir=scratch, fetch=download)
    application = replace(loaded.application, name=entry.name)
    application = overridden(application, daemon.defaults, entry.options)
    directory = daemon.node.credentials_dir or credentials_directory()
    if directory is not None or not entry.variables_credentials:
        given = await variables.values(entry, directory)
        stores = Stores(scratch, daemon.stores)
        notes = examine(replace(loaded, application=application), given, stores)["notes"]
    routes = [t.route for t in application.http if t.route]
    lost = [one.route for one in Router((route, None) for route in routes).unreachable]
    return tuple(r for r in routes if all(r is not other for other in lost)), notes


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
