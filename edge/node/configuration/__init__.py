"""`edge.toml`: text in, a `config.Daemon` out, or every mistake in it with its place.

What may be given and what it is without is documented in docs/configuration.md; the defaults are
those of the dataclasses in `edge.config`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edge import config
from edge.application.fields import Reader, Table, Where, items, mapping, together
from edge.errors import ConfigError
from edge.node.configuration import sections
from edge.node.configuration.applications import application, registry, registry_name
from edge.node.configuration.files import Files
from edge.platform.credentials import credentials_directory
from edge.platform.files import unreadable
from edge.registry.reference import Reference
from edge.registry.sync.registries import configured

__all__ = ["PATH", "Changes", "diff", "read"]

# Where it is looked for when nobody says where.
PATH = Path("/etc/edge/edge.toml")


def read(path: Path, *, check: bool = False) -> tuple[config.Daemon, tuple[str, ...]]:
    """What the file says, and what its author should know of it, one line each. Blocks.

    `check`: also opens the files that it names. Raises one ConfigError: a line for each mistake.
    """
    try:
        text, mode = path.read_text("utf-8-sig"), path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {unreadable(error)}") from error
    where = Where(str(path), mistakes=[])
    files = Files(path.absolute().parent, check=check)
    found = _daemon(_document(text, where), where, files)
    if where.mistakes:
        raise together(where.mistakes)
    if files.holds_secret and mode & 0o004:
        files.notes.append(f"{path}: holds a password, and everybody here may read it")
    return found, tuple(files.notes)


def _document(text: str, where: Where) -> dict[str, Any]:
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers and depths beyond Python's
        message = str(error)
        raise where.error(f"is not TOML: {message[:1].lower()}{message[1:]}") from None
    if "spin_manifest_version" in document:
        raise where.error("is the manifest of an application", f"edge check {where.file}")
    return document


def _daemon(document: object, where: Where, files: Files) -> config.Daemon:
    with Table(document, where) as table:
        node = table.get("node", sections.node(files), config.Node())
        files.credentials = node.credentials_dir or credentials_directory()
        found: dict[str, Any] = {
            "http": table.optional("http", sections.http(files)),
            "mqtt": table.optional("mqtt", sections.mqtt(files)),
            "applications": table.optional("application", _applications(files)),
            "fleet": table.optional("fleet", sections.fleet(files)),
            "registries": table.optional("registry", _registries(files)),
            "sync": table.optional("sync", sections.sync),
            "home_assistant": table.optional("home_assistant", sections.home_assistant),
            "mirror": table.optional("mirror", sections.mirror),
            "page": table.optional("page", sections.page(files)),
            "traces": table.optional("traces", sections.traces),
            "stores": table.optional("stores", sections.stores(files)),
            **(table.optional("limits", sections.limits) or {}),
        }
    given = {name: value for name, value in found.items() if value is not None}
    daemon = config.Daemon(node=node, **given)
    if not where.mistakes:
        _across(daemon, where, files)
    return daemon


def _across(daemon: config.Daemon, where: Where, files: Files) -> None:
    """What no section knows by itself."""
    document = daemon.fleet.document
    if document and not daemon.fleet.keys and not _signed(document, daemon.registries):
        place = where.key("fleet").key("keys")
        where.refuse(place.error("missing: whoever writes that tag would command this node", _KEYS))
    if daemon.home_assistant.enabled and not daemon.mqtt.url:
        place = where.key("home_assistant").key("enabled")
        where.refuse(place.error("no broker is named", '[mqtt] url = "mqtt://HOST"'))
    _of_workers(daemon, where)
    shared: dict[config.Mount, str] = {}
    for index, entry in enumerate(daemon.applications):
        other = shared.setdefault(entry.mount, entry.name)
        if other != entry.name:
            place = where.key("application").item(index).key("mount")
            files.note(place, f'also that of "{other}": none of their routes may be the same')


def _of_workers(daemon: config.Daemon, where: Where) -> None:
    """What cannot be with several processes."""
    count = daemon.http.workers
    if count == 1:
        return
    if daemon.home_assistant.enabled:
        place = where.key("home_assistant").key("enabled")
        why = "is told what one process counts as it happens, not what several do"
        where.refuse(place.error(why, "leave one of both out: [http] workers, or this"))
    if 0 < daemon.limits.instances < count:
        place = where.key("limits").key("instances")
        why = f"{daemon.limits.instances} cannot be divided among {count} processes"
        where.refuse(place.error(why, f"give at least {count}, or fewer [http] workers"))


_KEYS = "name the public keys that count, as `edge sign --generate-key` makes them"


def _signed(document: str, registries: Iterable[config.Registry]) -> bool:
    best = configured(registries, Reference.parse(document))
    return best is not None and best.signatures == "required"


def _applications(files: Files) -> Reader[tuple[config.ApplicationEntry, ...]]:
    def read(value: object, where: Where) -> tuple[config.ApplicationEntry, ...]:
        if isinstance(value, dict):
            raise where.error("must be a list of tables", "write [[application]]")
        found = items(application(files))(value, where)
        _names_once(value, where)
        return found

    return read


def _names_once(value: object, where: Where) -> None:
    first: dict[str, int] = {}
    for index, table in enumerate(value if isinstance(value, list) else ()):
        name = table.get("name") if isinstance(table, dict) else None
        if isinstance(name, str) and first.setdefault(name, index) != index:
            place = where.item(index).key("name")
            where.refuse(place.error(f'"{name}" is the name of {where.item(first[name]).keys} too'))


def _registries(files: Files) -> Reader[tuple[config.Registry, ...]]:
    def read(value: object, where: Where) -> tuple[config.Registry, ...]:
        seen: set[str] = set()

        def once(key: object, where: Where) -> str:
            name = registry_name(key, where)
            if name in seen:
                raise where.error(f'"{name}" is there twice')
            seen.add(name)
            return name

        found = mapping(registry(files), once)(value, where)
        return tuple(replace(one, name=name) for name, one in found.items())

    return read


@dataclass(frozen=True, slots=True)
class Changes:
    """Between two configurations.

    `applications`: those that came, went or differ, by name. `restart`: the sections of which the
    node keeps what it had until it is started again.
    """

    applications: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()


# Fields of Daemon that a running node takes up.
_RELOADED = ("applications", "registries")
_IN_LIMITS = ("quota", "defaults", "blocked")


def diff(old: config.Daemon, new: config.Daemon) -> Changes:
    """What a reload of the new one changes."""
    before = {entry.name: entry for entry in old.applications}
    after = {entry.name: entry for entry in new.applications}
    names = [n for n in {**before, **after} if before.get(n) != after.get(n)]
    others = [f.name for f in fields(config.Daemon) if f.name not in _RELOADED]
    changed = [n for n in others if getattr(old, n) != getattr(new, n)]
    sections = dict.fromkeys("limits" if n in _IN_LIMITS else n for n in changed)
    return Changes(tuple(names), tuple(sections))
