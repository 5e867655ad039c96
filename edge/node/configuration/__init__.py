"""`edge.toml`: text in, a `config.Daemon` out, or every mistake in it with its place.

What may be given and what it is without is documented in docs/configuration.md; the defaults are
those of the dataclasses in `edge.config`.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edge import config
from edge.application.fields import Reader, Table, Where, items, mapping
from edge.errors import ConfigError
from edge.node.configuration import sections
from edge.node.configuration.applications import application, registry, registry_name
from edge.node.configuration.files import Files
from edge.platform.tls import unreadable

__all__ = ["PATH", "Changes", "diff", "read", "variables"]

# Where it is looked for when nobody says where.
PATH = Path("/etc/edge/edge.toml")


def read(path: Path, *, check: bool = False) -> tuple[config.Daemon, tuple[str, ...]]:
    """What the file says, and what its author should know of it, one line each. Blocks.

    `check`: also opens the files that it names. Raises one ConfigError: a line for each mistake.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {unreadable(error)}") from error
    where = Where(str(path), mistakes=[])
    files = Files(path.absolute().parent, check=check)
    found = _daemon(_document(text, where), where, files)
    if where.mistakes:
        raise _all(where.mistakes)
    if files.holds_secret and path.stat().st_mode & 0o007:
        files.notes.append(f"{path}: holds a password, and everybody here may read it")
    return found, tuple(files.notes)


def _document(text: str, where: Where) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        raise where.error(f"is not TOML: {message[:1].lower()}{message[1:]}") from None


def _all(mistakes: Iterable[ConfigError]) -> ConfigError:
    """One error for one; more of them bring their hints along."""
    several = list(mistakes)
    if len(several) == 1:
        return several[0]
    hints = [f" ({mistake.hint})" if mistake.hint else "" for mistake in several]
    lines = [mistake.message + hint for mistake, hint in zip(several, hints, strict=True)]
    return ConfigError("\n".join(lines))


def _daemon(document: object, where: Where, files: Files) -> config.Daemon:
    with Table(document, where) as table:
        node = table.get("node", sections.node(files), config.Node())
        files.credentials = node.credentials_dir or _credentials()
        found: dict[str, Any] = {
            "http": table.optional("http", sections.http(files)),
            "mqtt": table.optional("mqtt", sections.mqtt(files)),
            "applications": table.optional("application", _applications(files)),
            "fleet": table.optional("fleet", sections.fleet(files)),
            "registries": table.optional("registry", _registries(files)),
            "sync": table.optional("sync", sections.sync),
            "mirror": table.optional("mirror", sections.mirror),
            "stores": table.optional("stores", sections.stores(files)),
            **(table.optional("limits", sections.limits) or {}),
        }
    given = {name: value for name, value in found.items() if value is not None}
    return config.Daemon(node=node, **given)


def _credentials() -> Path | None:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(directory) if directory else None


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
        found = mapping(registry(files), registry_name)(value, where)
        return tuple(replace(one, name=name) for name, one in found.items())

    return read


@dataclass(frozen=True, slots=True)
class Changes:
    """Between two configurations: applications by name, sections that need a restart."""

    applications: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.applications or self.restart)


# Field of Daemon -> the section it is written in.
_SECTIONS = {"registries": "registry", "quota": "limits", "defaults": "limits", "blocked": "limits"}


def diff(old: config.Daemon, new: config.Daemon) -> Changes:
    """What a reload of the new one changes."""
    before = {entry.name: entry for entry in old.applications}
    after = {entry.name: entry for entry in new.applications}
    changed = [n for n in {**before, **after} if before.get(n) != after.get(n)]
    others = [f.name for f in fields(config.Daemon) if f.name != "applications"]
    different = [n for n in others if getattr(old, n) != getattr(new, n)]
    return Changes(
        tuple(changed), tuple(dict.fromkeys(_SECTIONS.get(name, name) for name in different))
    )


def variables(entry: config.ApplicationEntry, credentials: Path | None) -> dict[str, str]:
    """The values that an entry gives: its own, those of files, those of the node's credentials, a
    line's end at their end left out. Blocks. Raises ConfigError; its text shows no value.
    """
    found = dict(entry.variables)
    paths = dict(entry.variables_files)
    for name, credential in entry.variables_credentials.items():
        if credentials is None:
            raise ConfigError(
                f'{entry.name}: variable {name}: no credential "{credential}": there are none',
                hint="node.credentials_dir, or LoadCredential= of the service",
            )
        paths[name] = credentials / credential
    for name, path in paths.items():
        try:
            found[name] = path.read_text().removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            reason = f"{path}: {unreadable(error)}"
            raise ConfigError(f"{entry.name}: variable {name}: {reason}") from error
    return found
